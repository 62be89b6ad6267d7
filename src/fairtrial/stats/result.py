"""What a computation answers: an effect, an interval, or why there is none.

"Could not compute" is a value of its own, so that nobody can mistake it for p = 1 or (0, 0). Effects are treatment
minus control in the metric's own unit unless a function says otherwise (`relative_effect` works in log ratios).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from fairtrial.model.view import IntervalKind

__all__ = [
    "LEAST_P_VALUE",
    "MIN_COUNT_ANY_LOOK",
    "MIN_COUNT_ONE_LOOK",
    "Effect",
    "Interval",
    "IntervalKind",
    "NotEnoughData",
    "p_value_of_log_e",
]

MIN_COUNT_ONE_LOOK: Final = 5.0
"""Smallest expected count (see `Effect.smallest_count`) for an interval that is looked at once: Cochran's rule."""

MIN_COUNT_ANY_LOOK: Final = 10.0
"""The same where looking is free. 10 in the smaller arm is 20 events in all at an even split; below that, sequences
miss too often: tests/calibration/test_calibration_sequences.py."""


LEAST_P_VALUE: Final = 1e-300
"""Smallest p-value ever reported: beyond it float64 would say 0, which nobody should multiply or take the log of."""


@dataclass(frozen=True, slots=True)
class NotEnoughData:
    """Why there is no number. reason: a sentence for people. code: stable, snake_case, for programs."""

    reason: str
    code: str


@dataclass(frozen=True, slots=True)
class Effect:
    """Treatment minus control.

    std_error: > 0, in the unit of estimate. df: degrees of freedom for small samples; None where the normal
    distribution is used. units: analysed units of both variants together. smallest_count: of a proportion, the smallest
    of the expected counts of events and of non-events in either variant at the pooled rate; None for other kinds.
    Intervals refuse below MIN_COUNT_*: the normal approximation is not to be trusted there. watched: the same effect
    with the standard error and degrees of freedom that repeated looks need where one variant is small (see
    `stats.effects`); None where they are the same.
    """

    estimate: float
    std_error: float
    df: float | None
    units: int
    smallest_count: float | None = None
    watched: Effect | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.estimate) and math.isfinite(self.std_error) and self.std_error > 0.0):
            raise ValueError(
                f"effect {self.estimate} with standard error {self.std_error}: both finite, the second > 0"
            )

    @property
    def z(self) -> float:
        """Estimate in standard errors."""
        return self.estimate / self.std_error

    @property
    def for_any_look(self) -> Effect:
        """The effect that methods which allow repeated looks must use."""
        return self.watched or self


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval for `estimate` at `level` (0.95 is 95 %).

    lower, upper: None on the side that a one-sided interval leaves open. p_value: of "no effect", valid under the same
    looking as the interval; None where undefined (posteriors).
    """

    estimate: float
    lower: float | None
    upper: float | None
    level: float
    kind: IntervalKind
    p_value: float | None = None


def check_alpha(alpha: float) -> None:
    """Raise ValueError unless alpha is in (0, 1)."""
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha is {alpha}; must lie between 0 and 1")


def p_value_of_log_e(log_e: float) -> float:
    """The p-value min(1, 1/e) of an e-value given by its natural log, in [LEAST_P_VALUE, 1]."""
    return max(LEAST_P_VALUE, math.exp(-max(log_e, 0.0)))


def too_few_events(effect: Effect, minimum: float) -> NotEnoughData | None:
    """Refusal where a proportion rests on fewer than `minimum` expected events or non-events in its smaller variant."""
    if effect.smallest_count is None or effect.smallest_count >= minimum:
        return None
    return NotEnoughData(
        f"the smaller variant has {effect.smallest_count:.1f} expected events (or non-events); {minimum:g} are needed",
        "too_few_events",
    )
