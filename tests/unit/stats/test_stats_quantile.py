"""Quantile differences with users randomised: ranks, standard errors, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fairtrial.stats.levels import level_of_quantile
from fairtrial.stats.moments import Comoments
from fairtrial.stats.quantile import (
    QuantileSummary,
    quantile_effect,
    quantile_rank,
    quantile_std_error,
    rank_bounds,
)
from fairtrial.stats.result import NotEnoughData


def summary(result: QuantileSummary | NotEnoughData) -> QuantileSummary:
    assert isinstance(result, QuantileSummary), result
    return result


@pytest.mark.parametrize("q", [0.01, 0.5, 0.95, 0.99])
@pytest.mark.parametrize("rows", [1, 2, 20, 100, 101, 9_999])
def test_the_rank_is_that_of_the_inverse_distribution_function(q: float, rows: int) -> None:
    ordered = np.arange(1.0, rows + 1)
    assert ordered[quantile_rank(rows, q) - 1] == np.quantile(ordered, q, method="inverted_cdf")


def test_with_one_row_per_unit_the_ranks_are_the_binomial_ones() -> None:
    """Hahn & Meeker 1991, table A15: the 95 % interval for the median of n = 100 is ranks 40 to 61 (exact)."""
    indicator = Comoments.of(np.repeat([1.0, 0.0], 50), np.ones(100))
    low, high = rank_bounds(100, 0.5, indicator)  # type: ignore[misc]
    assert abs(low - 40) <= 1
    assert abs(high - 61) <= 1


@pytest.mark.parametrize(("q", "rows"), [(0.5, 40_000), (0.95, 40_000)])
def test_independent_rows_have_the_asymptotic_standard_error(q: float, rows: int) -> None:
    """sqrt(q (1 - q) / n) / f(x_q), here of the normal distribution."""
    values = np.random.default_rng(11).normal(size=rows)
    found = summary(QuantileSummary.of(values, np.arange(rows), q))
    point = float(stats.norm.ppf(q))
    assert found.std_error == pytest.approx(math.sqrt(q * (1 - q) / rows) / stats.norm.pdf(point), rel=0.1)
    assert found.value == pytest.approx(point, abs=4 * found.std_error)


def test_copies_of_the_same_row_do_not_count_as_evidence() -> None:
    """Every unit's row nine times over: nine times the rows, the same standard error."""
    values = np.random.default_rng(12).exponential(size=20_000)
    once = summary(QuantileSummary.of(values, np.arange(values.size), 0.9))
    copied = summary(QuantileSummary.of(np.repeat(values, 9), np.repeat(np.arange(values.size), 9), 0.9))
    assert copied.value == once.value
    assert copied.units == once.units
    assert copied.std_error == pytest.approx(once.std_error, rel=0.02)


def test_the_effect_adds_independent_variances() -> None:
    effect = quantile_effect(QuantileSummary(100, 2.0, 0.3), QuantileSummary(120, 2.5, 0.4))
    assert effect.estimate == pytest.approx(0.5)
    assert effect.std_error == pytest.approx(0.5)
    assert effect.units == 220
    assert level_of_quantile(QuantileSummary(100, 2.0, 0.3)).z == pytest.approx(2.0 / 0.3)


def test_a_far_quantile_of_few_rows_is_refused_not_the_maximum() -> None:
    refused = QuantileSummary.of(np.arange(90.0), np.arange(90), 0.99)
    assert isinstance(refused, NotEnoughData)
    assert refused.code == "too_few_rows"


def test_values_all_alike_around_the_quantile_are_refused() -> None:
    refused = QuantileSummary.of(np.ones(500), np.arange(500), 0.5)
    assert isinstance(refused, NotEnoughData)
    assert refused.code == "no_variation"


def test_no_rows_and_one_unit_are_refused() -> None:
    empty = QuantileSummary.of([], [], 0.5)
    assert isinstance(empty, NotEnoughData)
    assert empty.code == "no_rows"
    single = rank_bounds(50, 0.5, Comoments.of([25.0], [50.0]))
    assert isinstance(single, NotEnoughData)
    assert single.code == "too_few_units"


def test_nonsense_is_an_error() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        quantile_rank(10, 1.0)
    with pytest.raises(ValueError, match="must be finite"):
        QuantileSummary.of([1.0, math.nan], [1, 2], 0.5)
    with pytest.raises(ValueError, match="above high value"):
        quantile_std_error(2.0, 1.0)
