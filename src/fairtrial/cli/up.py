"""`fairtrial up`: router workers, control port, event log and analysis, as one process tree.

Start: lock the state directory, publish the file, start the routers, open the control port. End, on SIGTERM or Ctrl-C:
routers drain first, so that their records reach the log; then the control port answers what it has accepted; then
everything is on disk. A second signal ends the waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import structlog
from rich.console import Console

from fairtrial.analysis.view import view_to_json
from fairtrial.api.app import build_app
from fairtrial.api.browsers import is_loopback
from fairtrial.api.control import ControlPort
from fairtrial.api.intake import Intake
from fairtrial.api.intake_asgi import intake_routes
from fairtrial.api.server import ControlServer
from fairtrial.controller.refresh import Refresher
from fairtrial.controller.service import ControlService
from fairtrial.controller.statedir import Running, StateDir, write_atomically
from fairtrial.controller.workers import WorkerPool
from fairtrial.model.errors import ConfigError
from fairtrial.router.config import WorkerConfig
from fairtrial.web.status import StatusPage

log = structlog.get_logger()

MOST_WORKERS = 64
DRAIN_SLACK_S = 5.0


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What the command line said. Ports: 0 takes a free one."""

    file: Path
    state: Path
    router_host: str
    router_port: int
    host: str
    port: int
    workers: int
    refresh_s: float
    output: Literal["table", "json"]


def run_up(options: UpOptions) -> int:
    """Run until told to stop; 0 after a clean end."""
    _check(options)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    state = StateDir(options.state)
    with state.locked(), asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(_serve(options, state))


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _check(options: UpOptions) -> None:
    if not 1 <= options.workers <= MOST_WORKERS:
        raise ConfigError(f"--workers is {options.workers}; must be from 1 to {MOST_WORKERS}")
    for name, port in (("--port", options.port), ("--router-port", options.router_port)):
        if not 0 <= port <= 65535:
            raise ConfigError(f"{name} is {port}; must be from 0 to 65535")
    if not is_loopback(options.host):
        raise ConfigError(
            f"--host is {options.host}: the control port has no authentication yet and can stop or feed any trial, so "
            "it binds to loopback only (127.0.0.1, ::1, localhost); put an authenticating proxy in front of it"
        )


@contextlib.contextmanager
def _reserved(host: str, port: int) -> Iterator[int]:
    """Hold a port for the workers to share, so that `0` means one free port for all and a taken one is an error."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # A first bind without SO_REUSEPORT fails where anyone else holds the port.
        if port:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                _bind(probe, host, port)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _bind(held, host, port)
        yield held.getsockname()[1]


def _bind(sock: socket.socket, host: str, port: int) -> None:
    try:
        sock.bind((host, port))
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}; choose another port") from error


def _worker_configs(options: UpOptions, state: StateDir, port: int) -> list[WorkerConfig]:
    return [
        WorkerConfig(
            worker_id=number,
            host=options.router_host,
            port=port,
            state_dir=state.root,
            snapshot_path=state.snapshot,
            reuse_port=True,
        )
        for number in range(options.workers)
    ]


async def _serve(options: UpOptions, state: StateDir) -> int:
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    failures: list[BaseException] = []

    def fail(error: BaseException) -> None:
        """The disk did not take what it was asked to keep: stop, so that a person looks and a fresh start reopens."""
        log.critical("event_log_failed", error=str(error))
        failures.append(error)
        stop.set()

    def on_poison(error: BaseException) -> None:
        """Called in the writer's thread."""
        loop.call_soon_threadsafe(fail, error)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    with contextlib.ExitStack() as stack:
        router_port = stack.enter_context(_reserved(options.router_host, options.router_port))
        refresher = Refresher(state)
        service = ControlService(options.file, state, refresher, encode_view=view_to_json)
        stack.callback(service.close)
        loop.add_signal_handler(signal.SIGHUP, service.reload)
        workers = WorkerPool(_worker_configs(options, state, router_port))
        service.attach(workers)
        # Intake and routers hash units with the same key; a change of keep_unit_ids takes a restart.
        intake = Intake.open(
            state.root,
            loop=loop,
            keep_unit_ids=service.snapshot.file.keep_unit_ids,
            on_poison=on_poison,
        )
        stack.callback(intake.close)
        app = build_app(ControlPort(service, intake, refresher.manifest), page=StatusPage())
        app.router.routes.extend(intake_routes(intake))
        server = ControlServer(app, intake, host=options.host, port=options.port)
        try:
            await workers.start()
            await server.start()
            running = Running(
                os.getpid(), options.host, server.port, options.router_host, router_port, str(options.file)
            )
            write_atomically(state.running_file, msgspec.json.encode(running))
            stack.callback(state.running_file.unlink, missing_ok=True)
            _say_ready(options, running, service)
            await _until(stop, service, workers, options)
        finally:
            await _drain(workers, hurry, timeout_s=service.snapshot.file.router.drain_timeout_s + DRAIN_SLACK_S)
            await server.stop()
    return 1 if failures else 0


async def _until(stop: asyncio.Event, service: ControlService, workers: WorkerPool, options: UpOptions) -> None:
    tasks = [
        asyncio.create_task(service.watch()),
        asyncio.create_task(service.refresh_every(options.refresh_s)),
        asyncio.create_task(workers.watch()),
    ]
    waiting = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in (waiting, *tasks):
        task.cancel()
    await asyncio.gather(waiting, *tasks, return_exceptions=True)
    for task in done - {waiting}:
        task.result()


async def _drain(workers: WorkerPool, hurry: asyncio.Event, *, timeout_s: float) -> None:
    draining = asyncio.create_task(workers.stop(timeout_s=timeout_s))
    hurried = asyncio.create_task(hurry.wait())
    await asyncio.wait([draining, hurried], return_when=asyncio.FIRST_COMPLETED)
    if not draining.done():
        workers.hurry()
    hurried.cancel()
    await draining


def _say_ready(options: UpOptions, running: Running, service: ControlService) -> None:
    router = f"http://{_in_url(running.router_host)}:{running.router_port}"
    control = f"http://{_in_url(running.host)}:{running.port}"
    if options.output == "json":
        ready = {"ready": True, "router": router, "control": control, "pid": running.pid, "state": str(options.state)}
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        return
    console = Console(highlight=False)
    file = service.snapshot.file
    console.print(f"[bold]fairtrial[/bold] is up: {len(file.experiments)} experiment(s), {options.workers} router(s)")
    for endpoint in file.endpoints.values():
        console.print(f"  router   {router}{endpoint.match.path}", markup=False)
    console.print(f"  control  {control}/   status page, /api/v1/outcomes, /metrics", markup=False)
    console.print(f"  state    {options.state}", markup=False)
    for name in file.experiments:
        console.print(f"  verdict  fairtrial analyze {name} --state {options.state}", markup=False)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
