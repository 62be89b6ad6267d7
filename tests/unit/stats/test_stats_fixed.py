"""One look: intervals and posteriors against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fairtrial.model.view import IntervalKind
from fairtrial.stats.bayesian import credible_interval, probability_positive
from fairtrial.stats.effects import mean_effect
from fairtrial.stats.fixed import confidence_interval
from fairtrial.stats.moments import Moments
from fairtrial.stats.result import Effect, Interval, NotEnoughData


def interval(result: Interval | NotEnoughData) -> Interval:
    assert isinstance(result, Interval), result
    return result


def test_interval_of_a_mean_is_welchs() -> None:
    rng = np.random.default_rng(21)
    control, treatment = rng.normal(0.0, 1.0, 12), rng.normal(1.0, 2.0, 9)
    effect = mean_effect(Moments.of(control), Moments.of(treatment))
    assert isinstance(effect, Effect)
    found = interval(confidence_interval(effect, alpha=0.1))
    expected = stats.ttest_ind(treatment, control, equal_var=False)
    bounds = expected.confidence_interval(0.9)
    assert (found.lower, found.upper) == pytest.approx((bounds.low, bounds.high))
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.level == pytest.approx(0.9)
    assert found.kind is IntervalKind.CONFIDENCE_INTERVAL


@pytest.mark.parametrize("z", [8.5, 20.0, 37.0])
def test_far_tails_keep_their_digits(z: float) -> None:
    """1 - cdf is exactly 0 from z = 8.3 on."""
    found = interval(confidence_interval(Effect(z, 1.0, None, 100), alpha=0.05))
    assert found.p_value == pytest.approx(2.0 * stats.norm.sf(z), rel=1e-9)


def test_a_flat_prior_gives_the_confidence_bounds_and_the_one_sided_p_value() -> None:
    effect = Effect(0.3, 0.2, None, 100)
    bounds = interval(confidence_interval(effect, alpha=0.05))
    posterior = interval(credible_interval(effect, alpha=0.05))
    assert (posterior.lower, posterior.upper) == (bounds.lower, bounds.upper)
    assert posterior.p_value is None
    assert posterior.kind is IntervalKind.CREDIBLE_INTERVAL
    assert probability_positive(effect) == pytest.approx(stats.norm.cdf(1.5))


def test_a_prior_shrinks_by_the_conjugate_normal_rule() -> None:
    """Prior N(0, 1), one observation 2 with variance 1: posterior N(1, 1/2)."""
    effect = Effect(2.0, 1.0, None, 100)
    posterior = interval(credible_interval(effect, alpha=0.05, prior_sd=1.0))
    assert posterior.estimate == pytest.approx(1.0)
    assert posterior.upper == pytest.approx(1.0 + 1.959964 * 0.5**0.5, abs=1e-5)
    assert probability_positive(effect, prior_sd=1.0) == pytest.approx(stats.norm.cdf(2.0**0.5))


def test_few_events_are_refused() -> None:
    few = Effect(0.1, 0.01, None, 100, smallest_count=4.0)
    for refused in (confidence_interval(few, alpha=0.05), credible_interval(few, alpha=0.05)):
        assert isinstance(refused, NotEnoughData)
        assert refused.code == "too_few_events"


def test_nonsense_is_an_error() -> None:
    effect = Effect(0.3, 0.2, None, 100)
    with pytest.raises(ValueError, match="alpha"):
        confidence_interval(effect, alpha=1.5)
    with pytest.raises(ValueError, match="prior_sd"):
        credible_interval(effect, alpha=0.05, prior_sd=0.0)
