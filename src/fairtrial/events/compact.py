"""From the log to Parquet files that can be queried: exactly once, whatever crashes when.

    read a slice of the log -> DuckDB -> `<stream>/day=.../<log>-<from>-<to>.parquet.tmp` -> fsync -> rename -> fsync of
    the folder -> one manifest transaction: files live, cursor moved

Before the transaction nothing counts: files without a manifest row are orphans, removed at the next start, and the
slice is read again from the same cursor. After it the slice is never read again. No Parquet writer syncs its files,
so we do; only then may the log's segments go. Decision and alternatives:
docs/decisions/0031-exactly-once-by-compaction.md.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import structlog

from fairtrial.events.batch import Batch, DayPart, connect
from fairtrial.events.columns import stream_of_log
from fairtrial.events.disk import make_directory, publish
from fairtrial.events.frames import Frame, Position, segment_name
from fairtrial.events.known import KnownIds
from fairtrial.events.log import LogLockedError, read_frames
from fairtrial.events.manifest import Cursor, Manifest, NewFile, Tally
from fairtrial.events.merge import merge_days
from fairtrial.events.reading import list_segments, segment_created_at
from fairtrial.model.errors import CorruptLogError, UpstreamError

SLICE_BYTES = 64 << 20
_logger = structlog.get_logger("fairtrial.events")


class CompactionError(UpstreamError):
    """A disk or database did not play along. Nothing is lost or counted twice: the next run does it again."""


@dataclass(frozen=True, slots=True)
class CompactionResult:
    """What one run did. rows: newly readable ones. files: Parquet files made. log_bytes: of records read."""

    rows: int = 0
    duplicates: int = 0
    conflicts: int = 0
    unreadable: int = 0
    files: int = 0
    log_bytes: int = 0

    def __add__(self, other: CompactionResult) -> CompactionResult:
        return CompactionResult(
            self.rows + other.rows,
            self.duplicates + other.duplicates,
            self.conflicts + other.conflicts,
            self.unreadable + other.unreadable,
            self.files + other.files,
            self.log_bytes + other.log_bytes,
        )


@dataclass(frozen=True, slots=True)
class _Slice:
    log: str
    stream: str
    start: Position
    end: Cursor
    size: int


class Compactor:
    """The one process that writes `<state>/parquet` and the manifest; not thread-safe, blocking (run it in a thread).

    slice_bytes: records per transaction. memory_limit, threads: of DuckDB. Raises LogLockedError where another
    compactor works on `state`.
    """

    def __init__(
        self, state: Path, *, slice_bytes: int = SLICE_BYTES, memory_limit: str = "1GB", threads: int | None = None
    ) -> None:
        self._state = state.absolute()
        self._root = self._state / "parquet"
        make_directory(self._root)
        self._lock_fd = _lock(self._state / "compact.lock")
        self._slice_bytes = slice_bytes
        self._source = self._root / "slice.ndjson.tmp"
        self.manifest = Manifest(self._state)
        self._con = connect(memory_limit=memory_limit, threads=threads or os.cpu_count() or 1, scratch=self._root)
        self._known = KnownIds(self._con)
        self._remove_orphans()

    def close(self) -> None:
        """Give up the lock and the databases."""
        self._con.close()
        self.manifest.close()
        self._source.unlink(missing_ok=True)
        os.close(self._lock_fd)

    def run_once(self) -> CompactionResult:
        """Compact everything the logs hold now.

        Raises CorruptLogError, after the undamaged logs are done, and CompactionError.
        """
        result = CompactionResult()
        damage: CorruptLogError | None = None
        for log in self._logs():
            try:
                with _failing_as(f"compacting {log}"):
                    for piece in self._slices(log):
                        result += self._compact(piece)
            except CorruptLogError as exc:
                _logger.error("log damaged", log=log, error=str(exc))  # noqa: TRY400 - raised below, with its trace
                damage = exc
        if damage is not None:
            raise damage
        return result

    def merge_days(self, *, now_us: int) -> int:
        """Join small files (merge.py); returns the number of merges. now_us: microseconds since 1970.

        Raises CompactionError.
        """
        with _failing_as("merging files"):
            return merge_days(self._con, self.manifest, self._root, now_us=now_us)

    def trim_log(self, *, older_than_us: int) -> int:
        """Remove compacted segments last written before `older_than_us`; returns how many.

        A log's last segment stays, whatever its age: it carries the numbering on.
        """
        removed = 0
        for log in self._logs():
            directory = self._state / "log" / log
            done = self.manifest.cursor(log).position.seq
            for seq in list_segments(directory)[:-1]:
                path = directory / segment_name(seq)
                if seq >= done or path.stat().st_mtime_ns // 1000 >= older_than_us:
                    break
                path.unlink()
                removed += 1
        return removed

    def _logs(self) -> list[str]:
        directory = self._state / "log"
        names = [e.name for e in os.scandir(directory) if e.is_dir()] if directory.is_dir() else []
        return sorted(name for name in names if stream_of_log(name) is not None)

    def _slices(self, log: str) -> Iterator[_Slice]:
        """Cut what is new in `log` into pieces, each lying in the source file while it is current."""
        directory = self._state / "log" / log
        start = self.manifest.cursor(log)
        _check_same_log(directory, start)
        stream = stream_of_log(log)
        assert stream is not None
        frames = read_frames(directory, start.position)
        while True:
            position, size = self._copy_frames(frames)
            if position is None:
                return
            created_at = segment_created_at(directory / segment_name(position.seq))
            end = Cursor(position, created_at)
            yield _Slice(log, stream, start.position, end, size)
            start = end

    def _copy_frames(self, frames: Iterator[Frame]) -> tuple[Position | None, int]:
        """Write the next frames' records to the source file; returns where they end (None: no more) and their size."""
        position, size = None, 0
        with self._source.open("wb") as file:
            for frame in frames:
                file.write(frame.payload)
                position = frame.next_position
                size += len(frame.payload)
                if size >= self._slice_bytes:
                    break
        return position, size

    def _compact(self, piece: _Slice) -> CompactionResult:
        batch = Batch(self._con, piece.stream, self._source, self._known)
        unreadable = batch.drop_unreadable()
        batch.drop_repeated(self.manifest.files_of_day)
        duplicates, conflicts = batch.repeated()
        files = [self._write(piece, piece.stream, part, batch.write_day) for part in batch.days()]
        rows = sum(f.rows for f in files)
        files += [self._write(piece, "rejected", part, batch.write_conflicts) for part in batch.conflict_days()]
        tally = Tally(rows, duplicates, conflicts, unreadable)
        self.manifest.record(piece.log, piece.end, files, piece.stream, tally)
        return CompactionResult(rows, duplicates, conflicts, unreadable, len(files), piece.size)

    def _write(self, piece: _Slice, stream: str, part: DayPart, write: Callable[[DayPart, Path], None]) -> NewFile:
        """Put one day's rows on disk under a name that says which range of which log they are."""
        directory = self._root / stream / f"day={part.day}"
        make_directory(directory)
        start, end = piece.start, piece.end.position
        path = directory / f"{piece.log}-{start.seq}.{start.offset}-{end.seq}.{end.offset}.parquet"
        temporary = path.with_name(path.name + ".tmp")
        write(part, temporary)
        publish(temporary, path)
        return NewFile(stream, part.day, path, part.rows, part.min_at, part.max_at)

    def _remove_orphans(self) -> None:
        """Remove files that a crashed run left: those that no manifest row names."""
        known = self.manifest.known_paths()
        for path in self._root.glob("*/day=*/*"):
            if path not in known:
                path.unlink()


@contextmanager
def _failing_as(doing: str) -> Iterator[None]:
    """Say one kind of error for all that disk, DuckDB and SQLite can raise."""
    try:
        yield
    except (OSError, duckdb.Error, sqlite3.Error) as exc:
        raise CompactionError(f"{doing} failed and will be tried again: {exc}") from exc


def _lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(fd)
        raise LogLockedError(f"{path.parent} is being compacted by another process: stop it first") from exc
    return fd


def _check_same_log(directory: Path, cursor: Cursor) -> None:
    """Notice a log that was deleted and begun anew: its positions mean other records than the cursor's."""
    segments = list_segments(directory)
    seq = cursor.position.seq
    if not seq or not segments:
        return
    path = directory / segment_name(seq)
    if seq > segments[-1] or (seq in segments and segment_created_at(path) != cursor.segment_created_at):
        raise CorruptLogError(
            f"log {directory} is not the one that was compacted up to {cursor.position}: it was deleted or replaced. "
            "Put it back, or start with a new state directory"
        )
