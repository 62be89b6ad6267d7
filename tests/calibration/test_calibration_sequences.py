"""Quick gate: intervals that may be looked at any time miss no more often than they promise.

Seeded A/A trials through the real effects, refusals included, at the rarest rates and most uneven splits permitted.
A count of false alarms may reach the 1 - 1e-6 point of its binomial distribution, no more.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binom

from fairtrial.stats.anytime import Side, confidence_sequence, one_sided_bound
from fairtrial.stats.bernoulli import rate_above
from fairtrial.stats.effects import mean_effect, proportion_effect
from fairtrial.stats.fixed import confidence_interval
from fairtrial.stats.moments import Moments
from fairtrial.stats.result import Effect, Interval, NotEnoughData

Look = Callable[[Effect, int], Interval | NotEnoughData]
Floats = npt.NDArray[np.float64]


def most(sims: int, alpha: float) -> float:
    return float(binom.ppf(1.0 - 1e-6, sims, alpha)) / sims


def excludes(truth: float, result: Interval | NotEnoughData) -> bool:
    if isinstance(result, NotEnoughData):
        return False
    below = result.lower is not None and result.lower > truth
    return below or (result.upper is not None and result.upper < truth)


def two_sided(tightest_at: int) -> Look:
    return lambda effect, units: confidence_sequence(effect, units, alpha=0.05, tightest_at=tightest_at)


def alarm(effect: Effect, units: int) -> Interval | NotEnoughData:
    return one_sided_bound(effect, units, alpha=0.01, tightest_at=1_000, side=Side.LOWER)


def proportion_misses(rates: tuple[float, float], share: float, last: int, sims: int, look: Look) -> float:
    """Share of trials in which any of 40 looks from 60 units on excludes the true difference."""
    rng = np.random.default_rng(41)
    units = np.unique(np.geomspace(60, last, 40).astype(int))
    steps = np.diff(units, prepend=0)
    treated = rng.binomial(steps, share, (sims, steps.size))
    events = [rng.binomial(arm, rate).cumsum(1) for arm, rate in zip((steps - treated, treated), rates, strict=True)]
    counts = [(steps - treated).cumsum(1), treated.cumsum(1)]
    missed = 0
    for sim in range(sims):
        for place, total in enumerate(units.tolist()):
            arms = [zero_one(int(e[sim, place]), int(c[sim, place])) for e, c in zip(events, counts, strict=True)]
            effect = proportion_effect(arms[0], arms[1])
            if isinstance(effect, Effect) and excludes(rates[1] - rates[0], look(effect, total)):
                missed += 1
                break
    return missed / sims


def zero_one(events: int, units: int) -> Moments:
    share = events / units if units else 0.0
    return Moments(units, share, events * (1.0 - share))


def mean_misses(draw: Callable[[np.random.Generator, int], Floats], share: float, sims: int, look: Look) -> float:
    """The same for means, over 30 looks up to 6,000 units."""
    rng = np.random.default_rng(42)
    units = np.unique(np.geomspace(60, 6_000, 30).astype(int))
    missed = 0
    for _ in range(sims):
        values = draw(rng, 6_000)
        is_treated = rng.random(6_000) < share
        arms = [running_moments(values, chosen, units) for chosen in (~is_treated, is_treated)]
        for place, total in enumerate(units.tolist()):
            effect = mean_effect(arms[0][place], arms[1][place])
            if isinstance(effect, Effect) and excludes(0.0, look(effect, total)):
                missed += 1
                break
    return missed / sims


def running_moments(values: Floats, chosen: npt.NDArray[np.bool_], units: npt.NDArray[np.int_]) -> list[Moments]:
    sums = [np.cumsum(chosen * part)[units - 1].tolist() for part in (np.ones_like(values), values, values**2)]
    return [Moments.from_sums(int(n), s, q, centre=0.0) for n, s, q in zip(*sums, strict=True)]


def spending(rng: np.random.Generator, size: int) -> Floats:
    """One unit in ten spends anything, log-normally: skewness about 19."""
    return rng.lognormal(3.0, 1.0, size) * (rng.random(size) < 0.1)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.1])
@pytest.mark.parametrize(("rate", "last"), [(0.5, 5_000), (0.01, 40_000)])
def test_proportions_may_be_watched_all_the_time(rate: float, last: int, share: float) -> None:
    assert proportion_misses((rate, rate), share, last, 600, two_sided(1_000)) <= most(600, 0.05)


def test_proportions_are_covered_at_every_look_when_the_variants_differ() -> None:
    assert proportion_misses((0.03, 0.06), 0.3, 20_000, 600, two_sided(5_000)) <= most(600, 0.05)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.1])
def test_skewed_means_may_be_watched_all_the_time(share: float) -> None:
    assert mean_misses(spending, share, 500, two_sided(2_000)) <= most(500, 0.05)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_harm_alarms_stay_quiet_on_harmless_treatments(share: float) -> None:
    assert proportion_misses((0.05, 0.05), share, 10_000, 600, alarm) <= most(600, 0.01)
    assert mean_misses(spending, share, 300, alarm) <= most(300, 0.01)


def test_watching_a_one_look_interval_is_what_it_protects_from() -> None:
    """The same trials with a fixed interval at every look: false alarms many times the nominal 5 %."""

    def naive(effect: Effect, units: int) -> Interval | NotEnoughData:
        del units
        return confidence_interval(effect, alpha=0.05)

    assert proportion_misses((0.5, 0.5), 0.5, 5_000, 300, naive) > 0.2


def test_an_exact_limit_may_be_checked_after_every_unit() -> None:
    """At the limit itself, the hardest case; few units and few events."""
    rng = np.random.default_rng(43)
    sims, alarms = 600, 0
    for events in rng.binomial(1, 0.05, (sims, 200)).cumsum(1):
        alarms += any(rate_above(count, place + 1, 0.05) <= 0.05 for place, count in enumerate(events.tolist()))
    assert alarms / sims <= most(sims, 0.05)
