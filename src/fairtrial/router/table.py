"""The route table: finds the endpoint and the arm of a request. Immutable but for a bounded cache of targets."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from fairtrial.model.allocation import Snapshot
from fairtrial.router.counters import WorkerCounters
from fairtrial.router.plan import MAX_UNIT_BYTES, RECENT_UNITS, CountMissing, Decision, EndpointPlan, check_unit
from fairtrial.router.pool import ModelPool
from fairtrial.router.view import NO_UNIT, RequestView
from fairtrial.router.wheel import ticks
from fairtrial.wire.errors import WireError
from fairtrial.wire.limits import Limits
from fairtrial.wire.request import RequestHead, RequestParser
from fairtrial.wire.target import has_dot_segment, matches_prefix, path_of

# Captured for every table, first of all: loop protection.
FIXED_CAPTURES: Final = (b"via",)
MAX_PASSES: Final = 2
ADMIN_PATHS: Final = frozenset({b"/-/healthz", b"/-/readyz", b"/-/metrics"})

_CACHED_TARGETS: Final = 4096
_CACHED_TARGET_BYTES: Final = 256

Plans = tuple[EndpointPlan, ...]


class RouteTable:
    """snapshot: what it was compiled from. pools: by (model, url). *_ticks: deadlines. shows_request_id: in answers."""

    __slots__ = (
        "_by_target",
        "_count_missing",
        "_counters",
        "_plans",
        "_via",
        "head_ticks",
        "keep_alive_ticks",
        "limits",
        "options",
        "parser",
        "pools",
        "shows_request_id",
        "snapshot",
    )

    def __init__(
        self,
        *,
        snapshot: Snapshot,
        plans: Plans,
        pools: Mapping[tuple[str, str], ModelPool],
        parser: RequestParser,
        limits: Limits,
        via: bytes,
        count_missing: CountMissing,
        counters: WorkerCounters,
    ) -> None:
        self.snapshot = snapshot
        self.options = options = snapshot.file.router
        self.pools = pools
        self.parser = parser
        self.limits = limits
        self.head_ticks = ticks(options.head_timeout_s)
        self.keep_alive_ticks = ticks(options.keep_alive_s)
        self.shows_request_id = bool(options.response_headers.request_id)
        self._plans = plans
        self._via = via
        self._count_missing = count_missing
        self._counters = counters
        self._by_target: dict[bytes, Plans | None] = {}

    def find(self, head: RequestHead) -> Plans | None:
        """Endpoints whose path takes the target, best first; None where the router answers itself.

        Raises WireError: 400 for dot segments, 404, 508 for a loop.
        """
        via = head.captured[0]
        if via is not None and via.count(self._via) >= MAX_PASSES:
            raise WireError(508, "the request has already passed this router twice: a model's url points back at it")
        target = head.target
        try:
            plans = self._by_target[target]
        except KeyError:
            plans = self._look_up(target)
        if plans == ():
            self._counters.unrouted += 1
            raise WireError(404, "no endpoint takes this path")
        return plans

    def _look_up(self, target: bytes) -> Plans | None:
        if path_of(target) in ADMIN_PATHS:
            return None
        if has_dot_segment(target):
            raise WireError(400, "the path has a `.` or `..` segment")
        plans: Plans = tuple(plan for plan in self._plans if matches_prefix(target, plan.path))
        if len(target) <= _CACHED_TARGET_BYTES:
            if len(self._by_target) >= _CACHED_TARGETS:
                self._by_target.clear()
            self._by_target[target] = plans
        return plans

    def view(self, head: RequestHead, request_id: bytes) -> RequestView:
        """What deciding may look at."""
        return RequestView(
            head.captured,
            head.target,
            host=_bare_host(head.host),
            request_id=request_id,
            at_us=time.time_ns() // 1000,
        )

    @staticmethod
    def needs_body(plans: Plans, view: RequestView) -> bool:
        """True where the endpoint or the unit stands in the JSON body."""
        for plan in plans:
            if plan.takes_head(view):
                if plan.model or plan.needs_json:
                    return True
                break
        return False

    def decide(self, plans: Plans, view: RequestView) -> tuple[EndpointPlan, Decision]:
        """The endpoint and the arm. Raises WireError 404, or 400 for a unit given twice or too long."""
        for plan in plans:
            if plan.takes(view):
                return plan, plan.decide(view, self._count_missing)
        self._counters.unrouted += 1
        raise WireError(404, "no endpoint takes this host, these headers or this model")

    def decide_by_header(self, endpoint: EndpointPlan, value: bytes | None) -> Decision:
        """`decide` for one experiment whose unit is a header: most requests of most routers."""
        experiment = endpoint.experiments[0]
        if not value:
            self._count_missing(experiment.name, NO_UNIT)
            return endpoint.unenrolled
        unit = value.decode("utf-8", "surrogateescape")
        if len(value) > MAX_UNIT_BYTES:
            check_unit(unit)
        index = experiment.variant_of(unit)
        decision = endpoint.unenrolled if index < 0 else Decision(experiment.arms[index], unit, experiment.shadows)
        recent = endpoint.recent
        if len(recent) >= RECENT_UNITS:
            recent.clear()
        recent[value] = decision
        return decision


def _bare_host(host: bytes | None) -> bytes:
    """Host without its port, lower case."""
    if not host:
        return b""
    name, colon, port = host.rpartition(b":")
    return (name if colon and (port.isdigit() or not port) and not port.endswith(b"]") else host).lower()
