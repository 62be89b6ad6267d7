"""Fewer, larger files: a day that nobody adds to becomes one file, a busy day never has many.

A query opens each file for 0.1 ms, and a minute's compaction makes one per stream. A settled day (two days old) is
merged whole. A busy one is merged from its end, taking older files only while they are not much larger than what is
merged anyway: every row is rewritten a few times, not once per merge. What a merge means for readers: manifest.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

import duckdb

from fairtrial.events.batch import PARQUET_OPTIONS, parquet_scan, sql_text
from fairtrial.events.columns import STREAMS
from fairtrial.events.disk import publish
from fairtrial.events.manifest import Manifest, ManifestFile, NewFile

MANY_FILES = 24
SETTLED_AFTER_DAYS = 2
KEEP_REPLACED_US = 24 * 3_600_000_000
_DAY_US = 86_400_000_000
_GROWTH = 4


def merge_days(con: duckdb.DuckDBPyConnection, manifest: Manifest, root: Path, *, now_us: int) -> int:
    """Merge days with more than 24 files, and settled days with more than one; returns the number of merges.

    now_us: microseconds since 1970. Files replaced over a day before it are removed from disk and manifest.
    """
    merges = 0
    settled_before = date.fromordinal(date(1970, 1, 1).toordinal() + now_us // _DAY_US - SETTLED_AFTER_DAYS).isoformat()
    for stream in STREAMS:
        for day, count in manifest.days(stream).items():
            is_settled = day < settled_before
            if count > (1 if is_settled else MANY_FILES):
                files = manifest.files_of_day(stream, day)
                _merge(con, manifest, root, files if is_settled else trailing_run(files), now_us)
                merges += 1
    for path in manifest.purge(replaced_before=now_us - KEEP_REPLACED_US):
        path.unlink(missing_ok=True)
    return merges


def trailing_run(files: Sequence[ManifestFile]) -> Sequence[ManifestFile]:
    """The newest files, back to the first that is over four times larger than all newer ones together; at least two."""
    rows = 0
    for index in range(len(files) - 1, -1, -1):
        if index < len(files) - 2 and files[index].rows > _GROWTH * rows:
            return files[index + 1 :]
        rows += files[index].rows
    return files


def _merge(
    con: duckdb.DuckDBPyConnection, manifest: Manifest, root: Path, files: Sequence[ManifestFile], now_us: int
) -> None:
    first, last = files[0], files[-1]
    path = root / first.stream / f"day={first.day}" / f"merged-{first.first_id}-{last.id}.parquet"
    temporary = path.with_name(path.name + ".tmp")
    con.execute(
        f"COPY (SELECT * FROM {parquet_scan([f.path for f in files])}) TO {sql_text(temporary)}"  # noqa: S608 - our paths
        f" ({PARQUET_OPTIONS})"
    )
    publish(temporary, path)
    rows = sum(f.rows for f in files)
    low, high = min(f.min_at for f in files), max(f.max_at for f in files)
    manifest.replace(files, NewFile(first.stream, first.day, path, rows, low, high), now=now_us)
