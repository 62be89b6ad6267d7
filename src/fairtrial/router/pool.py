"""Connections of one worker to one model.

Idle connections are taken last in, first out, so that the surplus grows old and is closed before the model's own
keep-alive timer closes it (uvicorn: 5 s). The number of connections and of waiting requests is capped; beyond both a
request is turned away at once.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from dataclasses import dataclass
from typing import Final

from fairtrial.router.breaker import Breaker
from fairtrial.router.counters import ModelCounters
from fairtrial.router.upstream import Failure, UpstreamConnection, UpstreamUser
from fairtrial.router.wheel import Wheel, ticks
from fairtrial.wire.limits import Limits
from fairtrial.wire.response import ResponseParser

# Pods behind one name come and go: no connection lives longer, with a fifth of it at random so that they do not all
# reconnect in the same second.
MAX_AGE_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model listens. host: name or address literal, without brackets."""

    host: str
    port: int
    is_tls: bool


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """connections, waiting: caps per worker. idle_s: an unused connection is closed after it."""

    connections: int
    waiting: int
    idle_s: float


class ModelPool:
    """breaker, counters: of this model in this worker. idle: connections to take the last of.

    is_retired: its snapshot is gone; nothing is kept any more.
    """

    __slots__ = (
        "_addresses",
        "_connecting",
        "_fresh",
        "_idle_ticks",
        "_next_address",
        "_open",
        "_ssl",
        "_tasks",
        "_waiting",
        "_wheel",
        "breaker",
        "counters",
        "idle",
        "is_retired",
        "limits",
        "origin",
        "parser",
        "pool_limits",
    )

    def __init__(
        self,
        origin: Origin,
        *,
        wheel: Wheel,
        counters: ModelCounters,
        breaker: Breaker,
        pool_limits: PoolLimits,
        parser: ResponseParser,
        limits: Limits,
    ) -> None:
        self.origin = origin
        self.counters = counters
        self.breaker = breaker
        self.limits = limits
        self.parser = parser
        self.pool_limits = pool_limits
        self.is_retired = False
        self._wheel = wheel
        self._ssl = ssl.create_default_context() if origin.is_tls else None
        self.idle: list[UpstreamConnection] = []
        self._open: set[UpstreamConnection] = set()
        self._waiting: dict[UpstreamUser, None] = {}  # an ordered set: first in, first served; leaving costs O(1)
        self._fresh: set[UpstreamUser] = set()
        self._connecting = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._addresses: tuple[str, ...] = (origin.host,)
        self._next_address = 0
        self._idle_ticks = ticks(pool_limits.idle_s)

    @property
    def open_count(self) -> int:
        """Connections open now."""
        return len(self._open)

    @property
    def waiting_count(self) -> int:
        """Requests that wait for a connection."""
        return len(self._waiting) + len(self._fresh)

    def request(self, user: UpstreamUser) -> None:
        """Call `user.on_connected` now or later, or `user.on_no_connection`."""
        if self.idle:
            connection = self.idle.pop()
            connection.user = user
            user.on_connected(connection)
        elif len(self._waiting) - self._connecting >= self.pool_limits.waiting:  # who waits for a connect is no queue
            self.counters.rejected += 1
            user.on_no_connection(Failure.POOL_FULL)
        else:
            self._waiting[user] = None
            if self._has_room():
                self._spawn_connect(user)

    def request_fresh(self, user: UpstreamUser) -> None:
        """Like `request`, on a connection that has never been used: the others may be as dead as the last one."""
        if not self._has_room() and self.idle:
            self.idle[0].drop()
        if self._has_room():
            self._fresh.add(user)
            self._spawn_connect(user)
        else:
            self.counters.rejected += 1
            user.on_no_connection(Failure.POOL_FULL)

    def cancel(self, user: UpstreamUser) -> None:
        """Forget a user that still waits."""
        self._waiting.pop(user, None)
        self._fresh.discard(user)

    def release(self, connection: UpstreamConnection, *, is_reusable: bool) -> None:
        """Take a connection back after a whole answer."""
        if not is_reusable or self.is_retired or self._wheel.now >= connection.expires_at:
            connection.drop()
            return
        connection.is_reused = True
        if self._waiting:
            self._hand_over(connection)
        else:
            connection.idle_since = self._wheel.now
            self.idle.append(connection)

    def on_closed(self, connection: UpstreamConnection) -> None:
        """Forget a closed connection; requests that wait may now open another."""
        self._open.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)
        self._top_up()

    def sweep(self) -> None:
        """Close what has idled too long. The oldest stand in front."""
        limit = self._wheel.now - self._idle_ticks
        while self.idle and self.idle[0].idle_since <= limit:
            self.idle[0].drop()

    def retire(self) -> None:
        """Close idle connections now and the others after their answer."""
        self.is_retired = True
        for connection in list(self.idle):
            connection.drop()

    def close(self) -> None:
        """Drop everything, whoever uses it."""
        self.is_retired = True
        for task in self._tasks:
            task.cancel()
        for connection in list(self._open):
            connection.drop()

    async def resolve(self) -> None:
        """Look the name up again; connections to addresses that are gone are closed once idle."""
        loop = asyncio.get_running_loop()
        try:
            infos = await loop.getaddrinfo(self.origin.host, self.origin.port, type=socket.SOCK_STREAM)
        except OSError:
            return  # a resolver that is down for a moment must not take the model away
        addresses = tuple(dict.fromkeys(str(info[4][0]) for info in infos))
        self._addresses = addresses
        for connection in [each for each in self._open if each.address not in addresses]:
            connection.expires_at = 0
            if connection in self.idle:
                connection.drop()

    def _has_room(self) -> bool:
        return len(self._open) + self._connecting < self.pool_limits.connections

    def _hand_over(self, connection: UpstreamConnection) -> None:
        user = next(iter(self._waiting))
        del self._waiting[user]
        connection.user = user
        user.on_connected(connection)

    def _top_up(self) -> None:
        if len(self._waiting) > self._connecting and self._has_room() and not self.is_retired:
            self._spawn_connect(next(iter(self._waiting)))

    def _spawn_connect(self, user: UpstreamUser) -> None:
        self._connecting += 1
        task = asyncio.get_running_loop().create_task(self._connect(user))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, user: UpstreamUser) -> None:
        """Open one connection for `user`, or for whoever waits longest if it has been served meanwhile."""
        connection: UpstreamConnection | None = None
        failure = Failure.CONNECT_FAILED
        try:
            connection = await self._open_any(user.connect_s)
        except TimeoutError:
            failure = Failure.CONNECT_TIMEOUT
        except OSError:  # refused, unreachable, name not known, TLS not agreed
            failure = Failure.CONNECT_FAILED
        finally:
            self._connecting -= 1
        if connection is not None and connection.transport.is_closing():
            connection = None  # accepted and closed at once: as good as refused
        if connection is None:
            self.counters.connect_failures += 1
            if user in self._waiting or user in self._fresh:
                self.cancel(user)
                user.on_no_connection(failure)
            self._top_up()
            return
        self.counters.connects += 1
        self._admit(connection, user)

    def _admit(self, connection: UpstreamConnection, user: UpstreamUser) -> None:
        age = MAX_AGE_S * (0.8 + 0.2 * random.random())  # noqa: S311 - spreads reconnects, guards nothing
        connection.expires_at = self._wheel.now + ticks(age)
        self._open.add(connection)
        if user in self._fresh:
            self._fresh.discard(user)
            connection.user = user
            user.on_connected(connection)
        elif user in self._waiting:
            del self._waiting[user]
            connection.user = user
            user.on_connected(connection)
        elif self._waiting:
            self._hand_over(connection)
        elif self.is_retired:
            connection.drop()
        else:
            connection.idle_since = self._wheel.now
            self.idle.append(connection)

    async def _open_any(self, connect_s: float) -> UpstreamConnection:
        """Try each address once, starting with the next in turn, each with its part of the time."""
        addresses = self._addresses
        start = self._next_address
        self._next_address = (start + 1) % len(addresses)
        error: OSError = OSError(f"{self.origin.host} has no address")
        for step in range(len(addresses)):
            address = addresses[(start + step) % len(addresses)]
            try:
                async with asyncio.timeout(connect_s / len(addresses)):
                    return await self._open_one(address)
            except OSError as failed:  # TimeoutError is one
                error = failed
        raise error

    async def _open_one(self, address: str) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: UpstreamConnection(self, address),
            address,
            self.origin.port,
            ssl=self._ssl,
            server_hostname=self.origin.host if self._ssl else None,
        )
        sock: socket.socket | None = connection.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connection
