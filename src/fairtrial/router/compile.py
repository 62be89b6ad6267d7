"""A snapshot compiled into a route table: everything that can be worked out before a request comes is.

Path matching is one dictionary look-up for a target seen before (model servers have few distinct ones); others go
through the endpoints, longest prefix first. Targets with `.` or `..` segments are refused, since a prefix says nothing
about where they end up at the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from fairtrial.assign.assignment import Assigner
from fairtrial.assign.slots import compile_slot
from fairtrial.model.allocation import Allocation, Snapshot, Status
from fairtrial.model.experiment import (
    Endpoint,
    Experiment,
    FieldSource,
    FieldUnit,
    JsonValue,
    Model,
    OnClientEof,
    RequestField,
    RequestUnit,
    ResponseHeaders,
    RouterOptions,
    SlotUnit,
    Variant,
)
from fairtrial.router.breaker import Breaker
from fairtrial.router.counters import WorkerCounters
from fairtrial.router.plan import (
    Arm,
    CompiledModel,
    CountMissing,
    Decision,
    EndpointPlan,
    ExperimentPlan,
    ShadowPlan,
    UnitReader,
)
from fairtrial.router.pool import ModelPool, Origin, PoolLimits
from fairtrial.router.table import FIXED_CAPTURES, RouteTable
from fairtrial.router.view import RequestView, header_text
from fairtrial.router.wheel import Wheel, ticks
from fairtrial.wire.cookies import cookie_value
from fairtrial.wire.grammar import any_of
from fairtrial.wire.jsonpath import json_text
from fairtrial.wire.limits import Limits
from fairtrial.wire.request import RequestParser
from fairtrial.wire.response import ResponseParser
from fairtrial.wire.target import query_value

ROUTER_PLANE: Final = "router"
_UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e]")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a table borrows from its worker. via: this router's name in the Via field."""

    wheel: Wheel
    counters: WorkerCounters
    via: str


def compile_table(snapshot: Snapshot, around: Surroundings, *, previous: RouteTable | None) -> RouteTable:
    """The table of a snapshot. Pools of models that did not change are taken over from `previous`."""
    file = snapshot.file
    limits = Limits(max_head_bytes=file.router.max_head_bytes, max_fields=file.router.max_fields)
    captures = _captures(snapshot)
    models = _models(snapshot, around, limits, previous)
    compiler = _Compiler(snapshot, around, models, {name: index for index, name in enumerate(captures)})
    plans = [compiler.endpoint(endpoint) for endpoint in file.endpoints.values()]
    # Longest path first; of equal ones those that ask for more.
    plans.sort(key=lambda plan: (-len(plan.path), not plan.host, -len(plan.headers), not plan.model))
    return RouteTable(
        snapshot=snapshot,
        plans=tuple(plans),
        pools={(model.name, model.url): models[model.name].pool for model in file.models.values()},
        parser=RequestParser(limits, captures),
        limits=limits,
        via=around.via.encode(),
        count_missing=_missing_counter(around.counters),
        counters=around.counters,
    )


def _missing_counter(counters: WorkerCounters) -> CountMissing:
    def count(experiment: str, reason: str) -> None:
        counters.not_enrolled[experiment, reason] += 1

    return count


def _captures(snapshot: Snapshot) -> tuple[bytes, ...]:
    """Header names whose values routing needs, the fixed ones first."""
    names = dict.fromkeys(FIXED_CAPTURES)
    for endpoint in snapshot.file.endpoints.values():
        names.update(dict.fromkeys(name.encode() for name, _ in endpoint.match.headers))
        names.update(dict.fromkeys(_captured_by(endpoint.attributes.values())))
    for experiment in snapshot.file.experiments.values():
        if isinstance(experiment.unit, FieldUnit):
            names.update(dict.fromkeys(_captured_by([experiment.unit.field])))
    return tuple(names)


def _captured_by(fields: Iterable[RequestField]) -> list[bytes]:
    names = []
    for field in fields:
        if field.source is FieldSource.HEADER:
            names.append(field.name.encode())
        elif field.source is FieldSource.COOKIE:
            names.append(b"cookie")
    return names


def _models(
    snapshot: Snapshot, around: Surroundings, limits: Limits, previous: RouteTable | None
) -> dict[str, CompiledModel]:
    options = snapshot.file.router
    kept = previous.pools if previous is not None and previous.options == options else {}
    return {
        model.name: CompiledModel(
            name=model.name,
            version=model.version,
            pool=kept.get((model.name, model.url)) or _pool(model, options, around, limits),
            path=_model_path(model.url),
        )
        for model in snapshot.file.models.values()
    }


def _model_path(url: str) -> bytes:
    """The path that replaces the matched prefix. A bare `/` is no path: people add it without meaning anything."""
    return urlsplit(url).path.rstrip("/").encode()


def _pool(model: Model, options: RouterOptions, around: Surroundings, limits: Limits) -> ModelPool:
    parts = urlsplit(model.url)
    is_tls = parts.scheme == "https"
    return ModelPool(
        Origin(parts.hostname or "", parts.port or (443 if is_tls else 80), is_tls),
        wheel=around.wheel,
        counters=around.counters.model(model.name, model.version),
        breaker=Breaker(failures=options.breaker_failures, pause=ticks(options.breaker_open_s)),
        pool_limits=PoolLimits(
            connections=options.max_upstream_connections,
            waiting=options.max_upstream_connections,
            idle_s=options.upstream_idle_s,
        ),
        parser=ResponseParser(limits, drop=_own_fields(options.response_headers)),
        limits=limits,
    )


def _own_fields(names: ResponseHeaders) -> tuple[bytes, ...]:
    """Answer fields that only the router may set: a model's own are dropped."""
    own = (names.experiment, names.variant, names.model_version, names.request_id)
    return tuple(name.lower().encode() for name in own if name)


def _field_lines(names: Iterable[str]) -> re.Pattern[bytes]:
    """Finds the lines of these fields, each with the CRLF before it."""
    spelt = any_of(name.lower().encode() for name in names)
    return re.compile(rb"\r\n" + spelt + rb":[^\r\n]*")


def _field(name: str, value: str) -> bytes:
    """A header line; what HTTP does not allow in a value becomes `?`."""
    return f"{name}: {_UNPRINTABLE.sub('?', value)}\r\n".encode() if name else b""


class _Compiler:
    """Compiles endpoints of one snapshot. indexes: place of each captured header."""

    def __init__(
        self,
        snapshot: Snapshot,
        around: Surroundings,
        models: Mapping[str, CompiledModel],
        indexes: Mapping[bytes, int],
    ) -> None:
        self._file = snapshot.file
        self._allocations = snapshot.allocations
        self._around = around
        self._models = models
        self._indexes = indexes

    def endpoint(self, endpoint: Endpoint) -> EndpointPlan:
        """The plan of one endpoint."""
        running = [
            (experiment, self._allocations[experiment.name])
            for experiment in self._file.experiments.values()
            if experiment.endpoint == endpoint.name
            and experiment.plane == ROUTER_PLANE
            and self._allocations[experiment.name].status is Status.RUNNING
        ]
        match = endpoint.match
        timeouts = endpoint.timeouts
        is_bare = not (match.host or match.headers or match.model)
        stable = self._stable_arm(endpoint)
        return EndpointPlan(
            name=endpoint.name,
            path=match.path.encode(),
            host=match.host.encode(),
            headers=tuple((self._indexes[name.encode()], value.encode()) for name, value in match.headers),
            model=match.model,
            stable=stable,
            unenrolled=Decision(stable, ""),
            recent={},
            experiments=tuple(self._experiment(each, allocation, endpoint) for each, allocation in running),
            fast=self._fast_index([each for each, _ in running]) if is_bare else -1,
            needs_json=any(_reads_json(each, endpoint) for each, _ in running),
            is_repeatable=endpoint.is_repeatable,
            cancels_on_eof=endpoint.on_client_eof is OnClientEof.CANCEL,
            connect_s=timeouts.connect_s,
            first_byte_ticks=ticks(timeouts.first_byte_s),
            idle_ticks=ticks(timeouts.idle_s),
            total_ticks=ticks(timeouts.total_s) if timeouts.total_s is not None else None,
            max_body_bytes=endpoint.max_body_bytes,
        )

    def _fast_index(self, experiments: list[Experiment]) -> int:
        if len(experiments) != 1 or experiments[0].audience:
            return -1
        unit = experiments[0].unit
        if isinstance(unit, FieldUnit) and unit.field.source is FieldSource.HEADER:
            return self._indexes[unit.field.name.encode()]
        return -1

    def _experiment(self, experiment: Experiment, allocation: Allocation, endpoint: Endpoint) -> ExperimentPlan:
        assigner = Assigner(experiment, allocation)
        shares = dict(allocation.split)
        arms = tuple(
            self._arm(endpoint, variant, experiment, allocation, shares.get(variant.name, 0.0))
            for variant in experiment.variants
        )
        needed = {condition.attribute for condition in experiment.audience}
        return ExperimentPlan(
            name=experiment.name,
            read_unit=self._unit_reader(experiment, endpoint),
            variant_of=assigner.variant_of,
            audience=assigner.admits if experiment.audience else None,
            attributes=self._attributes(endpoint, sorted(needed)),
            arms=arms,
            shadows=tuple(
                ShadowPlan(variant.shadow, arm)
                for variant, arm in zip(experiment.variants, arms, strict=True)
                if variant.shadow > 0
            ),
        )

    def _attributes(self, endpoint: Endpoint, names: Iterable[str]) -> tuple[tuple[str, UnitReader], ...]:
        return tuple((name, self._reader(endpoint.attributes[name])) for name in names if name in endpoint.attributes)

    def _unit_reader(self, experiment: Experiment, endpoint: Endpoint) -> UnitReader:
        unit = experiment.unit
        if isinstance(unit, FieldUnit):
            return self._reader(unit.field)
        if isinstance(unit, RequestUnit):
            return _request_unit
        assert isinstance(unit, SlotUnit)
        slot_of = compile_slot(unit)
        attributes = self._attributes(endpoint, unit.by)

        def read_slot(view: RequestView) -> str | None:
            return slot_of(view.at_us, {name: read(view) for name, read in attributes})

        return read_slot

    def _reader(self, field: RequestField) -> UnitReader:
        if field.source is FieldSource.HEADER:
            index = self._indexes[field.name.encode()]
            return lambda view: header_text(view.captured[index])
        if field.source is FieldSource.COOKIE:
            index = self._indexes[b"cookie"]
            name = field.name.encode()
            return lambda view: _cookie(view.captured[index], name)
        if field.source is FieldSource.QUERY:
            name = field.name.encode()
            return lambda view: header_text(query_value(view.target, name))
        path = field.name
        return lambda view: json_text(view.document, path) if view.has_document else None

    def _stable_arm(self, endpoint: Endpoint) -> Arm:
        model = self._models[endpoint.model]
        fields = self._answer_fields("", "", model)
        return self._build_arm(
            endpoint, model, experiment="", variant="", fields=(fields, fields), headers=(), patch=None
        )

    def _answer_fields(self, experiment: str, variant: str, model: CompiledModel) -> bytes:
        """Our lines of an answer's head up to the value of the last one, which is the request id if it has a name."""
        names = self._file.router.response_headers
        pairs = ((names.experiment, experiment), (names.variant, variant), (names.model_version, model.version))
        lines = b"".join(_field(name, value) for name, value in pairs if value)
        if names.request_id:
            return lines + f"{names.request_id}: ".encode()
        return (lines or _field("Via", f"1.1 {self._around.via}"))[: -len(b"\r\n")]

    def _arm(
        self, endpoint: Endpoint, variant: Variant, experiment: Experiment, allocation: Allocation, share: float
    ) -> Arm:
        model = self._models[variant.model]
        stable = self._models[endpoint.model]
        return self._build_arm(
            endpoint,
            model,
            experiment=experiment.name,
            variant=variant.name,
            fields=(
                self._answer_fields(experiment.name, variant.name, model),
                self._answer_fields(experiment.name, variant.name, stable),
            ),
            headers=variant.headers,
            patch=variant.body,
            epoch=allocation.epoch,
            propensity=share,
        )

    def _build_arm(
        self,
        endpoint: Endpoint,
        model: CompiledModel,
        *,
        experiment: str,
        variant: str,
        fields: tuple[bytes, bytes],
        headers: tuple[tuple[str, str], ...],
        patch: JsonValue,
        epoch: int = 0,
        propensity: float = 1.0,
    ) -> Arm:
        source = self._file.models[model.name]
        added = {**dict(source.headers), **dict(headers)}
        if source.host:
            added["host"] = source.host
        lines = b"".join(_field(name, value) for name, value in added.items())
        return Arm(
            experiment=experiment,
            variant=variant,
            epoch=epoch,
            propensity=propensity,
            model=model,
            added_fields=lines + _field("Via", f"1.1 {self._around.via}") + b"\r\n",
            replaced_fields=_field_lines(added) if added else None,
            prefix=endpoint.match.path.encode(),
            patch=patch,
            answer_fields=fields[0],
            fallback_fields=fields[1],
            counters=self._around.counters.arm(experiment, variant, model.version),
        )


def _request_unit(view: RequestView) -> str:
    return view.request_id.decode()


def _cookie(header: bytes | None, name: bytes) -> str | None:
    return header_text(cookie_value(header, name)) if header is not None else None


def _reads_json(experiment: Experiment, endpoint: Endpoint) -> bool:
    names = {condition.attribute for condition in experiment.audience}
    unit = experiment.unit
    if isinstance(unit, FieldUnit) and unit.field.source is FieldSource.JSON:
        return True
    if isinstance(unit, SlotUnit):
        names.update(unit.by)
    attributes = endpoint.attributes
    return any(name in attributes and attributes[name].source is FieldSource.JSON for name in names)
