"""Sections `metrics` and `analysis` of an experiment, and the rules that bind their keys together."""

from __future__ import annotations

from typing import Final

from fairtrial.model.experiment import (
    AnalysisPlan,
    Better,
    Covariate,
    EventSource,
    Margin,
    Method,
    Metric,
    MetricKind,
    MetricRole,
    RequestMeasure,
    RequestSource,
    Source,
    Spending,
)
from fairtrial.model.kinds import Choice, Number, WholeNumber, name_kind
from fairtrial.model.parse_values import (
    DURATION,
    EFFECT,
    EVENT_NAME,
    LEVEL,
    LONG_DURATION,
    MARGIN,
    check_exactly_one,
)
from fairtrial.model.sections import Fields, Key, Section

EVENT = Key("event", EVENT_NAME, "Outcomes of this name.", example="purchase")
VALUE = Key(
    "value", name_kind("a value's name"), "Which of the outcome's values; `value` is the plain number.", "value"
)
OF = Key("of", Choice(RequestMeasure), "A measure of the router's own request records.")

_LOWER: Final = frozenset(
    {
        RequestMeasure.ERROR,
        RequestMeasure.TIMEOUT,
        RequestMeasure.FALLBACK,
        RequestMeasure.LATENCY_S,
        RequestMeasure.UPSTREAM_S,
    }
)
_YES_NO: Final = frozenset({RequestMeasure.ERROR, RequestMeasure.TIMEOUT, RequestMeasure.FALLBACK})
_PROPORTIONS: Final = frozenset({MetricKind.PROPORTION, MetricKind.RETENTION})


def _build_source(fields: Fields) -> Source | None:
    check_exactly_one(fields, (EVENT, OF), "{event: purchase} or {of: requests}")
    if fields.has(OF):
        fields.only((VALUE,), "`of` is a number by itself")
    return _source(fields)


def _source(fields: Fields) -> Source | None:
    event, measure = fields.find(EVENT), fields.find(OF)
    if event is not None:
        return EventSource(event, fields.get(VALUE, "value"))
    return RequestSource(measure) if measure is not None else None


SOURCE: Final[Section[Source]] = Section(
    "source", "Where a number comes from: `event` (with `value`) or `of`.", (EVENT, VALUE, OF), _build_source
)

BEFORE = Key("before", LONG_DURATION, "How long before a unit's first exposure.", example="14d", is_required=True)
COVARIATE_EVENT = Key("event", EVENT_NAME, "Outcomes of this name.", example="purchase", is_required=True)


def _build_covariate(fields: Fields) -> Covariate:
    return Covariate(EventSource(fields.get(COVARIATE_EVENT, ""), fields.get(VALUE, "value")), fields.get(BEFORE, 0.0))


COVARIATE: Final = Section(
    "covariate",
    "The same unit's outcomes before the trial; they take noise out of the effect.",
    (COVARIATE_EVENT, VALUE, BEFORE),
    _build_covariate,
)

ROLE = Key(
    "role",
    Choice(MetricRole),
    "The primary decides, guardrails must not get worse, secondaries explain.",
    example="primary",
    is_required=True,
)
KIND = Key(
    "kind",
    Choice(MetricKind),
    "How outcomes become one number per unit and one effect per variant.",
    example="proportion",
    is_required=True,
)
NUMERATOR: Key[Source] = Key("numerator", SOURCE, "Of a ratio: what is summed above the line.")
DENOMINATOR: Key[Source] = Key(
    "denominator", SOURCE, "Of a ratio: what is summed below the line.", example="{of: requests}"
)
QUANTILE = Key("quantile", Number(0, 1), "Of a quantile: which one, 0.95 for the 95th percentile.", example="0.95")
WITHIN = Key(
    "within",
    LONG_DURATION,
    "Outcomes count for so long from the unit's first exposure; the unit counts once it has passed.",
    "no window",
    "7d",
)
AFTER = Key("after", DURATION, "Of retention: outcomes count from here on.", example="7d")
BETTER = Key(
    "better", Choice(Better), "The direction in which it improves.", "lower for errors and latencies, else higher"
)
CAP = Key("cap", Number(0, float("inf")), "Per-unit values above are set to it.", "none")
COVARIATE_KEY = Key("covariate", COVARIATE, "Pre-trial outcomes of the same unit, for a more precise effect.", "none")
MDE = Key("mde", EFFECT, "Smallest effect worth finding.", example="2%")
MARGIN_KEY = Key("margin", MARGIN, "Of a guardrail: how much worse still passes.", example="1pp")
LIMIT = Key("limit", LEVEL, "Of a guardrail: a level of the metric itself that stops the trial.", example="5%")


def _build_metric(fields: Fields) -> Metric | None:
    kind = fields.get(KIND, MetricKind.MEAN)
    source = _metric_source(fields, kind)
    if fields.has(KIND):
        _check_kind(fields, kind, source)
    _check_role(fields)
    for key in (MDE, MARGIN_KEY):
        _check_margin(fields, key, kind, source)
    _check_limit(fields, kind, source)
    role = fields.find(ROLE)
    if role is None:
        return None
    measure = source.of if isinstance(source, RequestSource) else None
    return Metric(
        name=fields.name,
        role=role,
        kind=kind,
        source=source if source is not None else EventSource(""),
        denominator=fields.find(DENOMINATOR),
        within_s=fields.find(WITHIN),
        after_s=fields.get(AFTER, 0.0),
        better=fields.get(BETTER, Better.LOWER if measure in _LOWER else Better.HIGHER),
        quantile=fields.find(QUANTILE),
        cap=fields.find(CAP),
        covariate=fields.find(COVARIATE_KEY),
        mde=fields.find(MDE),
        margin=fields.find(MARGIN_KEY),
        limit=fields.find(LIMIT),
    )


def _metric_source(fields: Fields, kind: MetricKind) -> Source | None:
    if kind is MetricKind.RATIO:
        check_exactly_one(fields, (NUMERATOR, EVENT, OF), "numerator: {event: purchase}")
        if fields.has(NUMERATOR):
            return fields.find(NUMERATOR)
    else:
        check_exactly_one(fields, (EVENT, OF), "event: purchase")
    if fields.has(OF):
        fields.only((VALUE,), "`of` is a number by itself")
    return _source(fields)


def _check_kind(fields: Fields, kind: MetricKind, source: Source | None) -> None:
    """A kind has the keys it needs and none that it cannot use."""
    needed: dict[MetricKind, tuple[Key[object], ...]] = {
        MetricKind.QUANTILE: (QUANTILE,),
        MetricKind.RATIO: (DENOMINATOR,),
        MetricKind.RETENTION: (AFTER, WITHIN),
    }
    for key in needed.get(kind, ()):
        if not fields.has(key):
            fields.error(key, f"kind {kind} needs `{key.name}`", f"add `{key.name}: {key.example}`")
    own: dict[MetricKind, tuple[Key[object], ...]] = {
        MetricKind.QUANTILE: (QUANTILE,),
        MetricKind.RATIO: (NUMERATOR, DENOMINATOR),
        MetricKind.RETENTION: (AFTER,),
    }
    for other, keys in own.items():
        if other is not kind:
            fields.only(keys, f"it belongs to kind {other}, and this is kind {kind}")
    if kind in _PROPORTIONS:
        fields.only((CAP,), f"a {kind} is 0 or 1 per unit")
    if kind is MetricKind.QUANTILE:
        fields.only((COVARIATE_KEY, CAP), "a quantile is not adjusted")
    after, within = fields.get(AFTER, 0.0), fields.find(WITHIN)
    if within is not None and after >= within:
        fields.error(AFTER, "`after` is not before the end of `within`", "make `within` longer")
    if isinstance(source, RequestSource):
        _check_measure(fields, kind, source.of)


def _check_measure(fields: Fields, kind: MetricKind, measure: RequestMeasure) -> None:
    if kind is MetricKind.PROPORTION and measure not in _YES_NO:
        allowed = ", ".join(sorted(_YES_NO))
        fields.error(
            OF,
            f"a proportion of {measure} has no meaning; allowed: {allowed}",
            "use kind mean or quantile, or another `of`",
        )
    if kind is MetricKind.QUANTILE and measure in _YES_NO:
        fields.error(OF, f"{measure} is 0 or 1 and has no quantiles", "use kind proportion")
    if kind is MetricKind.RETENTION:
        fields.error(OF, "retention is measured on outcomes", "write `event: ...` instead of `of`")


def _check_role(fields: Fields) -> None:
    role = fields.find(ROLE)
    if role is MetricRole.GUARDRAIL and not fields.has(MARGIN_KEY) and not fields.has(LIMIT):
        fields.error(ROLE, "a guardrail needs `margin` or `limit`", "add `margin: 1pp` or `limit: 5%`")
    if role in {MetricRole.PRIMARY, MetricRole.SECONDARY}:
        fields.only((MARGIN_KEY, LIMIT), f"it belongs to guardrails, and this is a {role} metric")


def _is_proportion(kind: MetricKind, source: Source | None) -> bool:
    """True where a unit's value, or the mean of them, is in [0, 1]."""
    return kind in _PROPORTIONS or (isinstance(source, RequestSource) and source.of in _YES_NO)


def _check_limit(fields: Fields, kind: MetricKind, source: Source | None) -> None:
    limit = fields.find(LIMIT)
    if limit is not None and fields.has(KIND) and _is_proportion(kind, source) and not 0 <= limit <= 1:
        written = getattr(fields.value_node(LIMIT), "text", "")
        fields.error(LIMIT, f"{written} is no level of a proportion; it is 0% to 100%, or 0 to 1", "write it like 5%")


def _check_margin(fields: Fields, key: Key[Margin], kind: MetricKind, source: Source | None) -> None:
    """Points belong to proportions, times to latencies; an absolute margin of a proportion is below 1."""
    margin = fields.find(key)
    if margin is None or margin.is_relative or not fields.has(KIND):
        return
    is_proportion = _is_proportion(kind, source)
    written = getattr(fields.value_node(key), "text", "")
    if written.endswith("pp") and not is_proportion and kind is not MetricKind.RATIO:
        fields.error(
            key,
            f"points (`{written}`) belong to proportions, and this is a {kind}",
            "write it like 20%, or in the metric's unit",
        )
    elif is_proportion and margin.value >= 1:
        fields.error(
            key,
            f"{written} is an absolute distance between proportions and must be below 1",
            f"write {written}pp or {written}%",
        )


METRIC: Final = Section(
    "metric",
    "One number that the trial is judged by.",
    (
        ROLE,
        KIND,
        EVENT,
        VALUE,
        OF,
        NUMERATOR,
        DENOMINATOR,
        QUANTILE,
        WITHIN,
        AFTER,
        BETTER,
        CAP,
        COVARIATE_KEY,
        MDE,
        MARGIN_KEY,
        LIMIT,
    ),
    _build_metric,
)

_PLAN: Final = AnalysisPlan()
METHOD = Key("method", Choice(Method), "How intervals and the verdict stay honest under looking.", _PLAN.method)
ALPHA = Key("alpha", Number(0, 0.5), "Two-sided chance of a false alarm.", str(_PLAN.alpha))
POWER = Key("power", Number(0.5, 1), "Chance to find an effect of the size of `mde`.", str(_PLAN.power))
MIN_RUNTIME = Key("min_runtime", DURATION, "No verdict for or against the treatment before.", "0s")
MAX_RUNTIME = Key("max_runtime", LONG_DURATION, "The trial ends undecided after.", "no limit")
PLANNED_UNITS = Key(
    "planned_units",
    WholeNumber(2, 10**12),
    "Matured units of all compared variants at the horizon.",
    "from the primary's mde",
)
SPENDING = Key("spending", Choice(Spending), "Error-spending function of a group-sequential design.", _PLAN.spending)


def _build_plan(fields: Fields) -> AnalysisPlan:
    plan = AnalysisPlan(
        method=fields.get(METHOD, _PLAN.method),
        alpha=fields.get(ALPHA, _PLAN.alpha),
        power=fields.get(POWER, _PLAN.power),
        min_runtime_s=fields.get(MIN_RUNTIME, 0.0),
        max_runtime_s=fields.find(MAX_RUNTIME),
        planned_units=fields.find(PLANNED_UNITS),
        spending=fields.get(SPENDING, _PLAN.spending),
    )
    if plan.max_runtime_s is not None and plan.max_runtime_s < plan.min_runtime_s:
        fields.error(MAX_RUNTIME, "`max_runtime` is shorter than `min_runtime`", "make it at least as long")
    if plan.alpha >= plan.power:
        fields.error(ALPHA, "`alpha` is not below `power`", "alpha is like 0.05, power like 0.8")
    return plan


ANALYSIS: Final = Section(
    "analysis",
    "How the experiment is judged, fixed before launch.",
    (METHOD, ALPHA, POWER, MIN_RUNTIME, MAX_RUNTIME, PLANNED_UNITS, SPENDING),
    _build_plan,
)
