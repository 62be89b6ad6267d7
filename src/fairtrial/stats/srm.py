"""Sample-ratio mismatch: do units arrive in the proportions that the split promised? Safe to ask all the time.

A chi-squared test asked every day finds a "mismatch" in a third of healthy trials. The e-value of Lindon & Malek
(NeurIPS 2022, arXiv 2011.03567, eq. 8: Dirichlet-multinomial against the split) does not mind: it exceeds 1/alpha at
any time with chance at most alpha. One factor per epoch, multiplied, so a changed split is no alarm. Run it on
assignments first: a mismatch there is a bug in assignment or logging, whatever the metrics say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from scipy import special

from fairtrial.stats.result import p_value_of_log_e

CONCENTRATIONS: Final = (10.0, 1_000.0, 100_000.0)
"""Prior weights around the split, in units: gross mismatches show after dozens of units, 1 % ones after 100,000. The
e-value is their average, which is again an e-value."""


@dataclass(frozen=True, slots=True)
class EpochCounts:
    """Units by variant in one epoch. counts: >= 0. shares: what the split promised, > 0, summing to 1."""

    counts: tuple[int, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.shares) or len(self.counts) < 2:
            raise ValueError(f"{len(self.counts)} counts for {len(self.shares)} shares; both need two or more")
        if min(self.counts) < 0:
            raise ValueError(f"counts are {self.counts}; must be 0 or more")
        if min(self.shares) <= 0.0 or abs(math.fsum(self.shares) - 1.0) > 1e-6:
            raise ValueError(f"shares are {self.shares}; must be above 0 and sum to 1")


@dataclass(frozen=True, slots=True)
class SrmResult:
    """log_e_value: natural log of the evidence against the split. p_value: min(1, 1/e), valid at any look.

    chi2_p_value: of the classical test over all epochs; for showing only, wrong if asked repeatedly. largest_deviation:
    largest |observed - expected| share of units of a variant over all epochs, in [0, 1].
    """

    units: int
    log_e_value: float
    p_value: float
    chi2_p_value: float
    largest_deviation: float


def srm_test(epochs: Sequence[EpochCounts]) -> SrmResult:
    """Evidence, over all epochs so far, that units do not arrive as split. No units: p = 1, which is what is known."""
    filled = [epoch for epoch in epochs if sum(epoch.counts)]
    logs = [sum(_log_bayes_factor(epoch, weight) for epoch in filled) for weight in CONCENTRATIONS]
    most = max(logs)
    log_e_value = most + math.log(sum(math.exp(log - most) for log in logs) / len(logs))
    units = sum(sum(epoch.counts) for epoch in filled)
    return SrmResult(units, log_e_value, p_value_of_log_e(log_e_value), _chi2_p_value(filled), _deviation(filled))


def _log_bayes_factor(epoch: EpochCounts, concentration: float) -> float:
    total = math.lgamma(concentration) - math.lgamma(concentration + sum(epoch.counts))
    for count, share in zip(epoch.counts, epoch.shares, strict=True):
        prior = concentration * share
        total += math.lgamma(prior + count) - math.lgamma(prior) - count * math.log(share)
    return total


def _chi2_p_value(epochs: Sequence[EpochCounts]) -> float:
    if not epochs:
        return 1.0
    statistic = sum(gap * gap / expected for epoch in epochs for gap, expected in _gaps(epoch))
    return float(special.chdtrc(sum(len(epoch.counts) - 1 for epoch in epochs), statistic))


def _deviation(epochs: Sequence[EpochCounts]) -> float:
    units = sum(sum(epoch.counts) for epoch in epochs)
    if not units:
        return 0.0
    gaps: dict[int, float] = {}
    for epoch in epochs:
        for place, (gap, _) in enumerate(_gaps(epoch)):
            gaps[place] = gaps.get(place, 0.0) + gap
    return max(map(abs, gaps.values())) / units


def _gaps(epoch: EpochCounts) -> list[tuple[float, float]]:
    """(observed - expected, expected) units of each variant."""
    units = sum(epoch.counts)
    return [(count - units * share, units * share) for count, share in zip(epoch.counts, epoch.shares, strict=True)]
