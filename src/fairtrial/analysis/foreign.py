"""`analyze`: the engine on a table that Fairtrial did not collect - a CSV or Parquet file, or a data frame.

The table becomes the same unit rows that the event log becomes, so everything after that is the same code. What the log
guarantees must be checked here: every value a finite number, one row per unit where the metric needs that, no unit in
two variants. Units in two variants are set apart and counted; everything else that is wrong is an error that names the
column and the row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import duckdb

from fairtrial.analysis.foreign_csv import DataError
from fairtrial.analysis.foreign_metrics import ForeignMetric, parse_metric
from fairtrial.analysis.foreign_table import (
    TableQuestion,
    check_columns,
    check_one_row_per_unit,
    check_values,
    check_variants,
    fill_unit_rows,
    open_table,
    read_rows,
)
from fairtrial.analysis.looks import Memory
from fairtrial.analysis.moments import read_moments
from fairtrial.analysis.rules import plan_measures
from fairtrial.analysis.view import Circumstances, assemble
from fairtrial.model.errors import ConfigError
from fairtrial.model.experiment import (
    AnalysisPlan,
    Experiment,
    Method,
    MetricRole,
    RequestUnit,
    Variant,
)
from fairtrial.model.view import ExperimentView


def analyze(
    data: object,
    *,
    unit: str,
    variant: str,
    control: str,
    metrics: Sequence[str | ForeignMetric],
    split: Mapping[str, float] | str | None = None,
    method: Method | str = Method.FIXED,
    alpha: float = 0.05,
    planned_units: int | None = None,
    name: str = "",
    now: int = 0,
) -> ExperimentView:
    """Analyse a table of units or of their events.

    data: path of a CSV or Parquet file, or a data frame that DuckDB reads (pandas, polars, pyarrow). unit, variant: its
    columns. control: the value of the variant column to compare with. metrics: `NAME=kind(column[,column])[:lower]`;
    the first one is the primary and decides the verdict, the others are adjusted for being many. split: intended shares
    ("control=50,treatment=50"), which turns the sample-ratio check on. method: `fixed` (one look, now), `anytime`,
    `bayesian`, or `group_sequential` with planned_units. alpha: two-sided, in (0, 0.5). now: microseconds since 1970,
    copied to the view. Raises ConfigError (the question is wrong), DataError (the table is), NotFoundError (no file).

    >>> from fairtrial import analyze
    >>> view = analyze("units.csv", unit="user", variant="arm", control="A", metrics=["conv=proportion(bought)"])
    ... # doctest: +SKIP
    """
    question = TableQuestion(
        unit=unit,
        variant=variant,
        control=control,
        metrics=_metrics(metrics),
        split=parse_split(split) if isinstance(split, str) else split,
        plan=_plan(method, alpha, planned_units),
    )
    config: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    with duckdb.connect(config=config) as con:
        columns = open_table(con, data)
        check_columns(question, columns)
        read_rows(con, question, data)
        names = check_variants(con, question)
        check_values(con, question)
        check_one_row_per_unit(con, question)
        return _view(con, question, names, name or _name_of(data), now)


def parse_split(text: str) -> dict[str, float]:
    """`control=50,treatment=50` as shares that sum to 1. Raises ConfigError."""
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, equals, share = part.strip().rpartition("=")
        try:
            shares[name.strip()] = float(share.strip().removesuffix("%"))
        except ValueError:
            equals = ""
        if not equals or not 0.0 < shares.get(name.strip(), 0.0) < float("inf"):
            raise ConfigError(f"split '{text}': '{part.strip()}' is not NAME=SHARE, as in control=50,treatment=50")
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}


def _metrics(metrics: Sequence[str | ForeignMetric]) -> tuple[ForeignMetric, ...]:
    if isinstance(metrics, str) or not metrics:
        raise ConfigError("metrics is a list with at least one NAME=kind(column), such as conv=proportion(bought)")
    parsed = tuple(parse_metric(metric) if isinstance(metric, str) else metric for metric in metrics)
    names = [metric.name for metric in parsed]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"metric '{name}' is given {names.count(name)} times; give each a name of its own")
    return parsed


def _plan(method: Method | str, alpha: float, planned_units: int | None) -> AnalysisPlan:
    try:
        chosen = Method(method)
    except ValueError:
        raise ConfigError(f"method is '{method}'; allowed: {', '.join(Method)}") from None
    if not 0.0 < alpha < 0.5:
        raise ConfigError(f"alpha is {alpha:g}; must lie between 0 and 0.5, like 0.05")
    if chosen is Method.GROUP_SEQUENTIAL and planned_units is None:
        raise ConfigError("method group_sequential needs planned_units: a look is judged by its share of the plan")
    return AnalysisPlan(method=chosen, alpha=alpha, planned_units=planned_units)


def _view(
    con: duckdb.DuckDBPyConnection, question: TableQuestion, names: list[str], name: str, now: int
) -> ExperimentView:
    fill_unit_rows(con, question, names)
    counts = con.execute("SELECT arm, count(*) FROM exp_units WHERE NOT is_crossover GROUP BY arm").fetchall()
    units = {int(arm): int(n) for arm, n in counts}
    total = sum(units.values())
    if total == 0:
        raise DataError("every unit is in two variants, so none is left to compare; is the unit column right?")
    observed = {name: units.get(arm, 0) / total for arm, name in enumerate(names)}
    split = question.split or observed
    # A fixed-size analysis of a finished table is its one look: the plan is what there is.
    is_fixed = question.plan.method is Method.FIXED
    experiment = Experiment(
        name=name,
        endpoint="",
        unit=RequestUnit(),
        variants=tuple(Variant(name, "") for name in names),
        split=tuple((name, split[name]) for name in names),
        control=question.control,
        salt=name,
        metrics=tuple(
            metric.as_metric(MetricRole.PRIMARY if index == 0 else MetricRole.SECONDARY)
            for index, metric in enumerate(question.metrics)
        ),
        analysis=replace(question.plan, planned_units=total) if is_fixed else question.plan,
    )
    moments = read_moments(con, plan_measures(experiment), now=now)
    circumstances = Circumstances(now=now, status="analysed", is_split_known=question.split is not None, is_table=True)
    found = assemble(experiment, moments, Memory(), circumstances)
    progress = replace(found.view.progress, running_s=0.0)
    return replace(found.view, unit=question.unit, progress=progress)


def _name_of(data: object) -> str:
    return Path(data).stem if isinstance(data, str | Path) else "table"
