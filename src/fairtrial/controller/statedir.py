"""The state directory: where one `fairtrial up` keeps everything, and the lock that keeps a second one out."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fairtrial.model.errors import FairtrialError


class StateDirBusyError(FairtrialError):
    """Another process owns the state directory."""


class Running(msgspec.Struct, frozen=True):
    """What `up.json` says of the process that owns the directory."""

    pid: int
    host: str
    port: int
    router_host: str
    router_port: int
    file: str


@dataclass(frozen=True, slots=True)
class StateDir:
    """Paths below one root."""

    root: Path

    @property
    def snapshot(self) -> Path:
        """The allocation that routers serve; survives everything."""
        return self.root / "snapshot.json"

    @property
    def epochs(self) -> Path:
        """Every epoch of every experiment so far."""
        return self.root / "epochs.json"

    @property
    def database(self) -> Path:
        """The analysis engine's disposable cache."""
        return self.root / "state.duckdb"

    @property
    def views(self) -> Path:
        """The last published view of each experiment."""
        return self.root / "views"

    @property
    def running_file(self) -> Path:
        """Ports and process id of the running owner."""
        return self.root / "up.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Own the directory for the duration; raises StateDirBusyError where another process does."""
        self.root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _try_lock(descriptor):
                raise StateDirBusyError(
                    f"{self.root} is in use by another fairtrial process; stop it, or choose another --state"
                )
            yield
        finally:
            os.close(descriptor)

    def read_running(self) -> Running | None:
        """The owner's ports, or None where nobody is running: the lock is the truth, the file may be left over."""
        try:
            running = msgspec.json.decode(self.running_file.read_bytes(), type=Running)
        except (OSError, msgspec.DecodeError):
            return None
        try:
            with self.locked():
                return None
        except StateDirBusyError:
            return running


def _try_lock(descriptor: int) -> bool:
    """Lock without waiting; a few tries, because `read_running` of a passer-by holds the lock for an instant."""
    for attempt in range(5):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.02 * attempt)
        else:
            return True
    return False


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` so that a reader, or a power cut, sees the old content or the new, never a mixture."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
