"""Reads the snapshot from disk and notices when it changes; keeps the last good one beside it.

A snapshot that cannot be read is never served: the one in use stays. A worker that starts while the file is broken
starts from the last good copy, so that a router restarts without its controller.
"""

from __future__ import annotations

import os
from pathlib import Path

from fairtrial.model.allocation import Snapshot
from fairtrial.model.errors import ConfigError
from fairtrial.model.snapshot import decode_snapshot

Stamp = tuple[int, int, int]


class SnapshotFile:
    """path: written by atomic replacement. The copy of the last good one is `<path>.good`."""

    __slots__ = ("_good", "_path", "_stamp")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._good = path.with_name(path.name + ".good")
        self._stamp: Stamp | None = None

    def load_first(self) -> tuple[Snapshot, ConfigError | None]:
        """The snapshot to start with, and what was wrong with the current file if it is the last good one.

        Raises ConfigError where neither can be used.
        """
        try:
            return self.load(), None
        except ConfigError as exc:
            try:
                return decode_snapshot(self._good.read_bytes()), exc
            except (OSError, ConfigError):
                raise exc from None

    def load(self) -> Snapshot:
        """The snapshot on disk now, kept as the last good one. Raises ConfigError."""
        self._stamp = self._read_stamp()
        try:
            data = self._path.read_bytes()
        except OSError as exc:
            raise ConfigError(f"{self._path} cannot be read: {exc}") from exc
        snapshot = decode_snapshot(data)
        self._keep(data)
        return snapshot

    def has_changed(self) -> bool:
        """True where the file is not the one that `load` last read, good or bad."""
        return self._read_stamp() != self._stamp

    def _read_stamp(self) -> Stamp | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size

    def _keep(self, data: bytes) -> None:
        fresh = self._good.with_name(f"{self._good.name}.{os.getpid()}")
        try:
            fresh.write_bytes(data)
            fresh.replace(self._good)
        except OSError as exc:
            raise ConfigError(f"{self._good} cannot be written: {exc}") from exc
