"""The memory of known ids: a filter that follows the files, and stays within its bound."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from fairtrial.events.known import KnownIds
from fairtrial.events.manifest import ManifestFile

SCAN = "read_parquet(?)"


@pytest.fixture
def con() -> duckdb.DuckDBPyConnection:
    return duckdb.connect()


def file(con: duckdb.DuckDBPyConnection, folder: Path, name: str, count: int) -> ManifestFile:
    path = folder / f"{name}.parquet"
    con.execute(f"COPY (SELECT '{name}' || i AS id FROM range({count}) t(i)) TO '{path}' (FORMAT parquet)")
    return ManifestFile(1, 1, "outcomes", "2024-10-04", path, count, 0, 0, 1)


def holds(con: duckdb.DuckDBPyConnection, table: str | None, name: str) -> bool:
    row = con.execute(f"SELECT count(*) FROM {table} WHERE hash = hash(?)", [name]).fetchone()
    assert row is not None
    return bool(row[0])


def test_it_holds_every_id_of_the_files_it_was_shown(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    known = KnownIds(con)
    a, b = file(con, tmp_path, "a", 10), file(con, tmp_path, "b", 10)
    assert not holds(con, known.table("outcomes", 1, [a], SCAN), "b3")
    table = known.table("outcomes", 1, [a, b], SCAN)
    assert holds(con, table, "a3")
    assert holds(con, table, "b3")
    assert not holds(con, known.table("outcomes", 2, [a], SCAN), "b3"), "each day has its own"


def test_merged_files_are_read_anew(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    known = KnownIds(con)
    a, merged = file(con, tmp_path, "a", 10), file(con, tmp_path, "m", 12)
    known.table("outcomes", 1, [a], SCAN)
    table = known.table("outcomes", 1, [merged], SCAN)
    assert holds(con, table, "m11")
    assert con.execute(f"SELECT count(*) FROM {table}").fetchone() == (12,)


def test_days_used_longest_ago_are_forgotten(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    known = KnownIds(con, max_rows=25)
    a = file(con, tmp_path, "a", 10)
    tables = [known.table("outcomes", day, [a], SCAN) for day in (1, 2, 1, 3)]
    left = {row[0] for row in con.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    assert left == {tables[0], tables[3]}


def test_a_day_beyond_the_bound_is_left_to_its_files(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    known = KnownIds(con, max_rows=15)
    a, b = file(con, tmp_path, "a", 10), file(con, tmp_path, "b", 10)
    assert known.table("outcomes", 1, [a], SCAN) is not None
    assert known.table("outcomes", 1, [a, b], SCAN) is None
    assert con.execute("SELECT count(*) FROM duckdb_tables()").fetchone() == (0,)
