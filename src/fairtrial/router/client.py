"""One client connection: heads and bodies in, answers out, one request at a time, in order.

Protocol callbacks only, no task and no await. Every wait has a deadline in the wheel: an absolute one for a head, one
per progress for bodies, one for an idle connection. Bytes of later requests wait in a bounded buffer.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from time import perf_counter_ns
from typing import TYPE_CHECKING, Final, cast

from fairtrial.router.buffers import WRITE_HIGH_BYTES
from fairtrial.router.collect import Collector
from fairtrial.router.exchange import Exchange
from fairtrial.router.plan import Decision, EndpointPlan
from fairtrial.router.shadow import ShadowSet
from fairtrial.router.upstream import Failure
from fairtrial.router.wheel import NEVER, ticks
from fairtrial.wire.chunks import ChunkDecoder
from fairtrial.wire.errors import WireError
from fairtrial.wire.render import CONTINUE, LAST_CHUNK, chunk, error_response
from fairtrial.wire.request import RequestHead

if TYPE_CHECKING:
    from fairtrial.router.state import WorkerState
    from fairtrial.router.table import RouteTable

# Pipelined bytes that wait while a request is answered.
PIPELINE_BYTES: Final = 16 << 10
# After our last answer the client may still be sending: closing at once would reset the connection under the answer.
LINGER_TICKS: Final = ticks(1.0)
ADMIN_TICKS: Final = ticks(5.0)

_HEAD: Final = 0
_LENGTH: Final = 1
_CHUNKED: Final = 2
_ANSWER: Final = 3
_LINGER: Final = 4
_CLOSED: Final = 5

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_END: Final = b"\r\n\r\n"
_END_CLOSE: Final = b"\r\nConnection: close\r\n\r\n"
_END_KEEP: Final = b"\r\nConnection: keep-alive\r\n\r\n"


class ClientConnection(asyncio.Protocol):
    """See the module. exchange: the request being answered. answer_end: what ends our part of an answer's head."""

    __slots__ = (
        "_at_eof",
        "_buffer",
        "_chunks",
        "_collector",
        "_is_model_slow",
        "_is_read_paused",
        "_is_write_paused",
        "_keep_alive",
        "_last_tick",
        "_left",
        "_rechunks",
        "_seen",
        "_state",
        "_unsent",
        "answer_end",
        "deadline",
        "exchange",
        "is_http10",
        "scheduled",
        "table",
        "transport",
        "worker",
    )

    transport: asyncio.Transport

    def __init__(self, worker: WorkerState) -> None:
        self.worker = worker
        self.table: RouteTable = worker.table
        self.deadline = NEVER
        self.scheduled = NEVER
        self.exchange: Exchange | None = None
        self.is_http10 = False
        self.answer_end = _END
        self._state = _HEAD
        self._buffer = b""
        self._seen = 0  # bytes of an unfinished head that have been parsed in vain
        self._left = 0
        self._chunks: ChunkDecoder | None = None
        self._collector: Collector | None = None
        self._rechunks = False  # the body was begun as payload and goes on as chunks
        self._keep_alive = True
        self._last_tick = NEVER  # the request's total timeout
        self._unsent = 0  # size of the write buffer when it last stood still
        self._at_eof = False
        self._is_model_slow = False
        self._is_read_paused = False
        self._is_write_paused = False

    # -- asyncio.Protocol ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock of the first head, or turn the client away when there are too many."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self.transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        worker = self.worker
        worker.counters.accepted += 1
        worker.connections.add(self)
        if len(worker.connections) > self.table.options.max_connections:
            self.refuse(503, "too many connections")
            return
        worker.wheel.arm(self, self.table.head_ticks)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason changes nothing
        """Stop the model's work and let go of everything."""
        self._state = _CLOSED
        worker = self.worker
        worker.connections.discard(self)
        worker.wheel.disarm(self)
        self._buffer = b""
        self._collector = None
        if self.exchange is not None:
            self.exchange.cancel(Failure.CLIENT_GONE)

    def eof_received(self) -> bool:
        """Half-closed: a whole request is still answered where its endpoint says `finish`."""
        self._at_eof = True
        exchange = self.exchange
        if exchange is None:
            return self._state == _ANSWER  # an answer of our own is on its way
        if not exchange.is_sent or exchange.endpoint.cancels_on_eof:
            exchange.cancel(Failure.CLIENT_GONE)
            return False
        return True

    def pause_writing(self) -> None:
        """The client reads slower than the model writes: stop reading the model."""
        self._is_write_paused = True
        if self.exchange is not None and self.exchange.upstream is not None:
            self.exchange.upstream.pause_reading()

    def resume_writing(self) -> None:
        """Read the model again, or take up the next pipelined request."""
        self._is_write_paused = False
        exchange = self.exchange
        if exchange is not None:
            if exchange.upstream is not None:
                exchange.upstream.resume_reading()
            if exchange.is_answered:
                self.on_progress()
        elif self._buffer:
            self._next_request()

    def data_received(self, data: bytes) -> None:
        """Read on, by what is expected."""
        state = self._state
        if state == _HEAD:
            if self._buffer:
                buffer = self._buffer = self._buffer + data
                # Without a line end no head can be whole: a drip of single bytes must not cost a parse each.
                if b"\n" not in data and len(buffer) < 2 * self._seen:
                    return
                data = buffer
            if not self._is_write_paused:
                self._read_head(data)
            else:
                self._buffer = data
                self._regulate()
        elif state == _LENGTH:
            self._read_length(data)
        elif state == _CHUNKED:
            self._read_chunks(data)
        elif state == _ANSWER:
            self._buffer += data
            self._regulate()

    # -- for the exchange ------------------------------------------------------------------------------------------

    def pause_reading(self) -> None:
        """The model reads slower than the client writes: take nothing more for now."""
        self._is_model_slow = True
        self._regulate()

    def resume_reading(self) -> None:
        """The model takes more again."""
        if self._is_model_slow:
            self._is_model_slow = False
            self._regulate()

    def wait_for_answer(self) -> None:
        """The model has been asked (again): start its first-byte clock."""
        if self.exchange is not None:
            self._arm(self.exchange.endpoint.first_byte_ticks)

    def on_progress(self) -> None:
        """A body moved: start the idle clock anew."""
        if self.exchange is not None:
            self._arm(self.exchange.endpoint.idle_ticks)

    def close_after_answer(self) -> None:
        """Nothing more can be read from this client after the present answer."""
        self._keep_alive = False
        self.answer_end = _END_CLOSE

    def on_answered(self) -> None:
        """The answer is whole: go on with the next request, or say good-bye."""
        self._last_tick = NEVER
        if self._state != _ANSWER or not self._keep_alive:
            self._linger()
            return
        self._state = _HEAD
        self._seen = 0
        self.worker.wheel.arm(self, self.table.keep_alive_ticks)
        self._is_model_slow = False
        if self._buffer:
            self.worker.loop.call_soon(self._next_request)  # not here: a long pipeline would recurse
        elif self._is_read_paused:
            self._regulate()
        if self._at_eof and not self._buffer:
            self._linger()

    def refuse(self, status: int, reason: str, *, is_head: bool = False) -> None:
        """Answer with an error of our own and close. Only while nothing was written for the present request."""
        if self._state >= _LINGER:
            return
        self.worker.counters.refused[status] += 1
        if not self.transport.is_closing():
            fields = b"Retry-After: 1\r\n" if status == 503 else b""
            self.transport.write(error_response(status, reason, fields=fields, is_head=is_head))
        self._linger()

    def abort(self) -> None:
        """Reset the connection: the client must see that its answer is not whole.

        A plain close would send FIN, which ends an answer to an HTTP/1.0 client as if it were whole.
        """
        self._state = _CLOSED
        sock = self.transport.get_extra_info("socket")
        if sock is not None and not self.transport.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.transport.abort()

    @property
    def keep_alive(self) -> bool:
        """True where another request may follow the present one."""
        return self._keep_alive and not self.worker.is_draining

    def answer_directly(self, answer: bytes, *, keep_alive: bool) -> None:
        """Send an answer that the router made itself (`/-/...`). keep_alive: as the answer says."""
        if self._state == _ANSWER and self.exchange is None:
            self._keep_alive = keep_alive
            self.transport.write(answer)
            self.on_answered()

    def close_if_idle(self) -> None:
        """Close between requests (drain)."""
        if self._state == _HEAD and not self._buffer:
            self._linger()

    def on_deadline(self) -> None:
        """Whoever was waited for is too slow."""
        state = self._state
        exchange = self.exchange
        if state == _LINGER:
            if not self._is_draining_buffer():
                self.abort()
        elif exchange is not None:
            self._give_up(exchange)
        elif state == _HEAD and not self._buffer and not self._is_write_paused:
            self._linger()
        elif state == _ANSWER:
            self.refuse(504, "the router's own answer took too long")
        elif self._is_write_paused:
            self.abort()
        else:
            self.refuse(408, "the request did not arrive in time")

    # -- inside ----------------------------------------------------------------------------------------------------

    def _arm(self, after: int) -> None:
        wheel = self.worker.wheel
        wheel.arm(self, min(after, max(1, self._last_tick - wheel.now)))

    def _give_up(self, exchange: Exchange) -> None:
        if self.worker.wheel.now >= self._last_tick:
            exchange.time_out(Failure.TOTAL_TIMEOUT)
        elif exchange.is_answered:
            if self._is_write_paused:
                if not self._is_draining_buffer():
                    exchange.cancel(Failure.CLIENT_GONE)
                    self.abort()
            else:
                exchange.time_out(Failure.IDLE_TIMEOUT)
        elif exchange.is_sent:
            exchange.time_out(Failure.FIRST_BYTE_TIMEOUT)
        elif self._is_model_slow:
            exchange.time_out(Failure.IDLE_TIMEOUT)
        else:
            exchange.cancel(Failure.CLIENT_ERROR)
            self.refuse(408, "the request body did not arrive in time")

    def _is_draining_buffer(self) -> bool:
        """True, with a new deadline, where a slow reader has taken something since the last one."""
        unsent = self.transport.get_write_buffer_size()
        has_moved = self._unsent == 0 or unsent < self._unsent
        self._unsent = unsent
        if unsent and has_moved:
            self._arm(self.table.head_ticks)
            return True
        return False

    def _linger(self) -> None:
        """Send FIN, then read and throw away until the client has closed too."""
        self.exchange = None
        self._collector = None
        self._buffer = b""
        self._unsent = 0
        if self.transport.is_closing():
            self._state = _CLOSED
            return
        self._state = _LINGER
        if self._at_eof:
            self.transport.close()
        else:
            self._is_model_slow = False
            self._regulate()
            self.transport.write_eof()
        self.worker.wheel.arm(self, LINGER_TICKS)

    def _next_request(self) -> None:
        if self._state == _HEAD and self._buffer and not self._is_write_paused:
            self._read_head(self._buffer)
            if self._is_read_paused:
                self._regulate()

    def _regulate(self) -> None:
        """Stop or start reading: the model is slow, or enough of later requests is waiting here already."""
        is_waiting = self._state == _ANSWER or (self._state == _HEAD and self._is_write_paused)
        should_pause = self._is_model_slow or (is_waiting and len(self._buffer) > PIPELINE_BYTES)
        if should_pause is self._is_read_paused or self._state == _CLOSED or self.transport.is_closing():
            return
        self._is_read_paused = should_pause
        if should_pause:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def _read_head(self, data: bytes) -> None:
        self.table = table = self.worker.table
        try:
            head = table.parser.parse(data)
            if head is not None:
                self._buffer = b""
                self._begin(head, data)
                return
        except WireError as error:
            self.refuse(error.status, error.reason)
            return
        if self._at_eof:
            self._linger()
            return
        if not self._seen:
            self.worker.wheel.arm(self, self.table.head_ticks)  # absolute: more bytes do not move it
        self._seen = len(data)
        self._buffer = data

    def _begin(self, head: RequestHead, data: bytes) -> None:
        """Route a whole head. Raises WireError where it is to be refused."""
        started_ns = perf_counter_ns()
        worker = self.worker
        table = self.table
        self.is_http10 = head.is_http10
        self._keep_alive = head.keep_alive
        if worker.is_draining or not head.keep_alive:
            self.close_after_answer()
        else:
            self.answer_end = _END_KEEP if head.is_http10 else _END
        plans = table.find(head)
        if plans is None:
            self._ask_admin(head)
            return
        request_id = worker.ids.new()
        endpoint = plans[0]
        index = endpoint.fast
        if index >= 0 and len(plans) == 1:
            unit = head.captured[index]
            decision = (unit and endpoint.recent.get(unit)) or table.decide_by_header(endpoint, unit)
        else:
            view = table.view(head, request_id)
            has_body = head.is_chunked or bool(head.content_length)
            if has_body and table.needs_body(plans, view):
                self._collect(Collector(head, plans, view, None, started_ns), endpoint, data)
                return
            endpoint, decision = table.decide(plans, view)
        if decision.arm.patch is not None:
            view = table.view(head, request_id)
            self._collect(Collector(head, (endpoint,), view, decision, started_ns), endpoint, data)
            return
        body = self._expect_body(head, endpoint, data, payload_only=False)
        exchange = Exchange(self, endpoint, decision, head.method, head.head, started_ns, request_id)
        self._launch(exchange, decision, body)
        if head.expects_continue and self._state != _ANSWER and self.exchange is exchange and not body:
            self.transport.write(CONTINUE)

    def _launch(self, exchange: Exchange, decision: Decision, body: bytes) -> None:
        endpoint = exchange.endpoint
        self.exchange = exchange
        if decision.shadows:
            exchange.shadows = ShadowSet.drawn(decision.shadows, self.worker)
        wheel = self.worker.wheel
        is_whole = self._state == _ANSWER
        if endpoint.total_ticks is None:
            wheel.arm(self, endpoint.first_byte_ticks if is_whole else endpoint.idle_ticks)
        else:
            self._last_tick = wheel.now + endpoint.total_ticks
            self._arm(endpoint.first_byte_ticks if is_whole else endpoint.idle_ticks)
        exchange.start(body, is_whole=is_whole)

    def _expect_body(self, head: RequestHead, endpoint: EndpointPlan, data: bytes, *, payload_only: bool) -> bytes:
        """Set the state for the request's body; return the part of it that was read along with the head."""
        size = head.size
        length = head.content_length
        if head.is_chunked:
            most = endpoint.max_body_bytes
            self._chunks = ChunkDecoder(self.table.limits, raw=not payload_only, max_payload_bytes=most)
            self._state = _CHUNKED
            return self._decode(data[size:]) if len(data) > size else b""
        if not length:
            self._state = _ANSWER
            if len(data) > size:
                self._buffer = data[size:]
            return b""
        if length > endpoint.max_body_bytes:
            raise WireError(413, f"the body is longer than {endpoint.max_body_bytes} bytes")
        left = size + length - len(data)
        if left > 0:
            self._left = left
            self._state = _LENGTH
            return data[size:]
        self._state = _ANSWER
        if left < 0:
            self._buffer = data[left:]
            self._regulate()
            return data[size:left]
        return data[size:]

    def _read_length(self, data: bytes) -> None:
        left = self._left - len(data)
        if left > 0:
            self._left = left
            self._take(data)
            return
        if left < 0:
            self._buffer = data[left:]
            data = data[:left]
        self._state = _ANSWER
        self._take(data)
        self._end_of_body()

    def _read_chunks(self, data: bytes) -> None:
        try:
            piece = self._decode(data)
        except WireError as error:
            self._break_off(error)
            return
        if piece:
            self._take(piece)
        if self._state == _ANSWER:
            self._end_of_body()

    def _decode(self, data: bytes) -> bytes:
        """Chunked body bytes to pass on; at the end, the rest of `data` goes to the buffer. Raises WireError."""
        assert self._chunks is not None
        pieces, end = self._chunks.feed(data)
        piece = b"".join(pieces) if len(pieces) != 1 else pieces[0]
        if end >= 0:
            self._chunks = None
            self._state = _ANSWER
            self._buffer = data[end:]
        return piece

    def _take(self, data: bytes) -> None:
        """Pass body bytes on, or keep them until routing can be decided."""
        collector = self._collector
        if collector is not None:
            self._arm(collector.idle_ticks)
            if collector.add(data):
                self._decide_collected(collector)
        elif self.exchange is not None:
            self._arm(self.exchange.endpoint.idle_ticks)
            self.exchange.send(chunk(data) if self._rechunks else data)

    def _end_of_body(self) -> None:
        collector = self._collector
        if collector is not None:
            self._decide_collected(collector)
            return
        exchange = self.exchange
        if exchange is None:
            return
        if self._rechunks:
            self._rechunks = False
            exchange.send(LAST_CHUNK)
        exchange.end_of_body()
        if not exchange.is_answered:
            self._arm(exchange.endpoint.first_byte_ticks)

    def _break_off(self, error: WireError) -> None:
        """The body is malformed or too long: the model must not take what it got for a whole request."""
        exchange = self.exchange
        if exchange is not None:
            was_answered = exchange.is_answered
            exchange.cancel(Failure.CLIENT_ERROR)
            if was_answered:
                self.abort()
                return
        self.refuse(error.status, error.reason)

    def _collect(self, collector: Collector, endpoint: EndpointPlan, data: bytes) -> None:
        """Keep the body until the JSON in it can be read. Raises WireError."""
        collector.idle_ticks = endpoint.idle_ticks
        body = self._expect_body(collector.head, endpoint, data, payload_only=True)
        self._collector = collector
        self._arm(endpoint.idle_ticks)
        is_full = bool(body) and collector.add(body)
        if is_full or self._state == _ANSWER:
            self._decide_collected(collector)
        elif collector.head.expects_continue and not body:
            self.transport.write(CONTINUE)

    def _decide_collected(self, collector: Collector) -> None:
        """The body is whole, or too long to be read: assign and send."""
        self._collector = None
        is_whole = self._state == _ANSWER
        try:
            endpoint, decision = collector.decide(self.table, is_whole=is_whole)
        except WireError as error:
            self.refuse(error.status, error.reason)
            return
        head = collector.framed_head(is_whole=is_whole)
        request_id = collector.view.request_id
        exchange = Exchange(self, endpoint, decision, collector.head.method, head, collector.started_ns, request_id)
        self._rechunks = collector.head.is_chunked and not is_whole
        self._launch(exchange, decision, collector.framed_body(is_whole=is_whole))

    def _ask_admin(self, head: RequestHead) -> None:
        """Answer `/-/...` ourselves; a body on such a request is not read."""
        if head.is_chunked or head.content_length:
            self.close_after_answer()
        self._state = _ANSWER
        self.worker.wheel.arm(self, ADMIN_TICKS)
        self.worker.admin.answer(self, head)
