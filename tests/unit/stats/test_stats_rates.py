"""Rates of yes/no events, several per unit: where units differ, the delta method; where none does, coins."""

from __future__ import annotations

import numpy as np
import pytest

from fairtrial.stats.anytime import Side, one_sided_bound
from fairtrial.stats.bernoulli import rate_above
from fairtrial.stats.effects import agresti_caffo_variance, ratio_effect
from fairtrial.stats.fixed import confidence_interval
from fairtrial.stats.moments import Comoments, Moments
from fairtrial.stats.rates import level_of_rate, one_rate, rate_effect
from fairtrial.stats.result import Effect, Interval, NotEnoughData


def units(count: int, rate: float, requests: int = 10) -> Comoments:
    return Comoments.of(np.full(count, rate * requests), np.full(count, requests))


def effect(control: Comoments, treatment: Comoments) -> Effect:
    found = rate_effect(control, treatment)
    assert isinstance(found, Effect)
    return found


def test_everything_fails_against_nothing_fails_is_an_effect() -> None:
    assert isinstance(ratio_effect(units(150, 0.0), units(150, 1.0)), NotEnoughData)
    found = effect(units(150, 0.0), units(150, 1.0))
    one_arm = agresti_caffo_variance(Moments(150, 1.0, 0.0))
    assert (found.estimate, found.units) == (1.0, 300)
    assert found.std_error == pytest.approx((2 * one_arm) ** 0.5)
    assert isinstance(confidence_interval(found, alpha=0.05), Interval)


@pytest.mark.parametrize("control_units", [80, 1_980, 19_980])
def test_a_small_canary_that_fails_everything_is_an_alarm(control_units: int) -> None:
    found = effect(units(control_units, 0.0), units(20, 1.0))
    bound = one_sided_bound(found, found.units, alpha=0.0125, tightest_at=1000, side=Side.LOWER)
    assert isinstance(bound, Interval)
    assert bound.lower is not None
    assert bound.lower > 0.5


def test_two_variants_without_events_are_still_too_rare_to_compare() -> None:
    interval = confidence_interval(effect(units(500, 0.0), units(500, 0.0)), alpha=0.05)
    assert isinstance(interval, NotEnoughData)
    assert interval.code == "too_few_events"


def test_where_units_differ_nothing_changes() -> None:
    rng = np.random.default_rng(1)
    x = rng.poisson(5, 300) + 1
    control, treatment = Comoments.of(rng.binomial(x, 0.1), x), Comoments.of(rng.binomial(x, 0.2), x)
    assert rate_effect(control, treatment) == ratio_effect(control, treatment)
    assert rate_effect(units(300, 0.0), treatment) == ratio_effect(units(300, 0.0), treatment)


def test_one_odd_request_among_many_is_seen() -> None:
    failures = np.full(100_000, 5.0)
    failures[7] = 4.0
    assert one_rate(Comoments.of(failures, np.full(100_000, 5.0))) is None


def test_rounding_is_no_difference_between_units() -> None:
    """Sums about centres far from the variant's own mean, as the analysis keeps them."""
    x = np.random.default_rng(2).integers(1, 40, 5_000).astype(float)
    y, cy, cx = x, 3.217, 11.03
    deviations = (y - cy).sum(), (x - cx).sum(), ((y - cy) ** 2).sum(), ((x - cx) ** 2).sum()
    found = Comoments.from_sums(5_000, *deviations, ((y - cy) * (x - cx)).sum(), centre_y=cy, centre_x=cx)
    rate = one_rate(found)
    assert rate is not None
    assert rate.mean == 1.0


def test_units_without_requests_prove_nothing() -> None:
    """A thousand exposed units of which three sent a request, all failing: three units, not a thousand."""
    x = np.zeros(1_000)
    x[:3] = 5.0
    rate = one_rate(Comoments.of(x, x))
    assert rate is not None
    assert rate.count == 3


def test_one_heavy_user_is_one_user() -> None:
    x = np.array([1.0, 1.0, 1.0, 1_000.0])
    rate = one_rate(Comoments.of(x, x))
    assert rate is not None
    assert rate.count == 1
    assert one_rate(Comoments.of(np.zeros(3), np.zeros(3))) is None
    assert one_rate(Comoments.empty()) is None


def test_a_level_that_all_units_share_has_a_standard_error() -> None:
    level = level_of_rate(units(100, 1.0))
    assert isinstance(level, Effect)
    assert level.estimate == 1.0
    assert level.std_error > 0.0


def test_the_exact_test_holds_for_rates_as_for_coins() -> None:
    """Unit rates in [0, 1] with mean at the limit: false alarms over all looks stay below alpha."""
    rng, alarms = np.random.default_rng(3), 0
    for _ in range(300):
        sums = np.cumsum(rng.beta(0.5, 4.5, 200))
        alarms += any(rate_above(int(total), n, 0.1) <= 0.05 for n, total in enumerate(sums, start=1))
    assert alarms <= 0.05 * 300
