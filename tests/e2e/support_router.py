"""The real router worker as a process of its own, on a free port, with its state in a temporary folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec

from fairtrial.events.log import read_frames
from fairtrial.model.parse import parse_experiment
from fairtrial.model.records import RequestRecord
from fairtrial.model.snapshot import encode_snapshot, first_allocations, make_snapshot
from fairtrial.router.worker import WorkerConfig, encode_config

STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class RunningRouter:
    """A router that answers on `url` (no path). log: folder of its request records."""

    url: str
    state_dir: Path
    log: Path
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """Drain and end; the records of every answered request are on disk afterwards."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(STOP_TIMEOUT_S) == 0

    def records(self) -> list[RequestRecord]:
        """What the router wrote down; whole after `stop`."""
        payloads = b"\n".join(frame.payload.rstrip(b"\n") for frame in read_frames(self.log))
        return [msgspec.json.decode(line, type=RequestRecord) for line in payloads.splitlines() if line]


@contextmanager
def running_router(experiment_yaml: str, tmp_path: Path) -> Iterator[RunningRouter]:
    """Serve an experiment file for the duration, every experiment at its first stage or at its enrolment."""
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    file = parse_experiment(experiment_yaml)
    allocations = first_allocations(file, started_at=time.time_ns() // 1000)
    snapshot_path = state_dir / "snapshot.json"
    snapshot_path.write_bytes(encode_snapshot(make_snapshot(file, allocations, version=1)))
    config = WorkerConfig(
        worker_id=0, host="127.0.0.1", port=0, reuse_port=False, state_dir=state_dir, snapshot_path=snapshot_path
    )
    read_end, write_end = os.pipe()
    command = [sys.executable, "-m", "fairtrial.router.worker", encode_config(config, control_fd=read_end)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, pass_fds=(read_end,)) as process:
        os.close(read_end)
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())  # printed once connections are accepted
            yield RunningRouter(f"http://127.0.0.1:{port}", state_dir, state_dir / "log" / "requests-0", process)
        finally:
            os.close(write_end)  # a router whose parent is gone drains by itself
            try:
                process.wait(STOP_TIMEOUT_S)
            finally:
                process.kill()


@contextmanager
def asking(url: str) -> Iterator[httpx.Client]:
    """A client that keeps its connections and takes no proxy from the environment."""
    with httpx.Client(base_url=url, trust_env=False, timeout=20.0) as client:
        yield client
