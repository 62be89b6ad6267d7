"""From unit rows to moments: per metric and cell (variant x epoch), all that the statistics need to know.

Means and spreads come from `sums.py`, quantiles from `quantiles.py`. Only matured units count: those whose outcome
window has passed. The time "now" is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import duckdb

from fairtrial.analysis.insert import insert_rows
from fairtrial.analysis.quantiles import read_quantiles
from fairtrial.analysis.rules import Estimator, MeasurePlan, MetricPlan
from fairtrial.analysis.sums import Cell, MetricSums, centred_sums
from fairtrial.stats.moments import Comoments
from fairtrial.stats.quantile import QuantileSummary
from fairtrial.stats.result import NotEnoughData


@dataclass(frozen=True, slots=True)
class MetricMoments:
    """One metric. units: matured units per cell. rows: units with at least one event. waiting: not matured yet.

    cells: y with x, the denominator of a ratio or else the covariate. quantiles: instead, for a quantile metric;
    pooled_quantiles: by arm, over all epochs together.
    """

    plan: MetricPlan
    units: Mapping[Cell, int]
    waiting: int
    rows: int
    cells: Mapping[Cell, Comoments] = field(default_factory=dict)
    quantiles: Mapping[Cell, QuantileSummary | NotEnoughData] = field(default_factory=dict)
    pooled_quantiles: Mapping[int, QuantileSummary | NotEnoughData] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Events of one variant. errors: 5xx answers, missing ones and time-outs, as the client saw them."""

    exposures: int = 0
    requests: int = 0
    errors: int = 0
    fallbacks: int = 0


@dataclass(frozen=True, slots=True)
class ExperimentMoments:
    """All of one experiment.

    units: first exposures per cell, without the crossovers. unknown_exposures: of variants that the split does not
    name. first_exposure_at: microseconds since 1970.
    """

    units: Mapping[Cell, int]
    crossovers: int
    traffic: Mapping[int, Traffic]
    unknown_exposures: int
    first_exposure_at: int | None
    metrics: tuple[MetricMoments, ...]


_UNITS: Final = """
SELECT epoch, arm, count(*), count(*) FILTER (is_crossover), min(t0) FROM exp_units GROUP BY epoch, arm
"""
_TRAFFIC: Final = "SELECT arm, sum(exposures), sum(requests), sum(errors), sum(fallbacks) FROM traffic GROUP BY arm"

EVERYONE: Final = 1 << 62  # later than any first exposure: no window, so every unit has matured

_SETTINGS: Final = """
CREATE OR REPLACE TEMP TABLE setting (
  metric UTINYINT, mature_until BIGINT, cap DOUBLE, is_share BOOLEAN, is_ratio BOOLEAN
)
"""
_MATURED: Final = """
SELECT metric, epoch, arm, matured, everyone
FROM (
  SELECT mature_until, epoch, arm, count(*) FILTER (t0 <= mature_until) AS matured, count(*) AS everyone
  FROM exp_units, (SELECT DISTINCT mature_until FROM setting) WHERE NOT is_crossover GROUP BY ALL
)
JOIN setting USING (mature_until)
"""


def read_moments(con: duckdb.DuckDBPyConnection, plan: MeasurePlan, *, now: int) -> ExperimentMoments:
    """Moments of everything, from the unit rows of the current schema. now: microseconds since 1970, UTC."""
    units = {Cell(epoch, arm): (n, crossed, first) for epoch, arm, n, crossed, first in con.execute(_UNITS).fetchall()}
    traffic = {arm: Traffic(*map(int, counts)) for arm, *counts in con.execute(_TRAFFIC).fetchall()}
    unknown = traffic.pop(-1, Traffic())
    return ExperimentMoments(
        units={cell: n - crossed for cell, (n, crossed, _) in units.items()},
        crossovers=sum(crossed for _, crossed, _ in units.values()),
        traffic=traffic,
        unknown_exposures=unknown.exposures,
        first_exposure_at=min((first for _, _, first in units.values()), default=None),
        metrics=_metrics(con, plan, now),
    )


def _metrics(con: duckdb.DuckDBPyConnection, plan: MeasurePlan, now: int) -> tuple[MetricMoments, ...]:
    if not plan.metrics:
        return ()
    con.execute(_SETTINGS)
    insert_rows(con, "setting", [_setting(metric, now) for metric in plan.metrics])
    matured: dict[int, dict[Cell, int]] = {metric.index: {} for metric in plan.metrics}
    waiting: dict[int, int] = dict.fromkeys(matured, 0)
    for metric, epoch, arm, n, everyone in con.execute(_MATURED).fetchall():
        matured[metric][Cell(epoch, arm)] = n
        waiting[metric] += everyone - n
    sums = centred_sums(con, plan, matured)
    return tuple(
        _quantile_metric(con, metric, matured[metric.index], waiting[metric.index], arms=len(plan.arms))
        if metric.estimator is Estimator.QUANTILE
        else _mean_metric(metric, matured[metric.index], waiting[metric.index], sums)
        for metric in plan.metrics
    )


def _setting(metric: MetricPlan, now: int) -> tuple[int, int, float | None, bool, bool]:
    mature_until = EVERYONE if metric.metric.within_s is None else now - metric.matures_after
    is_share, is_ratio = metric.estimator is Estimator.SHARE, metric.estimator is Estimator.RATIO
    return metric.index, mature_until, metric.metric.cap, is_share, is_ratio


def _mean_metric(
    plan: MetricPlan, units: Mapping[Cell, int], waiting: int, sums: Mapping[int, MetricSums]
) -> MetricMoments:
    found = sums.get(plan.index, MetricSums())
    return MetricMoments(
        plan=plan,
        units=units,
        waiting=waiting,
        rows=sum(cell.rows for cell in found.cells.values()),
        cells={cell: found.comoments(cell, n) for cell, n in units.items() if n},
    )


def _quantile_metric(
    con: duckdb.DuckDBPyConnection, plan: MetricPlan, units: Mapping[Cell, int], waiting: int, *, arms: int
) -> MetricMoments:
    by_cell = read_quantiles(con, plan, "cell")
    has_epochs = len({cell.epoch for cell in units}) > 1
    by_arm = (
        read_quantiles(con, plan, f"cell % {arms}") if has_epochs else {cell % arms: s for cell, s in by_cell.items()}
    )
    rows = con.execute("SELECT count(DISTINCT unit) FROM mature_value").fetchone()
    assert rows is not None
    return MetricMoments(
        plan=plan,
        units=units,
        waiting=waiting,
        rows=int(rows[0]),
        quantiles={Cell(*divmod(group, arms)): summary for group, summary in by_cell.items()},
        pooled_quantiles=by_arm,
    )


__all__ = ["Cell", "ExperimentMoments", "MetricMoments", "Traffic", "read_moments"]
