"""One request on its way: assigned, sent, perhaps sent again, answered, recorded.

The exchange keeps the request's head and up to RETAINED_BYTES of its body until the first byte of an answer, so that it
can be sent again: once on a fresh connection when a kept-alive one turns out dead, and once to the stable model when
the assigned one fails. From the first byte handed to the client on, nothing is repeated: a cut answer stays cut.
"""

from __future__ import annotations

import re
from time import perf_counter_ns
from typing import TYPE_CHECKING, Final

from fairtrial.model.records import Outcome, RequestRecord
from fairtrial.router.collect import patched
from fairtrial.router.plan import Arm, Decision, EndpointPlan
from fairtrial.router.records import RecordContext
from fairtrial.router.upstream import Failure, UpstreamConnection
from fairtrial.wire.render import LAST_CHUNK, chunk
from fairtrial.wire.response import Framing, ResponseHead

if TYPE_CHECKING:
    from fairtrial.router.client import ClientConnection
    from fairtrial.router.shadow import ShadowSet

RETAINED_BYTES: Final = 64 << 10
# RFC 9110, 9.2.2: these may be sent again by anyone.
IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS"})

_STATUS: Final = {
    Failure.CONNECT_FAILED: (502, "the model cannot be reached"),
    Failure.CONNECT_TIMEOUT: (504, "the model did not accept a connection in time"),
    Failure.POOL_FULL: (503, "too many requests are waiting for the model"),
    Failure.BREAKER_OPEN: (503, "the model has failed too often and is left alone for a while"),
    Failure.LOST: (502, "the model closed the connection without an answer"),
    Failure.BAD_ANSWER: (502, "the model's answer is not valid HTTP"),
    Failure.FIRST_BYTE_TIMEOUT: (504, "the model did not answer in time"),
    Failure.IDLE_TIMEOUT: (504, "the model stopped reading the request"),
    Failure.TOTAL_TIMEOUT: (504, "the request took longer than the endpoint allows"),
}
_TIMEOUTS: Final = frozenset(
    {Failure.CONNECT_TIMEOUT, Failure.FIRST_BYTE_TIMEOUT, Failure.IDLE_TIMEOUT, Failure.TOTAL_TIMEOUT}
)
_TRANSFER_ENCODING: Final = re.compile(rb"\r\ntransfer-encoding:[^\r\n]*", re.IGNORECASE)
CLIENT_CLOSED_REQUEST: Final = 499


class Exchange:
    """See the module. decision: where it was routed. assigned: the arm by intention to treat; served: whose model is
    asked now. reason: of a fallback or failure. body: what may have to be sent again; None once it is too long or an
    answer has begun. *_ns: `perf_counter_ns`. bytes_in, bytes_out: body bytes. A finished exchange waits in the record
    buffer.
    """

    __slots__ = (
        "_may_retry",
        "_rechunks",
        "_waits_in",
        "_was_written",
        "assigned",
        "body",
        "bytes_in",
        "bytes_out",
        "client",
        "connect_s",
        "decision",
        "ended_ns",
        "endpoint",
        "first_ns",
        "head",
        "is_answered",
        "is_sent",
        "method",
        "outcome",
        "reason",
        "request_id",
        "retries",
        "sent_ns",
        "served",
        "shadows",
        "started_ns",
        "status",
        "upstream",
        "wants_payload",
    )

    def __init__(  # noqa: PLR0917 - keywords would cost 0.3 us a request
        self,
        client: ClientConnection,
        endpoint: EndpointPlan,
        decision: Decision,
        method: bytes,
        head: bytes,
        started_ns: int,
        request_id: bytes,
    ) -> None:
        self.client = client
        self.endpoint = endpoint
        self.decision = decision
        self.assigned = self.served = decision.arm
        self.method = method
        self.head = head
        self.started_ns = started_ns
        self.request_id = request_id
        self.connect_s = endpoint.connect_s
        self.wants_payload = client.is_http10
        self.body: bytes | None = b""
        self.is_sent = self.is_answered = False
        self.upstream: UpstreamConnection | None = None
        self.reason = ""
        self.outcome: Outcome = "ok"
        self.status = self.retries = self.bytes_in = self.bytes_out = 0
        self.sent_ns = self.first_ns = self.ended_ns = 0
        self.shadows: ShadowSet | None = None
        self._may_retry = True
        self._rechunks = self._was_written = False
        self._waits_in: Arm | None = None

    # -- called by the client connection ---------------------------------------------------------------------------

    def start(self, body: bytes, *, is_whole: bool) -> None:
        """Send the request with the body read so far."""
        self.body = body
        self.bytes_in = len(body)
        self.is_sent = is_whole
        shadows = self.shadows
        head = self.head
        arm = self.served
        pool = arm.model.pool
        if pool.breaker.is_tripped or self.decision.unfit:
            self._choose(arm)
        elif pool.idle:
            connection = pool.idle.pop()
            connection.user = self
            self.on_connected(connection)
        else:
            self._ask(arm)
        if shadows is not None and is_whole:
            shadows.launch(self, head, body)  # after the primary: it is never delayed

    def _choose(self, arm: Arm) -> None:
        """Ask the stable model where the assigned one cannot take this request or is left alone; else ask it."""
        if self.decision.unfit:
            self._fall_back(self.decision.unfit)
        elif arm.model is self.endpoint.stable.model or arm.model.pool.breaker.admits(self.client.worker.wheel.now):
            self._ask(arm)
        else:
            self._fall_back(Failure.BREAKER_OPEN)

    def send(self, data: bytes) -> None:
        """Send more of the body; ignored once the model has answered."""
        if self.is_answered:
            return
        self.bytes_in += len(data)
        upstream = self.upstream
        if self.body is not None:
            self.body += data
            if len(self.body) > RETAINED_BYTES:
                if upstream is None:
                    self.client.pause_reading()
                else:
                    self.body = None
        if upstream is not None:
            upstream.transport.write(data)

    def end_of_body(self) -> None:
        """The whole request has been read."""
        self.is_sent = True
        if self.shadows is not None and not self.is_answered:
            self.shadows.launch(self, self.head, self.body)

    def time_out(self, failure: Failure) -> None:
        """Give up waiting: before an answer, fall back or refuse; in the middle of one, cut it."""
        was_asked = self.upstream is not None
        pool = self.served.model.pool
        self._let_go()
        if self.is_answered:
            self._cut(failure)
            return
        if was_asked:
            pool.breaker.record_failure(self.client.worker.wheel.now)
        self._fail_over(failure)

    def cancel(self, failure: Failure) -> None:
        """Stop the model's work: the client is gone or broke the protocol. Nothing more is written to it."""
        self._let_go()
        self.reason = self.reason or failure
        if self.is_answered:
            self._finish(self.outcome)
        else:
            self.status = CLIENT_CLOSED_REQUEST
            self._finish("error")

    # -- UpstreamUser ----------------------------------------------------------------------------------------------

    def on_connected(self, connection: UpstreamConnection) -> None:
        """Write what there is of the request."""
        self._waits_in = None
        self.upstream = connection
        self._was_written = True
        body = self.body
        assert body is not None, "kept until it is written"
        arm = self.served
        if arm.replaced_fields is None and not arm.model.path and arm.patch is None:
            connection.transport.write(b"".join((self.head, arm.added_fields, body)))
        else:
            self._write_edited(connection, arm, body)
        self.sent_ns = perf_counter_ns()
        if len(body) > RETAINED_BYTES:
            if not self.is_sent:
                self.body = None
            self.client.resume_reading()

    def on_no_connection(self, failure: Failure) -> None:
        """Nothing was written: another model may be asked whatever the request does."""
        self._waits_in = None
        if failure is not Failure.POOL_FULL:
            self.served.model.pool.breaker.record_failure(self.client.worker.wheel.now)
        self._fail_over(failure)

    def on_informational(self, head: ResponseHead) -> None:
        """Relay 103 and its like, but not to HTTP/1.0 clients (RFC 9110, 15.2)."""
        if not self.client.is_http10:
            self.client.transport.write(head.head + b"\r\n")

    def on_head(self, head: ResponseHead, body: bytes, framing: Framing) -> None:
        """Relay the head with our fields, and the part of the body that came along."""
        self.first_ns = first_ns = perf_counter_ns()
        client = self.client
        arm = self.served
        pool = arm.model.pool
        if pool.breaker.has_failures:
            pool.breaker.record_answer()
        self.status = head.status
        self.is_answered = True
        self.body = None
        if not self.is_sent or client.worker.is_draining:
            client.close_after_answer()
        fields = head.head
        if framing is not Framing.LENGTH and framing is not Framing.NO_BODY:
            fields = self._reframed(fields, framing)
        added = arm.answer_fields if arm is self.assigned else self.assigned.fallback_fields
        request_id = self.request_id if client.table.shows_request_id else b""
        client.transport.write(b"".join((fields, added, request_id, client.answer_end, body)))
        self.bytes_out = len(body)
        if self.shadows is not None:
            self.shadows.on_primary_head(head, body, is_raw=not self.wants_payload)
        # `Histogram.observe`, written out here and in `_finish`: three calls less a request.
        upstream_ns = first_ns - self.sent_ns
        histogram = pool.counters.duration
        histogram.counts[upstream_ns.bit_length()] += 1
        histogram.sum_ns += upstream_ns
        overhead_ns = perf_counter_ns() - self.started_ns - upstream_ns
        histogram = client.worker.counters.overhead
        histogram.counts[overhead_ns.bit_length()] += 1
        histogram.sum_ns += overhead_ns

    def on_progress(self) -> None:
        """Start the idle clock of the answer's body."""
        self.client.on_progress()

    def on_body(self, data: bytes) -> None:
        """Relay."""
        self.bytes_out += len(data)
        if self.shadows is not None:
            self.shadows.on_primary_body(data)
        self.client.transport.write(chunk(data) if self._rechunks else data)
        self.client.on_progress()

    def on_complete(self) -> None:
        """The answer has been handed on whole."""
        self.upstream = None
        if self._rechunks:
            self.client.transport.write(LAST_CHUNK)
        if self.status >= 500:
            self._finish("error")
        elif self.served is not self.assigned:
            self._finish("fallback")
        else:
            self._finish("ok")
        self.client.on_answered()

    def on_lost(self, failure: Failure, *, is_reused: bool) -> None:
        """Retry a lost keep-alive race, else fall back or refuse; an answer begun is cut, and seen to be."""
        self.upstream = None
        if self.is_answered:
            self._cut(failure)
            return
        pool = self.served.model.pool
        is_race = failure is Failure.LOST and is_reused
        may_repeat = self.endpoint.is_repeatable or self.method in IDEMPOTENT
        if is_race and self._may_retry and may_repeat and self.body is not None:
            self._may_retry = False
            self.retries += 1
            pool.counters.retries += 1
            self._waits_in = self.served
            pool.request_fresh(self)
            return
        pool.breaker.record_failure(self.client.worker.wheel.now)
        self._fail_over(failure)

    def pause_sending(self) -> None:
        """Stop reading the client: the model is slow."""
        self.client.pause_reading()

    def resume_sending(self) -> None:
        """Read the client again."""
        self.client.resume_reading()

    def to_record(self, context: RecordContext) -> RequestRecord:
        """Its line in the log."""
        arm = self.assigned
        started_ns = self.started_ns
        decision = self.decision
        if decision.key is None:
            decision.key = context.key(decision.unit)
        # In the order of the fields: twenty keywords would cost 1 us a request.
        return RequestRecord(
            self.request_id.decode(),
            (started_ns + context.epoch_offset_ns) // 1000,
            self.endpoint.name,
            arm.experiment,
            arm.variant,
            decision.key,
            arm.model.name,
            self.served.model.name,
            self.status,
            self.outcome,
            (self.ended_ns - started_ns) // 1000,
            arm.epoch,
            arm.propensity,
            (self.first_ns - self.sent_ns) // 1000 if self.first_ns else 0,
            self.retries,
            self.bytes_in,
            self.bytes_out,
            self.reason,
            "primary",
            context.unit_id(decision.unit) if context.keep_unit_ids else "",
        )

    # -- inside ----------------------------------------------------------------------------------------------------

    def _ask(self, arm: Arm) -> None:
        self._waits_in = arm
        arm.model.pool.request(self)

    def _let_go(self) -> None:
        upstream = self.upstream
        if upstream is not None:
            self.upstream = None
            upstream.drop()
        elif self._waits_in is not None:
            self._waits_in.model.pool.cancel(self)
            self._waits_in = None

    def _fail_over(self, failure: Failure) -> None:
        stable = self.endpoint.stable
        may_repeat = not self._was_written or self.endpoint.is_repeatable
        if (
            self.served.model is not stable.model
            and may_repeat
            and self.body is not None
            and failure is not Failure.TOTAL_TIMEOUT
        ):
            self._fall_back(failure)
            return
        status, text = _STATUS[failure]
        self.status = status
        self.reason = self.reason or failure
        self._finish("timeout" if failure in _TIMEOUTS else "error")
        self.client.refuse(status, text, is_head=self.method == b"HEAD")

    def _fall_back(self, failure: str) -> None:
        self.reason = failure
        self.served = self.endpoint.stable
        self._may_retry = True
        client = self.client
        client.worker.counters.fallbacks[self.assigned.experiment, failure] += 1
        client.resume_reading()
        client.wait_for_answer()
        self._ask(self.served)

    def _cut(self, failure: Failure) -> None:
        """End an answer so that the client cannot take it for a whole one."""
        self.reason = self.reason or failure
        self._finish("timeout" if failure in _TIMEOUTS else "error")
        self.client.abort()

    def _write_edited(self, connection: UpstreamConnection, arm: Arm, body: bytes) -> None:
        head = self.head
        if arm.patch is not None:
            head, body = patched(head, body, arm.patch)
        connection.transport.write(arm.request_head(head) + body)

    def _reframed(self, fields: bytes, framing: Framing) -> bytes:
        """Chunks go to HTTP/1.1 clients only; there a body that ends with its connection becomes chunked."""
        client = self.client
        if client.is_http10:
            client.close_after_answer()
            return _TRANSFER_ENCODING.sub(b"", fields)
        if framing is Framing.UNTIL_CLOSE:
            self._rechunks = True
            return fields + b"Transfer-Encoding: chunked\r\n"
        return fields

    def _finish(self, outcome: Outcome) -> None:
        """Count and record; nothing of the request's bytes is kept."""
        self.ended_ns = ended_ns = perf_counter_ns()
        self.outcome = outcome
        assigned = self.assigned
        counters = assigned.counters
        duration_ns = ended_ns - self.started_ns
        histogram = counters.duration
        histogram.counts[duration_ns.bit_length()] += 1
        histogram.sum_ns += duration_ns
        if outcome == "ok":
            counters.ok += 1
        elif outcome == "error":
            counters.error += 1
        elif outcome == "fallback":
            counters.fallback += 1
        else:
            counters.timeout += 1
        self.body = None
        self.head = b""
        if self.shadows is not None:
            self.shadows.on_primary_end(is_whole=self.is_answered and not self.reason)
        worker = self.client.worker
        self.client.exchange = None
        if self.decision.unit:
            counters.exposures += 1
            worker.records.add(self)
