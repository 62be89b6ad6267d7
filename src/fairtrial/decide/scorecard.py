"""What each comparison of the scorecard says, in one word, with the metric's direction taken into account.

The primary speaks for itself at its own alpha. Secondaries are many, so theirs are adjusted for false discoveries;
guardrails have rules of their own (`decide.guardrail`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from fairtrial.model.experiment import Better
from fairtrial.stats.adjust import benjamini_hochberg
from fairtrial.stats.result import Interval, NotEnoughData


class State(StrEnum):
    """State of one comparison: the values of `model.view.Comparison.state`."""

    BETTER = "better"
    WORSE = "worse"
    NO_DIFFERENCE_FOUND = "no_difference_found"
    NOT_WORSE = "not_worse"
    WAITING = "waiting"
    LOCKED = "locked"


@dataclass(frozen=True, slots=True)
class SecondaryReading:
    """One secondary metric of one treatment. interval: of the absolute effect."""

    better: Better
    interval: Interval | NotEnoughData


@dataclass(frozen=True, slots=True)
class SecondaryResult:
    """adjusted_p_value: over all secondaries that have one; None where there is no p-value."""

    state: State
    adjusted_p_value: float | None


def comparison_alpha(alpha: float, treatments: int) -> float:
    """Alpha of each treatment's primary comparison: shared evenly, so that alpha bounds the chance of any false win."""
    if treatments < 1:
        raise ValueError(f"{treatments} treatments; at least one is compared with control")
    return alpha / treatments


def comparison_state(interval: Interval | NotEnoughData, *, better: Better, is_locked: bool = False) -> State:
    """What one interval of an absolute effect says. is_locked: a fixed horizon is not reached, so nothing is said."""
    if is_locked:
        return State.LOCKED
    if isinstance(interval, NotEnoughData):
        return State.WAITING
    if interval.lower is not None and interval.lower > 0.0:
        return State.BETTER if better is Better.HIGHER else State.WORSE
    if interval.upper is not None and interval.upper < 0.0:
        return State.WORSE if better is Better.HIGHER else State.BETTER
    return State.NO_DIFFERENCE_FOUND


def judge_secondaries(
    readings: Sequence[SecondaryReading], *, alpha: float, is_locked: bool = False
) -> tuple[SecondaryResult, ...]:
    """States of all secondary comparisons of one experiment, with Benjamini-Hochberg over those that have a p-value.

    A difference is named only if the adjusted p-value is at most alpha; a posterior has none and speaks through its
    interval.
    """
    p_values = [_p_value(reading) for reading in readings]
    adjusted = iter(benjamini_hochberg([p for p in p_values if p is not None]))
    results = []
    for reading, p_value in zip(readings, p_values, strict=True):
        adjusted_p = None if p_value is None else next(adjusted)
        state = comparison_state(reading.interval, better=reading.better, is_locked=is_locked)
        if state in {State.BETTER, State.WORSE} and adjusted_p is not None and adjusted_p > alpha:
            state = State.NO_DIFFERENCE_FOUND
        results.append(SecondaryResult(state, None if is_locked else adjusted_p))
    return tuple(results)


def _p_value(reading: SecondaryReading) -> float | None:
    return None if isinstance(reading.interval, NotEnoughData) else reading.interval.p_value
