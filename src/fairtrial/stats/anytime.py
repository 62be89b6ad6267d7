"""Confidence sequences: intervals that stay valid however often, and whenever, they are looked at.

Asymptotic confidence sequences of Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas (Annals of Statistics 2024; equation
numbers of arXiv 2103.06476v7). They hold for any estimate with a standard error, so ratio, covariate-adjusted and
quantile effects use the same lines. "Asymptotic" is a promise about enough data, which is why they refuse before that.

total_units is the number of units of BOTH variants of the pair, because std_error is of their difference: then
std_error * sqrt(total_units) settles to a constant, the standard deviation of one unit's contribution.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Final

from scipy import special

from fairtrial.stats.result import (
    MIN_COUNT_ANY_LOOK,
    Effect,
    Interval,
    IntervalKind,
    NotEnoughData,
    check_alpha,
    p_value_of_log_e,
    too_few_events,
)

MIN_DF: Final = 50.0
"""Fewest degrees of freedom (about the units of the smaller variant) before the first look at a mean."""

MIN_UNITS: Final = 100
"""Fewest units of both variants before the first look at anything."""


class Side(StrEnum):
    """Which side of a one-sided interval is bounded."""

    LOWER = "lower"
    UPPER = "upper"


def confidence_sequence(
    effect: Effect, total_units: int, *, alpha: float, tightest_at: int
) -> Interval | NotEnoughData:
    """Two-sided interval and p-value valid at any look (eq. 9, p-value eq. 155).

    total_units: of both variants, >= 1. alpha: in (0, 1), chance that any of the intervals ever misses. tightest_at:
    total_units at which the interval is narrowest, >= 1; fix it before launch. Refuses before the minimum of events,
    degrees of freedom and units.
    """
    effect = effect.for_any_look
    if refusal := _too_early(effect, total_units, alpha, tightest_at):
        return refusal
    info = total_units * mixture_precision(alpha, tightest_at)
    half = effect.std_error * math.sqrt(2.0 * (info + 1.0) / info * math.log(math.sqrt(info + 1.0) / alpha))
    log_e = 0.5 * effect.z**2 * info / (info + 1.0) - 0.5 * math.log1p(info)
    return Interval(
        effect.estimate,
        effect.estimate - half,
        effect.estimate + half,
        1.0 - alpha,
        IntervalKind.CONFIDENCE_SEQUENCE,
        p_value_of_log_e(log_e),
    )


def one_sided_bound(
    effect: Effect, total_units: int, *, alpha: float, tightest_at: int, side: Side
) -> Interval | NotEnoughData:
    """One-sided interval valid at any look (eq. 134); its p-value is of "not above 0" (LOWER) or "not below 0" (UPPER).

    Arguments and refusals as `confidence_sequence`. A one-sided sequence at alpha is a little wider than one side of a
    two-sided one at 2 * alpha.
    """
    effect = effect.for_any_look
    if refusal := _too_early(effect, total_units, alpha, tightest_at):
        return refusal
    info = total_units * mixture_precision(min(2.0 * alpha, 0.999), tightest_at)
    root = math.sqrt(info + 1.0)
    half = effect.std_error * math.sqrt(2.0 * (info + 1.0) / info * math.log1p(root / (2.0 * alpha)))
    z = effect.z if side is Side.LOWER else -effect.z
    return Interval(
        effect.estimate,
        effect.estimate - half if side is Side.LOWER else None,
        effect.estimate + half if side is Side.UPPER else None,
        1.0 - alpha,
        IntervalKind.CONFIDENCE_SEQUENCE,
        _one_sided_p_value(z, info),
    )


def mixture_precision(alpha: float, tightest_at: int) -> float:
    """Rho squared of eq. 9 for which the two-sided sequence is narrowest at `tightest_at` units.

    Exact by Lambert's W (eq. 161 is its approximation): with a = rho^2 t, the minimum has a + 1 - log(a + 1) = 1 - 2
    log(alpha), so a = -W_{-1}(-alpha^2 / e) - 1.
    """
    argument = -alpha * alpha * math.exp(-1.0)
    return (-float(special.lambertw(argument, -1).real) - 1.0) / tightest_at


def _one_sided_p_value(z: float, info: float) -> float:
    if z <= 0.0:
        return 1.0
    exponent = 0.5 * z * z * info / (info + 1.0)
    if exponent == 0.0:
        return 1.0
    # log(exp(x) - 1), which neither overflows nor loses digits.
    log_growth = exponent + math.log(-math.expm1(-exponent))
    return p_value_of_log_e(log_growth + math.log(2.0) - 0.5 * math.log1p(info))


def _too_early(effect: Effect, total_units: int, alpha: float, tightest_at: int) -> NotEnoughData | None:
    check_alpha(alpha)
    if tightest_at < 1 or total_units < 1:
        raise ValueError(f"total_units is {total_units} and tightest_at {tightest_at}; both must be 1 or more")
    if refusal := too_few_events(effect, MIN_COUNT_ANY_LOOK):
        return refusal
    if total_units < MIN_UNITS:
        return NotEnoughData(f"{total_units} units in both variants; {MIN_UNITS} are needed", "too_few_units")
    if effect.df is not None and effect.df < MIN_DF:
        return NotEnoughData(
            f"{effect.df:.0f} degrees of freedom; {MIN_DF:.0f} are needed: the smaller variant has too few units",
            "too_few_units",
        )
    return None
