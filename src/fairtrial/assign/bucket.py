"""A unit's two numbers: one says whether it takes part, the other which arm it meets.

`h = sha256(f"{salt}:{unit}")`. The first 13 hex digits, as a number over 2**52, decide *whether*; the next 13 are the
*bucket*, which decides *which arm*. Two numbers from one hash: growing the enrolment never moves a unit between arms.
52 bits are what a float64 holds exactly with room to spare, so any SQL engine computes the same numbers. A salt has
only `[A-Za-z0-9._-]`, so the first `:` parts it from the unit. docs/decisions/0001-assignment-hash.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from hashlib import sha256
from typing import Final, Protocol

BITS: Final = 52
SCALE: Final = 1 << BITS
# Bits of the 256-bit digest below the 52 of the first number, and below the 52 of the second.
WHETHER_SHIFT: Final = 256 - BITS
BUCKET_SHIFT: Final = 256 - 2 * BITS
BUCKET_MASK: Final = SCALE - 1


class Hash(Protocol):
    """The part of a hashlib state that is used; the standard library's own type has no public name."""

    def copy(self) -> Hash:
        """State that goes on by itself."""
        ...

    def update(self, data: bytes, /) -> None:
        """Hash more bytes."""
        ...

    def digest(self) -> bytes:
        """32 bytes of the hash so far."""
        ...


def layer_salt(layer: str) -> str:
    """Salt of a layer; experiments' salts never end like it."""
    return f"{layer}.layer"


def holdout_salt(holdout: str) -> str:
    """Salt of a holdout; experiments' salts never end like it."""
    return f"{holdout}.holdout"


def encode_unit(unit: str) -> bytes:
    """UTF-8; lone surrogates, which no valid text has, as three bytes like any other character of their range."""
    return unit.encode("utf-8", "surrogatepass")


def buckets(salt: str, unit: str) -> tuple[float, float]:
    """(whether, bucket), each a multiple of 2**-52 in [0, 1). salt: `[A-Za-z0-9._-]+`. unit: any text."""
    number = int.from_bytes(sha256(salt.encode() + b":" + encode_unit(unit)).digest(), "big")
    return (number >> WHETHER_SHIFT) / SCALE, (number >> BUCKET_SHIFT & BUCKET_MASK) / SCALE


def threshold(share: float) -> int:
    """The whole number t for which k / 2**52 < share exactly when k < t. share: in [0, 1]."""
    return math.ceil(share * SCALE)  # a product with a power of two is exact


def boundaries(shares: Sequence[float]) -> tuple[float, ...]:
    """Upper ends of the arms' half-open intervals; the last is 1. shares: sum to 1.

    Summed as the decimals that people wrote, then rounded once: 0.1 + 0.2 ends at 0.3, not at 0.30000000000000004.
    """
    total, ends = Decimal(0), []
    for share in shares:
        total += Decimal(repr(share))
        ends.append(float(min(total, Decimal(1))))
    return (*ends[:-1], 1.0)
