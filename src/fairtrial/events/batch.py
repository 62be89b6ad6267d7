"""One slice of the log inside DuckDB: loaded, rid of what was seen before, written out by day.

"Seen before" is by (UTC day of the event, id). The first one written stays, whichever batch brought it; a later one
with the same content is a duplicate, with other content a conflict, which is set apart. A record whose sender gave no
instant carries its arrival instead, so its retry may fall on the next day: those are also looked up one day back.

The lookup asks the hashes of known ids first (known.py), reads the id column of the day's files only for candidates,
and whole rows only for the ids found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import duckdb

from fairtrial.events.columns import (
    DAY_US,
    DEDUPLICATED,
    column_names,
    content_of,
    json_columns,
    select_list,
)
from fairtrial.events.known import KnownIds
from fairtrial.events.manifest import ManifestFile

# Level 1 and the encodings of format version 2 (delta-packed integers): against DuckDB's defaults, writing and scanning
# take half the time, and the files are a sixth smaller. pyarrow, polars and Spark read them.
PARQUET_OPTIONS = "FORMAT parquet, PARQUET_VERSION v2, COMPRESSION zstd, COMPRESSION_LEVEL 1"
_EPOCH = date(1970, 1, 1)
_IDS = "read_parquet(?, hive_partitioning = false)"
FilesOfDay = Callable[[str, str], Sequence[ManifestFile]]


@dataclass(frozen=True, slots=True)
class DayPart:
    """Rows of the batch that belong to one UTC day. number: days since 1970."""

    number: int
    rows: int
    min_at: int
    max_at: int

    @property
    def day(self) -> str:
        """`YYYY-MM-DD`."""
        return day_name(self.number)


def day_name(number: int) -> str:
    """`YYYY-MM-DD` of a count of days since 1970."""
    return (_EPOCH + timedelta(days=number)).isoformat()


def connect(*, memory_limit: str, threads: int, scratch: Path) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB that never reaches for the network and spills to `scratch`."""
    con = duckdb.connect(
        ":memory:",
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "memory_limit": memory_limit,
            "threads": threads,
            "temp_directory": str(scratch / "spill"),
        },
    )
    con.execute("SET enable_progress_bar = false")
    return con


def sql_text(value: str | Path) -> str:
    """A SQL string literal."""
    return "'" + str(value).replace("'", "''") + "'"


def parquet_scan(paths: Sequence[Path]) -> str:
    """A table expression over Parquet files; columns that an older file lacks are NULL.

    Without Hive partitioning: DuckDB would add a column `day`, read off the folder's name, and a merge would keep it.
    """
    return f"read_parquet([{', '.join(sql_text(p) for p in paths)}], union_by_name = true, hive_partitioning = false)"


class Batch:
    """The records of one slice, in log order (`rowid`), in the temporary table `batch` of `con`."""

    def __init__(self, con: duckdb.DuckDBPyConnection, stream: str, source: Path, known: KnownIds) -> None:
        self._con = con
        self._known = known
        self._stream = stream
        self.lines = 0
        self._load(source)

    def _load(self, source: Path) -> None:
        # A line that does not parse becomes a row of NULLs, so that one bad line never stops the log; it is counted.
        self._con.execute(
            f"CREATE OR REPLACE TEMP TABLE batch AS SELECT {select_list(self._stream)},"  # noqa: S608 - our own columns
            f' CAST(floor("at" / {DAY_US}) AS INTEGER) AS day_'
            f" FROM read_json({sql_text(source)}, format = 'newline_delimited', columns = {json_columns(self._stream)},"
            " ignore_errors = true)"
        )
        self._con.execute("CREATE OR REPLACE TEMP TABLE dropped (row_ BIGINT, is_conflict BOOLEAN)")

    def drop_unreadable(self) -> int:
        """Take out lines that are no record of the stream; returns how many."""
        key = "id" if self._stream in DEDUPLICATED else "request_id"
        where = f'WHERE "at" IS NULL OR {key} IS NULL'
        count = self._one(f"SELECT count(*) FROM batch {where}")[0]  # noqa: S608 - our own columns
        if count:
            self._con.execute(f"INSERT INTO dropped SELECT rowid, NULL FROM batch {where}")  # noqa: S608
        return count

    def drop_repeated(self, files_of_day: FilesOfDay) -> None:
        """Take out what was seen before, in this batch or in the files of its days."""
        if self._stream not in DEDUPLICATED:
            return
        # The files first: a record that is repeated here and known there is compared with the one that was kept.
        for part in self.days():
            self._drop_known(part.number, part.number, files_of_day, "true")
            self._drop_known(part.number, part.number - 1, files_of_day, 'b."at" = b.received_at')
        self._drop_repeated_in_batch()

    def _drop_repeated_in_batch(self) -> None:
        left = "rowid NOT IN (SELECT row_ FROM dropped)"
        repeated = self._one(f"SELECT count(*) - count(DISTINCT (day_, id)) FROM batch WHERE {left}")[0]  # noqa: S608
        content = content_of(self._stream, "b")
        if repeated:
            self._con.execute(
                "INSERT INTO dropped SELECT row_, c IS DISTINCT FROM first_c FROM ("  # noqa: S608 - our own columns
                f" SELECT b.rowid AS row_, {content} AS c, first_value({content}) OVER w AS first_c,"
                f" row_number() OVER w AS n FROM batch b WHERE {left}"
                " WINDOW w AS (PARTITION BY day_, id ORDER BY b.rowid)) WHERE n > 1"
            )
        first = content_of(self._stream, "f")
        # Retries of records without an instant, across midnight, inside one batch: at most one of each id is left a
        # day.
        self._con.execute(
            f"INSERT INTO dropped SELECT b.rowid, {content} IS DISTINCT FROM {first} FROM batch b JOIN batch f"  # noqa: S608
            ' ON b.id = f.id AND b.day_ = f.day_ + 1 WHERE b."at" = b.received_at AND f."at" = f.received_at'
            " AND (SELECT count(DISTINCT day_) FROM batch) > 1"
            " AND b.rowid NOT IN (SELECT row_ FROM dropped) AND f.rowid NOT IN (SELECT row_ FROM dropped)"
        )

    def _drop_known(self, day: int, known_day: int, files_of_day: FilesOfDay, condition: str) -> None:
        """Drop the rows of `day` for which `condition` holds and whose id is in the files of `known_day`."""
        files = files_of_day(self._stream, day_name(known_day))
        if not files:
            return
        hashes = self._known.table(self._stream, known_day, files, _IDS)
        may_be_known = "" if hashes is None else f" AND hash(b.id) IN (SELECT hash FROM {hashes})"  # noqa: S608
        known = parquet_scan([f.path for f in files])
        self._con.execute(
            f"CREATE OR REPLACE TEMP TABLE candidates AS SELECT b.rowid AS row_, b.id FROM batch b"  # noqa: S608 - our own
            f" WHERE b.day_ = {day} AND {condition} AND b.rowid NOT IN (SELECT row_ FROM dropped){may_be_known}"
        )
        if not self._one("SELECT count(*) FROM candidates")[0]:
            return
        # The small side is hashed, the files stream past it.
        self._con.execute(
            f"CREATE OR REPLACE TEMP TABLE found AS SELECT k.id FROM {known} k SEMI JOIN candidates USING (id)"  # noqa: S608
        )
        if not self._one("SELECT count(*) FROM found")[0]:
            return
        was_arrival = "" if condition == "true" else 'AND k."at" = k.received_at'
        self._con.execute(
            f"INSERT INTO dropped SELECT c.row_, {content_of(self._stream, 'b')} IS DISTINCT FROM"  # noqa: S608 - our own
            f" {content_of(self._stream, 'k')} FROM candidates c JOIN batch b ON b.rowid = c.row_ JOIN"
            f" (SELECT * FROM {known} WHERE id IN (SELECT id FROM found)) k ON k.id = c.id {was_arrival}"
        )

    def repeated(self) -> tuple[int, int]:
        """(duplicates, conflicts) found by `drop_repeated`."""
        row = self._one("SELECT count(*) FILTER (NOT is_conflict), count(*) FILTER (is_conflict) FROM dropped")
        return row[0], row[1]

    def days(self) -> list[DayPart]:
        """What is left, by day."""
        return self._days("NOT IN (SELECT row_ FROM dropped)")

    def conflict_days(self) -> list[DayPart]:
        """The conflicts, by day."""
        return self._days("IN (SELECT row_ FROM dropped WHERE is_conflict)")

    def write_day(self, part: DayPart, path: Path) -> None:
        """Write what is left of one day to `path`, in log order."""
        self._copy(
            f"SELECT {column_names(self._stream)} FROM batch WHERE day_ = {part.number}"  # noqa: S608 - our own columns
            f"{self._unless_dropped()}",  # DuckDB keeps the order of insertion, which is the log's
            path,
        )

    def write_conflicts(self, part: DayPart, path: Path) -> None:
        """Write the conflicts of one day to `path`: what they are, why they are here, and the record as JSON."""
        self._copy(
            f'SELECT id, "at", received_at, {sql_text(self._stream)} AS stream,'  # noqa: S608 - our own columns
            " 'same id as an earlier record, different content' AS reason, CAST(to_json("
            f"(SELECT r FROM (SELECT {column_names(self._stream)}) r)) AS VARCHAR) AS record FROM batch"
            f" WHERE day_ = {part.number} AND rowid IN (SELECT row_ FROM dropped WHERE is_conflict)",
            path,
        )

    def _unless_dropped(self) -> str:
        some = self._one("SELECT count(*) FROM dropped")[0]
        return " AND rowid NOT IN (SELECT row_ FROM dropped)" if some else ""

    def _days(self, condition: str) -> list[DayPart]:
        days = 'SELECT day_, count(*), min("at"), max("at") FROM batch WHERE rowid'
        rows = self._con.execute(f"{days} {condition} GROUP BY day_ ORDER BY day_").fetchall()
        return [DayPart(*row) for row in rows]

    def _copy(self, query: str, path: Path) -> None:
        self._con.execute(f"COPY ({query}) TO {sql_text(path)} ({PARQUET_OPTIONS})")

    def _one(self, query: str) -> tuple[int, ...]:
        row: tuple[int, ...] | None = self._con.execute(query).fetchone()
        assert row is not None
        return row
