"""Keeps one experiment's unit rows equal to what all files say, by looking at the new files only.

A unit's rows are sums over its events, so events of a known unit are added. Three things cannot be added: a new unit
(its earlier events lie in files already counted), a first exposure that moves to an earlier time, and a unit that turns
out to have met two arms. Such units are "dirty": their rows are computed afresh from the files whose time span can
hold their events. A full recompute is the same code with every unit new, which is why the two agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from string import Template
from typing import Final

import duckdb

from fairtrial.analysis import sql
from fairtrial.analysis.files import Cursor, DataFile, FilesByStream, Span, within
from fairtrial.analysis.insert import insert_rows
from fairtrial.analysis.rules import FOREVER, NEVER, MeasurePlan, Rule, Stream

ID_SLACK_US: Final = 600_000_000
"""A request's id is made at its `at`, on the same clock; ten minutes forgive a clock that was set in between."""


class RefreshKind(StrEnum):
    """How much was read."""

    UNCHANGED = "unchanged"
    INCREMENTAL = "incremental"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class RefreshResult:
    """What a refresh did. files: newly counted. new_units: first seen. recomputed_units: known ones computed afresh."""

    kind: RefreshKind
    files: int = 0
    new_units: int = 0
    recomputed_units: int = 0


@dataclass(frozen=True, slots=True)
class _Dirty:
    """Units to compute afresh; `span` of the first exposures of those that are analysed."""

    units: int
    new_units: int
    span: Span | None


def read_cursor(con: duckdb.DuckDBPyConnection) -> Cursor:
    """How far the current schema's rows have counted."""
    row = con.execute("SELECT requests, exposures, outcomes FROM cursor").fetchone()
    return Cursor() if row is None else Cursor(*row)


def refresh_units(con: duckdb.DuckDBPyConnection, plan: MeasurePlan, files: FilesByStream) -> RefreshResult:
    """Count the files not counted before. Runs inside the caller's transaction, in the experiment's schema."""
    cursor = read_cursor(con)
    new = files.after(cursor)
    if new.is_empty():
        return RefreshResult(RefreshKind.UNCHANGED)
    dirty = _Job(con, plan, files, cursor).run()
    return RefreshResult(
        RefreshKind.FULL if cursor == Cursor() else RefreshKind.INCREMENTAL,
        files=len(new.requests) + len(new.exposures) + len(new.outcomes),
        new_units=dirty.new_units,
        recomputed_units=dirty.units - dirty.new_units,
    )


class _Job:
    """One refresh. Each method is one step; the SQL of every step is in `sql.py`."""

    def __init__(self, con: duckdb.DuckDBPyConnection, plan: MeasurePlan, files: FilesByStream, cursor: Cursor) -> None:
        self.con = con
        self.plan = plan
        self.files = files
        self.cursor = cursor
        self.new = files.after(cursor)
        self.is_full = cursor == Cursor()
        self.outcome_rules = plan.rules(Stream.OUTCOMES)
        self.request_rules = plan.rules(Stream.REQUESTS)
        self.named: list[tuple[int, Span]] = []

    def run(self) -> _Dirty:
        self._load_plan()
        self._view("new_exposures", "exposures", self.new.exposures)
        self._view("new_requests", "requests", self.new.requests)
        self._view("new_outcomes", "outcomes", self.new.outcomes)
        self._note_new_files()
        self.con.execute(sql.FIND_TOUCHED)
        self.con.execute(sql.FIND_DIRTY)
        dirty = self._count_dirty()
        if not self.is_full:
            self._add_to_clean_units()
            if dirty.units > dirty.new_units:
                self.con.execute(sql.FORGET_DIRTY)
        self.con.execute(sql.KEEP_DIRTY)
        if dirty.span is not None:
            self._compute_dirty_units(dirty.span)
        self.con.execute(sql.ADD_TRAFFIC)
        self.con.execute(sql.DROP_TEMPORARIES)
        return dirty

    def _load_plan(self) -> None:
        self.con.execute(sql.CREATE_PLAN)
        arms = [(name, code) for code, name in enumerate(self.plan.arms)]
        insert_rows(self.con, "arm", arms)
        rows = [_rule_row(rule) for rule in (*self.outcome_rules, *self.request_rules)]
        insert_rows(self.con, "rule", rows)

    def _view(self, view: str, stream: str, files: Iterable[DataFile]) -> None:
        paths = [file.path for file in files]
        if not paths:
            self.con.execute(sql.EMPTY_VIEW.substitute(view=view, columns=sql.EMPTY[stream]))
            return
        names = {rule.event for rule in self.outcome_rules}
        condition = Template(sql.FILTERS[stream]).substitute(
            experiment=_quoted(self.plan.experiment),
            names=f"name IN ({', '.join(map(_quoted, sorted(names)))})" if names else "false",
        )
        listed = f"[{', '.join(map(_quoted, paths))}]"
        self.con.execute(
            sql.VIEW.substitute(view=view, columns=sql.COLUMNS[stream], files=listed, filter=condition),
        )

    def _note_new_files(self) -> None:
        """Move the cursor, and note which files of outcomes name requests, made when."""
        self.con.execute("DELETE FROM cursor")
        newest = self.new.newest(self.cursor)
        self.con.execute("INSERT INTO cursor VALUES (?, ?, ?)", [newest.requests, newest.exposures, newest.outcomes])
        if self.new.outcomes and self.outcome_rules:
            ids = {file.path: file.id for file in self.new.outcomes}
            rows = [
                (ids[path], *_id_span(count, readable, low, high))
                for path, count, readable, low, high in self.con.execute(sql.COUNT_REQUEST_OUTCOMES).fetchall()
            ]
            insert_rows(self.con, "named", rows)
        found = self.con.execute("SELECT id, from_us, to_us FROM named").fetchall()
        self.named = [(file_id, Span(start, end)) for file_id, start, end in found]

    def _names_any_of(self, file: DataFile, requests: Iterable[Span]) -> bool:
        """True where an outcome of `file` may name a request made in one of these spans."""
        own = [span for file_id, span in self.named if file.lowest_id <= file_id <= file.id]
        return any(_may_meet(named, made) for made in requests for named in own)

    def _count_dirty(self) -> _Dirty:
        found = self.con.execute(sql.COUNT_DIRTY).fetchone()
        assert found is not None
        units, new_units, first, last = found
        return _Dirty(units, new_units, None if first is None else Span(first, last))

    def _add_to_clean_units(self) -> None:
        self.con.execute(sql.TARGET_CLEAN)
        self._resolve_for_clean_units()
        events = self._events("new")
        if not events:
            return
        self.con.execute("CREATE OR REPLACE TEMP TABLE delta AS " + self._unit_rows(events))
        self.con.execute(sql.ADD_DELTA)
        self._keep_values(events)

    def _resolve_for_clean_units(self) -> None:
        """Outcomes and requests arrive in any order: new outcomes of any request, any outcomes of new requests."""
        lookup = [
            file
            for file in self.files.requests
            if any(self._names_any_of(outcomes, [_span_of(file)]) for outcomes in self.new.outcomes)
        ]
        made = [_span_of(file) for file in self.new.requests]
        earlier = [
            file for file in self.files.outcomes if file.id <= self.cursor.outcomes and self._names_any_of(file, made)
        ]
        if not lookup and not earlier:
            self.con.execute(sql.RESOLVE_NOTHING)
            return
        self._view("lookup_requests", "requests", lookup)
        self._view("earlier_outcomes", "outcomes", earlier)
        self.con.execute(sql.RESOLVE_CLEAN)

    def _compute_dirty_units(self, first_exposures: Span) -> None:
        assert first_exposures.start is not None
        assert first_exposures.end is not None
        self.con.execute(sql.TARGET_DIRTY)
        start, end = first_exposures.start, first_exposures.end
        spans = [rule.span() for rule in self.outcome_rules]
        reach = Span(start + min((s for s, _ in spans), default=0), end + max((e for _, e in spans), default=0))
        self._view("window_outcomes", "outcomes", within(self.files.outcomes, reach))
        self._view("window_requests", "requests", within(self.files.requests, Span(start)))
        named = [file for file in self.files.outcomes if self._names_any_of(file, [Span(start)])]
        self._view("request_outcomes", "outcomes", named)
        self.con.execute(sql.RESOLVE_DIRTY if named else sql.RESOLVE_NOTHING)
        events = self._events("window")
        if events:
            self.con.execute("INSERT INTO unit_metric " + self._unit_rows(events))
            self._keep_values(events)

    def _events(self, prefix: str) -> str:
        """SQL of the events that feed any rule; empty where nothing can."""
        sources = []
        if self.outcome_rules:
            sources += [sql.EVENTS_OF["outcomes"], sql.EVENTS_OF["resolved"]]
        if self.request_rules:
            sources.append(sql.EVENTS_OF["requests"])
        value = sql.NAMED_VALUE if any(_path(rule) for rule in self.outcome_rules) else sql.PLAIN_VALUE
        return Template("\n  UNION ALL".join(sources)).substitute(prefix=prefix, value=value)

    def _unit_rows(self, events: str) -> str:
        rules = (*self.outcome_rules, *self.request_rules)
        return sql.UNIT_ROWS.substitute(
            events=events,
            y=sql.SUM.substitute(s="y"),
            d=sql.SUM.substitute(s="d") if any(rule.d != NEVER for rule in rules) else sql.NO_SUM,
            x=sql.SUM_OF_VALUES if any(rule.x != NEVER for rule in rules) else sql.NO_SUM,
        )

    def _keep_values(self, events: str) -> None:
        if any(rule.keeps_values for rule in (*self.outcome_rules, *self.request_rules)):
            self.con.execute(sql.UNIT_VALUES.substitute(events=events))


def _rule_row(rule: Rule) -> tuple[int | str | bool, ...]:
    low, high = rule.span()
    return (
        *(rule.metric, rule.stream.value, rule.event, _path(rule), low, high),
        *(rule.y.start, rule.y.end, rule.y.form, rule.d.start, rule.d.end, rule.d.form),
        *(rule.x.start, rule.x.end, rule.keeps_values),
    )


def _path(rule: Rule) -> str:
    """JSON path of a named value; empty for the plain one."""
    return "" if rule.value in {"", "value"} else '$."' + rule.value.replace('"', "") + '"'


def _id_span(rows: int, readable: int, low_ms: int | None, high_ms: int | None) -> tuple[int | None, int | None]:
    """When the requests named by these outcomes were made; open where an id does not say."""
    if readable < rows or low_ms is None or high_ms is None:
        return None, None
    return low_ms * 1000 - ID_SLACK_US, high_ms * 1000 + ID_SLACK_US


def _may_meet(named: Span, made: Span) -> bool:
    return named.overlaps(
        -FOREVER if made.start is None else made.start,
        FOREVER if made.end is None else made.end,
    )


def _span_of(file: DataFile) -> Span:
    return Span(file.min_at, file.max_at)


def _quoted(text: str) -> str:
    """An SQL string literal."""
    return "'" + text.replace("'", "''") + "'"
