"""Quantities as people write them: `7d`, `5%`, `1pp`, `64MiB`.

All arithmetic is decimal until the last step, so `33.3%` is the float nearest to 0.333 and what is written back
reads the same. Every function raises QuantityError, whose `fix` says what to type instead.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Final

from fairtrial.model.errors import ConfigError
from fairtrial.model.experiment import Margin

SECONDS: Final = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86_400),
    "w": Decimal(604_800),
}
BYTES: Final = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
LONGEST_DURATION_S: Final = 100 * 365 * 86_400.0

# At most 18 digits before and after the point: more cannot change a float64, and long ones cost quadratic time.
NUMBER: Final = r"[0-9]{1,18}(?:\.[0-9]{1,18})?"
DURATION_PATTERN: Final = rf"^{NUMBER}(?:ms|s|m|h|d|w)$"
SHARE_PATTERN: Final = rf"^{NUMBER} ?%$"
MARGIN_PATTERN: Final = rf"^{NUMBER} ?(?:%|pp)$"
SIZE_PATTERN: Final = r"^[0-9]{1,15} ?(?:B|KB|MB|GB|KiB|MiB|GiB)$"

_DURATION: Final = re.compile(rf"({NUMBER})(ms|s|m|h|d|w)\Z")
_PERCENT: Final = re.compile(rf"({NUMBER}) ?(%|pp)\Z")
_SIZE: Final = re.compile(r"([0-9]{1,15}) ?(B|KB|MB|GB|KiB|MiB|GiB)\Z")


class QuantityError(ConfigError):
    """Text that is not the quantity asked for. fix: what to type instead."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(f"{message}: {fix}")
        self.message = message
        self.fix = fix


def parse_duration(text: str | float) -> float:
    """Seconds, in [0, 100 years]. text: a number and one of ms, s, m, h, d (24 h), w (7 d): `500ms`, `1.5h`, `7d`."""
    if not isinstance(text, str):
        raise QuantityError(
            f"{text} has no unit of time; a duration is like 30s, 24h or 7d", f"write {text}s or {text}d"
        )
    match = _DURATION.match(text)
    if match is None:
        raise QuantityError(
            f"{_shown(text)} is not a duration; allowed is a number and one of ms, s, m, h, d, w",
            "write it like 30s, 24h or 7d",
        )
    seconds = float(Decimal(match[1]) * SECONDS[match[2]])
    if seconds > LONGEST_DURATION_S:
        raise QuantityError(f"{text} is longer than 100 years", "give a shorter one")
    return seconds


def parse_share(text: str | float) -> float:
    """Share in [0, 1]. text: `5%`, or a number in [0, 1]."""
    if isinstance(text, str):
        match = _PERCENT.match(text)
        if match is None or match[2] != "%":
            raise QuantityError(
                f"{_shown(text)} is not a share; allowed is 0% to 100%, or 0 to 1", "write it like 5% or 0.05"
            )
        share = float(Decimal(match[1]) / 100)
        if share > 1:
            raise QuantityError(f"{text} is more than 100%", "give a share of at most 100%")
        return share
    if not math.isfinite(text) or text < 0:
        raise QuantityError(f"{text} is not a share; allowed is 0% to 100%, or 0 to 1", "write it like 5% or 0.05")
    if text > 1:
        percent = f"{text:g}%" if text <= 100 else "100%"
        raise QuantityError(f"{text:g} is more than 1; a share is 0% to 100%, or 0 to 1", f"write {percent}")
    return float(text)


def parse_margin(text: str | float) -> Margin:
    """Distance between variants, >= 0. text: `20%` of control; `1pp` (0.01 of a proportion); a number in its own unit.

    Durations (`50ms`) are absolute distances in seconds.
    """
    if isinstance(text, str):
        if _DURATION.match(text):
            return Margin(parse_duration(text), is_relative=False)
        match = _PERCENT.match(text)
        if match is None:
            raise QuantityError(
                f"{_shown(text)} is not a margin; allowed is like 20% (of control), 1pp (points) or a number",
                "write it like 20%, 1pp or 0.3",
            )
        return Margin(float(Decimal(match[1]) / 100), is_relative=match[2] == "%")
    if not math.isfinite(text) or text < 0:
        raise QuantityError(
            f"{text} is not a margin; it must be finite and not negative", "write it like 20%, 1pp or 0.3"
        )
    return Margin(float(text), is_relative=False)


def parse_level(text: str | float) -> float:
    """Level of a metric, finite. text: a number in the metric's unit, `5%` (0.05), or a duration (`300ms` is 0.3)."""
    if isinstance(text, str):
        if _DURATION.match(text):
            return parse_duration(text)
        match = _PERCENT.match(text)
        if match is None or match[2] != "%":
            raise QuantityError(
                f"{_shown(text)} is not a level; allowed is a number, like 5% or like 300ms", "write a number"
            )
        return float(Decimal(match[1]) / 100)
    if not math.isfinite(text):
        raise QuantityError(f"{text} is not a finite number", "write a finite number")
    return float(text)


def parse_size(text: str | float) -> int:
    """Bytes, in [0, 10**15]. text: whole, alone or with B, KB, MB, GB (powers of 1000), KiB, MiB, GiB (of 1024)."""
    if isinstance(text, str):
        match = _SIZE.match(text)
        if match is None:
            raise QuantityError(f"{_shown(text)} is not a size; allowed is like 64MiB or 65536", "write it like 64MiB")
        size = int(match[1]) * BYTES[match[2]]
    elif not isinstance(text, int) or text < 0:
        raise QuantityError(
            f"{text} is not a size; allowed is a whole number of bytes, or like 64MiB", "write it like 64MiB"
        )
    else:
        size = text
    if size > 10**15:
        raise QuantityError(f"{text} is more than 10**15 bytes", "give a smaller one")
    return size


def show_duration(seconds: float) -> str:
    """Text that parse_duration reads back as the same float, in the largest unit that divides it."""
    exact = Decimal(repr(seconds))
    for unit in ("d", "h", "m"):
        if exact and exact % SECONDS[unit] == 0:
            return f"{exact // SECONDS[unit]:f}{unit}"
    return f"{plain(exact)}s"


def show_share(share: float) -> str:
    """Text like `5%` that parse_share reads back as the same float."""
    return f"{plain(Decimal(repr(share)) * 100)}%"


def show_margin(margin: Margin) -> str | float:
    """Value that parse_margin reads back as the same margin."""
    return show_share(margin.value) if margin.is_relative else margin.value


def plain(value: Decimal) -> str:
    """Digits without exponent and without trailing zeros."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _shown(text: str) -> str:
    return f'"{text}"' if len(text) <= 60 else f'"{text[:57]}..."'
