"""The intake on the raw connection: two routes served without a framework, everything else handed to one.

A request costs 25 us here against 400 us through an ASGI stack, which is the difference between one machine and a
fleet when outcomes come one by one. The first bytes decide: `POST /api/v1/outcomes` or `/api/v1/exposures` stays, any
other connection gets the fallback protocol with all bytes so far, at the start or between two requests.

Requests may be pipelined; answers go out in order, each only when its records are on disk. Limits: 8 MiB a body, 256
MiB of bodies still arriving on all connections, 64 unanswered requests a connection (then we stop reading), 60 s for
a request to arrive, 75 s of silence.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from email.utils import formatdate
from typing import Final, cast

from fairtrial.api.browsers import objection
from fairtrial.api.intake import Answer, Intake, IntakeRoute, problem
from fairtrial.wire.chunks import ChunkDecoder
from fairtrial.wire.errors import WireError
from fairtrial.wire.limits import Limits
from fairtrial.wire.render import CONTINUE, reason_phrase
from fairtrial.wire.request import RequestHead, RequestParser

MAX_UNANSWERED: Final = 64
MAX_ARRIVING_BYTES: Final = 256 << 20
REQUEST_TIMEOUT_S: Final = 60.0
IDLE_TIMEOUT_S: Final = 75.0
LINGER_S: Final = 2.0
_SWEEP_S: Final = 1.0
_CAPTURED: Final = (b"content-type", b"content-encoding", b"authorization", b"origin")
_STARTS: Final = tuple((f"POST {route.path}".encode(), route) for route in IntakeRoute)
_ROUTES: Final = {route.path.encode(): route for route in IntakeRoute}
_OK: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: %b\r\nContent-Length: %d\r\n\r\n%b"

Authorize = Callable[[bytes | None], bool]


class IntakeServer:
    """What the connections of one port share. Made on the loop that serves them.

    fallback_factory: makes the protocol for every request that is not ours. authorize: says whether an Authorization
    header's value may write; None lets everyone. connections: where a connection registers while it is ours, so that
    the server can shut it down.
    """

    def __init__(
        self,
        intake: Intake,
        fallback_factory: Callable[[], asyncio.Protocol],
        *,
        authorize: Authorize | None = None,
        connections: set[asyncio.Protocol] | None = None,
    ) -> None:
        self.intake = intake
        self.fallback_factory = fallback_factory
        self.authorize = authorize
        self.limits = Limits(max_body_bytes=intake.max_body_bytes)
        self.parser = RequestParser(self.limits, _CAPTURED)
        self.connections: set[asyncio.Protocol] = set() if connections is None else connections
        self.arriving_bytes = 0
        self.date = b""
        self._ours: set[IntakeProtocol] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self) -> IntakeProtocol:
        """A protocol for one new connection."""
        return IntakeProtocol(self)

    def add(self, connection: IntakeProtocol) -> None:
        """Watch over a connection's time-outs and shutdown."""
        self._ours.add(connection)
        self.connections.add(connection)
        if self._timer is None:
            self._sweep()

    def remove(self, connection: IntakeProtocol) -> None:
        """The connection is gone, or no longer ours."""
        self._ours.discard(connection)
        self.connections.discard(connection)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_SWEEP_S, self._sweep) if self._ours else None
        self.date = formatdate(usegmt=True).encode("ascii")
        now = loop.time()
        for connection in list(self._ours):
            connection.check_time(now)


class _Slot:
    """One request's place in the order of answers; calling it is how the intake answers."""

    __slots__ = ("answer", "connection", "keep_alive")

    def __init__(self, connection: IntakeProtocol, *, keep_alive: bool) -> None:
        self.connection = connection
        self.keep_alive = keep_alive
        self.answer: Answer | None = None

    def __call__(self, answer: Answer) -> None:
        self.answer = answer
        self.connection.flush()


class _Body:
    """A body that is still arriving."""

    __slots__ = ("chunks", "decoder", "head", "missing", "reserved_bytes")

    def __init__(self, head: RequestHead, limits: Limits) -> None:
        self.head = head
        self.chunks: list[bytes] = []
        self.decoder = ChunkDecoder(limits, raw=False) if head.is_chunked else None
        self.missing = head.content_length or 0
        most = limits.max_body_bytes
        assert most is not None, "the intake sets it"
        self.reserved_bytes = most if head.is_chunked else self.missing

    def feed(self, data: bytes) -> int:
        """Take what belongs to the body; returns the offset behind it in `data`, -1 while it goes on."""
        if self.decoder is not None:
            pieces, end = self.decoder.feed(data)
            self.chunks += pieces
            return end
        part = data if len(data) <= self.missing else data[: self.missing]
        self.chunks.append(part)
        self.missing -= len(part)
        return len(part) if self.missing == 0 else -1


class IntakeProtocol(asyncio.Protocol):
    """One connection of the control port, until it turns out to be somebody else's."""

    __slots__ = (
        "_active_at", "_body", "_buffer", "_is_closing", "_is_writable", "_linger_at", "_loop", "_request_at",
        "_server", "_slots", "_transport",
    )  # fmt: skip

    def __init__(self, server: IntakeServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._body: _Body | None = None
        self._slots: deque[_Slot] = deque()
        self._is_closing = False
        self._is_writable = True
        self._linger_at: float | None = None  # when a refused connection began to be read without being heard
        self._active_at = self._loop.time()
        self._request_at: float | None = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._transport = cast("asyncio.Transport", transport)
        self._server.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The client is gone; what it sent whole is written all the same."""
        self._transport = None
        self._server.remove(self)
        self._slots.clear()
        self._end_body()

    def eof_received(self) -> bool:
        """The client sends no more; it may still wait for answers."""
        self._is_closing = True
        self._linger_at = None
        self.flush()
        return bool(self._slots)

    def pause_writing(self) -> None:
        """The client does not read its answers: do not take more work from it."""
        self._is_writable = False
        self._regulate()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._is_writable = True
        self._regulate()

    def data_received(self, data: bytes) -> None:
        """Bytes of requests, in any slicing."""
        self._active_at = self._loop.time()
        if self._is_closing:
            return
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        try:
            while data:
                rest = self._advance(data)
                if rest is None:
                    return
                data = rest
        except WireError as exc:
            self._fail(problem(exc.status, exc.reason))

    # Requests

    def _advance(self, data: bytes) -> bytes | None:
        """Take one step: returns what is left of `data`, None where nothing can be done before more arrives."""
        if self._body is not None:
            end = self._body.feed(data)
            if end < 0:
                return None
            body = self._end_body()
            assert body is not None
            self._finish(body.head, b"".join(body.chunks))
            return data[end:]
        route = _route_of(data)
        if route is None and not any(start.startswith(data) for start, _ in _STARTS):
            self._hand_over(data)
            return None
        head = None if route is None else self._server.parser.parse(data)
        if head is None:
            self._buffer = data
            self._request_at = self._request_at or self._active_at
            return None
        return self._begin(head, data)

    def _begin(self, head: RequestHead, data: bytes) -> bytes | None:
        """A head is complete: its body may be, too."""
        if not head.is_chunked:
            end = head.size + (head.content_length or 0)
            if len(data) >= end:
                self._finish(head, data[head.size : end])
                return data[end:]
        self._request_at = self._request_at or self._active_at
        body = _Body(head, self._server.limits)
        answer = self._objection(head) or self._no_room(body)
        if answer is not None:  # before it sends the body
            self._fail(answer)
            return None
        if head.expects_continue and len(data) == head.size and not self._slots and self._transport is not None:
            self._transport.write(CONTINUE)
        self._body = body
        self._server.arriving_bytes += body.reserved_bytes
        return data[head.size :]

    def _end_body(self) -> _Body | None:
        """The body under way, if any, no longer is."""
        body, self._body = self._body, None
        if body is not None:
            self._server.arriving_bytes -= body.reserved_bytes
        return body

    def _no_room(self, body: _Body) -> Answer | None:
        if self._server.arriving_bytes + body.reserved_bytes <= MAX_ARRIVING_BYTES:
            return None
        return problem(503, "too many bodies are arriving at once; send it again later", retry_after_s=1)

    def _objection(self, head: RequestHead) -> Answer | None:
        _, encoding, authorization, origin = head.captured
        if reason := objection(head.host, origin):
            return problem(403, reason)
        if self._server.authorize is not None and not self._server.authorize(authorization):
            return problem(401, "this port asks for a token: send `Authorization: Bearer ...`")
        if encoding is not None and encoding.lower() != b"identity":
            return problem(415, "content-encoding is not taken; send the body as it is")
        return None

    def _finish(self, head: RequestHead, body: bytes) -> None:
        """A request is complete."""
        self._request_at = None
        slot = _Slot(self, keep_alive=head.keep_alive)
        self._slots.append(slot)
        if not head.keep_alive:
            self._is_closing = True
        refusal = self._objection(head)
        if refusal is not None:
            slot(refusal)
        else:
            self._server.intake.take(_ROUTES[head.target.partition(b"?")[0]], body, head.captured[0], slot)
        if len(self._slots) >= MAX_UNANSWERED:
            self._regulate()

    def _fail(self, answer: Answer) -> None:
        """Where the next request would begin is not known: answer in turn, then close.

        A client may be in the middle of a large body: closing at once would reset the connection and take our answer
        with it, so for two seconds what it sends is read and thrown away.
        """
        self._is_closing = True
        self._linger_at = self._loop.time()
        self._request_at = None
        self._end_body()
        slot = _Slot(self, keep_alive=False)
        self._slots.append(slot)
        slot(answer)

    def _hand_over(self, data: bytes) -> None:
        """Give the connection away, once our own answers are out."""
        if self._slots:
            self._buffer = data
            self._regulate()
            return
        transport = self._transport
        assert transport is not None, "data arrives on open connections only"
        self._server.remove(self)
        self._transport = None
        fallback = self._server.fallback_factory()
        transport.set_protocol(fallback)
        fallback.connection_made(transport)
        fallback.data_received(data)

    # Answers

    def flush(self) -> None:
        """Write the answers that are next in order."""
        transport, slots = self._transport, self._slots
        if transport is None:
            return
        out: list[bytes] = []
        while slots and slots[0].answer is not None:
            slot = slots.popleft()
            assert slot.answer is not None
            out.append(_render(slot.answer, self._server.date, keep_alive=slot.keep_alive))
        if out:
            transport.write(out[0] if len(out) == 1 else b"".join(out))
        if self._is_closing and not slots:
            if self._linger_at is None:
                transport.close()
            elif out:
                transport.write_eof()
        elif out and not transport.is_reading():
            self._regulate()

    def _regulate(self) -> None:
        """Read while the client reads and does not run too far ahead; go on with what was held back."""
        transport = self._transport
        if transport is None or self._is_closing:
            return
        is_held = bool(self._buffer and self._slots and _is_foreign(self._buffer))
        if not self._is_writable or len(self._slots) >= MAX_UNANSWERED or is_held:
            transport.pause_reading()
            return
        transport.resume_reading()
        if self._buffer and _is_foreign(self._buffer):
            data, self._buffer = self._buffer, b""
            self._hand_over(data)

    # Ends

    def shutdown(self) -> None:
        """The server stops: answer what was received whole, then close."""
        self._is_closing = True
        self._linger_at = None
        self.flush()

    def check_time(self, now: float) -> None:
        """Close a connection that takes too long to say something."""
        if self._linger_at is not None:
            if now - self._linger_at > LINGER_S and self._transport is not None:
                self._transport.abort()
        elif self._request_at is not None and now - self._request_at > REQUEST_TIMEOUT_S:
            self._fail(problem(408, f"the request did not arrive within {REQUEST_TIMEOUT_S:.0f} s"))
        elif not self._slots and now - self._active_at > IDLE_TIMEOUT_S and self._transport is not None:
            self._transport.close()


def _route_of(data: bytes) -> IntakeRoute | None:
    """The route that a request beginning with `data` asks for."""
    for start, route in _STARTS:
        if data.startswith(start) and data[len(start) : len(start) + 1] in {b" ", b"?"}:
            return route
    return None


def _is_foreign(data: bytes) -> bool:
    return _route_of(data) is None and not any(start.startswith(data) for start, _ in _STARTS)


def _render(answer: Answer, date: bytes, *, keep_alive: bool) -> bytes:
    if answer.status == 200 and keep_alive:
        return _OK % (date, len(answer.body), answer.body)
    retry = "" if answer.retry_after_s is None else f"Retry-After: {answer.retry_after_s}\r\n"
    connection = "" if keep_alive else "Connection: close\r\n"
    head = (
        f"HTTP/1.1 {answer.status} {reason_phrase(answer.status)}\r\nContent-Type: {answer.content_type}\r\n"
        f"Date: {date.decode('ascii')}\r\nContent-Length: {len(answer.body)}\r\n{retry}{connection}\r\n"
    )
    return head.encode("ascii") + answer.body
