"""Quick gate: request-level metrics of user-randomised trials, and sample-ratio checks that are asked all the time."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.stats import binom, chi2, norm

from fairtrial.stats.effects import ratio_effect
from fairtrial.stats.fixed import confidence_interval
from fairtrial.stats.moments import Comoments
from fairtrial.stats.quantile import QuantileSummary, quantile_effect
from fairtrial.stats.result import Effect, Interval, NotEnoughData
from fairtrial.stats.srm import EpochCounts, srm_test

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def most(sims: int, alpha: float) -> float:
    return float(binom.ppf(1.0 - 1e-6, sims, alpha)) / sims


def users_with_requests(rng: np.random.Generator, users: int) -> tuple[Ints, Floats]:
    """The user of each request, and its latency: heavy users, and users who differ more than their requests do."""
    requests = rng.geometric(0.1, users)
    unit = np.repeat(np.arange(users), requests)
    return unit, np.exp(rng.normal(0.0, 0.7, users)[unit] + rng.normal(0.0, 0.7, unit.size))


def is_significant(effect: Effect | NotEnoughData) -> bool:
    assert isinstance(effect, Effect)
    found = confidence_interval(effect, alpha=0.05)
    assert isinstance(found, Interval)
    assert found.p_value is not None
    return found.p_value < 0.05


def test_request_level_means_are_honest_where_the_naive_test_is_not() -> None:
    """STATISTICS: naive type I 0.42 in such a trial, cluster-correct 0.05."""
    rng = np.random.default_rng(61)
    sims, naive, honest = 800, 0, 0
    for _ in range(sims):
        arms = [users_with_requests(rng, 300) for _ in range(2)]
        means = [values.mean() for _, values in arms]
        errors = [values.var(ddof=1) / values.size for _, values in arms]
        naive += bool(2.0 * norm.sf(abs(means[1] - means[0]) / math.sqrt(sum(errors))) < 0.05)
        pairs = [Comoments.of(np.bincount(unit, weights=values), np.bincount(unit)) for unit, values in arms]
        honest += is_significant(ratio_effect(pairs[0], pairs[1]))
    assert naive / sims > 0.3
    assert honest / sims <= most(sims, 0.05)


def test_request_level_quantiles_are_honest_where_the_naive_test_is_not() -> None:
    rng = np.random.default_rng(62)
    sims, naive, honest = 400, 0, 0
    for _ in range(sims):
        arms = [users_with_requests(rng, 400) for _ in range(2)]
        clustered = [QuantileSummary.of(values, unit, 0.95) for unit, values in arms]
        independent = [QuantileSummary.of(values, np.arange(values.size), 0.95) for _, values in arms]
        honest += is_significant(effect_of(clustered))
        naive += is_significant(effect_of(independent))
    assert naive / sims > 0.15
    assert honest / sims <= most(sims, 0.05)
    assert honest / sims > 0.01


def effect_of(summaries: list[QuantileSummary | NotEnoughData]) -> Effect:
    control, treatment = summaries
    assert isinstance(control, QuantileSummary)
    assert isinstance(treatment, QuantileSummary)
    return quantile_effect(control, treatment)


def test_sample_ratio_may_be_checked_a_hundred_times() -> None:
    """STATISTICS: repeated chi-squared at 5 % raises 0.37 false alarms, the sequential test stays below 0.05."""
    rng = np.random.default_rng(63)
    sims, repeated, sequential = 400, 0, 0
    for treated in rng.binomial(100, 0.5, (sims, 100)).cumsum(1):
        units = 100 * np.arange(1, 101)
        statistic = (2.0 * treated - units) ** 2 / units
        repeated += bool(chi2.sf(statistic, 1).min() < 0.05)
        counts = zip(treated.tolist(), units.tolist(), strict=True)
        sequential += any(srm_test([EpochCounts((n - k, k), (0.5, 0.5))]).p_value < 0.05 for k, n in counts)
    assert repeated / sims > 0.3
    assert sequential / sims <= most(sims, 0.05)
