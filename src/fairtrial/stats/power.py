"""How many units a trial needs, under every method, and what looking costs.

Conventions, because published calculators differ silently: two-sided alpha; the minimum detectable effect is ABSOLUTE;
the answer counts units of BOTH variants, rounded up per variant; the chance of a significant result in the wrong
direction is not counted as power (R's `strict = FALSE`). Two proportions use the pooled variance under no effect and
the separate ones under the effect (R's `power.prop.test`, Fleiss, Levin & Paik 2003, eq. 4.14); means use the normal
approximation, so add one or two units per variant below 30.

Methods multiply the fixed-sample answer: group-sequential designs by the inflation factor R of Jennison & Turnbull
2000, tables 2.2 and 2.4 (1.02 to 1.23), always-valid sequences by about 1.7. Both come from the same integration of
the boundary-crossing probability, not from the rule "the last interval must exclude zero", which overstates the latter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, assert_never

import numpy as np

from fairtrial.model.experiment import Method, Spending
from fairtrial.stats.anytime import mixture_precision
from fairtrial.stats.fixed import critical_value
from fairtrial.stats.group_sequential import boundaries, crossing_probabilities
from fairtrial.stats.moments import FloatArray
from fairtrial.stats.result import check_alpha

MANY_LOOKS: Final = 50
"""Looks, MIN_STEP apart, that stand for watching all the time."""


@dataclass(frozen=True, slots=True)
class Design:
    """How the trial will be judged. alpha: two-sided. treatment_share: of the compared units, in (0, 1). looks: planned
    number, of a group-sequential design; unplanned ones cost little more.
    """

    alpha: float = 0.05
    power: float = 0.8
    treatment_share: float = 0.5
    method: Method = Method.FIXED
    spending: Spending = Spending.OBRIEN_FLEMING
    looks: int = MANY_LOOKS

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        if not self.alpha < self.power < 1.0:
            raise ValueError(f"power is {self.power}; must lie between alpha ({self.alpha}) and 1")
        if not 0.0 < self.treatment_share < 1.0:
            raise ValueError(f"treatment_share is {self.treatment_share}; must lie between 0 and 1")
        if not 1 <= self.looks <= MANY_LOOKS:
            raise ValueError(f"{self.looks} looks; must lie between 1 and {MANY_LOOKS}")


@dataclass(frozen=True, slots=True)
class PlannedUnits:
    """Matured units needed. inflation: factor over one look, already inside the numbers."""

    control: int
    treatment: int
    inflation: float

    @property
    def total(self) -> int:
        """Units of both variants."""
        return self.control + self.treatment


def planned_units(sd_null: float, sd_effect: float, mde: float, design: Design) -> PlannedUnits:
    """Units to find an effect of `mde` (absolute, not 0) with the design's power.

    sd_null, sd_effect: standard deviation of sqrt(total units) * (difference of means) under no effect and under the
    effect; see `planned_units_of_mean` and `planned_units_of_proportion` for the usual ones.
    """
    if mde == 0.0 or not math.isfinite(mde):
        raise ValueError(f"mde is {mde}; an effect of nothing needs infinitely many units")
    z_alpha, z_power = critical_value(design.alpha / 2.0, None), critical_value(1.0 - design.power, None)
    inflation = inflation_factor(design)
    total = ((z_alpha * sd_null + z_power * sd_effect) / mde) ** 2 * inflation
    # 1e-9 keeps a product that is whole but for rounding from becoming one unit more.
    treatment = math.ceil(total * design.treatment_share - 1e-9)
    control = math.ceil(total * (1.0 - design.treatment_share) - 1e-9)
    return PlannedUnits(control, treatment, inflation)


def planned_units_of_mean(std_dev: float, mde: float, design: Design) -> PlannedUnits:
    """Units for a difference of means. std_dev: of one unit, the same in both variants, > 0; mde: in the same unit."""
    if not std_dev > 0.0:
        raise ValueError(f"std_dev is {std_dev}; must be above 0")
    share = design.treatment_share
    spread = std_dev * math.sqrt(1.0 / share + 1.0 / (1.0 - share))
    return planned_units(spread, spread, mde, design)


def planned_units_of_proportion(baseline: float, mde: float, design: Design) -> PlannedUnits:
    """Units for a difference of proportions. baseline: of control; mde: in points; baseline + mde also in (0, 1)."""
    target = baseline + mde
    if not (0.0 < baseline < 1.0 and 0.0 < target < 1.0):
        raise ValueError(f"baseline {baseline} and baseline + mde {target} must lie between 0 and 1")
    share = design.treatment_share
    pooled = baseline * (1.0 - share) + target * share
    sd_null = math.sqrt(pooled * (1.0 - pooled) * (1.0 / share + 1.0 / (1.0 - share)))
    sd_effect = math.sqrt(baseline * (1.0 - baseline) / (1.0 - share) + target * (1.0 - target) / share)
    return planned_units(sd_null, sd_effect, mde, design)


def inflation_factor(design: Design) -> float:
    """Units at the horizon over those of one look with the same alpha and power; 1 for one look, above 1 for more."""
    match design.method:
        case Method.FIXED | Method.BAYESIAN:
            return 1.0
        case Method.GROUP_SEQUENTIAL:
            return _group_sequential_factor(design.alpha, design.power, design.spending, design.looks)
        case Method.ANYTIME:
            return _anytime_factor(design.alpha, design.power)
        case _:
            assert_never(design.method)


@lru_cache(maxsize=256)
def _group_sequential_factor(alpha: float, power: float, spending: Spending, looks: int) -> float:
    fractions = np.arange(1, looks + 1) / looks
    return _factor(fractions, boundaries(fractions.tolist(), alpha, spending), alpha, power)


@lru_cache(maxsize=256)
def _anytime_factor(alpha: float, power: float) -> float:
    """For a sequence tightest at the horizon, watched all the time from 2 % of it on."""
    fractions = np.arange(1, MANY_LOOKS + 1) / MANY_LOOKS
    info = fractions * mixture_precision(alpha, 1)
    bounds = np.sqrt(2.0 * (info + 1.0) / info * np.log(np.sqrt(info + 1.0) / alpha))
    return _factor(fractions, bounds, alpha, power)


def _factor(fractions: FloatArray, bounds: FloatArray, alpha: float, power: float) -> float:
    """(drift that reaches the power through these bounds / drift that reaches it at one look) squared."""
    one_look = critical_value(alpha / 2.0, None) + critical_value(1.0 - power, None)

    def power_at(drift: float) -> float:
        return float(crossing_probabilities(fractions.tolist(), bounds.tolist(), drift).sum())

    return (_drift_for(power_at, power, one_look) / one_look) ** 2


def _drift_for(power_at: Callable[[float], float], power: float, low: float) -> float:
    high = 2.0 * low
    while high - low > 1e-6:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if power_at(middle) < power else (low, middle)
    return 0.5 * (low + high)
