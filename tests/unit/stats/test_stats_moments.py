"""Moments merge exactly and lose no digits far from zero."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fairtrial.stats.moments import Comoments, Moments


def test_variance_keeps_its_digits_at_mean_1e8_and_sd_1() -> None:
    values = np.random.default_rng(1).normal(0.0, 1.0, 10_000)
    shifted = Moments.of(values + 1e8)
    assert shifted.variance == pytest.approx(np.var(values, ddof=1), rel=1e-6)


def test_centred_sums_give_the_moments_of_the_rows() -> None:
    values = np.random.default_rng(2).normal(1e8, 1.0, 5_000)
    centre = 1e8 + 3.0
    gaps = values - centre
    moments = Moments.from_sums(values.size, float(gaps.sum()), float((gaps**2).sum()), centre=centre)
    assert moments.mean == pytest.approx(values.mean(), abs=1e-6)
    assert moments.variance == pytest.approx(np.var(values, ddof=1), rel=1e-6)


def test_parts_merge_to_the_moments_of_the_whole_at_mean_1e8() -> None:
    values = np.random.default_rng(3).normal(1e8, 1.0, 9_999)
    merged = Moments.empty()
    for part in np.array_split(values, 17):
        merged += Moments.of(part)
    assert merged.count == values.size
    assert merged.variance == pytest.approx(np.var(values, ddof=1), rel=1e-6)


def test_comoments_agree_with_the_covariance_matrix() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(1e6, 2.0, 4_000)
    y = 0.5 * x + rng.normal(0.0, 1.0, 4_000)
    parts = [Comoments.of(a, b) for a, b in zip(np.array_split(y, 5), np.array_split(x, 5), strict=True)]
    merged = parts[0] + parts[1] + parts[2] + parts[3] + parts[4]
    expected = np.cov(y, x)
    assert merged.cross_dev / (merged.count - 1) == pytest.approx(expected[0, 1], rel=1e-8)
    assert merged.y.variance == pytest.approx(expected[0, 0], rel=1e-8)
    assert merged.x.variance == pytest.approx(expected[1, 1], rel=1e-8)


def test_comoments_from_centred_sums_agree_with_the_rows() -> None:
    rng = np.random.default_rng(5)
    x = rng.poisson(5.0, 1_000).astype(float)
    y = rng.binomial(x.astype(int), 0.3).astype(float)
    a, b = y - 1.0, x - 4.0
    sums = (float(a.sum()), float(b.sum()), float((a * a).sum()), float((b * b).sum()), float((a * b).sum()))
    from_sums = Comoments.from_sums(1_000, *sums, centre_y=1.0, centre_x=4.0)
    expected = np.cov(y, x)
    assert from_sums.mean_y == pytest.approx(y.mean())
    assert from_sums.cross_dev / 999 == pytest.approx(expected[0, 1])
    assert from_sums.x.variance == pytest.approx(expected[1, 1])


def test_residual_has_the_spread_of_the_residuals() -> None:
    rng = np.random.default_rng(6)
    x, noise = rng.normal(size=500), rng.normal(size=500)
    y = 2.0 * x + noise
    assert Comoments.of(y, x).residual(2.0).variance == pytest.approx(np.var(noise, ddof=1))


def test_empty_moments_change_nothing() -> None:
    some = Moments.of([1.0, 2.0, 4.0])
    pair = Comoments.of([1.0, 2.0], [3.0, 5.0])
    assert Moments.empty() + some == some + Moments.empty() == some
    assert Comoments.empty() + pair == pair + Comoments.empty() == pair
    assert Moments.of([]) == Moments.empty() == Moments.from_sums(0, 0.0, 0.0, centre=7.0)
    assert Comoments.of([], []) == Comoments.empty()


def test_variance_of_one_unit_is_not_a_number_rather_than_zero() -> None:
    one = Moments.of([3.0])
    assert math.isnan(one.variance)
    assert math.isnan(one.std_error)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_named_with_their_row(bad: float) -> None:
    with pytest.raises(ValueError, match="row 1"):
        Moments.of([1.0, bad])


def test_impossible_moments_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="count is -1"):
        Moments(-1, 0.0, 0.0)
    with pytest.raises(ValueError, match="must be 0 or more"):
        Moments(2, 0.0, -1.0)
    with pytest.raises(ValueError, match="NaN or infinity"):
        Moments(2, math.nan, 1.0)
    with pytest.raises(ValueError, match="every unit needs both"):
        Comoments.of([1.0], [1.0, 2.0])
