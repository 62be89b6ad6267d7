"""Shadow variants: copies of enrolled requests whose answers are compared and thrown away.

A copy is sent after the primary, from the same retained bytes, through the shadow model's own pool and under a cap of
its own. Whatever happens to it, the primary is neither delayed nor failed: under pressure copies are skipped and
counted. Statuses and body hashes are compared once both answers are whole.
"""

from __future__ import annotations

import random
from hashlib import blake2b
from time import perf_counter_ns
from typing import TYPE_CHECKING, Final

from fairtrial.model.records import Outcome, RequestRecord
from fairtrial.router.collect import patched
from fairtrial.router.plan import Arm, ShadowPlan
from fairtrial.router.records import RecordContext
from fairtrial.router.upstream import Failure, UpstreamConnection
from fairtrial.router.view import BODY_NOT_JSON
from fairtrial.wire.chunks import ChunkDecoder
from fairtrial.wire.errors import WireError
from fairtrial.wire.limits import Limits
from fairtrial.wire.response import Framing, ResponseHead

if TYPE_CHECKING:
    from fairtrial.router.exchange import Exchange
    from fairtrial.router.state import WorkerState

MAX_IN_FLIGHT: Final = 64
COMPARED_BYTES: Final = 64 << 10

MATCH: Final = "match"
DIFFERS: Final = "differs"
NOT_COMPARED: Final = "not_compared"
SKIPPED_SIZE: Final = "skipped_size"
SKIPPED_BUSY: Final = "skipped_busy"
FAILED: Final = "failed"


class Fingerprint:
    """Status and body hash of one answer, as far as COMPARED_BYTES of body."""

    __slots__ = ("_chunks", "_hash", "_size", "status")

    def __init__(self, head: ResponseHead, *, is_raw: bool, limits: Limits) -> None:
        self.status = head.status
        self._hash = blake2b(digest_size=16)
        self._size = 0
        is_chunked = is_raw and head.framing is Framing.CHUNKED
        self._chunks = ChunkDecoder(limits, raw=False, is_response=True) if is_chunked else None

    def add(self, data: bytes) -> None:
        """Take more of the body, with its chunk framing where the answer is relayed raw."""
        if self._size > COMPARED_BYTES:
            return
        pieces = [data]
        if self._chunks is not None:
            try:
                pieces, _ = self._chunks.feed(data)
            except WireError:  # relayed bytes were decoded before; only a second reading past the end can fail
                self._size = COMPARED_BYTES + 1
                return
        for piece in pieces:
            self._size += len(piece)
            self._hash.update(piece)

    def compare(self, other: Fingerprint) -> str:
        """MATCH, DIFFERS, or NOT_COMPARED where bodies are too long to tell."""
        if self.status != other.status:
            return DIFFERS
        if max(self._size, other._size) > COMPARED_BYTES:
            return NOT_COMPARED
        return MATCH if self._hash.digest() == other._hash.digest() else DIFFERS


class ShadowSet:
    """The shadows drawn for one primary request, and the primary's fingerprint."""

    __slots__ = ("_copies", "_limits", "_plans", "_primary", "_worker")

    def __init__(self, plans: tuple[ShadowPlan, ...], worker: WorkerState) -> None:
        self._plans = plans
        self._worker = worker
        self._limits = worker.table.limits
        self._copies: list[ShadowCopy] = []
        self._primary: Fingerprint | None = None

    @classmethod
    def drawn(cls, plans: tuple[ShadowPlan, ...], worker: WorkerState) -> ShadowSet | None:
        """Draw by each plan's share; None where no shadow was drawn."""
        chosen = tuple(
            plan
            for plan in plans
            if plan.share >= 1.0 or random.random() < plan.share  # noqa: S311 - sampling
        )
        return cls(chosen, worker) if chosen else None

    def launch(self, exchange: Exchange, head: bytes, body: bytes | None) -> None:
        """Send the copies. body: the whole body, None where it was too long to keep."""
        worker = self._worker
        for plan in self._plans:
            arm = plan.arm
            skipped = SKIPPED_SIZE if body is None else SKIPPED_BUSY if len(worker.shadows) >= MAX_IN_FLIGHT else ""
            if skipped or body is None:
                worker.counters.shadows[arm.experiment, arm.variant, skipped] += 1
                continue
            copy = ShadowCopy(exchange, arm, head, body, worker)
            self._copies.append(copy)
            worker.shadows.add(copy)
            arm.model.pool.request(copy)

    def on_primary_head(self, head: ResponseHead, body: bytes, *, is_raw: bool) -> None:
        """The primary's answer began. is_raw: its chunk framing is relayed."""
        self._primary = Fingerprint(head, is_raw=is_raw, limits=self._limits)
        self._primary.add(body)

    def on_primary_body(self, data: bytes) -> None:
        """More of the primary's answer."""
        if self._primary is not None:
            self._primary.add(data)

    def on_primary_end(self, *, is_whole: bool) -> None:
        """The primary is done; is_whole: its assigned model answered, to the end."""
        primary = self._primary if is_whole else None
        for copy in self._copies:
            copy.on_primary_end(primary)
        self._copies = []


class ShadowCopy:
    """One copy on its way: a user of an upstream connection (see `UpstreamUser`). deadline: ticks."""

    __slots__ = (
        "_arm",
        "_at_ns",
        "_body",
        "_ended_ns",
        "_endpoint",
        "_failure",
        "_fingerprint",
        "_first_ns",
        "_head",
        "_idle_ticks",
        "_is_done",
        "_is_primary_done",
        "_primary",
        "_request_id",
        "_result",
        "_sent_ns",
        "_unit",
        "_upstream",
        "_worker",
        "connect_s",
        "deadline",
        "is_sent",
        "method",
        "wants_payload",
    )

    def __init__(self, exchange: Exchange, arm: Arm, head: bytes, body: bytes, worker: WorkerState) -> None:
        self._arm = arm
        self._endpoint = exchange.endpoint.name
        self._unit = exchange.decision.unit
        self._request_id = exchange.request_id
        self._head = head
        self._body = body
        self._worker = worker
        self._upstream: UpstreamConnection | None = None
        self._fingerprint: Fingerprint | None = None
        self._primary: Fingerprint | None = None
        self._is_primary_done = False
        self._is_done = False
        self._failure = ""
        self._result = NOT_COMPARED
        self._at_ns = self._sent_ns = perf_counter_ns()
        self._first_ns = self._ended_ns = 0
        self.method = exchange.method
        self.wants_payload = True
        self.is_sent = True
        self.connect_s = exchange.connect_s
        self._idle_ticks = exchange.endpoint.idle_ticks
        self.deadline = worker.wheel.now + exchange.endpoint.first_byte_ticks

    # -- UpstreamUser ----------------------------------------------------------------------------------------------

    def on_connected(self, connection: UpstreamConnection) -> None:
        """Send the copy."""
        head, body = self._head, self._body
        self._head = self._body = b""
        self._upstream = connection
        if self._arm.patch is not None:
            try:
                head, body = patched(head, body, self._arm.patch)
            except ValueError:  # msgspec.DecodeError is one
                self.on_no_connection(BODY_NOT_JSON)
                return
        connection.transport.write(self._arm.request_head(head) + body)
        self._sent_ns = perf_counter_ns()

    def on_no_connection(self, failure: str) -> None:
        """Give up; a shadow is never retried."""
        self._failure = failure
        if failure in {Failure.CONNECT_FAILED, Failure.CONNECT_TIMEOUT}:
            self._arm.model.pool.breaker.record_failure(self._worker.wheel.now)
        self._end()

    def on_informational(self, head: ResponseHead) -> None:
        """Nobody to tell."""

    def on_head(self, head: ResponseHead, body: bytes, framing: Framing) -> None:  # noqa: ARG002
        """The shadow answers."""
        self._first_ns = perf_counter_ns()
        self._arm.model.pool.breaker.record_answer()
        self._arm.model.pool.counters.duration.observe(self._first_ns - self._sent_ns)
        self._fingerprint = Fingerprint(head, is_raw=False, limits=self._arm.model.pool.limits)
        self._fingerprint.add(body)

    def on_progress(self) -> None:
        """Move the deadline."""
        self.deadline = self._worker.wheel.now + self._idle_ticks

    def on_body(self, data: bytes) -> None:
        """Hash and forget."""
        self.on_progress()
        if self._fingerprint is not None:
            self._fingerprint.add(data)

    def on_complete(self) -> None:
        """The answer is whole."""
        self._upstream = None
        self._end()

    def on_lost(self, failure: Failure, *, is_reused: bool) -> None:  # noqa: ARG002
        """A lost shadow is a lost comparison."""
        self._upstream = None
        self._failure = failure
        self._end()

    def pause_sending(self) -> None:
        """The copy is written whole; nothing more is coming."""

    def resume_sending(self) -> None:
        """See `pause_sending`."""

    # -- for the worker --------------------------------------------------------------------------------------------

    def time_out(self) -> None:
        """Its deadline has passed."""
        self._failure = Failure.FIRST_BYTE_TIMEOUT if self._fingerprint is None else Failure.IDLE_TIMEOUT
        if self._upstream is not None:
            self._upstream.drop()
            self._upstream = None
        else:
            self._arm.model.pool.cancel(self)
        self._end()

    def on_primary_end(self, primary: Fingerprint | None) -> None:
        """The other side of the comparison, None where there is none."""
        self._primary = primary
        self._is_primary_done = True
        if self._is_done:
            self._record()

    def to_record(self, context: RecordContext) -> RequestRecord:
        """Its line in the log: kind `shadow`, reason the result of the comparison or the failure."""
        arm = self._arm
        fingerprint = self._fingerprint
        return RequestRecord(
            request_id=self._request_id.decode(),
            at=(self._at_ns + context.epoch_offset_ns) // 1000,
            endpoint=self._endpoint,
            experiment=arm.experiment,
            variant=arm.variant,
            unit=context.key(self._unit),
            assigned_model=arm.model.name,
            served_model=arm.model.name,
            status=fingerprint.status if fingerprint is not None else 0,
            outcome=self._outcome(),
            latency_us=(self._ended_ns - self._at_ns) // 1000,
            epoch=arm.epoch,
            propensity=arm.propensity,
            upstream_us=max(0, self._first_ns - self._sent_ns) // 1000,
            reason=self._failure or self._result,
            kind="shadow",
            unit_id=context.unit_id(self._unit),
        )

    def _outcome(self) -> Outcome:
        if self._failure in {Failure.FIRST_BYTE_TIMEOUT, Failure.IDLE_TIMEOUT, Failure.CONNECT_TIMEOUT}:
            return "timeout"
        if self._failure or self._fingerprint is None or self._fingerprint.status >= 500:
            return "error"
        return "ok"

    def _end(self) -> None:
        if self._is_done:
            return
        self._is_done = True
        self._ended_ns = perf_counter_ns()
        self._worker.shadows.discard(self)
        if self._is_primary_done:
            self._record()

    def _record(self) -> None:
        if self._failure:
            result = FAILED
        elif self._primary is None or self._fingerprint is None:
            result = NOT_COMPARED
        else:
            result = self._fingerprint.compare(self._primary)
        self._result = result
        self._worker.counters.shadows[self._arm.experiment, self._arm.variant, result] += 1
        self._worker.records.add(self)
