"""Parquet columns of each stream, read off the record types, so that log and files cannot drift apart."""

from __future__ import annotations

from typing import Final, Literal, get_args, get_origin, get_type_hints

import msgspec

from fairtrial.model.records import ExposureRecord, OutcomeRecord, RequestRecord

RECORD_TYPES: Final[dict[str, type[msgspec.Struct]]] = {
    "requests": RequestRecord,
    "exposures": ExposureRecord,
    "outcomes": OutcomeRecord,
}
STREAMS: Final = (*RECORD_TYPES, "rejected")
# Streams whose records carry an id made by the sender, so that a repeated one can be known again. A request's id may be
# chosen by its client and repeated with it: each record of the router is a request of its own.
DEDUPLICATED: Final = ("exposures", "outcomes")
DAY_US: Final = 86_400_000_000


def stream_of_log(log: str) -> str | None:
    """The stream whose records a log holds: `requests-3` -> `requests`; None where the folder is none of ours."""
    name = log.partition("-")[0]
    return name if name in RECORD_TYPES else None


def json_columns(stream: str) -> str:
    """The `columns` argument of DuckDB's read_json."""
    return "{" + ", ".join(f"{_quote(n)}: '{t}'" for n, t, _ in _fields(stream)) + "}"


def select_list(stream: str) -> str:
    """Each column with its default filled in: a field at its default is left out of the log's line."""
    return ", ".join(_expression(name, kind, default) for name, kind, default in _fields(stream))


def column_names(stream: str) -> str:
    """The columns, quoted, in the order of the record's fields."""
    return ", ".join(_quote(name) for name, _, _ in _fields(stream))


def content_of(stream: str, table: str) -> str:
    """What makes two records with one id the same: all but the arrival, and the instant where the sender gave none."""
    ours = {"received_at", "derived_id", "at", "id"}
    names = [name for name, _, _ in _fields(stream) if name not in ours]
    instant = f'CASE WHEN {table}."at" = {table}.received_at THEN NULL ELSE {table}."at" END'
    return f"row({', '.join(f'{table}.{_quote(name)}' for name in names)}, {instant})"


def _fields(stream: str) -> list[tuple[str, str, object]]:
    record = RECORD_TYPES[stream]
    hints = get_type_hints(record)
    return [(f.name, _sql_type(hints[f.name]), f.default) for f in msgspec.structs.fields(record)]


def _sql_type(hint: object) -> str:
    if get_origin(hint) is Literal:
        return "VARCHAR"
    options = [o for o in get_args(hint) if o is not type(None)] if get_origin(hint) is not dict else []
    plain = options[0] if options else hint
    if get_origin(plain) is dict:
        return "JSON"
    return {str: "VARCHAR", int: "BIGINT", float: "DOUBLE", bool: "BOOLEAN"}[plain]  # type: ignore[index]


def _expression(name: str, kind: str, default: object) -> str:
    column = _quote(name)
    if kind == "JSON":
        return f"CAST({column} AS VARCHAR) AS {column}"
    if default is None or default is msgspec.NODEFAULT:
        return column
    literal = f"'{default}'" if isinstance(default, str) else str(default)
    return f"coalesce({column}, CAST({literal} AS {kind})) AS {column}"


def _quote(name: str) -> str:
    return f'"{name}"'
