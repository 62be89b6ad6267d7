"""Reads a foreign table, holds it to what the event log guarantees, and turns it into unit rows."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb

from fairtrial.analysis import sql
from fairtrial.analysis.foreign_csv import DataError, csv_reader, explain
from fairtrial.analysis.foreign_metrics import MANY_ROWS, ForeignMetric
from fairtrial.analysis.insert import insert_rows
from fairtrial.model.errors import ConfigError, NotFoundError
from fairtrial.model.experiment import AnalysisPlan, MetricKind

MOST_VARIANTS: Final = 20
PARQUET: Final = frozenset({".parquet", ".pq"})


@dataclass(frozen=True, slots=True)
class TableQuestion:
    """What to ask of a table: its columns by meaning, and how to judge. split: intended share by variant, or None."""

    unit: str
    variant: str
    control: str
    metrics: tuple[ForeignMetric, ...]
    split: Mapping[str, float] | None
    plan: AnalysisPlan


def open_table(con: duckdb.DuckDBPyConnection, data: object) -> list[str]:
    """Make the view `source`; answer its columns."""
    try:
        if isinstance(data, str | Path):
            con.execute("CREATE VIEW source AS FROM " + _reader(Path(data)))
        else:
            con.register("source", data)
        return [str(row[0]) for row in con.execute("DESCRIBE source").fetchall()]
    except duckdb.Error as error:
        shown = data if isinstance(data, str | Path) else type(data).__name__
        raise DataError(f"{shown} cannot be read as a table: {_first_line(error)}") from error


def _reader(path: Path) -> str:
    """SQL that reads the file. CSV columns are read as text, so that a bad value can be named instead of guessed at."""
    if not path.is_file():
        raise NotFoundError(f"{path} does not exist or is no file; give a CSV or Parquet file")
    if path.suffix in PARQUET:
        return "read_parquet('" + str(path).replace("'", "''") + "')"
    return csv_reader(path)


def check_columns(question: TableQuestion, columns: list[str]) -> None:
    """Raise ConfigError for a column that the table does not have, with the nearest one it has."""
    uses = {"unit": [question.unit], "variant": [question.variant]}
    uses |= {f"metric '{metric.name}'": list(metric.columns) for metric in question.metrics}
    for use, wanted in uses.items():
        for column in wanted:
            if column not in columns:
                near = difflib.get_close_matches(column, columns, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(columns)}"
                raise ConfigError(f"{use}: the table has no column '{column}'; {hint}")


def read_rows(con: duckdb.DuckDBPyConnection, question: TableQuestion, data: object) -> None:
    """Table `entry`: row number, unit and variant as text, and every measured column once, as text and as number."""
    columns = ", ".join(
        f"CAST({_name(column)} AS VARCHAR) AS {_name('text ' + column)}, "
        f"CASE lower(CAST({_name(column)} AS VARCHAR)) WHEN 'true' THEN 1.0 WHEN 'false' THEN 0.0 "
        f"ELSE try_cast({_name(column)} AS DOUBLE) END AS {_name('number ' + column)}"
        for column in _measured(question)
    )
    try:
        con.execute(
            "CREATE TABLE entry AS SELECT row_number() OVER () AS row, "  # noqa: S608 - names are quoted
            f"CAST({_name(question.unit)} AS VARCHAR) AS unit, "
            f"CAST({_name(question.variant)} AS VARCHAR) AS variant, {columns} FROM source"
        )
    except duckdb.Error as error:
        fault = explain(Path(data)) if isinstance(data, str | Path) and Path(data).suffix not in PARQUET else None
        shown = f"{data} is no regular table: {fault}" if fault else f"the table cannot be read: {_first_line(error)}"
        raise DataError(shown) from error


def check_variants(con: duckdb.DuckDBPyConnection, question: TableQuestion) -> list[str]:
    """The variants, control first."""
    for column, key in ((question.unit, "unit"), (question.variant, "variant")):
        empty = con.execute(f"SELECT min(row), count(*) FROM entry WHERE {key} IS NULL").fetchone()  # noqa: S608 - a constant
        assert empty is not None
        if empty[1]:
            raise DataError(
                f"column '{column}' is empty in row {empty[0]} ({empty[1]} rows in all); every row needs one"
            )
    names = [str(row[0]) for row in con.execute("SELECT DISTINCT variant FROM entry ORDER BY variant").fetchall()]
    if not names:
        raise DataError("the table has no rows")
    shown = ", ".join(names[:MOST_VARIANTS])
    if question.control not in names:
        raise ConfigError(f"control '{question.control}' is not in column '{question.variant}'; there are: {shown}")
    if not 2 <= len(names) <= MOST_VARIANTS:
        raise DataError(
            f"column '{question.variant}' holds {len(names)} variants ({shown}); 2 to {MOST_VARIANTS} can be compared"
        )
    if question.split is not None and set(question.split) != set(names):
        raise ConfigError(f"split names {', '.join(question.split)}; the table has {shown}: name each of them once")
    return [question.control, *(name for name in names if name != question.control)]


def check_values(con: duckdb.DuckDBPyConnection, question: TableQuestion) -> None:
    """Raise DataError for a value that is no finite number, or neither 0 nor 1 in a proportion."""
    for metric in question.metrics:
        for column in metric.columns:
            number = _name("number " + column)
            condition, allowed = f"{number} IS NULL OR NOT isfinite({number})", "a finite number"
            if metric.kind is MetricKind.PROPORTION:
                condition, allowed = f"{condition} OR {number} NOT IN (0, 1)", "0 or 1"
            bad = con.execute(
                f"SELECT row, {_name('text ' + column)}, count(*) OVER () "  # noqa: S608 - names are quoted
                f"FROM entry WHERE {condition} ORDER BY row LIMIT 1"
            ).fetchone()
            if bad is not None:
                row, text, rows = bad
                found = "empty" if text is None else f"'{text}'"
                raise DataError(
                    f"metric '{metric.name}': column '{column}' is {found} in row {row} ({rows} such rows in all); "
                    f"every value must be {allowed}"
                )


def check_one_row_per_unit(con: duckdb.DuckDBPyConnection, question: TableQuestion) -> None:
    """Raise DataError where a unit has several rows in one variant and a metric counts one per unit."""
    strict = [metric for metric in question.metrics if metric.kind not in MANY_ROWS]
    if not strict:
        return
    found = con.execute(
        "SELECT unit, count(*), list(row ORDER BY row)[:5] FROM entry GROUP BY unit "
        "HAVING count(*) > 1 AND min(variant) = max(variant) ORDER BY min(row) LIMIT 1"
    ).fetchone()
    if found is not None:
        unit, rows, places = found
        metric = strict[0]
        raise DataError(
            f"unit '{unit}' has {rows} rows ({', '.join(map(str, places))}), and a {metric.kind} needs one per unit: "
            f"sum the rows first, or ask for the mean per row with {metric.name}=ratio({metric.column},1)"
        )


_UNITS: Final = """
INSERT INTO exp_units
SELECT row_number() OVER (ORDER BY unit), 0, min(code), min(code), 0, min(code) <> max(code)
FROM entry JOIN arm ON arm.name = variant GROUP BY unit;
CREATE TEMP TABLE key AS
SELECT unit AS text, row_number() OVER (ORDER BY unit) AS unit FROM (SELECT DISTINCT unit FROM entry);
"""


def fill_unit_rows(con: duckdb.DuckDBPyConnection, question: TableQuestion, names: list[str]) -> None:
    """The tables that `refresh.py` would keep, from the rows: cell is the variant's place, for there is one epoch."""
    con.execute(sql.CREATE_TABLES)
    con.execute("CREATE TEMP TABLE arm (name VARCHAR, code TINYINT)")
    insert_rows(con, "arm", [(name, code) for code, name in enumerate(names)])
    con.execute(_UNITS)
    con.execute(
        "INSERT INTO traffic SELECT 0, code, count(*), 0, 0, 0 FROM entry JOIN arm ON arm.name = variant GROUP BY code"
    )
    rows = "FROM entry JOIN key ON key.text = entry.unit JOIN exp_units u ON u.unit = key.unit WHERE NOT u.is_crossover"
    for index, metric in enumerate(question.metrics):
        value = _name("number " + metric.column)
        if metric.kind is MetricKind.QUANTILE:
            con.execute(f"INSERT INTO unit_value SELECT u.unit, {index}, 0, u.cell, {value} {rows}")
            continue
        below = (
            _name("number " + metric.denominator)
            if isinstance(metric.denominator, str)
            else str(metric.denominator or 0.0)
        )
        con.execute(
            f"INSERT INTO unit_metric SELECT u.unit, {index}, 0, any_value(u.cell), sum({value}), sum({below}), 0 "
            f"{rows} GROUP BY u.unit"
        )


def _measured(question: TableQuestion) -> list[str]:
    return list(dict.fromkeys(column for metric in question.metrics for column in metric.columns))


def _name(column: str) -> str:
    """A quoted SQL name."""
    return '"' + column.replace('"', '""') + '"'


def _first_line(error: duckdb.Error) -> str:
    return str(error).splitlines()[0]
