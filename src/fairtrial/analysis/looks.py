"""What must be remembered between looks: the fractions looked at, the planned horizon, and the verdict at the horizon.

A group-sequential bound depends on every earlier look, so looks are written down; a horizon derived from data must not
move with the data, so it is written down once; and the first verdict at the horizon stands, because no alpha is left
for another. All of it belongs to one plan: changing the plan starts a new record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import duckdb
import msgspec

from fairtrial.analysis.insert import insert_rows
from fairtrial.model.experiment import Experiment, Method
from fairtrial.model.view import Verdict
from fairtrial.stats.group_sequential import MIN_STEP


@dataclass(frozen=True, slots=True)
class Memory:
    """fractions: of the planned information at each recorded look, by metric, rising. settled: at the horizon."""

    fractions: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    planned_units: int | None = None
    settled: Verdict | None = None

    def looks_so_far(self, metric: str, fraction: float) -> tuple[float, ...]:
        """The looks of one metric with the present one last."""
        return (*self.fractions.get(metric, ()), fraction)


def plan_digest(experiment: Experiment, started_at: int | None) -> str:
    """Equal for equal plans: how the experiment is judged, on what, since when."""
    judged = [msgspec.to_builtins(metric) for metric in experiment.metrics]
    plan = [experiment.name, experiment.salt, started_at, msgspec.to_builtins(experiment.analysis), judged]
    return hashlib.sha256(msgspec.json.encode(plan)).hexdigest()[:32]


def needs_memory(method: Method) -> bool:
    """True for methods whose looks depend on one another, or that have one look."""
    return method in {Method.GROUP_SEQUENTIAL, Method.FIXED}


def read_memory(con: duckdb.DuckDBPyConnection, experiment: str, plan: str) -> Memory:
    """What was remembered under this plan."""
    fractions: dict[str, list[float]] = {}
    query = "SELECT metric, fraction FROM main.look WHERE experiment = ? AND plan = ? ORDER BY fraction"
    for metric, fraction in con.execute(query, [experiment, plan]).fetchall():
        fractions.setdefault(metric, []).append(fraction)
    horizon = con.execute(
        "SELECT planned_units FROM main.horizon WHERE experiment = ? AND plan = ?", [experiment, plan]
    ).fetchone()
    settled = con.execute(
        "SELECT verdict FROM main.settled WHERE experiment = ? AND plan = ?", [experiment, plan]
    ).fetchone()
    return Memory(
        fractions={metric: tuple(values) for metric, values in fractions.items()},
        planned_units=None if horizon is None else int(horizon[0]),
        settled=None if settled is None else msgspec.json.decode(settled[0], type=Verdict),
    )


def record_looks(
    con: duckdb.DuckDBPyConnection, experiment: str, plan: str, *, memory: Memory, now: Mapping[str, float], at: int
) -> None:
    """Write down the looks that count: those that add at least MIN_STEP of the plan, or reach it."""
    rows = [
        (experiment, plan, metric, fraction, at)
        for metric, fraction in now.items()
        if is_new_look(memory.fractions.get(metric, ()), fraction)
    ]
    insert_rows(con, "main.look", rows)


def is_new_look(fractions: Sequence[float], fraction: float) -> bool:
    """True where a look at `fraction` spends alpha of its own."""
    last = fractions[-1] if fractions else 0.0
    return fraction > 0.0 and (fraction - last >= MIN_STEP or fraction >= 1.0 > last)


def record_horizon(con: duckdb.DuckDBPyConnection, experiment: str, plan: str, units: int) -> None:
    """Fix the planned units."""
    con.execute("INSERT INTO main.horizon VALUES (?, ?, ?)", [experiment, plan, units])


def record_settled(con: duckdb.DuckDBPyConnection, experiment: str, plan: str, verdict: Verdict) -> None:
    """Fix the verdict."""
    con.execute("INSERT INTO main.settled VALUES (?, ?, ?)", [experiment, plan, msgspec.json.encode(verdict).decode()])
