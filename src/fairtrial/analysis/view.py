"""Builds the one object that everything shows, `ExperimentView`, and its JSON and JSON Schema.

`assemble` is pure: moments, memory of earlier looks and the clock in, view out. `build_view` reads and writes the state
around it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from fairtrial.analysis.health import check_health, problems_first
from fairtrial.analysis.horizon import derive_planned_units, has_derived_horizon
from fairtrial.analysis.looks import (
    Memory,
    needs_memory,
    plan_digest,
    read_memory,
    record_horizon,
    record_looks,
    record_settled,
)
from fairtrial.analysis.moments import ExperimentMoments, Traffic, read_moments
from fairtrial.analysis.rules import plan_measures
from fairtrial.analysis.scorecard import Schedule, Scorecard, make_scorecard
from fairtrial.analysis.state import AnalysisState
from fairtrial.decide.verdict import Evidence, verdict
from fairtrial.model.allocation import Allocation
from fairtrial.model.experiment import (
    Experiment,
    FieldUnit,
    JsonValue,
    Method,
    MetricRole,
    RequestUnit,
    SlotUnit,
    Unit,
)
from fairtrial.model.view import (
    AllocationView,
    ExperimentView,
    HealthCheck,
    Progress,
    VariantView,
    Verdict,
    VerdictKind,
)

_SETTLING: Final = frozenset({VerdictKind.SHIP, VerdictKind.ROLL_BACK, VerdictKind.INCONCLUSIVE})


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the events do not say.

    now: microseconds since 1970; units whose window ended by then count, so pass the instant *before* the newest files
    were compacted: later, outcomes that are still in the log would be taken for missing. allocations: every epoch so
    far, oldest first. log_positions: by log, how far the events go. extra_checks: health seen from elsewhere.
    is_split_known: False where nobody said how units were meant to be split. is_table: a table that is analysed as it
    stands, not a log that grows.
    """

    now: int
    data_through: int | None = None
    allocations: tuple[Allocation, ...] = ()
    status: str = "running"
    log_positions: Mapping[str, str] = field(default_factory=dict)
    extra_checks: tuple[HealthCheck, ...] = ()
    is_split_known: bool = True
    is_table: bool = False

    @property
    def started_at(self) -> int | None:
        """Start of the first epoch; None where no allocation is known."""
        return self.allocations[0].started_at if self.allocations else None


@dataclass(frozen=True, slots=True)
class Assembled:
    """A view, and what a later look must know. fractions: of the planned information now, by metric."""

    view: ExperimentView
    fractions: Mapping[str, float]
    planned_units: int | None
    is_at_horizon: bool


def build_view(state: AnalysisState, experiment: Experiment, circumstances: Circumstances) -> ExperimentView:
    """The view of one experiment from its unit rows; call `state.refresh` first. Records this look in the state."""
    measures = plan_measures(experiment)
    plan = plan_digest(experiment, circumstances.started_at)
    with state.transaction(measures) as con:
        memory = read_memory(con, experiment.name, plan)
        found = assemble(experiment, read_moments(con, measures, now=circumstances.now), memory, circumstances)
        if memory.planned_units is None and found.planned_units is not None:
            record_horizon(con, experiment.name, plan, found.planned_units)
        if needs_memory(experiment.analysis.method):
            record_looks(con, experiment.name, plan, memory=memory, now=found.fractions, at=circumstances.now)
            if found.is_at_horizon and memory.settled is None and _is_final(found.view.verdict):
                record_settled(con, experiment.name, plan, found.view.verdict)
    return found.view


def _is_final(found: Verdict) -> bool:
    """True where more data after the horizon must not change the verdict.

    A winner that only a guardrail holds back is not final: the guardrail may still pass, and looking at it costs the
    primary nothing, for it has won already.
    """
    is_held_back = found.kind is VerdictKind.INCONCLUSIVE and any(r.code == "primary_better" for r in found.reasons)
    return found.kind in _SETTLING and not is_held_back


def assemble(
    experiment: Experiment, moments: ExperimentMoments, memory: Memory, circumstances: Circumstances
) -> Assembled:
    """Moments and circumstances to a view. Pure."""
    plan = experiment.analysis
    planned = plan.planned_units or memory.planned_units or derive_planned_units(experiment, moments)
    fractions = _fractions(moments, planned)
    progress = _progress(experiment, moments, circumstances, planned, fractions)
    splits = _splits(experiment, circumstances) if circumstances.is_split_known else None
    evidence = Evidence(
        health=problems_first(
            (
                *check_health(
                    experiment, moments, splits=splits, planned_units=planned, is_table=circumstances.is_table
                ),
                *circumstances.extra_checks,
            )
        ),
        primary=(),
        guardrails=(),
        running_s=progress.running_s,
        min_runtime_s=plan.min_runtime_s,
        max_runtime_s=plan.max_runtime_s,
        information=progress.information,
        is_locked=plan.method is Method.FIXED,
        waiting_units=progress.waiting_units,
        settled=memory.settled,
        # A table that allows one look is its own plan: its size was whatever it was.
        is_unplanned_table=circumstances.is_table and (plan.method is Method.FIXED or planned is None),
    )
    looks = {name: memory.looks_so_far(name, value) for name, value in fractions.items() if value > 0.0}
    is_locked = evidence.is_locked and not evidence.is_at_horizon
    is_planning = plan.method is Method.GROUP_SEQUENTIAL and planned is None and has_derived_horizon(experiment)
    scorecard = make_scorecard(experiment, moments, Schedule(looks, is_locked=is_locked, is_planning=is_planning))
    evidence = replace(evidence, primary=scorecard.primary, guardrails=scorecard.guardrails)
    view = _view(_Parts(experiment, moments, circumstances, evidence, scorecard, progress))
    return Assembled(view, fractions, planned, evidence.is_at_horizon)


def view_to_json(view: ExperimentView) -> bytes:
    """The view as JSON, keys in the order of the reference page."""
    return msgspec.json.encode(view)


def view_from_json(data: bytes) -> ExperimentView:
    """The view that `view_to_json` wrote."""
    return msgspec.json.decode(data, type=ExperimentView)


def view_schema() -> dict[str, JsonValue]:
    """JSON Schema of the view, as in docs/reference/experiment-view.schema.json."""
    schema: dict[str, JsonValue] = msgspec.json.schema(ExperimentView)
    title = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Fairtrial experiment view"}
    return {**title, **schema}


def _fractions(moments: ExperimentMoments, planned: int | None) -> dict[str, float]:
    if planned is None:
        return {}
    return {m.plan.metric.name: sum(m.units.values()) / planned for m in moments.metrics}


def _progress(
    experiment: Experiment,
    moments: ExperimentMoments,
    circumstances: Circumstances,
    planned: int | None,
    fractions: Mapping[str, float],
) -> Progress:
    primary = next((m for m in moments.metrics if m.plan.metric.role is MetricRole.PRIMARY), None)
    started = circumstances.started_at if circumstances.started_at is not None else moments.first_exposure_at
    information = None if primary is None else fractions.get(primary.plan.metric.name)
    return Progress(
        matured_units=sum(moments.units.values()) if primary is None else sum(primary.units.values()),
        waiting_units=0 if primary is None else primary.waiting,
        planned_units=planned,
        information=None if information is None else min(1.0, information),
        running_s=0.0 if started is None else max(0.0, (circumstances.now - started) / 1e6),
        min_runtime_s=experiment.analysis.min_runtime_s,
        max_runtime_s=experiment.analysis.max_runtime_s,
    )


def _splits(experiment: Experiment, circumstances: Circumstances) -> dict[int, list[float]]:
    """Intended shares by epoch; an epoch that leaves a variant out promises nothing that could be compared."""
    arms = [name for name, _ in experiment.split]
    shares = {a.epoch: [dict(a.split).get(name, 0.0) for name in arms] for a in circumstances.allocations}
    return {epoch: split for epoch, split in shares.items() if min(split) > 0.0}


@dataclass(frozen=True, slots=True)
class _Parts:
    """All that a view is made of."""

    experiment: Experiment
    moments: ExperimentMoments
    circumstances: Circumstances
    evidence: Evidence
    scorecard: Scorecard
    progress: Progress


def _view(parts: _Parts) -> ExperimentView:
    return ExperimentView(
        name=parts.experiment.name,
        status=parts.circumstances.status,
        verdict=verdict(parts.evidence),
        health=parts.evidence.health,
        metrics=parts.scorecard.metrics,
        variants=_variants(parts.experiment, parts.moments),
        progress=parts.progress,
        control=parts.experiment.control,
        method=parts.experiment.analysis.method.value,
        alpha=parts.experiment.analysis.alpha,
        computed_at=parts.circumstances.now,
        data_through=parts.circumstances.data_through,
        allocations=tuple(
            AllocationView(a.epoch, a.started_at, a.enrolment, a.stage, a.status.value)
            for a in parts.circumstances.allocations
        ),
        hypothesis=parts.experiment.hypothesis,
        owner=parts.experiment.owner,
        endpoint=parts.experiment.endpoint,
        unit=unit_text(parts.experiment.unit),
        log_positions=dict(parts.circumstances.log_positions),
    )


def _variants(experiment: Experiment, moments: ExperimentMoments) -> tuple[VariantView, ...]:
    models = {variant.name: variant.model for variant in experiment.variants}
    views = []
    for arm, (name, share) in enumerate(experiment.split):
        traffic = moments.traffic.get(arm, Traffic())
        views.append(
            VariantView(
                name=name,
                model=models.get(name, ""),
                expected_share=share,
                units=sum(n for cell, n in moments.units.items() if cell.arm == arm),
                exposures=traffic.exposures,
                requests=traffic.requests,
                errors=traffic.errors,
                fallbacks=traffic.fallbacks,
            )
        )
    return tuple(views)


def unit_text(unit: Unit) -> str:
    """What is randomised, in a few words."""
    match unit:
        case FieldUnit(place):
            return f"{place.source.value} {place.name}"
        case RequestUnit():
            return "request"
        case SlotUnit(slot_s, by):
            return f"{slot_s:g} s slot" + (f" by {', '.join(by)}" if by else "")
