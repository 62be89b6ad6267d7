"""What each metric asks of the events: one row of constants per (metric, event), so that one SQL text serves them all.

A metric needs up to three sums per unit: `y` (what is measured), `d` (a ratio's denominator) and `x` (a covariate from
before the first exposure). Each is a sum of contributions of single events, so it can be kept up to date by adding.
Times are microseconds relative to the unit's first exposure; half-open windows [from, to); an unused one is [0, 0).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum
from typing import Final

import msgspec

from fairtrial.model.experiment import (
    EventSource,
    Experiment,
    Metric,
    MetricKind,
    RequestMeasure,
    RequestSource,
    Source,
)

FOREVER: Final = 1 << 61
SECOND: Final = 1_000_000


class Estimator(StrEnum):
    """How a metric's unit rows become one number per variant."""

    MEAN = "mean"  # of the per-unit sum
    SHARE = "share"  # of the units whose sum is above zero
    RATIO = "ratio"  # of two per-unit sums: clustered by unit
    QUANTILE = "quantile"  # of single events: clustered by unit


class Form(IntEnum):
    """What one event adds to a sum."""

    VALUE = 0
    IS_POSITIVE = 1
    ONE = 2


class Stream(StrEnum):
    """Which stream an event comes from."""

    OUTCOMES = "outcomes"
    REQUESTS = "requests"


@dataclass(frozen=True, slots=True)
class Window:
    """[start, end) in microseconds after the first exposure, and what an event inside adds."""

    start: int = 0
    end: int = 0
    form: Form = Form.VALUE


NEVER: Final = Window()


@dataclass(frozen=True, slots=True)
class Rule:
    """How one kind of event feeds one metric. event: outcome name or request measure. value: which of its values."""

    metric: int
    stream: Stream
    event: str
    value: str
    y: Window = NEVER
    d: Window = NEVER
    x: Window = NEVER
    keeps_values: bool = False

    def span(self) -> tuple[int, int]:
        """The widest window, [start, end)."""
        used = [window for window in (self.y, self.d, self.x) if window.end > window.start]
        return min(window.start for window in used), max(window.end for window in used)


@dataclass(frozen=True, slots=True)
class MetricPlan:
    """One metric ready to be computed. matures_after: microseconds after the first exposure until a unit counts."""

    index: int
    metric: Metric
    estimator: Estimator
    rules: tuple[Rule, ...]
    matures_after: int

    @property
    def is_rate(self) -> bool:
        """True for a share of requests: every unit's sum lies between 0 and its number of requests."""
        metric = self.metric
        is_mean_of_flags = metric.kind is MetricKind.MEAN and _is_flag(metric.source) and metric.cap is None
        return self.estimator is Estimator.RATIO and (metric.kind is MetricKind.PROPORTION or is_mean_of_flags)


@dataclass(frozen=True, slots=True)
class MeasurePlan:
    """All of an experiment. arms: variants of the split, in file order. digest: equal plans have equal unit rows."""

    experiment: str
    arms: tuple[str, ...]
    metrics: tuple[MetricPlan, ...]
    digest: str

    def rules(self, stream: Stream) -> tuple[Rule, ...]:
        """Rules fed by one stream."""
        return tuple(rule for metric in self.metrics for rule in metric.rules if rule.stream is stream)


def plan_measures(experiment: Experiment) -> MeasurePlan:
    """What to compute for `experiment`. Roles, margins, alpha and caps change no unit row, so not the digest either."""
    metrics = tuple(_plan_metric(index, metric) for index, metric in enumerate(experiment.metrics))
    arms = tuple(name for name, _ in experiment.split)
    rules = [rule for metric in metrics for rule in metric.rules]
    text = msgspec.json.encode([experiment.name, arms, [msgspec.to_builtins(rule) for rule in rules]])
    return MeasurePlan(
        experiment=experiment.name,
        arms=arms,
        metrics=metrics,
        digest=hashlib.sha256(text).hexdigest(),
    )


# Measures that every request has exactly one of: their natural level is per request, so they are ratios of two
# per-unit sums. `requests` itself is a number per unit.
_PER_REQUEST: Final = frozenset(RequestMeasure) - {RequestMeasure.REQUESTS}


def _plan_metric(index: int, metric: Metric) -> MetricPlan:
    estimator = _estimator(metric)
    main = Window(int(metric.after_s * SECOND), _end(metric), _form(metric))
    rules = [replace(_rule(index, metric.source), y=main, keeps_values=estimator is Estimator.QUANTILE)]
    if metric.denominator is not None:
        # Both sums add values; the plain `value` of an event that carries none is 1, so this counts such events.
        rules.append(replace(_rule(index, metric.denominator), d=replace(main, form=Form.VALUE)))
    elif estimator is Estimator.RATIO:
        rules[0] = replace(rules[0], d=replace(main, form=Form.ONE))
    if metric.covariate is not None:
        before = Window(-int(metric.covariate.before_s * SECOND), 0, Form.VALUE)
        rules.append(replace(_rule(index, metric.covariate.source), x=before))
    return MetricPlan(
        index=index,
        metric=metric,
        estimator=estimator,
        rules=_merged(rules),
        matures_after=0 if metric.within_s is None else _end(metric),
    )


def _rule(index: int, source: Source) -> Rule:
    match source:
        case EventSource(event, value):
            return Rule(index, Stream.OUTCOMES, event, value)
        case RequestSource(of):
            return Rule(index, Stream.REQUESTS, of.value, "")


def _merged(rules: list[Rule]) -> tuple[Rule, ...]:
    """Rules that read the same value of the same event become one: each event is then touched once per metric."""
    merged: dict[tuple[str, str, str], Rule] = {}
    for rule in rules:
        key = (rule.stream, rule.event, rule.value)
        known = merged.get(key)
        merged[key] = rule if known is None else _union(known, rule)
    return tuple(merged.values())


def _union(a: Rule, b: Rule) -> Rule:
    return replace(
        a,
        y=a.y if a.y != NEVER else b.y,
        d=a.d if a.d != NEVER else b.d,
        x=a.x if a.x != NEVER else b.x,
        keeps_values=a.keeps_values or b.keeps_values,
    )


def _estimator(metric: Metric) -> Estimator:
    per_request = isinstance(metric.source, RequestSource) and metric.source.of in _PER_REQUEST
    match metric.kind:
        case MetricKind.QUANTILE:
            return Estimator.QUANTILE
        case MetricKind.RATIO:
            return Estimator.RATIO
        case MetricKind.MEAN | MetricKind.PROPORTION if per_request:
            return Estimator.RATIO
        case MetricKind.PROPORTION | MetricKind.RETENTION:
            return Estimator.SHARE
        case MetricKind.MEAN | MetricKind.COUNT:
            return Estimator.MEAN


def _form(metric: Metric) -> Form:
    if metric.kind is MetricKind.PROPORTION:
        return Form.IS_POSITIVE
    if metric.kind is MetricKind.RETENTION or (metric.kind is MetricKind.COUNT and not _is_flag(metric.source)):
        return Form.ONE
    return Form.VALUE


def _is_flag(source: Source) -> bool:
    """A count of errors adds one per error, not one per request."""
    return isinstance(source, RequestSource) and source.of in {
        RequestMeasure.ERROR,
        RequestMeasure.TIMEOUT,
        RequestMeasure.FALLBACK,
    }


def _end(metric: Metric) -> int:
    return FOREVER if metric.within_s is None else int(metric.within_s * SECOND)
