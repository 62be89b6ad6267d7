"""The control port: uvicorn for the API and the pages, our own protocol in front of it for the intake.

uvicorn asks a factory for each connection's protocol; ours is the intake's, which hands every other connection on to
the one that uvicorn would have made. Both register in uvicorn's set of connections, so its graceful shutdown covers
both.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.server import ServerState

from fairtrial.api.intake import Intake
from fairtrial.api.intake_protocol import Authorize, IntakeProtocol, IntakeServer
from fairtrial.model.errors import ConfigError

Application = Any  # an ASGI application; frameworks disagree on how to type one


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process that runs us has its own."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _ProtocolFactory:
    """What uvicorn takes for its protocol class."""

    def __init__(self, intake: Intake, authorize: Authorize | None) -> None:
        self._intake = intake
        self._authorize = authorize
        self._server: IntakeServer | None = None

    def __call__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> IntakeProtocol:
        if self._server is None:

            def fallback() -> asyncio.Protocol:
                return AutoHTTPProtocol(  # type: ignore[call-arg]
                    config=config, server_state=server_state, app_state=app_state, _loop=_loop
                )

            connections: set[Any] = server_state.connections
            self._server = IntakeServer(self._intake, fallback, authorize=self._authorize, connections=connections)
        return self._server()


class ControlServer:
    """One listening port with an ASGI application and the intake on it.

    port: 0 for any free one; `port` then tells. authorize: see IntakeServer. graceful_s: seconds that open requests get
    at `stop`. Raises ConfigError where the address cannot be bound.
    """

    def __init__(
        self,
        app: Application,
        intake: Intake,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        authorize: Authorize | None = None,
        graceful_s: int = 5,
    ) -> None:
        self._socket = _listen(host, port)
        self.host = host
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            app,
            http=_ProtocolFactory(intake, authorize),  # type: ignore[arg-type]  # called like a class, as uvicorn does
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=graceful_s,
            server_header=False,
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Serve; returns once connections are accepted. Raises what the application's start-up raises."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not self._server.started:
            await asyncio.wait([self._task], timeout=0.005)
            if self._task.done():
                self._task.result()
                raise ConfigError("the control port's application refused to start; see the log")

    async def stop(self) -> None:
        """Accept nothing more, answer what was received, close."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as exc:
        sock.close()
        raise ConfigError(f"cannot listen on {host}:{port}: {exc.strerror}; choose another --port") from exc
    sock.setblocking(False)
    return sock
