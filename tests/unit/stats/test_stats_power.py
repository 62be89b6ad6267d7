"""Sizes of trials against R, statsmodels and the tables of Jennison & Turnbull 2000."""

from __future__ import annotations

import math

import pytest
from statsmodels.stats.power import zt_ind_solve_power
from statsmodels.stats.proportion import power_proportions_2indep

from fairtrial.model.experiment import Method, Spending
from fairtrial.stats.power import (
    Design,
    inflation_factor,
    planned_units_of_mean,
    planned_units_of_proportion,
)


def test_two_proportions_as_in_the_help_page_of_r() -> None:
    """R, ?power.prop.test, p1 = .50, p2 = .75: power = .90 needs n = 76.7 a group, and n = 50 has power = .740."""
    assert planned_units_of_proportion(0.5, 0.25, Design(power=0.74)).control == 50
    planned = planned_units_of_proportion(0.5, 0.25, Design(power=0.9))
    assert (planned.control, planned.treatment, planned.total) == (77, 77, 154)


def test_five_percent_baseline_needs_far_more_than_a_popular_guide_says() -> None:
    """A relative 2 % on a 5 % baseline: about 750,000 a group, not 15,000."""
    planned = planned_units_of_proportion(0.05, 0.001, Design())
    assert 740_000 < planned.control < 760_000


def test_means_agree_with_the_normal_approximation_of_statsmodels() -> None:
    expected = zt_ind_solve_power(effect_size=0.5 / 2.0, alpha=0.05, power=0.8, ratio=1.0)
    assert planned_units_of_mean(2.0, 0.5, Design()).control == math.ceil(expected)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize(("baseline", "mde"), [(0.15, 0.02), (0.02, -0.005)])
def test_unequal_splits_reach_the_power_that_statsmodels_computes(share: float, baseline: float, mde: float) -> None:
    planned = planned_units_of_proportion(baseline, mde, Design(treatment_share=share))
    reached = power_proportions_2indep(mde, baseline, planned.treatment, ratio=planned.control / planned.treatment)
    assert reached.power == pytest.approx(0.8, abs=0.001)


def test_a_90_10_split_needs_2_8_times_the_traffic_for_means() -> None:
    even, uneven = (planned_units_of_mean(1.0, 0.05, Design(treatment_share=share)).total for share in (0.5, 0.1))
    assert uneven / even == pytest.approx(2.78, abs=0.01)


@pytest.mark.parametrize("power", [0.8, 0.9])
def test_obrien_fleming_type_spending_costs_about_three_percent(power: float) -> None:
    """Jennison & Turnbull 2000, table 2.4: constants 1.028 and 1.026 at five looks; spending starts a little later."""
    factor = inflation_factor(Design(power=power, method=Method.GROUP_SEQUENTIAL, looks=5))
    assert 1.02 < factor < 1.03


@pytest.mark.parametrize(("power", "table"), [(0.8, 1.229), (0.9, 1.207)])
def test_pocock_type_spending_costs_about_what_pococks_bounds_cost(power: float, table: float) -> None:
    """Jennison & Turnbull 2000, table 2.2, five looks."""
    design = Design(power=power, method=Method.GROUP_SEQUENTIAL, spending=Spending.POCOCK, looks=5)
    assert inflation_factor(design) == pytest.approx(table, abs=0.02)


def test_always_valid_sequences_cost_about_seventy_percent() -> None:
    assert 1.6 < inflation_factor(Design(method=Method.ANYTIME)) < 1.8


@pytest.mark.parametrize("method", [Method.FIXED, Method.BAYESIAN])
def test_one_look_costs_nothing(method: Method) -> None:
    assert inflation_factor(Design(method=method)) == 1.0
    planned = planned_units_of_mean(1.0, 0.1, Design(method=method))
    assert planned.inflation == 1.0


@pytest.mark.parametrize(
    "arguments", [{"alpha": 0.0}, {"power": 0.03}, {"power": 1.0}, {"treatment_share": 1.0}, {"looks": 0}]
)
def test_designs_that_cannot_be_are_errors(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must lie between"):
        Design(**arguments)  # type: ignore[arg-type]


def test_effects_that_cannot_be_are_errors() -> None:
    with pytest.raises(ValueError, match="infinitely many"):
        planned_units_of_mean(1.0, 0.0, Design())
    with pytest.raises(ValueError, match="between 0 and 1"):
        planned_units_of_proportion(0.99, 0.02, Design())
    with pytest.raises(ValueError, match="std_dev"):
        planned_units_of_mean(0.0, 0.1, Design())
