"""`ExperimentView`: the one object that page, command line, notebook and report show. Nobody else computes statistics.

Versioned JSON: fields are only added within a version. Effects are treatment minus control in the metric's own unit;
relative ones are fractions of control (0.02 is +2 %). Instants are microseconds since 1970, UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

VIEW_VERSION = 1


class VerdictKind(StrEnum):
    """What to do now."""

    SHIP = "ship"
    ROLL_BACK = "roll_back"
    KEEP_RUNNING = "keep_running"
    INCONCLUSIVE = "inconclusive"
    INVALID = "invalid"


class CheckState(StrEnum):
    """State of a health check or guardrail."""

    WAITING = "waiting"
    OK = "ok"
    WARN = "warn"
    FAILED = "failed"


class IntervalKind(StrEnum):
    """What an interval promises: one look, any look, or a posterior."""

    CONFIDENCE_INTERVAL = "confidence_interval"
    REPEATED_CONFIDENCE_INTERVAL = "repeated_confidence_interval"
    CONFIDENCE_SEQUENCE = "confidence_sequence"
    CREDIBLE_INTERVAL = "credible_interval"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why the verdict is so. code: stable, snake_case. unblocks: what would change it; empty if nothing would."""

    code: str
    message: str
    unblocks: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """kind with at least one reason. variant: the one to ship, where kind is ship."""

    kind: VerdictKind
    reasons: tuple[Reason, ...]
    variant: str | None = None


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """One named check. details: the numbers behind it."""

    name: str
    state: CheckState
    message: str
    details: dict[str, float | int | str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EffectInterval:
    """estimate with bounds at `level` (0.95 is 95 %); a bound is None where one-sided, p_value where undefined."""

    estimate: float
    std_error: float | None
    lower: float | None
    upper: float | None
    level: float
    kind: IntervalKind
    p_value: float | None = None


@dataclass(frozen=True, slots=True)
class VariantValue:
    """A metric's level in one variant. units: matured units behind it. value: None if it could not be computed."""

    variant: str
    units: int
    value: float | None
    std_error: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One treatment against control on one metric. not_enough_data: why there is no number; then effect is None.

    state: `better`, `worse`, `no_difference_found`, `not_worse` (guardrail passed), `waiting`, `locked` (fixed horizon
    not reached).
    """

    variant: str
    state: str
    effect: EffectInterval | None = None
    relative_effect: EffectInterval | None = None
    not_enough_data: str | None = None
    adjusted_p_value: float | None = None


@dataclass(frozen=True, slots=True)
class MetricView:
    """One row of the scorecard."""

    name: str
    role: str
    kind: str
    better: str
    values: tuple[VariantValue, ...]
    comparisons: tuple[Comparison, ...]
    margin: float | None = None
    margin_is_relative: bool | None = None
    limit: float | None = None
    guardrail: CheckState | None = None


@dataclass(frozen=True, slots=True)
class VariantView:
    """Traffic of one variant. expected_share: of enrolled units, from the split."""

    name: str
    model: str
    expected_share: float
    units: int
    exposures: int
    requests: int = 0
    errors: int = 0
    fallbacks: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the plan is. information: share of the planned information in [0, 1]; None without a plan."""

    matured_units: int
    waiting_units: int
    planned_units: int | None
    information: float | None
    running_s: float
    min_runtime_s: float
    max_runtime_s: float | None


@dataclass(frozen=True, slots=True)
class AllocationView:
    """One epoch's setting."""

    epoch: int
    started_at: int
    enrolment: float
    stage: float | None
    status: str


@dataclass(frozen=True, slots=True)
class ExperimentView:
    """Everything known about one experiment at `computed_at`, from events up to `data_through`."""

    name: str
    status: str
    verdict: Verdict
    health: tuple[HealthCheck, ...]
    metrics: tuple[MetricView, ...]
    variants: tuple[VariantView, ...]
    progress: Progress
    control: str
    method: str
    alpha: float
    computed_at: int
    data_through: int | None
    allocations: tuple[AllocationView, ...] = ()
    hypothesis: str = ""
    owner: str = ""
    endpoint: str = ""
    unit: str = ""
    log_positions: dict[str, str] = field(default_factory=dict)
    view_version: int = VIEW_VERSION
