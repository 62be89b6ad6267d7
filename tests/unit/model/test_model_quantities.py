"""Durations, shares, margins, levels and sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairtrial.model.experiment import Margin
from fairtrial.model.quantities import (
    QuantityError,
    parse_duration,
    parse_level,
    parse_margin,
    parse_share,
    parse_size,
    show_duration,
    show_margin,
    show_share,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("30s", 30.0),
        ("1.5h", 5400.0),
        ("24h", 86_400.0),
        ("7d", 604_800.0),
        ("2w", 1_209_600.0),
        ("0s", 0.0),
    ],
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["7", "7 d", "7days", "-1s", "1e3s", "s", "", "٣s", "1h30m", "9" * 40 + "s", "200000d", 7, 0.5]
)
def test_other_text_is_no_duration(text: str | float) -> None:
    with pytest.raises(QuantityError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "share"), [("5%", 0.05), ("33.3%", 0.333), ("100 %", 1.0), ("0%", 0.0), (0.05, 0.05), (1, 1.0), (0, 0.0)]
)
def test_shares_are_fractions_of_one(text: str | float, share: float) -> None:
    assert parse_share(text) == share


@pytest.mark.parametrize("text", ["101%", "5", "5pp", "-5%", "nan%", 5, 1.01, -0.1, float("nan"), float("inf")])
def test_other_values_are_no_share(text: str | float) -> None:
    with pytest.raises(QuantityError):
        parse_share(text)


def test_a_share_over_one_is_told_to_be_a_percentage() -> None:
    with pytest.raises(QuantityError) as info:
        parse_share(5)
    assert (info.value.message, info.value.fix) == ("5 is more than 1; a share is 0% to 100%, or 0 to 1", "write 5%")


def test_margins_are_relative_in_percent_and_absolute_in_points_and_units() -> None:
    assert parse_margin("20%") == Margin(0.2, is_relative=True)
    assert parse_margin("1pp") == Margin(0.01, is_relative=False)
    assert parse_margin(0.3) == Margin(0.3, is_relative=False)
    assert parse_margin("50ms") == Margin(0.05, is_relative=False)
    assert parse_margin("150%") == Margin(1.5, is_relative=True)
    for wrong in ("1p", "", "-1%", -0.1, float("nan")):
        with pytest.raises(QuantityError):
            parse_margin(wrong)


def test_levels_are_numbers_shares_or_durations() -> None:
    assert [parse_level(text) for text in ("5%", "300ms", -2, 0.8)] == [0.05, 0.3, -2.0, 0.8]
    for wrong in ("1pp", "abc", float("inf")):
        with pytest.raises(QuantityError):
            parse_level(wrong)


def test_sizes_are_bytes() -> None:
    assert [parse_size(text) for text in ("64MiB", "10 MB", "1B", 65536)] == [64 << 20, 10_000_000, 1, 65536]
    for wrong in ("64M", "1.5MiB", -1, 1.5, "9999999999999GiB"):
        with pytest.raises(QuantityError):
            parse_size(wrong)


@given(st.floats(min_value=0.001, max_value=1e9))
def test_a_duration_reads_back_as_the_same_float(seconds: float) -> None:
    seconds = round(seconds, 6)
    assert parse_duration(show_duration(seconds)) == seconds


@given(st.integers(min_value=0, max_value=10**9))
def test_a_share_reads_back_as_the_same_float(billionths: int) -> None:
    share = billionths / 10**9
    assert parse_share(show_share(share)) == share
    assert parse_margin(show_margin(Margin(share, is_relative=True))) == Margin(share, is_relative=True)
