"""Quick gate: group-sequential trials keep alpha under their look schedule and reach the power they were sized for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from fairtrial.model.experiment import Method, Spending
from fairtrial.stats.effects import mean_effect, proportion_effect
from fairtrial.stats.group_sequential import boundaries, repeated_interval
from fairtrial.stats.moments import Moments
from fairtrial.stats.power import Design, planned_units_of_proportion
from fairtrial.stats.result import Effect, Interval


def most(sims: int, alpha: float) -> float:
    return float(binom.ppf(1.0 - 1e-6, sims, alpha)) / sims


def zero_one(events: int, units: int) -> Moments:
    share = events / units if units else 0.0
    return Moments(units, share, events * (1.0 - share))


def crossings(
    rates: tuple[float, float], share: float, *, planned: int, looks: int, spending: Spending, sims: int
) -> float:
    """Share of trials whose statistic crosses the bound at any of evenly spaced looks."""
    rng = np.random.default_rng(51)
    totals = (np.arange(1, looks + 1) * planned / looks).astype(int)
    bounds = boundaries((totals / planned).tolist(), 0.05, spending).tolist()
    steps = np.diff(totals, prepend=0)
    treated = rng.binomial(steps, share, (sims, looks))
    counts = (steps - treated).cumsum(1), treated.cumsum(1)
    events = [rng.binomial(arm, rate).cumsum(1) for arm, rate in zip((steps - treated, treated), rates, strict=True)]
    crossed = 0
    for sim in range(sims):
        for place, bound in enumerate(bounds):
            arms = [zero_one(int(e[sim, place]), int(c[sim, place])) for e, c in zip(events, counts, strict=True)]
            effect = proportion_effect(arms[0], arms[1])
            if (
                isinstance(effect, Effect)
                and (effect.smallest_count or 0.0) >= 10.0
                and abs(effect.for_any_look.z) > bound
            ):
                crossed += 1
                break
    return crossed / sims


@pytest.mark.parametrize("spending", Spending)
@pytest.mark.parametrize(("rate", "share", "planned"), [(0.2, 0.5, 4_000), (0.01, 0.5, 10_000), (0.02, 0.9, 20_000)])
def test_proportions_keep_alpha_over_fourteen_looks(
    rate: float, share: float, planned: int, spending: Spending
) -> None:
    assert crossings((rate, rate), share, planned=planned, looks=14, spending=spending, sims=1_200) <= most(1_200, 0.05)


def test_a_trial_of_the_planned_size_has_the_planned_power() -> None:
    """Within two points (and Monte Carlo error) of 80 %, with an uneven split."""
    design = Design(treatment_share=0.4, method=Method.GROUP_SEQUENTIAL, looks=10)
    planned = planned_units_of_proportion(0.15, 0.03, design)
    power = crossings((0.15, 0.18), 0.4, planned=planned.total, looks=10, spending=Spending.OBRIEN_FLEMING, sims=2_500)
    assert power == pytest.approx(0.8, abs=0.02 + 3 * (0.16 / 2_500) ** 0.5)


def test_watching_more_often_than_looks_are_counted_does_not_cost_alpha() -> None:
    """A thousand looks, a tenth of a percent of the plan apart: fifty are counted, the others have raised bounds."""
    rng = np.random.default_rng(52)
    fractions = np.arange(20, 1_001) / 1_000
    bounds = boundaries(fractions.tolist(), 0.05, Spending.OBRIEN_FLEMING)
    sims = 4_000
    walk = np.cumsum(rng.standard_normal((sims, fractions.size)) * np.sqrt(np.diff(fractions, prepend=0.0)), axis=1)
    crossed = (np.abs(walk) / np.sqrt(fractions) > bounds).any(1).mean()
    assert 0.03 < crossed <= most(sims, 0.05)


def test_repeated_intervals_cover_the_true_effect_at_all_looks_at_once() -> None:
    rng = np.random.default_rng(53)
    sims, missed = 1_000, 0
    fractions = [0.25, 0.5, 0.75, 1.0]
    for _ in range(sims):
        control, treatment = rng.exponential(1.0, 400), rng.exponential(1.3, 400)
        for place, size in enumerate((100, 200, 300, 400)):
            effect = mean_effect(Moments.of(control[:size]), Moments.of(treatment[:size]))
            assert isinstance(effect, Effect)
            # Only the width matters here, and an estimate of 0 has its p-value (1) for nothing.
            centred = Effect(0.0, effect.std_error, effect.df, effect.units)
            found = repeated_interval(centred, fractions[: place + 1], alpha=0.05, spending=Spending.POCOCK)
            assert isinstance(found, Interval)
            assert found.upper is not None
            if abs(effect.estimate - 0.3) > found.upper:
                missed += 1
                break
    assert missed / sims <= most(sims, 0.05)
