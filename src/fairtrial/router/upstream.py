"""One connection to a model: sends what its user writes, reads one answer at a time, trusts nothing it reads.

The user of a connection is whoever waits for the answer: a client's exchange or a shadow copy. A connection that reads
a byte nobody asked for is spoiled (it could answer the next client's request) and is dropped.
"""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol, cast

from fairtrial.router.buffers import READ
from fairtrial.wire.chunks import ChunkDecoder
from fairtrial.wire.errors import WireError
from fairtrial.wire.response import Framing, ResponseHead

if TYPE_CHECKING:
    from fairtrial.router.pool import ModelPool

# More 1xx answers before a final one than any server sends; an endless run of them must not hold a request.
MAX_INFORMATIONAL: Final = 32

_HEAD: Final = 0
_LENGTH: Final = 1
_CHUNKED: Final = 2
_UNTIL_CLOSE: Final = 3


class Failure(StrEnum):
    """Why a model gave no whole answer: `reason` of request records and of the fallback metric."""

    CONNECT_FAILED = "connect_failed"
    CONNECT_TIMEOUT = "connect_timeout"
    POOL_FULL = "pool_full"
    BREAKER_OPEN = "breaker_open"
    LOST = "connection_lost"
    BAD_ANSWER = "bad_answer"
    FIRST_BYTE_TIMEOUT = "first_byte_timeout"
    TRUNCATED = "truncated"
    IDLE_TIMEOUT = "idle_timeout"
    TOTAL_TIMEOUT = "total_timeout"
    CLIENT_GONE = "client_gone"
    CLIENT_ERROR = "client_error"


class UpstreamUser(Protocol):
    """Who waits for an answer. Every call comes from the event loop and must not block.

    method: of the request, which decides whether the answer has a body. wants_payload: chunk framing is taken off.
    is_sent: the whole request has been written, so that the connection may be kept after the answer.
    connect_s: seconds to open a connection.
    """

    method: bytes
    wants_payload: bool
    is_sent: bool
    connect_s: float

    def on_connected(self, connection: UpstreamConnection) -> None:
        """The connection is yours: write the request."""

    def on_no_connection(self, failure: Failure) -> None:
        """There is no connection to be had; nothing was written."""

    def on_informational(self, head: ResponseHead) -> None:
        """A 1xx answer other than 100 and 101 came."""

    def on_head(self, head: ResponseHead, body: bytes, framing: Framing) -> None:
        """The final head came, with the part of the body that was read along with it (LENGTH only; else b"")."""

    def on_progress(self) -> None:
        """The body goes on: start its idle clock."""

    def on_body(self, data: bytes) -> None:
        """More body."""

    def on_complete(self) -> None:
        """The answer is whole; the connection is not yours any more."""

    def on_lost(self, failure: Failure, *, is_reused: bool) -> None:
        """The answer will not be whole; the connection is gone. is_reused: it had served a request before."""

    def pause_sending(self) -> None:
        """The model reads slower than you write: stop reading your client."""

    def resume_sending(self) -> None:
        """Go on."""


class UpstreamConnection(asyncio.BufferedProtocol):
    """pool: where it belongs. user: None while idle. is_reused: has answered before. idle_since, expires_at: ticks."""

    __slots__ = (
        "_buffer",
        "_chunks",
        "_informational",
        "_is_gone",
        "_is_paused",
        "_keep_alive",
        "_left",
        "_state",
        "address",
        "expires_at",
        "idle_since",
        "is_reused",
        "pool",
        "transport",
        "user",
    )

    transport: asyncio.Transport

    def __init__(self, pool: ModelPool, address: str) -> None:
        self.pool = pool
        self.address = address
        self.user: UpstreamUser | None = None
        self.is_reused = False
        self.idle_since = 0
        self.expires_at = 0
        self._state = _HEAD
        self._left = 0
        self._buffer = b""
        self._chunks: ChunkDecoder | None = None
        self._informational = 0
        self._keep_alive = True
        self._is_paused = False
        self._is_gone = False

    # -- asyncio.Protocol ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport; the pool hands the connection on."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def pause_writing(self) -> None:
        """Pass the model's back-pressure on to the client."""
        if self.user is not None:
            self.user.pause_sending()

    def resume_writing(self) -> None:
        """Let the client send again."""
        if self.user is not None:
            self.user.resume_sending()

    def eof_received(self) -> bool:
        """Treat a half-closed model as gone: it cannot be asked anything else."""
        self._gone(is_clean=True)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the user, unless `eof_received` has."""
        self._gone(is_clean=exc is None)

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Room for the next read."""
        return READ

    def buffer_updated(self, nbytes: int) -> None:
        """Take the bytes out before anyone else reads."""
        self.data_received(READ[:nbytes].tobytes())

    def data_received(self, data: bytes) -> None:
        """Read on, by the state of the answer."""
        user = self.user
        if user is None:
            if not self._is_gone:
                self.pool.counters.unsolicited += 1
                self.drop()
            return
        state = self._state
        if state == _HEAD:
            if self._buffer:
                data = self._buffer + data
                self._buffer = b""
            self._read_head(user, data)
        elif state == _LENGTH:
            left = self._left - len(data)
            if left > 0:
                self._left = left
                user.on_body(data)
                return
            if left < 0:
                self._keep_alive = False
                data = data[:left]
            user.on_body(data)
            self._complete(user)
        elif state == _CHUNKED:
            self._read_chunks(user, data)
        else:
            user.on_body(data)

    # -- for the pool and the user ---------------------------------------------------------------------------------

    def pause_reading(self) -> None:
        """Stop reading the answer: the client is slow."""
        if not self._is_paused and not self._is_gone and not self.transport.is_closing():
            self._is_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read the answer again."""
        if self._is_paused and not self._is_gone and not self.transport.is_closing():
            self._is_paused = False
            self.transport.resume_reading()

    def drop(self) -> None:
        """Close at once, flushing nothing, telling nobody but the pool."""
        self.user = None
        self._gone(is_clean=False)
        self.transport.abort()

    # -- the answer ------------------------------------------------------------------------------------------------

    def _read_head(self, user: UpstreamUser, data: bytes) -> None:
        try:
            head = self.pool.parser.parse(data, method=user.method)
            while head is not None and head.is_informational:
                self._pass_informational(user, head)
                data = data[head.size :]
                head = self.pool.parser.parse(data, method=user.method)
        except WireError:
            self._fail(user, Failure.BAD_ANSWER)
            return
        if head is None:
            self._buffer = data
            return
        self._keep_alive = head.keep_alive
        framing = head.framing
        size = head.size
        if framing is Framing.LENGTH:
            left = size + (head.content_length or 0) - len(data)
            if left < 0:
                self._keep_alive = False
                data = data[:left]
            user.on_head(head, data[size:], framing)
            if left > 0:
                self._left = left
                self._state = _LENGTH
                user.on_progress()
            else:
                self._complete(user)
        elif framing is Framing.NO_BODY:
            if len(data) > size:
                self._keep_alive = False
            user.on_head(head, b"", framing)
            self._complete(user)
        else:
            self._start_stream(user, head, data[size:], framing)

    def _start_stream(self, user: UpstreamUser, head: ResponseHead, rest: bytes, framing: Framing) -> None:
        if framing is Framing.CHUNKED:
            self._state = _CHUNKED
            self._chunks = ChunkDecoder(self.pool.limits, raw=not user.wants_payload, is_response=True)
        else:
            self._state = _UNTIL_CLOSE
            self._keep_alive = False
        user.on_head(head, b"", framing)
        user.on_progress()
        if rest and self.user is user:
            self.data_received(rest)

    def _pass_informational(self, user: UpstreamUser, head: ResponseHead) -> None:
        self._informational += 1
        if self._informational > MAX_INFORMATIONAL:
            raise WireError(502, "too many 1xx answers")
        if head.status != 100:
            user.on_informational(head)

    def _read_chunks(self, user: UpstreamUser, data: bytes) -> None:
        assert self._chunks is not None
        try:
            pieces, end = self._chunks.feed(data)
        except WireError:
            self._fail(user, Failure.BAD_ANSWER)
            return
        if pieces:
            user.on_body(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if end >= 0:
            if end != len(data):
                self._keep_alive = False
            self._complete(user)

    def _complete(self, user: UpstreamUser) -> None:
        if self.user is not user:
            return  # it let go of the connection while it took the last piece
        self.user = None
        self._state = _HEAD
        self._chunks = None
        self._informational = 0
        if self._is_paused:
            self.resume_reading()
        self.pool.release(self, is_reusable=self._keep_alive and user.is_sent)
        user.on_complete()

    def _fail(self, user: UpstreamUser, failure: Failure) -> None:
        is_reused = self.is_reused
        self.drop()
        user.on_lost(failure, is_reused=is_reused)

    def _gone(self, *, is_clean: bool) -> None:
        if self._is_gone:
            return
        self._is_gone = True
        self.pool.on_closed(self)
        user = self.user
        if user is None:
            return
        self.user = None
        if self._state == _UNTIL_CLOSE and is_clean:
            user.on_complete()
        elif self._state == _HEAD:
            # A half answer is not the lost keep-alive race: this model did start to answer.
            failure = Failure.BAD_ANSWER if self._buffer else Failure.LOST
            user.on_lost(failure, is_reused=self.is_reused)
        else:
            user.on_lost(Failure.TRUNCATED, is_reused=self.is_reused)
