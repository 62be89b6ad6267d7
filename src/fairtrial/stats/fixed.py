"""Interval for one look at a size fixed in advance: Student's t where degrees of freedom are known, else normal."""

from __future__ import annotations

import math

from scipy import special

from fairtrial.stats.result import (
    LEAST_P_VALUE,
    MIN_COUNT_ONE_LOOK,
    Effect,
    Interval,
    IntervalKind,
    NotEnoughData,
    check_alpha,
    too_few_events,
)


def confidence_interval(effect: Effect, *, alpha: float) -> Interval | NotEnoughData:
    """Two-sided interval and p-value that are right if looked at once. alpha: in (0, 1), both sides together."""
    check_alpha(alpha)
    if refusal := too_few_events(effect, MIN_COUNT_ONE_LOOK):
        return refusal
    half = critical_value(alpha / 2.0, effect.df) * effect.std_error
    p_value = max(LEAST_P_VALUE, 2.0 * upper_tail(abs(effect.z), effect.df))
    kind = IntervalKind.CONFIDENCE_INTERVAL
    return Interval(effect.estimate, effect.estimate - half, effect.estimate + half, 1.0 - alpha, kind, p_value)


def critical_value(tail: float, df: float | None) -> float:
    """The point with probability `tail` (> 0) above it, of Student's t with df degrees, or of the normal."""
    if tail == 0.0:
        return math.inf
    return -float(special.ndtri(tail) if df is None else special.stdtrit(df, tail))


def upper_tail(point: float, df: float | None) -> float:
    """Probability above `point`, exact in the far tail."""
    return float(special.ndtr(-point) if df is None else special.stdtr(df, -point))
