"""Real model servers as processes: started in their own environment, waited for, stopped whatever happens."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from tests.e2e.peers.support_environments import peer_variables

START_TIMEOUT_S = 120.0  # the first start of a fresh environment compiles every module it imports
STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Trained:
    """A peer's environment, and a folder with its page's files and the models its `train.py` made."""

    environment: Path
    folder: Path


class PortTakenError(Exception):
    """Somebody else got the port between our looking and the server's listening."""


@dataclass(frozen=True, slots=True)
class PeerServer:
    """A model server that answers on `url` (no path)."""

    url: str
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """Returns once the port is free again."""
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_TIMEOUT_S)


def free_ports(count: int) -> list[int]:
    """Different ports that are free now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def running_mlserver(environment: Path, folder: Path) -> Iterator[PeerServer]:
    """MLServer on the models below `folder`/models, with its settings but for the ports."""
    settings_file = folder / "models" / "settings.json"
    command = [str(environment / "bin" / "mlserver"), "start", "models"]
    ready = ("/v2/models/digits/versions/v1/ready", "/v2/models/digits/versions/v2/ready")

    def start() -> PeerServer:
        http_port, grpc_port, metrics_port = free_ports(3)
        ports = {"http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port}
        settings_file.write_text(json.dumps({**json.loads(settings_file.read_text()), **ports}))
        return _start(command, folder, http_port, ready)

    server = _at_a_free_port(start)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def running_kserve(environment: Path, folder: Path, models: tuple[str, ...]) -> Iterator[PeerServer]:
    """KServe's Python server for `models`: names that have a `<name>.joblib` in `folder`."""
    files = [f"{name}={name}.joblib" for name in models]
    ready = tuple(f"/v2/models/{name}/ready" for name in models)

    def start() -> PeerServer:
        (port,) = free_ports(1)
        options = ["--http_port", str(port), "--enable_grpc", "false"]
        return _start([str(environment / "bin" / "python"), "serve.py", *options, *files], folder, port, ready)

    server = _at_a_free_port(start)
    try:
        yield server
    finally:
        server.stop()


def _at_a_free_port(start: Callable[[], PeerServer]) -> PeerServer:
    """These servers cannot be told port 0, so a free one is looked for first; where somebody is faster, look again."""
    for _ in range(2):
        try:
            return start()
        except PortTakenError:
            continue
    return start()


def _start(command: list[str], folder: Path, port: int, ready: tuple[str, ...]) -> PeerServer:
    """Start a server; returns once every path in `ready` is answered 200."""
    log_file = folder / f"server-{port}.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=peer_variables(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    server = PeerServer(f"http://127.0.0.1:{port}", process)
    deadline = time.monotonic() + START_TIMEOUT_S
    with httpx.Client(base_url=server.url, trust_env=False, timeout=5.0) as client:
        while not all(_is_ready(client, path) for path in ready):
            ended = process.poll() is not None
            if ended or time.monotonic() > deadline:
                server.stop()
                _complain(command, log_file)
            time.sleep(0.1)
    return server


def _is_ready(client: httpx.Client, path: str) -> bool:
    try:
        return client.get(path).status_code == 200
    except httpx.TransportError:
        return False


def _complain(command: list[str], log_file: Path) -> None:
    log = log_file.read_text(errors="replace")
    if "address already in use" in log.lower():
        raise PortTakenError(log_file)
    raise AssertionError(f"{' '.join(command)} did not get ready; the end of its log:\n{log[-3000:]}")
