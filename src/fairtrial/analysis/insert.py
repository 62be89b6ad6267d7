"""Puts a few rows into a table with one statement: DuckDB's `executemany` plans and runs each row on its own."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

Value = str | int | float | bool | None


def insert_rows(con: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Sequence[Value]]) -> None:
    """Insert `rows`, all of one length, into `table`, a name or a name with columns of this package's own making."""
    if not rows:
        return
    marks = ", ".join(f"({', '.join('?' * len(rows[0]))})" for _ in rows)
    con.execute(f"INSERT INTO {table} VALUES {marks}", [value for row in rows for value in row])  # noqa: S608 - marks
