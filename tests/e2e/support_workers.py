"""Router workers as processes of their own, and a raw client that hides nothing of what comes back."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import msgspec
import yaml
from tests.e2e.support_models import Reader

from fairtrial.events.log import read_frames
from fairtrial.model.allocation import Allocation
from fairtrial.model.experiment import ExperimentFile, JsonValue
from fairtrial.model.parse import parse_experiment
from fairtrial.model.records import RequestRecord
from fairtrial.model.snapshot import encode_snapshot, first_allocations, make_snapshot
from fairtrial.router.worker import WorkerConfig, encode_config

WAIT_S = 20.0
METRICS = {"errors": {"role": "primary", "kind": "proportion", "of": "error", "mde": "10%"}}


def experiment(models: Mapping[str, str], **changes: object) -> dict[str, object]:
    """An experiment `x` that splits model a (control) and b (treatment); `changes` replace its keys."""
    return {
        "endpoint": "e",
        "hypothesis": "None of this matters here.",
        "owner": "router",
        "unit": {"header": "x-user-id"},
        "variants": {name: {"model": model} for name, model in models.items()},
        "split": dict.fromkeys(models, 100 / len(models)),
        "metrics": METRICS,
        **changes,
    }


def document(
    urls: dict[str, str],
    *,
    endpoints: Mapping[str, object] | None = None,
    experiments: Mapping[str, object] | None = None,
    router: Mapping[str, object] | None = None,
) -> str:
    """An experiment file: model names to urls; the first is the stable one of endpoint `e`, which takes every path."""
    stable = next(iter(urls))
    return yaml.safe_dump(
        {
            "models": {name: {"url": url, "version": name} for name, url in urls.items()},
            "endpoints": endpoints or {"e": {"match": {"path": "/"}, "model": stable}},
            "experiments": experiments or {},
            "router": {"upstream_idle": "3s", **(router or {})},
        },
        sort_keys=False,
    )


@dataclass
class Workers:
    """Worker processes on one port."""

    state_dir: Path
    port: int = 0
    version: int = 1
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    pipes: list[int] = field(default_factory=list)

    def publish(self, text: str, *, change: Callable[[Allocation], Allocation] | None = None) -> None:
        """Write the next snapshot; workers notice it by themselves."""
        file: ExperimentFile = parse_experiment(text)
        allocations = first_allocations(file, started_at=time.time_ns() // 1000)
        if change is not None:
            allocations = {name: change(each) for name, each in allocations.items()}
        data = encode_snapshot(make_snapshot(file, allocations, version=self.version))
        self.version += 1
        fresh = self.state_dir / "snapshot.fresh"
        fresh.write_bytes(data)
        fresh.replace(self.snapshot_path)

    @property
    def snapshot_path(self) -> Path:
        return self.state_dir / "snapshot.json"

    def start(self, *, reuse_port: bool = False) -> subprocess.Popen[bytes]:
        """One more worker; returns once it accepts."""
        read_end, write_end = os.pipe()
        config = WorkerConfig(
            len(self.processes), "127.0.0.1", self.port, self.state_dir, self.snapshot_path, reuse_port=reuse_port
        )
        command = [sys.executable, "-m", "fairtrial.router.worker", encode_config(config, control_fd=read_end)]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=(read_end,)
        )
        os.close(read_end)
        self.pipes.append(write_end)
        self.processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.stderr.read().decode() if process.stderr is not None else ""
        self.port = int(line)
        return process

    def stop(self) -> None:
        """Drain all; records of answered requests are on disk afterwards."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            if process.returncode is None:
                assert process.wait(WAIT_S) == 0

    def kill(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait(WAIT_S)
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        for pipe in self.pipes:
            os.close(pipe)

    def records(self) -> list[RequestRecord]:
        """What the workers wrote down; whole after `stop`."""
        records: list[RequestRecord] = []
        for index in range(len(self.processes)):
            for frame in read_frames(self.state_dir / "log" / f"requests-{index}"):
                lines = bytes(frame.payload).splitlines()
                records += [msgspec.json.decode(line, type=RequestRecord) for line in lines if line]
        return records

    def client(self) -> Client:
        return Client(self.port)

    def ask(self, target: str = "/", *, body: bytes | None = None, method: str = "", **fields: str) -> Answer:
        """One request on a connection of its own. fields: header names with `_` for `-`."""
        with self.client() as client:
            return client.ask(target, body=body, method=method, **fields)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        page = self.ask("/-/metrics").body.decode()
        total = 0.0
        for line in page.splitlines():
            series, _, value = line.rpartition(" ")
            found = re.fullmatch(rf"{name}(?:\{{(.*)\}})?", series)
            if found and all(f'{key}="{wanted}"' in (found[1] or "") for key, wanted in labels.items()):
                total += float(value)
        return total

    def wait_for_metric(self, name: str, least: float, **labels: str) -> None:
        wait_until(lambda: self.metric(name, **labels) >= least)


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline, "it never became so"
        time.sleep(0.02)


@dataclass(frozen=True)
class Answer:
    """fields: lower-case names. is_whole: the message ended as its framing says."""

    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes
    is_whole: bool = True

    def field(self, name: str) -> str | None:
        values = [value for key, value in self.fields if key == name]
        assert len(values) <= 1, f"{name} stands {len(values)} times"
        return values[0] if values else None

    def json(self) -> JsonValue:
        value: JsonValue = json.loads(self.body)
        return value


class Client:
    """One connection. Reads answers with the test's own strict reader."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), WAIT_S)
        self.reader = Reader(self.sock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.sock.close()

    def ask(self, target: str = "/", *, body: bytes | None = None, method: str = "", **fields: str) -> Answer:
        method = method or ("GET" if body is None else "POST")
        self.send(target, body=body, method=method, **fields)
        return self.answer(method)

    def send(self, target: str = "/", *, body: bytes | None = None, method: str = "GET", **fields: str) -> None:
        lines = [f"{method} {target} HTTP/1.1", "Host: test"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        self.raw("\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""))

    def raw(self, data: bytes) -> None:
        self.sock.sendall(data)

    def head(self) -> tuple[int, tuple[tuple[str, str], ...]]:
        head = self.reader.head()
        assert head is not None, "closed without an answer"
        start, fields = head
        return int(start.split(" ")[1]), fields

    def answer(self, method: str = "GET") -> Answer:
        status, fields = self.head()
        while status < 200:
            status, fields = self.head()
        names = dict(fields)
        if method == "HEAD" or status in {204, 304}:
            return Answer(status, fields, b"")
        if "content-length" in names:
            try:
                return Answer(status, fields, self.reader.exactly(int(names["content-length"])))
            except (EOFError, OSError):
                return Answer(status, fields, self.reader.buffer, is_whole=False)
        body = b""
        try:
            for piece in self.reader.chunks():
                body += piece
        except (EOFError, OSError):
            return Answer(status, fields, body, is_whole=False)
        return Answer(status, fields, body)

    def rest(self) -> bytes:
        """Everything until the router closes."""
        data, self.reader.buffer = self.reader.buffer, b""
        while piece := self.sock.recv(65536):
            data += piece
        return data

    def is_closed(self) -> bool:
        """True once the router has closed; waits for it."""
        try:
            return self.reader.buffer == b"" and self.sock.recv(1) == b""
        except ConnectionResetError:
            return True


@contextmanager
def workers(text: str, folder: Path, *, count: int = 1) -> Iterator[Workers]:
    """Running workers that serve an experiment file, every experiment at its first stage."""
    folder.mkdir(parents=True, exist_ok=True)
    running = Workers(folder)
    running.publish(text)
    try:
        for _ in range(count):
            running.start(reuse_port=count > 1)
        yield running
    finally:
        running.kill()
