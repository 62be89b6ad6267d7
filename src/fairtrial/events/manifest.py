"""Which Parquet files hold which part of the log: `<state>/manifest.db`, the only truth about what was compacted.

A file's rows and the log position behind them are committed in one transaction, so a range of the log is in exactly one
live file per day, whatever crashed when (docs/decisions/0031-exactly-once-by-compaction.md). Readers never list
folders.

Incremental readers. Ids of one stream rise in log order; a reader keeps the largest id it has seen and asks for files
`after` it. A merged file takes the *last* id of the files it replaces and remembers the first: a reader past all of
them is never shown it, and a reader at the beginning is shown it instead of them. A reader whose cursor lies between
is shown the originals that it lacks, which stay on disk for a day (`purge`); one that comes back later still gets
`ManifestGapError` and starts over. Late events need nothing special: their file has a new id and an old day.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fairtrial.events.disk import make_directory
from fairtrial.events.frames import START, Position
from fairtrial.model.errors import FairtrialError

MANIFEST_NAME: Final = "manifest.db"
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS files (
  key INTEGER PRIMARY KEY, id INTEGER NOT NULL, first_id INTEGER NOT NULL, stream TEXT NOT NULL, day TEXT NOT NULL,
  path TEXT NOT NULL UNIQUE, rows INTEGER NOT NULL, min_at INTEGER NOT NULL, max_at INTEGER NOT NULL,
  bytes INTEGER NOT NULL, replaced_at INTEGER) STRICT;
CREATE INDEX IF NOT EXISTS files_of_stream ON files (stream, id);
CREATE INDEX IF NOT EXISTS files_of_day ON files (stream, day);
CREATE TABLE IF NOT EXISTS cursors (
  log TEXT PRIMARY KEY, seq INTEGER NOT NULL, offset INTEGER NOT NULL, segment_created_at INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS tallies (
  stream TEXT PRIMARY KEY, rows INTEGER NOT NULL, duplicates INTEGER NOT NULL, conflicts INTEGER NOT NULL,
  unreadable INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS purged (stream TEXT PRIMARY KEY, through_id INTEGER NOT NULL) STRICT;
"""
_COLUMNS: Final = "id, first_id, stream, day, path, rows, min_at, max_at, bytes"


class ManifestGapError(FairtrialError):
    """The reader's cursor lies inside a merged file whose originals are gone: it must read from the start."""


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One live Parquet file. id: cursor value after reading it. first_id: first of the ids merged into it.

    path: absolute. day: UTC day of its events, `YYYY-MM-DD`. min_at, max_at: microseconds since 1970.
    """

    id: int
    first_id: int
    stream: str
    day: str
    path: Path
    rows: int
    min_at: int
    max_at: int
    bytes: int


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file written, synced and in place, about to be recorded."""

    stream: str
    day: str
    path: Path
    rows: int
    min_at: int
    max_at: int


@dataclass(frozen=True, slots=True)
class Tally:
    """Rows of a stream since the beginning. duplicates: same id, same content. conflicts: same id, other content.

    unreadable: lines of the log that are no record of the stream; they stay in the log.
    """

    rows: int = 0
    duplicates: int = 0
    conflicts: int = 0
    unreadable: int = 0


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a log was compacted. segment_created_at: from the header of segment `position.seq`, to know it again."""

    position: Position = START
    segment_created_at: int = 0


class Manifest:
    """Thread-safe handle on the manifest of one state directory. One process writes (the compactor), any may read."""

    def __init__(self, state: Path) -> None:
        self._state = state.absolute()
        make_directory(self._state)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(
            self._state / MANIFEST_NAME, timeout=30, isolation_level=None, check_same_thread=False
        )
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    def files(self, stream: str, *, after: int = 0) -> list[ManifestFile]:
        """Files of `stream` that a reader with cursor `after` lacks, in log order. Raises ManifestGapError."""
        with self._lock:
            live = self._select("stream = ? AND id > ? AND replaced_at IS NULL", stream, after)
            straddling = [f for f in live if f.first_id <= after]
            if not straddling:
                return live
            if after < self._purged_through(stream):
                raise ManifestGapError(f"{stream}: files after {after} were merged and purged; read from the start")
            found = [f for f in live if f.first_id > after]
            for merged in straddling:
                parts = "stream = ? AND day = ? AND id > ? AND id <= ? AND id = first_id"
                found += self._select(parts, stream, merged.day, after, merged.id)
        return sorted(found, key=lambda f: f.id)

    def files_of_day(self, stream: str, day: str) -> list[ManifestFile]:
        """Live files of one UTC day, in log order."""
        with self._lock:
            return self._select("stream = ? AND day = ? AND replaced_at IS NULL", stream, day)

    def days(self, stream: str) -> dict[str, int]:
        """Number of live files of each day."""
        query = "SELECT day, count(*) FROM files WHERE stream = ? AND replaced_at IS NULL GROUP BY day ORDER BY day"
        with self._lock:
            return dict(self._db.execute(query, (stream,)).fetchall())

    def cursor(self, log: str) -> Cursor:
        """How far `log` (a folder name below `<state>/log`) was compacted; the start where it never was."""
        with self._lock:
            row = self._db.execute(
                "SELECT seq, offset, segment_created_at FROM cursors WHERE log = ?", (log,)
            ).fetchone()
        return Cursor(Position(row[0], row[1]), row[2]) if row else Cursor()

    def tally(self, stream: str) -> Tally:
        """Counts of `stream` since the beginning."""
        query = "SELECT rows, duplicates, conflicts, unreadable FROM tallies WHERE stream = ?"
        with self._lock:
            row = self._db.execute(query, (stream,)).fetchone()
        return Tally(*row) if row else Tally()

    def record(self, log: str, cursor: Cursor, files: Sequence[NewFile], stream: str, tally: Tally) -> None:
        """One transaction: `files` are live, `log` is compacted up to `cursor`, `tally` is added to the stream's."""
        with self._lock, self._transaction():
            (last_id,) = self._db.execute("SELECT coalesce(max(id), 0) FROM files").fetchone()
            for number, file in enumerate(files, start=last_id + 1):
                self._insert(file, number, number)
            self._db.execute(
                "INSERT OR REPLACE INTO cursors VALUES (?, ?, ?, ?)", (log, *cursor.position, cursor.segment_created_at)
            )
            self._db.execute(
                "INSERT INTO tallies VALUES (?, ?, ?, ?, ?) ON CONFLICT (stream) DO UPDATE SET"
                " rows = rows + excluded.rows, duplicates = duplicates + excluded.duplicates,"
                " conflicts = conflicts + excluded.conflicts, unreadable = unreadable + excluded.unreadable",
                (stream, tally.rows, tally.duplicates, tally.conflicts, tally.unreadable),
            )

    def replace(self, old: Sequence[ManifestFile], merged: NewFile, *, now: int) -> None:
        """One transaction: `merged` holds the rows of `old`, neighbours of one day. now: microseconds since 1970."""
        with self._lock, self._transaction():
            self._db.executemany(
                "UPDATE files SET replaced_at = ? WHERE path = ?", [(now, self._relative(f.path)) for f in old]
            )
            self._insert(merged, old[-1].id, old[0].first_id)

    def purge(self, *, replaced_before: int) -> list[Path]:
        """Forget files replaced before an instant (microseconds since 1970); the caller removes what is returned."""
        with self._lock, self._transaction():
            rows = self._db.execute(
                "SELECT path, stream, id FROM files WHERE replaced_at < ?", (replaced_before,)
            ).fetchall()
            self._db.executemany(
                "INSERT INTO purged VALUES (?, ?) ON CONFLICT (stream)"
                " DO UPDATE SET through_id = max(through_id, excluded.through_id)",
                [(stream, number) for _, stream, number in rows],
            )
            self._db.execute("DELETE FROM files WHERE replaced_at < ?", (replaced_before,))
        return [self._state / path for path, _, _ in rows]

    def known_paths(self) -> set[Path]:
        """Every file that may still be read, replaced ones included."""
        with self._lock:
            return {self._state / path for (path,) in self._db.execute("SELECT path FROM files")}

    def _select(self, where: str, *values: str | int) -> list[ManifestFile]:
        query = f"SELECT {_COLUMNS} FROM files WHERE {where} ORDER BY id"  # noqa: S608 - constants of this module
        return [
            ManifestFile(i, first, stream, day, self._state / path, rows, low, high, size)
            for i, first, stream, day, path, rows, low, high, size in self._db.execute(query, values)
        ]

    def _insert(self, file: NewFile, number: int, first: int) -> None:
        size = file.path.stat().st_size
        path = self._relative(file.path)
        self._db.execute(
            f"INSERT INTO files ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - a constant
            (number, first, file.stream, file.day, path, file.rows, file.min_at, file.max_at, size),
        )

    def _purged_through(self, stream: str) -> int:
        row = self._db.execute("SELECT through_id FROM purged WHERE stream = ?", (stream,)).fetchone()
        return int(row[0]) if row else 0

    def _relative(self, path: Path) -> str:
        """Paths are kept relative to the state directory, so that it can be moved."""
        return str(path.relative_to(self._state))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
