"""The experiment file as frozen types: what a file means once every mistake in it has been ruled out.

Nothing here can be wrong: `fairtrial.model.parse` is the only maker, and checks what the types cannot say
(shares that sum to one, names that exist). Code that holds one of these values does not check it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]


class FieldSource(StrEnum):
    """Places of a request in which a value can stand."""

    HEADER = "header"
    COOKIE = "cookie"
    QUERY = "query"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class RequestField:
    """Where one value stands in a request. name: lower-case header, cookie or query name, or dotted JSON path."""

    source: FieldSource
    name: str


@dataclass(frozen=True, slots=True)
class FieldUnit:
    """The unit is read from the request."""

    field: RequestField


@dataclass(frozen=True, slots=True)
class RequestUnit:
    """Every request is a unit of its own; its id is the unit."""


@dataclass(frozen=True, slots=True)
class SlotUnit:
    """A stretch of time (switchback), optionally one per combination of attributes. slot_s: seconds, > 0."""

    slot_s: float
    by: tuple[str, ...] = ()


Unit = FieldUnit | RequestUnit | SlotUnit


@dataclass(frozen=True, slots=True)
class Model:
    """One model version behind an HTTP address.

    url: `http://host:port[/path]`; a path replaces the path prefix that the endpoint matched. host: value of the Host
    header sent to it; empty keeps the client's. headers: added to every request to it (lower-case names).
    """

    name: str
    url: str
    version: str = ""
    host: str = ""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Match:
    """Which requests an endpoint takes; every part given must hold.

    path: prefix, ending at a `/`, `:`, `?` or the end. host: exact, without port, lower case. headers: exact values of
    lower-case names. model: exact value of the JSON body's top-level `model`.
    """

    path: str = "/"
    host: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    model: str = ""


class OnClientEof(StrEnum):
    """What happens upstream when the client goes away or half-closes before its answer."""

    CANCEL = "cancel"
    FINISH = "finish"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds, all > 0. connect_s: to open an upstream connection. first_byte_s: from request sent to response head.

    idle_s: longest silence inside a body, either way. total_s: whole request; None for no limit.
    """

    connect_s: float = 2.0
    first_byte_s: float = 30.0
    idle_s: float = 30.0
    total_s: float | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address that clients call. model: the stable model: everyone not enrolled, and the fallback.

    is_repeatable: a request may be sent again, to the stable model, after a model may have seen it.
    """

    name: str
    match: Match
    model: str
    attributes: Mapping[str, RequestField] = field(default_factory=dict)
    is_repeatable: bool = True
    timeouts: Timeouts = Timeouts()
    on_client_eof: OnClientEof = OnClientEof.CANCEL
    max_body_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class Variant:
    """One model version, or one configuration of it, under test.

    headers: set on the request. body: JSON merge patch (RFC 7396) of the request body; None changes nothing. shadow:
    share in (0, 1] of enrolled requests that are copied to it; 0 for a variant that takes part in the split.
    """

    name: str
    model: str
    headers: tuple[tuple[str, str], ...] = ()
    body: JsonValue = None
    shadow: float = 0.0


@dataclass(frozen=True, slots=True)
class Condition:
    """What one attribute of a request must be; several parts must all hold.

    one_of: allowed values; empty for no such rule. none_of: forbidden values (an absent attribute passes).
    at_least, at_most: numeric bounds, inclusive (an absent or non-numeric attribute fails). exists: present or absent.
    """

    attribute: str
    one_of: tuple[str, ...] = ()
    none_of: tuple[str, ...] = ()
    at_least: float | None = None
    at_most: float | None = None
    exists: bool | None = None


@dataclass(frozen=True, slots=True)
class LayerSlice:
    """The part [low, high) of a layer's units that an experiment may enrol. Slices of one layer never overlap."""

    name: str
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Holdout:
    """A share in [0, 1) of all units that no experiment naming it may enrol."""

    name: str
    share: float


class MetricRole(StrEnum):
    """What a metric is for: one primary decides, guardrails must not get worse, secondaries explain."""

    PRIMARY = "primary"
    SECONDARY = "secondary"
    GUARDRAIL = "guardrail"


class MetricKind(StrEnum):
    """How outcomes become one number per unit and one effect per variant."""

    PROPORTION = "proportion"
    MEAN = "mean"
    RATIO = "ratio"
    QUANTILE = "quantile"
    COUNT = "count"
    RETENTION = "retention"


class Better(StrEnum):
    """The direction in which a metric improves."""

    HIGHER = "higher"
    LOWER = "lower"


class RequestMeasure(StrEnum):
    """What a request record can be asked for (`of:` in the file)."""

    ERROR = "error"
    TIMEOUT = "timeout"
    FALLBACK = "fallback"
    LATENCY_S = "latency_s"
    UPSTREAM_S = "upstream_s"
    REQUESTS = "requests"
    BYTES_OUT = "bytes_out"


@dataclass(frozen=True, slots=True)
class EventSource:
    """Outcomes named `event`. value: which of their values; `value` is the plain number."""

    event: str
    value: str = "value"


@dataclass(frozen=True, slots=True)
class RequestSource:
    """A measure of the router's own request records."""

    of: RequestMeasure


Source = EventSource | RequestSource


@dataclass(frozen=True, slots=True)
class Margin:
    """A distance between variants. value: >= 0, a fraction of control where is_relative, else in the metric's unit."""

    value: float
    is_relative: bool


@dataclass(frozen=True, slots=True)
class Covariate:
    """The same unit's outcomes in the `before_s` seconds before its first exposure."""

    source: EventSource
    before_s: float


@dataclass(frozen=True, slots=True)
class Metric:
    """One number that the trial is judged by.

    within_s: outcomes count from the unit's first exposure for so long, and the unit counts once that has passed; None
    for no window. after_s: retention counts from here on. denominator: of a ratio. quantile: in (0, 1). cap: per-unit
    values above are set to it. mde: smallest effect worth finding. margin: how much worse still passes (guardrails).
    limit: a level of the metric itself that stops the trial.
    """

    name: str
    role: MetricRole
    kind: MetricKind
    source: Source
    denominator: Source | None = None
    within_s: float | None = None
    after_s: float = 0.0
    better: Better = Better.HIGHER
    quantile: float | None = None
    cap: float | None = None
    covariate: Covariate | None = None
    mde: Margin | None = None
    margin: Margin | None = None
    limit: float | None = None


class Method(StrEnum):
    """How intervals and the verdict stay honest under looking."""

    FIXED = "fixed"
    GROUP_SEQUENTIAL = "group_sequential"
    ANYTIME = "anytime"
    BAYESIAN = "bayesian"


class Spending(StrEnum):
    """Error-spending function of a group-sequential design (Lan & DeMets 1983)."""

    OBRIEN_FLEMING = "obrien_fleming"
    POCOCK = "pocock"


@dataclass(frozen=True, slots=True)
class AnalysisPlan:
    """How the experiment is judged, fixed before launch.

    alpha: two-sided, in (0, 0.5). power: in (0.5, 1). planned_units: matured units of all compared variants at the
    horizon, None to derive it from the primary's mde.
    """

    method: Method = Method.GROUP_SEQUENTIAL
    alpha: float = 0.05
    power: float = 0.8
    min_runtime_s: float = 0.0
    max_runtime_s: float | None = None
    planned_units: int | None = None
    spending: Spending = Spending.OBRIEN_FLEMING


class OnBreach(StrEnum):
    """What a breached guardrail does."""

    ROLL_BACK = "roll_back"
    PAUSE = "pause"


@dataclass(frozen=True, slots=True)
class Rollout:
    """stages: shares of all traffic that meet the treatment, rising, in (0, 1]. hold_s: at least so long in each."""

    stages: tuple[float, ...]
    hold_s: float = 0.0
    on_breach: OnBreach = OnBreach.ROLL_BACK


@dataclass(frozen=True, slots=True)
class Experiment:
    """One trial.

    split: (variant, share) in file order, shares > 0 that sum to 1. control: the variant called `control`, or the
    first.    enrolment: share in [0, 1] of units enrolled when no rollout says otherwise.
    """

    name: str
    endpoint: str
    unit: Unit
    variants: tuple[Variant, ...]
    split: tuple[tuple[str, float], ...]
    control: str
    salt: str
    hypothesis: str = ""
    owner: str = ""
    audience: tuple[Condition, ...] = ()
    enrolment: float = 1.0
    layer: LayerSlice | None = None
    holdout: Holdout | None = None
    metrics: tuple[Metric, ...] = ()
    analysis: AnalysisPlan = AnalysisPlan()
    rollout: Rollout | None = None
    plane: str = "router"


@dataclass(frozen=True, slots=True)
class ResponseHeaders:
    """Names of the headers the router adds to answers; an empty name leaves that one out."""

    experiment: str = "x-experiment-id"
    variant: str = "x-variant"
    model_version: str = "x-model-version"
    request_id: str = "x-request-id"


@dataclass(frozen=True, slots=True)
class RouterOptions:
    """Sizes in bytes, times in seconds, all > 0; counts per worker."""

    response_headers: ResponseHeaders = ResponseHeaders()
    max_head_bytes: int = 32 << 10
    max_fields: int = 100
    head_timeout_s: float = 10.0
    keep_alive_s: float = 75.0
    upstream_idle_s: float = 4.0
    drain_delay_s: float = 0.0
    drain_timeout_s: float = 30.0
    max_connections: int = 20_000
    max_upstream_connections: int = 1_000
    breaker_failures: int = 5
    breaker_open_s: float = 5.0


SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class ExperimentFile:
    """A whole file. keep_unit_ids: raw unit ids may rest on disk; else only keyed hashes do."""

    models: Mapping[str, Model]
    endpoints: Mapping[str, Endpoint]
    experiments: Mapping[str, Experiment]
    router: RouterOptions = RouterOptions()
    keep_unit_ids: bool = False
