"""Guardrails: metrics that must not get worse.

Two questions, never mixed up. *Is it safe?* Non-inferiority: the plan's interval lies wholly on the good side of the
margin; "no significant difference" is not safety. *Is it doing harm now?* An alarm that may be asked every minute: a
one-sided confidence sequence beyond the margin, or a level beyond its hard limit. Alarms share alpha (Bonferroni), so
an experiment with ten guardrails rolls a harmless treatment back no more often than one with a single guardrail.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from fairtrial.decide.scorecard import State, comparison_state
from fairtrial.model.experiment import Better, Margin
from fairtrial.model.view import CheckState, Reason
from fairtrial.stats.anytime import Side, one_sided_bound
from fairtrial.stats.bernoulli import rate_above, rate_below
from fairtrial.stats.result import Effect, Interval, NotEnoughData

ALARM_TIGHTEST_AT: Final = 1_000
"""Units of both variants at which harm alarms are most sensitive. Early on purpose: an alarm that is best at the
horizon is slow when a model fails at once, and this one is only 10 % wider there."""


@dataclass(frozen=True, slots=True)
class GuardrailReading:
    """One guardrail metric of one treatment.

    effect: absolute, treatment minus control. interval, relative_interval: the plan's, absolute and as a fraction of
    control. control_level, treatment_level: `stats.levels`; needed for a relative margin and for a limit. events: of a
    proportion, (units with the event, units) of the treatment. events_at_most: the same where units make several
    requests, each counted as if it were a unit's only one.
    """

    metric: str
    variant: str
    better: Better
    effect: Effect | NotEnoughData
    interval: Interval | NotEnoughData
    relative_interval: Interval | NotEnoughData
    control_level: Effect | NotEnoughData
    treatment_level: Effect | NotEnoughData
    margin: Margin | None = None
    limit: float | None = None
    events: tuple[int, int] | None = None
    events_at_most: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class GuardrailResult:
    """state: FAILED rolls back, OK is safe, WAITING is neither yet, WARN is safe to go on but rests on no margin.

    comparison: the word for the scorecard. reason: why, with what would change it.
    """

    metric: str
    variant: str
    state: CheckState
    comparison: State
    reason: Reason


def alarm_count(guardrails: int, limits: int, treatments: int) -> int:
    """How many alarms one experiment can raise: one per guardrail and one per limit, for each treatment."""
    return max(1, (guardrails + limits) * treatments)


def judge_guardrail(
    reading: GuardrailReading, *, alpha: float, alarms: int, tightest_at: int = ALARM_TIGHTEST_AT
) -> GuardrailResult:
    """Decide one guardrail of one treatment.

    alpha: chance that a harmless treatment ever raises any of the `alarms` alarms of the experiment.
    """
    share = alpha / alarms
    breach = _limit_breach(reading, share, tightest_at) or _harm(reading, share, tightest_at)
    if breach is not None:
        return _result(reading, CheckState.FAILED, State.WORSE, breach)
    if reading.margin is None:
        return _without_margin(reading)
    if _is_rarely_bad(reading, reading.margin, alpha):
        message = (
            f"{reading.metric} of {reading.variant} are so rare that they stay below the margin of "
            f"{_show(reading.margin)} on their own, whatever control's are"
        )
        return _result(reading, CheckState.OK, State.NOT_WORSE, Reason("guardrail_passed", message))
    return _non_inferiority(reading, reading.margin)


def _is_rarely_bad(reading: GuardrailReading, margin: Margin, alpha: float) -> bool:
    """Safe without a difference: treatment's rate is below the margin by itself, and control's is at least zero.

    Answers where a difference cannot: two variants without a single error have no spread to compute one from. Exact,
    and valid at any look. A plan that allows one look keeps its lock.
    """
    refusal = reading.interval
    if not isinstance(refusal, NotEnoughData) or refusal.code == "locked" or reading.events_at_most is None:
        return False
    if reading.better is not Better.LOWER or margin.is_relative or not 0.0 < margin.value < 1.0:
        return False
    return rate_below(*reading.events_at_most, margin.value) <= alpha / 2.0


def _limit_breach(reading: GuardrailReading, alpha: float, tightest_at: int) -> Reason | None:
    """The treatment's own level is beyond its limit, whatever control does."""
    if reading.limit is None:
        return None
    is_upper = reading.better is Better.LOWER
    if reading.events is not None and 0.0 < reading.limit < 1.0:
        p_value = (rate_above if is_upper else rate_below)(*reading.events, reading.limit)
        is_breached = p_value <= alpha
    else:
        is_breached = _is_beyond(_against(reading.treatment_level, reading.limit, is_upper), alpha, tightest_at)
    if not is_breached:
        return None
    level = reading.treatment_level
    value = f"{level.estimate:.4g}" if isinstance(level, Effect) else "its level"
    return Reason(
        "guardrail_limit",
        f"{reading.metric} of {reading.variant} is {value}, {'above' if is_upper else 'below'} its limit of "
        f"{reading.limit:.4g}",
    )


def _harm(reading: GuardrailReading, alpha: float, tightest_at: int) -> Reason | None:
    """The treatment is worse than control by more than the margin."""
    if not _is_beyond(_excess_harm(reading), alpha, tightest_at):
        return None
    estimate = reading.effect.estimate if isinstance(reading.effect, Effect) else math.nan
    beyond = f"more than its margin of {_show(reading.margin)}" if reading.margin else "control"
    than = f"worse than control by {beyond}" if reading.margin else "worse than control"
    return Reason("guardrail_harm", f"{reading.metric} of {reading.variant} is {than} ({estimate:+.4g})")


def _excess_harm(reading: GuardrailReading) -> Effect | NotEnoughData:
    """Harm beyond the margin; positive is bad.

    A relative margin m is the linear contrast treatment - (1 +- m) * control, which stays defined where control is
    near zero and no ratio is.
    """
    margin = reading.margin
    is_upper = reading.better is Better.LOWER
    if isinstance(reading.effect, NotEnoughData):
        return reading.effect
    effect = reading.effect.for_any_look
    if margin is None or not margin.is_relative:
        distance = margin.value if margin else 0.0
        return _against(effect, distance if is_upper else -distance, is_upper)
    if isinstance(reading.control_level, NotEnoughData):
        return reading.control_level
    factor = margin.value if is_upper else -margin.value
    # Var(t - (1 + m) c) = Var(t - c) + ((1 + m)^2 - 1) Var(c), with the variants independent.
    variance = effect.std_error**2 + ((1.0 + factor) ** 2 - 1.0) * reading.control_level.std_error**2
    if variance <= 0.0:
        return NotEnoughData("the effect is known better than the level of control", "no_variation")
    contrast = replace(
        effect,
        estimate=effect.estimate - factor * reading.control_level.estimate,
        std_error=math.sqrt(variance),
    )
    return _against(contrast, 0.0, is_upper)


def _against(value: Effect | NotEnoughData, bound: float, is_upper: bool) -> Effect | NotEnoughData:  # noqa: FBT001
    """Distance of a value beyond a bound: above it, or below it where is_upper is false."""
    if isinstance(value, NotEnoughData):
        return value
    distance = value.estimate - bound
    return replace(value, estimate=distance if is_upper else -distance)


def _is_beyond(excess: Effect | NotEnoughData, alpha: float, tightest_at: int) -> bool:
    if isinstance(excess, NotEnoughData):
        return False
    bound = one_sided_bound(excess, excess.units, alpha=alpha, tightest_at=tightest_at, side=Side.LOWER)
    return isinstance(bound, Interval) and bound.lower is not None and bound.lower > 0.0


def _without_margin(reading: GuardrailReading) -> GuardrailResult:
    comparison = comparison_state(reading.interval, better=reading.better)
    if isinstance(reading.interval, NotEnoughData):
        return _waiting(reading, reading.interval)
    reason = Reason(
        "guardrail_without_margin",
        f"{reading.metric} of {reading.variant} raised no alarm; without a margin it cannot be shown to be safe",
        f"give {reading.metric} a margin",
    )
    return _result(reading, CheckState.WARN, comparison, reason)


def _non_inferiority(reading: GuardrailReading, margin: Margin) -> GuardrailResult:
    interval = reading.relative_interval if margin.is_relative else reading.interval
    if isinstance(interval, NotEnoughData):
        return _waiting(reading, interval)
    worst = interval.upper if reading.better is Better.LOWER else interval.lower
    is_safe = worst is not None and (worst < margin.value if reading.better is Better.LOWER else worst > -margin.value)
    if not is_safe:
        shown = "unbounded" if worst is None else _show(Margin(worst, margin.is_relative))
        reason = Reason(
            "guardrail_waiting",
            f"{reading.metric} of {reading.variant} may be worse than its margin of {_show(margin)} (at worst {shown})",
            "more matured units: the interval must lie within the margin",
        )
        return _result(reading, CheckState.WAITING, State.WAITING, reason)
    state = comparison_state(reading.interval, better=reading.better)
    comparison = State.BETTER if state is State.BETTER else State.NOT_WORSE
    message = f"{reading.metric} of {reading.variant} is within its margin of {_show(margin)}"
    return _result(reading, CheckState.OK, comparison, Reason("guardrail_passed", message))


def _waiting(reading: GuardrailReading, refusal: NotEnoughData) -> GuardrailResult:
    message = f"{reading.metric} of {reading.variant} cannot be judged: {refusal.reason}"
    if reading.events_at_most is not None and refusal.code != "locked":
        events, units = reading.events_at_most
        message = (
            f"{reading.metric} of {reading.variant}: {events} in {units} units do not rule out its margin of "
            f"{_show(reading.margin)} yet"
        )
    reason = Reason("guardrail_waiting", message, "more matured units")
    return _result(reading, CheckState.WAITING, State.WAITING, reason)


def _result(reading: GuardrailReading, state: CheckState, comparison: State, reason: Reason) -> GuardrailResult:
    return GuardrailResult(reading.metric, reading.variant, state, comparison, reason)


def _show(margin: Margin | None) -> str:
    if margin is None:
        return "none"
    return f"{margin.value * 100:.4g}%" if margin.is_relative else f"{margin.value:.4g}"
