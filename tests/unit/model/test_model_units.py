"""Unit ids as keyed 64-bit hashes."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairtrial.model.units import UnitKeyer, unit_key

SECRET = bytes(range(32))


def test_key_is_the_first_eight_bytes_of_keyed_blake2b() -> None:
    expected = hashlib.blake2b("Ünit".encode(), key=SECRET, digest_size=8).hexdigest()
    assert unit_key("Ünit", SECRET) % (1 << 64) == int(expected, 16)


@given(st.text())
def test_keyer_and_function_agree_and_fit_a_signed_64_bit_column(unit: str) -> None:
    key = unit_key(unit, SECRET)
    assert UnitKeyer(SECRET)(unit) == key
    assert -(1 << 63) <= key < 1 << 63


def test_another_secret_gives_another_key() -> None:
    assert unit_key("u", SECRET) != unit_key("u", b"x" * 32)


def test_lone_surrogates_have_a_key() -> None:
    assert unit_key("\ud800", SECRET) != unit_key("\udfff", SECRET)


def test_a_secret_of_no_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="1 to 64 bytes, not 0"):
        UnitKeyer(b"")
