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
from fairtrial.analysis.files import DataFile, FilesByStream, SeenIds, Span, within
from fairtrial.analysis.rules import FOREVER, NEVER, MeasurePlan, Rule, Stream

ID_SLACK_US: Final = 600_000_000
"""A request's id is made at its `at`, on the same clock; ten minutes forgive a clock that was set in between."""


EVER: Final = Span()


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
class _Named:
    """When the requests that some outcomes name can have been, and how many such outcomes there are."""

    rows: int = 0
    span: Span = EVER

    def may_name(self, span: Span) -> bool:
        """True where an outcome may name a request made within `span`."""
        if self.rows == 0:
            return False
        start = -FOREVER if self.span.start is None else self.span.start - ID_SLACK_US
        end = FOREVER if self.span.end is None else self.span.end + ID_SLACK_US
        return span.overlaps(start, end)


NOBODY: Final = _Named()


@dataclass(frozen=True, slots=True)
class _Dirty:
    """Units to compute afresh; `span` of the first exposures of those that are analysed."""

    units: int
    new_units: int
    span: Span | None


def read_seen(con: duckdb.DuckDBPyConnection) -> SeenIds:
    """The files that the current schema's rows already count."""
    ids: dict[str, set[int]] = {"requests": set(), "exposures": set(), "outcomes": set()}
    for stream, file_id in con.execute("SELECT stream, id FROM seen").fetchall():
        ids[stream].add(file_id)
    return SeenIds(frozenset(ids["requests"]), frozenset(ids["exposures"]), frozenset(ids["outcomes"]))


def refresh_units(con: duckdb.DuckDBPyConnection, plan: MeasurePlan, files: FilesByStream) -> RefreshResult:
    """Count the files not counted before. Runs inside the caller's transaction, in the experiment's schema."""
    seen = read_seen(con)
    new = files.without(seen)
    if new.is_empty():
        return RefreshResult(RefreshKind.UNCHANGED)
    job = _Job(con, plan, files, seen, new)
    dirty = job.run()
    return RefreshResult(
        RefreshKind.INCREMENTAL if seen != SeenIds() else RefreshKind.FULL,
        files=len(new.requests) + len(new.exposures) + len(new.outcomes),
        new_units=dirty.new_units,
        recomputed_units=dirty.units - dirty.new_units,
    )


class _Job:
    """One refresh. Each method is one step; the SQL of every step is in `sql.py`."""

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        plan: MeasurePlan,
        files: FilesByStream,
        seen: SeenIds,
        new: FilesByStream,
    ) -> None:
        self.con = con
        self.plan = plan
        self.files = files
        self.new = new
        self.is_full = seen == SeenIds()
        self.outcome_rules = plan.rules(Stream.OUTCOMES)
        self.request_rules = plan.rules(Stream.REQUESTS)
        self.named = self._read_named()

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
        self.con.executemany("INSERT INTO arm VALUES (?, ?)", arms)
        rows = [_rule_row(rule) for rule in (*self.outcome_rules, *self.request_rules)]
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            self.con.executemany(f"INSERT INTO rule VALUES ({marks})", rows)  # noqa: S608 - question marks only

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

    def _read_named(self) -> dict[int, _Named]:
        rows = self.con.execute("SELECT id, by_request, from_us, to_us FROM seen WHERE by_request > 0").fetchall()
        return {file_id: _Named(count, Span(start, end)) for file_id, count, start, end in rows}

    def _note_new_files(self) -> None:
        named = {
            path: _Named(rows, _id_span(rows, readable, low, high))
            for path, rows, readable, low, high in self._count_request_outcomes()
        }
        rows: list[tuple[str, int, int, int | None, int | None]] = []
        rows += [("requests", file.id, 0, None, None) for file in self.new.requests]
        rows += [("exposures", file.id, 0, None, None) for file in self.new.exposures]
        for file in self.new.outcomes:
            facts = named.get(file.path, NOBODY)
            self.named[file.id] = facts
            rows.append(("outcomes", file.id, facts.rows, facts.span.start, facts.span.end))
        self.con.executemany("INSERT INTO seen VALUES (?, ?, ?, ?, ?)", rows)

    def _count_request_outcomes(self) -> list[tuple[str, int, int, int | None, int | None]]:
        if not self.new.outcomes or not self.outcome_rules:
            return []
        return self.con.execute(sql.COUNT_REQUEST_OUTCOMES).fetchall()

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
        new_ids = {file.id for file in self.new.outcomes}
        named = [facts for file_id, facts in self.named.items() if file_id in new_ids and facts.rows]
        lookup = [file for file in self.files.requests if any(n.may_name(_span_of(file)) for n in named)]
        made = [_span_of(file) for file in self.new.requests]
        earlier = [
            file
            for file in self.files.outcomes
            if file.id not in new_ids and any(self._named_by(file).may_name(span) for span in made)
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
        named = [file for file in self.files.outcomes if self._named_by(file).may_name(Span(start))]
        self._view("request_outcomes", "outcomes", named)
        self.con.execute(sql.RESOLVE_DIRTY if named else sql.RESOLVE_NOTHING)
        events = self._events("window")
        if events:
            self.con.execute("INSERT INTO unit_metric " + self._unit_rows(events))
            self._keep_values(events)

    def _named_by(self, file: DataFile) -> _Named:
        return self.named.get(file.id, NOBODY)

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


def _id_span(rows: int, readable: int, low_ms: int | None, high_ms: int | None) -> Span:
    """When the requests named by these outcomes were made; open where an id does not say."""
    if readable < rows or low_ms is None or high_ms is None:
        return EVER
    return Span(low_ms * 1000, high_ms * 1000 + 999)


def _span_of(file: DataFile) -> Span:
    return Span(file.min_at, file.max_at)


def _quoted(text: str) -> str:
    """An SQL string literal."""
    return "'" + text.replace("'", "''") + "'"
