"""Effects agree with published examples and with independent implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.proportion import confint_proportions_2indep
from statsmodels.tools import add_constant

from fairtrial.stats.effects import (
    as_fraction,
    covariate_adjusted_effect,
    mean_effect,
    proportion_effect,
    ratio_effect,
    relative_effect,
    stratified_effect,
)
from fairtrial.stats.fixed import confidence_interval
from fairtrial.stats.levels import level_of_mean, level_of_proportion, level_of_ratio
from fairtrial.stats.moments import Comoments, Moments
from fairtrial.stats.result import Effect, Interval, NotEnoughData


def zero_one(events: int, units: int) -> Moments:
    return Moments(units, events / units, events * (1.0 - events / units))


def effect(result: Effect | NotEnoughData) -> Effect:
    assert isinstance(result, Effect), result
    return result


def refusal(result: object) -> NotEnoughData:
    assert isinstance(result, NotEnoughData), result
    return result


def test_kohavi_ramp_comes_out_positive() -> None:
    """Crook, Frasca, Kohavi & Longbotham, KDD 2009, section 4: +0.240 points, where pooling says -0.46."""
    friday = effect(proportion_effect(zero_one(20_000, 990_000), zero_one(230, 10_000)))
    saturday = effect(proportion_effect(zero_one(5_000, 500_000), zero_one(6_000, 500_000)))
    both = effect(stratified_effect([(1_000_000, friday), (1_000_000, saturday)]))
    assert both.estimate == pytest.approx(0.00240, abs=5e-6)
    assert both.std_error == pytest.approx(0.5 * math.hypot(friday.std_error, saturday.std_error))
    assert both.units == 2_000_000
    pooled = effect(proportion_effect(zero_one(25_000, 1_490_000), zero_one(6_230, 510_000)))
    assert pooled.estimate < 0.0


@pytest.mark.parametrize("counts", [(12, 200, 25, 210), (0, 500, 14, 480), (480, 1_000, 530, 1_000)])
def test_proportion_has_the_standard_error_of_agresti_and_caffo(counts: tuple[int, int, int, int]) -> None:
    control_events, control_units, events, units = counts
    arms = zero_one(control_events, control_units), zero_one(events, units)
    found = effect(proportion_effect(*arms))
    low, high = confint_proportions_2indep(events, units, control_events, control_units, method="agresti-caffo")
    assert found.estimate == pytest.approx(events / units - control_events / control_units)
    assert found.std_error == pytest.approx((high - low) / 2 / 1.959963984540054, rel=1e-9)


def test_proportion_counts_what_the_smaller_variant_can_expect() -> None:
    found = effect(proportion_effect(zero_one(90, 9_000), zero_one(10, 1_000)))
    assert found.smallest_count == pytest.approx(10.0)
    assert effect(proportion_effect(zero_one(0, 50), zero_one(0, 50))).smallest_count == 0.0


def test_mean_agrees_with_welch() -> None:
    rng = np.random.default_rng(7)
    control, treatment = rng.exponential(2.0, 40), rng.exponential(3.0, 25)
    found = effect(mean_effect(Moments.of(control), Moments.of(treatment)))
    expected = stats.ttest_ind(treatment, control, equal_var=False)
    assert found.z == pytest.approx(expected.statistic)
    assert found.df == pytest.approx(expected.df)


def test_repeated_looks_get_a_wider_error_only_where_one_variant_is_small() -> None:
    rng = np.random.default_rng(17)
    even = effect(mean_effect(Moments.of(rng.exponential(2.0, 60)), Moments.of(rng.exponential(3.0, 60))))
    assert even.watched is None
    assert even.for_any_look is even
    small, large = Moments.of(rng.exponential(1.0, 100)), Moments.of(rng.exponential(3.0, 900))
    uneven = effect(mean_effect(small, large))
    assert uneven.for_any_look.std_error > 1.5 * uneven.std_error
    assert uneven.for_any_look.estimate == uneven.estimate
    many = Moments(100_000, small.mean, small.variance * 99_999), Moments(900_000, large.mean, large.variance * 899_999)
    later = effect(mean_effect(*many))
    assert later.for_any_look.std_error == pytest.approx(later.std_error, rel=0.01)


def test_stratifying_keeps_both_errors() -> None:
    watched = Effect(1.0, 0.3, 20.0, 100)
    uneven = Effect(1.0, 0.1, 50.0, 100, watched=watched)
    both = effect(stratified_effect([(100, uneven), (100, Effect(3.0, 0.4, None, 100))]))
    assert both.estimate == pytest.approx(2.0)
    assert both.std_error == pytest.approx(0.5 * math.hypot(0.1, 0.4))
    assert both.for_any_look.std_error == pytest.approx(0.25)


def test_ratio_agrees_with_a_cluster_robust_regression_on_requests() -> None:
    rng = np.random.default_rng(8)
    requests = rng.poisson(4.0, 300) + 1
    unit = np.repeat(np.arange(300), requests)
    treated = (unit % 2).astype(float)
    y = rng.normal(0.2 * treated + rng.normal(size=300)[unit], 1.0)
    sums = np.bincount(unit, weights=y)
    arms = [Comoments.of(sums[place::2], requests[place::2].astype(float)) for place in (0, 1)]
    found = effect(ratio_effect(arms[0], arms[1]))
    robust = OLS(y, add_constant(treated)).fit(
        cov_type="cluster", cov_kwds={"groups": unit, "use_correction": False}, use_t=False
    )
    assert found.estimate == pytest.approx(robust.params[1])
    # CR0 divides by n, the delta method by n - 1, in each variant of 150 units.
    assert found.std_error == pytest.approx(robust.bse[1] * math.sqrt(150 / 149))


def test_covariate_adjustment_is_the_regression_estimate() -> None:
    """CUPED with the pooled within-variant slope is the ANCOVA coefficient."""
    rng = np.random.default_rng(9)
    x = rng.normal(10.0, 3.0, 800)
    treated = np.arange(800) % 2
    y = 0.7 * x + 0.3 * treated + rng.normal(size=800)
    arms = [Comoments.of(y[treated == arm], x[treated == arm]) for arm in (0, 1)]
    found = effect(covariate_adjusted_effect(arms[0], arms[1]))
    regression = OLS(y, add_constant(np.column_stack([treated, x]))).fit()
    assert found.estimate == pytest.approx(regression.params[1])
    assert found.std_error == pytest.approx(regression.bse[1], rel=0.01)
    raw = effect(mean_effect(arms[0].y, arms[1].y))
    assert found.std_error < 0.5 * raw.std_error


def test_a_covariate_that_does_not_vary_changes_nothing() -> None:
    arms = [Comoments.of([1.0, 2.0, 4.0], [1.0, 1.0, 1.0]), Comoments.of([2.0, 3.0, 7.0], [1.0, 1.0, 1.0])]
    assert covariate_adjusted_effect(arms[0], arms[1]) == mean_effect(arms[0].y, arms[1].y)


def test_a_variant_without_variation_does_not_pretend_to_be_certain() -> None:
    flat, varied = Moments.of([0.0] * 10), Moments.of([0.0, 1.0] * 20)
    found = effect(mean_effect(flat, varied))
    assert found.std_error > math.sqrt(varied.variance / varied.count)


@pytest.mark.parametrize("count", [0, 1])
def test_means_need_two_units_in_each_variant(count: int) -> None:
    few, many = Moments.of([1.0] * count), Moments.of([1.0, 2.0, 3.0])
    assert refusal(mean_effect(few, many)).code == "too_few_units"
    assert "control" in refusal(mean_effect(few, many)).reason
    assert "treatment" in refusal(mean_effect(many, few)).reason


def test_values_that_never_differ_have_no_effect_to_report() -> None:
    assert refusal(mean_effect(Moments.of([2.0] * 9), Moments.of([2.0] * 9))).code == "no_variation"


def test_a_ratio_over_nothing_is_refused() -> None:
    some, none = Comoments.of([1.0, 2.0], [1.0, 1.0]), Comoments.of([1.0, 2.0], [0.0, 0.0])
    assert refusal(ratio_effect(some, none)).code == "zero_denominator"


def test_a_proportion_outside_zero_to_one_is_an_error() -> None:
    with pytest.raises(ValueError, match="values must be 0 or 1"):
        proportion_effect(Moments.of([0.0, 3.0]), Moments.of([5.0, 1.0]))


def test_small_epochs_without_an_effect_are_left_out_but_large_ones_are_not() -> None:
    known = Effect(1.0, 0.1, 50.0, 1_000)
    unknown = NotEnoughData("treatment has 0 units; 2 are needed", "too_few_units")
    assert stratified_effect([(1_000, known), (30, unknown)]) == known
    assert stratified_effect([(1_000, known), (500, unknown)]) == unknown
    assert refusal(stratified_effect([])).code == "no_units"


def test_stratified_degrees_of_freedom_add_up_when_epochs_are_alike() -> None:
    alike = Effect(1.0, 0.1, 50.0, 100)
    both = effect(stratified_effect([(100, alike), (100, alike)]))
    assert both.df == pytest.approx(100.0)
    assert both.std_error == pytest.approx(0.1 / math.sqrt(2.0))


def test_relative_interval_is_the_risk_ratio_interval_of_katz() -> None:
    control, treatment = 0.10, 0.15
    errors = math.sqrt(control * (1 - control) / 100), math.sqrt(treatment * (1 - treatment) / 100)
    found = effect(relative_effect(control, errors[0], treatment, errors[1], units=200))
    interval = confidence_interval(found, alpha=0.05)
    assert isinstance(interval, Interval)
    fraction = as_fraction(interval)
    assert fraction.lower is not None
    assert fraction.upper is not None
    assert fraction.estimate == pytest.approx(0.5)
    katz = confint_proportions_2indep(15, 100, 10, 100, compare="ratio", method="log")
    assert (fraction.lower, fraction.upper) == pytest.approx((katz[0] - 1.0, katz[1] - 1.0))


def test_a_relative_effect_widens_under_repeated_looks_as_the_absolute_one_does() -> None:
    plain = effect(relative_effect(1.0, 0.1, 1.2, 0.1, units=100))
    widened = effect(relative_effect(1.0, 0.1, 1.2, 0.1, units=100, watched_factor=1.5))
    assert widened.std_error == plain.std_error
    assert widened.for_any_look.std_error == pytest.approx(1.5 * plain.std_error)


@pytest.mark.parametrize(("control", "treatment"), [(0.0, 1.0), (-2.0, 1.0), (0.2, 1.0), (1.0, 0.0), (-1.0, -1.0)])
def test_relative_effects_need_levels_clearly_above_zero(control: float, treatment: float) -> None:
    assert refusal(relative_effect(control, 0.1, treatment, 0.1, units=100)).code.endswith("_near_zero")


def test_levels_carry_the_standard_errors_of_their_kind() -> None:
    assert effect(level_of_mean(Moments.of([1.0, 2.0, 3.0]))).std_error == pytest.approx(1.0 / math.sqrt(3.0))
    assert effect(level_of_proportion(zero_one(0, 100))).std_error > 0.0
    assert effect(level_of_ratio(Comoments.of([1.0, 3.0], [1.0, 2.0]))).estimate == pytest.approx(4.0 / 3.0)
    assert refusal(level_of_mean(Moments.of([1.0]))).code == "too_few_units"
    assert refusal(level_of_mean(Moments.of([1.0, 1.0]))).code == "no_variation"
    assert refusal(level_of_proportion(Moments.empty())).code == "no_units"
    assert refusal(level_of_ratio(Comoments.empty())).code == "zero_denominator"


@pytest.mark.parametrize("bad", [(math.nan, 1.0), (1.0, math.inf), (1.0, 0.0)])
def test_an_effect_without_a_finite_positive_error_cannot_be_made(bad: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="standard error"):
        Effect(bad[0], bad[1], None, 10)
