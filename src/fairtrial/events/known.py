"""Ids already counted, remembered as 64-bit hashes in memory: a new id is told from a known one without reading a file.

Looking up a small batch in a day of a million rows costs 100 ms by reading the files' ids, and 10 ms here. It is a
filter only: what it takes for known is looked up in the files, so a collision costs time and never an event. Bounded:
the days used longest ago go first, and a day beyond the bound is always looked up in its files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from fairtrial.events.manifest import ManifestFile

MAX_ROWS = 10_000_000  # 80 MB


@dataclass(slots=True)
class _Day:
    table: str
    rows: int = 0
    paths: set[Path] = field(default_factory=set)


class KnownIds:
    """Hashes of the ids in live files, by stream and UTC day, in tables of `con`. max_rows: of all of them together."""

    def __init__(self, con: duckdb.DuckDBPyConnection, *, max_rows: int = MAX_ROWS) -> None:
        self._con = con
        self._max_rows = max_rows
        self._days: dict[tuple[str, int], _Day] = {}  # used longest ago first

    def table(self, stream: str, day: int, files: Sequence[ManifestFile], scan: str) -> str | None:
        """Name of a table with a column `hash` for every id in `files`, all live ones of the day; None if too many.

        day: days since 1970. scan: table expression with a `?` for the list of paths. Raises duckdb.Error.
        """
        key = (stream, day)
        known = self._days.pop(key, None)
        paths = {f.path for f in files}
        rows = sum(f.rows for f in files)
        if rows > self._max_rows:
            if known is not None:
                self._con.execute(f"DROP TABLE {known.table}")
            return None
        if known is None or not known.paths <= paths:  # unknown, or files were merged
            known = _Day(f"known_{stream}_{day}".replace("-", "_"))
            self._con.execute(f"CREATE OR REPLACE TEMP TABLE {known.table} (hash UBIGINT)")
        new = [str(path) for path in paths - known.paths]
        if new:
            self._con.execute(f"INSERT INTO {known.table} SELECT hash(id) FROM {scan}", [new])  # noqa: S608 - our own
            known.paths |= paths
        known.rows = rows
        self._days[key] = known
        self._forget()
        return known.table

    def _forget(self) -> None:
        while sum(day.rows for day in self._days.values()) > self._max_rows:
            oldest = next(iter(self._days))
            self._con.execute(f"DROP TABLE {self._days.pop(oldest).table}")
