"""From moments to the scorecard: levels, effects, intervals, states, and what the verdict rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fairtrial.analysis.compare import Contrast, Level, contrast, level
from fairtrial.analysis.intervals import LOCKED, TIGHTEST_AT, Look, interval, relative_interval
from fairtrial.analysis.moments import ExperimentMoments, MetricMoments
from fairtrial.decide.guardrail import GuardrailReading, GuardrailResult, alarm_count, judge_guardrail
from fairtrial.decide.scorecard import (
    SecondaryReading,
    SecondaryResult,
    comparison_alpha,
    comparison_state,
    judge_secondaries,
)
from fairtrial.decide.verdict import PrimaryReading
from fairtrial.model.experiment import AnalysisPlan, Experiment, MetricRole
from fairtrial.model.view import CheckState, Comparison, EffectInterval, MetricView, VariantValue
from fairtrial.stats.result import Effect, Interval, NotEnoughData

# The worst state of several is the one that counts: the later in this order.
_WORST_LAST = (CheckState.OK, CheckState.WARN, CheckState.WAITING, CheckState.FAILED)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How all metrics are looked at. fractions: by metric, with the present look last; empty without a plan.

    is_locked: a one-look method before its horizon. is_planning: a group-sequential one whose horizon is to come.
    """

    fractions: Mapping[str, tuple[float, ...]]
    is_locked: bool
    is_planning: bool


@dataclass(frozen=True, slots=True)
class Scorecard:
    """The rows, and the readings behind the verdict."""

    metrics: tuple[MetricView, ...]
    primary: tuple[PrimaryReading, ...]
    guardrails: tuple[GuardrailResult, ...]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One treatment on one metric."""

    metric: MetricMoments
    variant: str
    contrast: Contrast
    look: Look
    interval: Interval | NotEnoughData
    relative: Interval | NotEnoughData


def make_scorecard(experiment: Experiment, moments: ExperimentMoments, schedule: Schedule) -> Scorecard:
    """Every metric of every treatment. Metrics keep the order of the file."""
    entries = _entries(experiment, moments, schedule)
    secondaries = _judge_secondaries(experiment.analysis, entries, is_locked=schedule.is_locked)
    guardrails = _judge_guardrails(experiment, entries)
    views = []
    for metric in moments.metrics:
        name, own = metric.plan.metric.name, [e for e in entries if e.metric is metric]
        views.append(
            _metric_view(
                experiment,
                metric,
                tuple(
                    _comparison(e, secondaries.get((name, e.variant)), guardrails.get((name, e.variant))) for e in own
                ),
                [guardrails[name, e.variant].state for e in own if (name, e.variant) in guardrails],
            )
        )
    primary = tuple(
        PrimaryReading(e.metric.plan.metric.name, e.variant, e.metric.plan.metric.better, e.interval)
        for e in entries
        if e.metric.plan.metric.role is MetricRole.PRIMARY
    )
    return Scorecard(tuple(views), primary, tuple(guardrails.values()))


def treatments(experiment: Experiment) -> tuple[str, ...]:
    """The variants that are compared with control, in file order."""
    return tuple(name for name, _ in experiment.split if name != experiment.control)


def _entries(experiment: Experiment, moments: ExperimentMoments, schedule: Schedule) -> list[_Entry]:
    arms = [name for name, _ in experiment.split]
    control = arms.index(experiment.control)
    shared = comparison_alpha(experiment.analysis.alpha, len(treatments(experiment)))
    entries = []
    for metric in moments.metrics:
        is_primary = metric.plan.metric.role is MetricRole.PRIMARY
        look = Look(
            method=experiment.analysis.method,
            alpha=shared if is_primary else experiment.analysis.alpha,
            spending=experiment.analysis.spending,
            fractions=schedule.fractions.get(metric.plan.metric.name, ()),
            tightest_at=experiment.analysis.planned_units or TIGHTEST_AT,
            is_locked=schedule.is_locked,
            is_planning=schedule.is_planning,
        )
        for variant in treatments(experiment):
            found = contrast(metric, control, arms.index(variant))
            entries.append(
                _Entry(
                    metric=metric,
                    variant=variant,
                    contrast=found,
                    look=look,
                    interval=interval(found.effect, look),
                    relative=relative_interval(found.relative, look),
                )
            )
    return entries


def _judge_secondaries(
    plan: AnalysisPlan, entries: list[_Entry], *, is_locked: bool
) -> dict[tuple[str, str], SecondaryResult]:
    own = [e for e in entries if e.metric.plan.metric.role is MetricRole.SECONDARY]
    readings = [SecondaryReading(e.metric.plan.metric.better, e.interval) for e in own]
    results = judge_secondaries(readings, alpha=plan.alpha, is_locked=is_locked)
    return {(e.metric.plan.metric.name, e.variant): result for e, result in zip(own, results, strict=True)}


def _judge_guardrails(experiment: Experiment, entries: list[_Entry]) -> dict[tuple[str, str], GuardrailResult]:
    guardrails = [metric for metric in experiment.metrics if metric.role is MetricRole.GUARDRAIL]
    limits = sum(metric.limit is not None for metric in guardrails)
    alarms = alarm_count(len(guardrails), limits, len(treatments(experiment)))
    return {
        (e.metric.plan.metric.name, e.variant): judge_guardrail(
            _guardrail_reading(e), alpha=experiment.analysis.alpha, alarms=alarms
        )
        for e in entries
        if e.metric.plan.metric.role is MetricRole.GUARDRAIL
    }


def _guardrail_reading(entry: _Entry) -> GuardrailReading:
    """Alarms see the effect at every look; only the plan's interval waits for the horizon of a one-look method."""
    metric = entry.metric.plan.metric
    return GuardrailReading(
        metric=metric.name,
        variant=entry.variant,
        better=metric.better,
        effect=entry.contrast.effect,
        interval=entry.interval,
        relative_interval=entry.relative,
        control_level=entry.contrast.control,
        treatment_level=entry.contrast.treatment,
        margin=metric.margin,
        limit=metric.limit,
        events=entry.contrast.events,
        events_at_most=entry.contrast.events_at_most,
    )


def _comparison(entry: _Entry, secondary: SecondaryResult | None, guardrail: GuardrailResult | None) -> Comparison:
    if secondary is not None:
        state = secondary.state
    elif guardrail is not None:
        state = guardrail.comparison
    else:
        state = comparison_state(entry.interval, better=entry.metric.plan.metric.better, is_locked=entry.look.is_locked)
    if entry.look.is_locked:
        return Comparison(entry.variant, state.value, not_enough_data=LOCKED.reason)
    return Comparison(
        variant=entry.variant,
        state=state.value,
        effect=_shown(entry.interval, entry.contrast.effect),
        relative_effect=_shown(entry.relative, entry.contrast.relative),
        not_enough_data=entry.interval.reason if isinstance(entry.interval, NotEnoughData) else None,
        adjusted_p_value=secondary.adjusted_p_value if secondary is not None else None,
    )


def _shown(found: Interval | NotEnoughData, effect: Effect | NotEnoughData) -> EffectInterval | None:
    """std_error stays on the scale of the computation: the metric's unit, or the log ratio of a relative effect."""
    if isinstance(found, NotEnoughData):
        return None
    return EffectInterval(
        estimate=found.estimate,
        std_error=effect.std_error if isinstance(effect, Effect) else None,
        lower=found.lower,
        upper=found.upper,
        level=found.level,
        kind=found.kind,
        p_value=found.p_value,
    )


def _metric_view(
    experiment: Experiment,
    metric: MetricMoments,
    comparisons: tuple[Comparison, ...],
    guardrails: list[CheckState],
) -> MetricView:
    spec = metric.plan.metric
    levels = [(name, level(metric, arm)) for arm, (name, _) in enumerate(experiment.split)]
    return MetricView(
        name=spec.name,
        role=spec.role.value,
        kind=spec.kind.value,
        better=spec.better.value,
        values=tuple(_variant_value(name, found) for name, found in levels),
        comparisons=comparisons,
        margin=None if spec.margin is None else spec.margin.value,
        margin_is_relative=None if spec.margin is None else spec.margin.is_relative,
        limit=spec.limit,
        guardrail=max(guardrails, key=_WORST_LAST.index) if guardrails else None,
    )


def _variant_value(name: str, found: Level) -> VariantValue:
    return VariantValue(variant=name, units=found.units, value=found.value, std_error=found.std_error)
