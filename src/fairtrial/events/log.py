"""The append side of the event log: numbered segment files, each frame checked, durable when `sync` returns.

One writer per directory (a lock file says so). Nothing here runs in the background but the preparation of the next
segment; group commit lives in `writer`. A log is opened on a *new* segment, always: what an earlier process may have
left unsynced is never appended to.

Sizes: the first segment of a process is 4 MiB and each further one twice the last, up to `segment_bytes`, so a demo
leaves 4 MiB behind and a busy log rotates rarely. Sealed segments are cut to their real length.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self

from fairtrial.events.disk import make_directory, sync_data, write_at
from fairtrial.events.frames import (
    FRAME_HEAD_BYTES,
    HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    SEAL_BYTES,
    START,
    Frame,
    FrameKind,
    Position,
    encode_frame,
    encode_seal,
    segment_name,
)
from fairtrial.events.reading import read_frames
from fairtrial.events.recovery import Recovery, recover
from fairtrial.events.spare import SpareMaker, adopt_segment, create_segment
from fairtrial.model.errors import ConfigError, FairtrialError

__all__ = ["START", "Frame", "FrameKind", "Position", "SegmentLog", "read_frames"]

SEGMENT_BYTES = 64 << 20
FIRST_SEGMENT_BYTES = 4 << 20


class LogLockedError(ConfigError):
    """Another process writes this log."""


class LogSyncError(FairtrialError):
    """The device did not confirm a write: what is on disk is unknown, and asking again would lie (disk.py)."""


class SegmentLog:
    """Append-only log in one directory. Not thread-safe: one thread appends and syncs.

    After LogSyncError, or an OSError other than for lack of space, the object must not be used again: `abandon` it and
    open the log anew, in a new process.
    """

    def __init__(self, directory: Path, lock_fd: int, recovery: Recovery, segment_bytes: int, *, prefill: bool) -> None:
        self.recovery = recovery
        self._directory = directory
        self._lock_fd = lock_fd
        self._segment_bytes = segment_bytes
        self._prefill = prefill
        self._target_bytes = min(FIRST_SEGMENT_BYTES, segment_bytes) if prefill else segment_bytes
        self._spares = SpareMaker(directory)
        self._seq = recovery.next_seq
        self._fd = -1
        self._offset = self._frames = self._payload_bytes = 0
        self._start_segment()

    @classmethod
    def open(cls, directory: Path, *, segment_bytes: int = SEGMENT_BYTES, prefill: bool = True) -> Self:
        """Recover the log in `directory` (made if missing) and start a new segment.

        segment_bytes: size at which a segment is sealed; one frame larger than that gets a segment of its own.
        prefill: fill segments with zeros ahead of use (faster commits, more bytes on disk).
        Raises LogLockedError, CorruptLogError, OSError.
        """
        make_directory(directory)
        lock_fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o640)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(lock_fd)
            raise LogLockedError(
                f"log {directory} is in use by another process: stop it, or use another --state"
            ) from exc
        try:
            return cls(directory, lock_fd, recover(directory), segment_bytes, prefill=prefill)
        except BaseException:
            os.close(lock_fd)
            raise

    @property
    def end(self) -> Position:
        """Where the next frame will start."""
        return Position(self._seq, self._offset)

    def append(self, payload: bytes, kind: int = FrameKind.RECORDS) -> Position:
        """Write one frame; it is durable only after `sync`. Returns its position.

        payload: 1 byte to 256 MiB. Raises OSError; if `disk.is_out_of_space` says so, nothing was appended and the log
        can go on once there is room. Raises LogSyncError where sealing a full segment failed.
        """
        if not 0 < len(payload) <= MAX_PAYLOAD_BYTES:
            raise ValueError(f"a frame holds 1 to {MAX_PAYLOAD_BYTES} bytes, not {len(payload)}")
        size = FRAME_HEAD_BYTES + len(payload)
        if self._frames and self._offset + size + SEAL_BYTES > self._target_bytes:
            self._rotate()
        position = self.end
        write_at(self._fd, encode_frame(self._seq, self._offset, kind, payload), self._offset)
        self._offset += size
        self._frames += 1
        self._payload_bytes += len(payload)
        if self._prefill and self._offset > self._target_bytes // 2:
            self._spares.prepare(self._seq + 1, fill_bytes=self._next_target())
        return position

    def sync(self) -> None:
        """Make everything appended durable. Raises LogSyncError: then none of it may be acknowledged, now or later."""
        try:
            sync_data(self._fd)
        except OSError as exc:
            raise self._sync_error(exc) from exc

    def _sync_error(self, exc: OSError) -> LogSyncError:
        return LogSyncError(f"log {self._directory}: syncing {segment_name(self._seq)} failed: {exc}")

    def close(self) -> None:
        """Seal the segment (an empty one is removed) and give up the lock. Raises OSError, LogSyncError."""
        try:
            if self._frames:
                self._seal()
            else:
                (self._directory / segment_name(self._seq)).unlink()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Give up the files and the lock, writing nothing: for a log whose state on disk is unknown."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._spares.close()
            os.close(self._lock_fd)

    def _next_target(self) -> int:
        return min(self._target_bytes * 2, self._segment_bytes)

    def _rotate(self) -> None:
        """Seal this segment, then open the next one. Out of space half-way, it is repeated by the next append."""
        self._seal()
        spare = self._spares.take(self._seq + 1) or create_segment(self._directory, self._seq + 1, fill_bytes=0)
        try:
            path = adopt_segment(spare)
        except OSError as exc:
            raise self._sync_error(exc) from exc
        os.close(self._fd)
        self._fd = os.open(path, os.O_RDWR)
        self._target_bytes = self._next_target()
        self._seq += 1
        self._offset, self._frames, self._payload_bytes = HEADER_BYTES, 0, 0

    def _start_segment(self) -> None:
        fill_bytes = self._target_bytes if self._prefill else 0
        path = adopt_segment(create_segment(self._directory, self._seq, fill_bytes=fill_bytes))
        self._fd = os.open(path, os.O_RDWR)
        self._offset = HEADER_BYTES

    def _seal(self) -> None:
        """Write the seal durably at the end; writing it twice writes the same bytes. The unused zeros are cut off."""
        seal = encode_seal(self._seq, self._offset, frames=self._frames, payload_bytes=self._payload_bytes)
        write_at(self._fd, seal, self._offset)
        try:
            os.ftruncate(self._fd, self._offset + len(seal))
            os.fsync(self._fd)
        except OSError as exc:
            raise self._sync_error(exc) from exc
