"""What a snapshot means for one request, worked out in advance: arms, experiments, endpoints.

Everything here is immutable but the counters it borrows. `fairtrial.router.compile` makes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from fairtrial.model.experiment import JsonValue
from fairtrial.router.counters import ArmCounters
from fairtrial.router.pool import ModelPool
from fairtrial.router.view import RequestView
from fairtrial.wire.errors import WireError
from fairtrial.wire.target import replace_prefix

MAX_UNIT_BYTES: Final = 1024
RECENT_UNITS: Final = 16_384


@dataclass(frozen=True, slots=True, eq=False)
class CompiledModel:
    """One model version. path: replaces the matched prefix; empty keeps the client's path."""

    name: str
    version: str
    pool: ModelPool
    path: bytes = b""


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """What one variant (or an endpoint's stable model) does to requests and adds to answers.

    added_fields: header lines set on the request, each ending in CRLF, and the blank line. replaced_fields: finds the
    lines those take the place of. prefix: the path prefix that the model's own path replaces. patch: merge patch of the
    JSON body. answer_fields: header lines of the answer, up to the value of the request id. fallback_fields: the same
    when the stable model answered in this arm's place.
    """

    experiment: str
    variant: str
    epoch: int
    propensity: float
    model: CompiledModel
    added_fields: bytes
    replaced_fields: re.Pattern[bytes] | None
    prefix: bytes
    patch: JsonValue
    answer_fields: bytes
    fallback_fields: bytes
    counters: ArmCounters

    def request_head(self, head: bytes) -> bytes:
        """The head to send: `head` is the validated request line and fields, without the blank line."""
        if self.replaced_fields is not None:
            head = self.replaced_fields.sub(b"", head)
        if self.model.path:
            method, target, rest = head.split(b" ", 2)
            head = b"%b %b %b" % (method, replace_prefix(target, self.prefix, self.model.path), rest)
        return head + self.added_fields


@dataclass(frozen=True, slots=True, eq=False)
class ShadowPlan:
    """One shadow variant. share: of enrolled requests, in (0, 1]."""

    share: float
    arm: Arm


UnitReader = Callable[[RequestView], str | None]
# Called with the experiment and the reason that a request has no unit.
CountMissing = Callable[[str, str], None]


@dataclass(frozen=True, slots=True, eq=False)
class ExperimentPlan:
    """How one experiment enrols. variant_of: index into arms, -1 for not enrolled. attributes: what audience needs."""

    name: str
    read_unit: UnitReader
    variant_of: Callable[[str], int]
    audience: Callable[[Mapping[str, str | None]], bool] | None
    attributes: tuple[tuple[str, UnitReader], ...]
    arms: tuple[Arm, ...]
    shadows: tuple[ShadowPlan, ...]

    def choose(self, view: RequestView, counts: CountMissing) -> tuple[Arm, str] | None:
        """The arm and the unit, or None where this experiment does not enrol the request."""
        if self.audience is not None and not self.audience({name: read(view) for name, read in self.attributes}):
            return None
        unit = self.read_unit(view)
        if not unit:
            counts(self.name, view.why_missing)
            return None
        check_unit(unit)
        index = self.variant_of(unit)
        return (self.arms[index], unit) if index >= 0 else None


def check_unit(unit: str) -> None:
    """Raise WireError 400 for a unit no sane client sends: it would be hashed, logged and kept."""
    if len(unit) * 4 > MAX_UNIT_BYTES and len(unit.encode("utf-8", "surrogateescape")) > MAX_UNIT_BYTES:
        raise WireError(400, f"the unit is longer than {MAX_UNIT_BYTES} bytes")


class Decision(msgspec.Struct, gc=False, eq=False):
    """Where a request goes. unit: empty where it is not enrolled; then arm is the endpoint's stable one.

    unfit: why the arm cannot serve this request, so that the stable model does; empty where it can. key: the unit's
    hash, filled in with its first record. Never changed otherwise, so requests may share one.
    """

    arm: Arm
    unit: str
    shadows: tuple[ShadowPlan, ...] = ()
    unfit: str = ""
    key: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class EndpointPlan:
    """One endpoint. Waits are ticks. host, headers, model: what else must match besides the path; see `Match`.

    headers: (index of a captured header, its exact value). fast: the index of the captured unit header where one
    experiment without audience decides, else -1. needs_json: assignment reads the JSON body. unenrolled: to the stable
    model, as no unit of an experiment. recent: decisions by the bytes of the unit header (RECENT_UNITS at most):
    users come back, and hashing is a tenth of a request.
    """

    name: str
    path: bytes
    host: bytes
    headers: tuple[tuple[int, bytes], ...]
    model: str
    stable: Arm
    experiments: tuple[ExperimentPlan, ...]
    fast: int
    needs_json: bool
    is_repeatable: bool
    cancels_on_eof: bool
    connect_s: float
    first_byte_ticks: int
    idle_ticks: int
    total_ticks: int | None
    max_body_bytes: int
    unenrolled: Decision
    recent: dict[bytes, Decision]

    def takes_head(self, view: RequestView) -> bool:
        """True where host and headers match (the path is known to)."""
        if self.host and self.host != view.host:
            return False
        return all(view.captured[index] == value for index, value in self.headers)

    def takes(self, view: RequestView) -> bool:
        """True where everything matches, the body's `model` included."""
        if not self.takes_head(view):
            return False
        if not self.model:
            return True
        document = view.document
        return isinstance(document, dict) and document.get("model") == self.model

    def decide(self, view: RequestView, counts: CountMissing) -> Decision:
        """Assign: the first experiment in file order that enrols. Raises WireError 400 for a unit given twice."""
        for experiment in self.experiments:
            chosen = experiment.choose(view, counts)
            if chosen is not None:
                return Decision(chosen[0], chosen[1], experiment.shadows)
        return self.unenrolled
