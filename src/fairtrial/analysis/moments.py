"""From unit rows to moments: per metric and cell (variant x epoch), all that the statistics need to know.

Two passes over the unit rows. The first finds each metric's mean, the second sums deviations from it, so that no digits
are lost to large means. Units without a row have zeros: they count through `n` of the cell, never through the rows.
Only matured units count: those whose outcome window has passed. The time "now" is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import duckdb

from fairtrial.analysis.quantiles import read_quantiles
from fairtrial.analysis.rules import Estimator, MeasurePlan, MetricPlan
from fairtrial.stats.moments import Comoments
from fairtrial.stats.quantile import QuantileSummary
from fairtrial.stats.result import NotEnoughData


class Cell(NamedTuple):
    """The stratum of a unit: which variant it met first, in which epoch. arm: place in the split."""

    epoch: int
    arm: int


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

_SETTINGS: Final = """
CREATE OR REPLACE TEMP TABLE setting (
  metric UTINYINT, mature_until BIGINT, cap DOUBLE, is_share BOOLEAN,
  centre_y DOUBLE DEFAULT 0, centre_d DOUBLE DEFAULT 0, centre_x DOUBLE DEFAULT 0
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
# What a unit's row is worth: 0/1 of a share, at most the cap of a mean.
_WORTH: Final = """
  SELECT metric, cell, CASE WHEN is_share THEN (y > 0)::DOUBLE ELSE least(y, coalesce(cap, y)) END - centre_y AS y,
    d - centre_d AS d, x - centre_x AS x
  FROM unit_metric JOIN setting USING (metric) WHERE t0 <= mature_until
"""
_TOTALS: Final = f"SELECT metric, cell, fsum(y), fsum(d), fsum(x) FROM ({_WORTH}) w GROUP BY metric, cell"  # noqa: S608
# fsum is Kahan's sum: the order in which threads add then stays below the sixteenth digit.
_SUMS: Final = f"""
SELECT metric, cell, count(*), fsum(y), fsum(d), fsum(x),
  fsum(y * y), fsum(d * d), fsum(x * x), fsum(y * d), fsum(y * x)
FROM ({_WORTH}) w GROUP BY metric, cell
"""  # noqa: S608 - constant


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
    settings = [
        (metric.index, now - metric.matures_after, metric.metric.cap, metric.estimator is Estimator.SHARE)
        if metric.metric.within_s is not None
        else (metric.index, 1 << 62, metric.metric.cap, metric.estimator is Estimator.SHARE)
        for metric in plan.metrics
    ]
    con.executemany("INSERT INTO setting (metric, mature_until, cap, is_share) VALUES (?, ?, ?, ?)", settings)
    matured: dict[int, dict[Cell, int]] = {metric.index: {} for metric in plan.metrics}
    waiting: dict[int, int] = dict.fromkeys(matured, 0)
    for metric, epoch, arm, n, everyone in con.execute(_MATURED).fetchall():
        matured[metric][Cell(epoch, arm)] = n
        waiting[metric] += everyone - n
    sums = _centred_sums(con, plan, matured)
    return tuple(
        _quantile_metric(con, metric, matured[metric.index], waiting[metric.index], arms=len(plan.arms))
        if metric.estimator is Estimator.QUANTILE
        else _mean_metric(metric, matured[metric.index], waiting[metric.index], sums)
        for metric in plan.metrics
    )


class _Totals(NamedTuple):
    """Plain sums over the rows of one cell, for exact means: an arm without events has mean 0, not -1e-17."""

    y: float = 0.0
    d: float = 0.0
    x: float = 0.0


class _Sums(NamedTuple):
    """Sums about the centres over the rows of one cell; the zeros of units without a row are still missing."""

    rows: int = 0
    y: float = 0.0
    d: float = 0.0
    x: float = 0.0
    yy: float = 0.0
    dd: float = 0.0
    xx: float = 0.0
    yd: float = 0.0
    yx: float = 0.0


@dataclass(frozen=True, slots=True)
class _MetricSums:
    """centre: near the means of y, d and x over all units."""

    centre: _Totals = field(default_factory=_Totals)
    totals: dict[Cell, _Totals] = field(default_factory=dict)
    sums: dict[Cell, _Sums] = field(default_factory=dict)


def _centred_sums(
    con: duckdb.DuckDBPyConnection, plan: MeasurePlan, matured: Mapping[int, Mapping[Cell, int]]
) -> dict[int, _MetricSums]:
    arms = len(plan.arms)
    totals: dict[int, dict[Cell, _Totals]] = {}
    for metric, cell, *sums in con.execute(_TOTALS).fetchall():
        totals.setdefault(metric, {})[Cell(*divmod(cell, arms))] = _Totals(*sums)
    found = {
        metric: _MetricSums(_mean_of(list(cells.values()), sum(matured[metric].values())), cells)
        for metric, cells in totals.items()
    }
    centres = [(*sums.centre, metric) for metric, sums in found.items()]
    if centres:
        con.executemany("UPDATE setting SET centre_y = ?, centre_d = ?, centre_x = ? WHERE metric = ?", centres)
    for metric, cell, *sums in con.execute(_SUMS).fetchall():
        found[metric].sums[Cell(*divmod(cell, arms))] = _Sums(*sums)
    return found


def _mean_of(cells: Sequence[_Totals], units: int) -> _Totals:
    return _Totals(*(sum(column) / units for column in zip(*cells, strict=True)))


def _mean_metric(
    plan: MetricPlan, units: Mapping[Cell, int], waiting: int, sums: Mapping[int, _MetricSums]
) -> MetricMoments:
    found = sums.get(plan.index, _MetricSums())
    is_ratio = plan.estimator is Estimator.RATIO
    return MetricMoments(
        plan=plan,
        units=units,
        waiting=waiting,
        rows=sum(cell.rows for cell in found.sums.values()),
        cells={cell: _with_zeros(n, found, cell, is_ratio=is_ratio) for cell, n in units.items() if n},
    )


def _with_zeros(units: int, metric: _MetricSums, cell: Cell, *, is_ratio: bool) -> Comoments:
    """Comoments of all units of a cell: those with a row, and the zeros of the others (deviation: minus the centre)."""
    sums, total = metric.sums.get(cell, _Sums()), metric.totals.get(cell, _Totals())
    zeros = units - sums.rows
    assert zeros >= 0
    centre_y, centre_x = metric.centre.y, metric.centre.d if is_ratio else metric.centre.x
    x, xx, yx = (sums.d, sums.dd, sums.yd) if is_ratio else (sums.x, sums.xx, sums.yx)
    total_yy, total_xx = sums.yy + zeros * centre_y**2, xx + zeros * centre_x**2
    comoments = Comoments.from_sums(
        units,
        sums.y - zeros * centre_y,
        x - zeros * centre_x,
        total_yy,
        total_xx,
        yx + zeros * centre_y * centre_x,
        centre_y=centre_y,
        centre_x=centre_x,
    )
    return replace(
        comoments,
        mean_y=total.y / units,
        mean_x=(total.d if is_ratio else total.x) / units,
        ssd_y=_without_noise(comoments.ssd_y, total_yy),
        ssd_x=_without_noise(comoments.ssd_x, total_xx),
    )


def _without_noise(spread: float, scale: float) -> float:
    """Zero where nothing but rounding is left: units that are all equal must not look known to 14 digits."""
    return spread if spread > 1e-13 * scale else 0.0


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
