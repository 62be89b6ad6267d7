"""Group-sequential bounds reproduce Jennison & Turnbull 2000, Lan & DeMets 1983 and Armitage et al. 1969."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fairtrial.model.experiment import Spending
from fairtrial.stats.group_sequential import (
    MIN_STEP,
    boundaries,
    crossing_probabilities,
    repeated_interval,
    spent_alpha,
)
from fairtrial.stats.result import Effect, Interval, NotEnoughData

FIVE = [0.2, 0.4, 0.6, 0.8, 1.0]


def interval(result: Interval | NotEnoughData) -> Interval:
    assert isinstance(result, Interval), result
    return result


@pytest.mark.parametrize(
    ("spending", "expected"),
    [
        (Spending.OBRIEN_FLEMING, [4.877, 3.357, 2.680, 2.290, 2.031]),
        (Spending.POCOCK, [2.438, 2.427, 2.410, 2.397, 2.386]),
    ],
)
def test_lan_demets_bounds_of_five_looks(spending: Spending, expected: list[float]) -> None:
    """As printed by ldbounds and by Reboussin, DeMets, Kim & Lan 2000."""
    assert boundaries(FIVE, 0.05, spending) == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize(
    ("looks", "chance"),
    [(1, 0.050), (2, 0.083), (3, 0.107), (4, 0.126), (5, 0.142), (10, 0.193), (20, 0.248), (50, 0.320)],
)
def test_peeking_at_a_fixed_test_costs_what_armitage_found(looks: int, chance: float) -> None:
    """Armitage, McPherson & Rowe 1969, table 2, two-sided 5 %."""
    fractions = (np.arange(1, looks + 1) / looks).tolist()
    crossed = crossing_probabilities(fractions, [1.959964] * looks, 0.0).sum()
    assert crossed == pytest.approx(chance, abs=6e-4)


@pytest.mark.parametrize(("looks", "constant"), [(2, 2.178), (3, 2.289), (4, 2.361), (5, 2.413), (10, 2.555)])
def test_pocock_constants_spend_five_percent(looks: int, constant: float) -> None:
    """Jennison & Turnbull 2000, table 2.1."""
    fractions = (np.arange(1, looks + 1) / looks).tolist()
    assert crossing_probabilities(fractions, [constant] * looks, 0.0).sum() == pytest.approx(0.05, abs=1e-4)


@pytest.mark.parametrize(("looks", "constant"), [(2, 1.977), (3, 2.004), (4, 2.024), (5, 2.040), (10, 2.087)])
def test_obrien_fleming_constants_spend_five_percent(looks: int, constant: float) -> None:
    """Jennison & Turnbull 2000, table 2.3."""
    fractions = np.arange(1, looks + 1) / looks
    crossed = crossing_probabilities(fractions.tolist(), (constant / np.sqrt(fractions)).tolist(), 0.0).sum()
    assert crossed == pytest.approx(0.05, abs=1e-4)


def test_unplanned_uneven_looks_agree_with_the_multivariate_normal() -> None:
    fractions = np.array([0.13, 0.55, 0.71])
    bounds = boundaries(fractions.tolist(), 0.05, Spending.POCOCK)
    covariance = np.sqrt(np.minimum.outer(fractions, fractions) / np.maximum.outer(fractions, fractions))
    inside = stats.multivariate_normal(cov=covariance).cdf(bounds, lower_limit=-bounds, rng=np.random.default_rng(1))
    assert 1.0 - inside == pytest.approx(spent_alpha(0.71, 0.05, Spending.POCOCK), abs=2e-4)


@pytest.mark.parametrize("spending", Spending)
def test_one_look_at_the_horizon_is_the_plain_test(spending: Spending) -> None:
    assert boundaries([1.0], 0.05, spending)[0] == pytest.approx(1.959964, abs=1e-6)
    found = interval(repeated_interval(Effect(2.5, 1.0, None, 100), [1.0], alpha=0.05, spending=spending))
    assert found.p_value == pytest.approx(2.0 * stats.norm.sf(2.5), rel=1e-3)


@pytest.mark.parametrize("spending", Spending)
def test_bounds_of_past_looks_do_not_depend_on_later_ones(spending: Spending) -> None:
    fractions = [0.1, 0.33, 0.34, 0.5, 0.77]
    whole = boundaries(fractions, 0.05, spending)
    for place in range(1, len(fractions)):
        assert boundaries(fractions[:place], 0.05, spending) == pytest.approx(whole[:place], rel=0.0, abs=0.0)


def test_looks_in_quick_succession_get_a_raised_bound_and_spend_nothing() -> None:
    watched = boundaries([0.5, 0.5 + MIN_STEP / 10, 0.5 + MIN_STEP / 2, 0.8], 0.05, Spending.POCOCK)
    calm = boundaries([0.5, 0.8], 0.05, Spending.POCOCK)
    assert watched[[0, 3]] == pytest.approx(calm)
    assert watched[1] > calm[0]
    assert watched[2] > calm[0]


def test_the_same_information_twice_has_the_same_bound() -> None:
    first, second = boundaries([0.5, 0.5], 0.05, Spending.OBRIEN_FLEMING)
    assert first == second


def test_information_that_falls_counts_as_unchanged() -> None:
    assert boundaries([0.5, 0.4, 0.9], 0.05, Spending.POCOCK) == pytest.approx(
        boundaries([0.5, 0.5, 0.9], 0.05, Spending.POCOCK)
    )


def test_overrunning_the_plan_spends_the_rest_of_alpha_and_no_more() -> None:
    fractions = [0.4, 0.8, 1.15]
    bounds = boundaries(fractions, 0.05, Spending.OBRIEN_FLEMING)
    relative = [fraction / 1.15 for fraction in fractions]
    assert crossing_probabilities(relative, bounds.tolist(), 0.0).sum() == pytest.approx(0.05, abs=1e-6)


def test_a_look_past_the_horizon_replaces_the_one_before_it() -> None:
    late = boundaries([0.5, 1.0, 1.1], 0.05, Spending.POCOCK)[-1]
    assert late == pytest.approx(boundaries([0.5, 1.1], 0.05, Spending.POCOCK)[-1])


def test_interval_and_p_value_agree_on_rejection() -> None:
    for estimate in (1.9, 2.02, 2.04, 2.3, -2.02, -2.04, -6.0):
        found = interval(repeated_interval(Effect(estimate, 1.0, None, 100), FIVE, alpha=0.05))
        assert found.lower is not None
        assert found.upper is not None
        assert found.p_value is not None
        assert (found.lower > 0.0 or found.upper < 0.0) == (found.p_value < 0.05)


@pytest.mark.parametrize("spending", Spending)
@pytest.mark.parametrize("alpha", [0.5, 0.05, 0.01, 1e-5])
def test_repeated_p_value_is_the_alpha_whose_bound_is_met_exactly(alpha: float, spending: Spending) -> None:
    bound = float(boundaries(FIVE[:3], alpha, spending)[-1])
    found = interval(repeated_interval(Effect(bound, 1.0, None, 100), FIVE[:3], alpha=0.2, spending=spending))
    assert found.p_value == pytest.approx(alpha, rel=2e-3)


@pytest.mark.parametrize(("z", "expected"), [(0.0, 1.0), (0.01, 1.0), (30.0, pytest.approx(4e-13, rel=0.2))])
def test_repeated_p_value_stays_within_what_can_be_computed(z: float, expected: float) -> None:
    found = interval(repeated_interval(Effect(z, 1.0, None, 100), FIVE, alpha=0.05))
    assert found.p_value == expected


def test_few_degrees_of_freedom_widen_the_interval_to_students_t() -> None:
    found = interval(repeated_interval(Effect(0.0, 1.0, 9.0, 11), [1.0], alpha=0.05))
    assert found.upper == pytest.approx(2.262157, abs=1e-5)


def test_hardly_any_information_is_too_little_for_an_interval() -> None:
    refused = repeated_interval(Effect(1.0, 1.0, None, 100), [0.001], alpha=0.05)
    assert isinstance(refused, NotEnoughData)
    assert refused.code == "too_little_information"


def test_too_few_events_are_refused() -> None:
    refused = repeated_interval(Effect(0.1, 0.01, None, 100, smallest_count=4.0), [0.5], alpha=0.05)
    assert isinstance(refused, NotEnoughData)
    assert refused.code == "too_few_events"


@pytest.mark.parametrize("fractions", [[], [0.0], [-0.1], [math.nan], [0.2, math.inf]])
def test_fractions_that_cannot_be_are_errors(fractions: list[float]) -> None:
    with pytest.raises(ValueError, match="information fractions"):
        boundaries(fractions, 0.05, Spending.POCOCK)


def test_alpha_outside_zero_to_one_is_an_error() -> None:
    with pytest.raises(ValueError, match="alpha"):
        boundaries([1.0], 1.0, Spending.POCOCK)
