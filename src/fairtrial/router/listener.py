"""The listening socket of one worker.

Closing a listening socket resets connections that the kernel has accepted and we have not. With several workers on one
port that would cost a client its request each time one worker leaves. So the socket is held twice: the event loop's
handle is closed first, then what waits in the queue is accepted, and only then does the kernel's socket go.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final

BACKLOG: Final = 4096


def bind(host: str, port: int, *, reuse_port: bool) -> socket.socket:
    """A listening socket. Raises OSError."""
    family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
        0
    ]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


class Listener:
    """Accepts clients until `stop`. factory: makes the protocol of one."""

    def __init__(self, sock: socket.socket, factory: Callable[[], asyncio.BaseProtocol]) -> None:
        self._socket = sock
        self._factory = factory
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port that was bound."""
        return int(self._socket.getsockname()[1])

    async def start(self) -> None:
        """Accept from now on."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._factory, sock=self._socket.dup(), backlog=BACKLOG)

    async def stop(self) -> None:
        """Take what is waiting, then let new connections go elsewhere."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        loop = asyncio.get_running_loop()
        waiting: list[socket.socket] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting.append(self._socket.accept()[0])
        self._socket.close()
        for sock in waiting:
            sock.setblocking(False)
            await loop.connect_accepted_socket(self._factory, sock)
