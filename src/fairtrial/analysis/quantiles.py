"""Quantiles of single events per variant, with cluster-correct standard errors: see `stats.quantile` for the method.

Three queries over the kept values: the quantile of each group, per-unit counts below it, and the values at two ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Template
from typing import Final

import duckdb

from fairtrial.analysis.insert import insert_rows
from fairtrial.analysis.rules import MetricPlan
from fairtrial.stats.moments import Comoments
from fairtrial.stats.quantile import QuantileSummary, quantile_rank, quantile_std_error, rank_bounds
from fairtrial.stats.result import NotEnoughData

_MATURE_VALUES: Final = """
CREATE OR REPLACE TEMP VIEW mature_value AS
SELECT unit, cell, value, $group AS grp
FROM unit_value JOIN setting USING (metric) WHERE metric = $metric AND t0 <= mature_until
"""
_ROW_COUNTS: Final = "SELECT grp, count(*) FROM mature_value GROUP BY grp"
_INDICATORS: Final = """
SELECT grp, count(*), sum(below), sum(n), sum(below * below), sum(n * n), sum(below * n)
FROM (
  SELECT grp, unit, count(*) FILTER (mature_value.value <= found.value)::DOUBLE AS below, count(*)::DOUBLE AS n
  FROM mature_value JOIN found USING (grp) GROUP BY grp, unit
) u
GROUP BY grp
"""


def read_quantiles(
    con: duckdb.DuckDBPyConnection, plan: MetricPlan, group: str
) -> dict[int, QuantileSummary | NotEnoughData]:
    """Quantile of each group of rows with its cluster-correct standard error, in two passes: see `stats.quantile`."""
    q = plan.metric.quantile
    assert q is not None
    con.execute(Template(_MATURE_VALUES).substitute(group=group, metric=plan.index))
    counts = dict(con.execute(_ROW_COUNTS).fetchall())
    values = _at_ranks(con, counts, {grp: [quantile_rank(rows, q)] for grp, rows in counts.items()})
    con.execute("CREATE OR REPLACE TEMP TABLE found (grp INTEGER, value DOUBLE)")
    level = {grp: value for (grp, _), value in values.items()}
    if not level:
        return {}
    insert_rows(con, "found", list(level.items()))
    indicators = {grp: _indicator(sums) for grp, *sums in con.execute(_INDICATORS).fetchall()}
    bounds = {grp: rank_bounds(counts[grp], q, indicators[grp]) for grp in counts}
    wanted = {grp: list(pair) for grp, pair in bounds.items() if not isinstance(pair, NotEnoughData)}
    edges = _at_ranks(con, counts, wanted)
    return {
        grp: pair
        if isinstance(pair, NotEnoughData)
        else _summary(indicators[grp].count, level[grp], edges[grp, pair[0]], edges[grp, pair[1]])
        for grp, pair in bounds.items()
    }


def _summary(units: int, value: float, low: float, high: float) -> QuantileSummary | NotEnoughData:
    std_error = quantile_std_error(low, high)
    return std_error if isinstance(std_error, NotEnoughData) else QuantileSummary(units, value, std_error)


def _at_ranks(
    con: duckdb.DuckDBPyConnection, counts: Mapping[int, int], wanted: Mapping[int, list[int]]
) -> dict[tuple[int, int], float]:
    """Order statistics by group and 1-based rank.

    `quantile_disc` at p answers the value of rank ceil(n * p); it selects in linear time and never sorts.
    """
    if not wanted:
        return {}
    columns = [
        f"quantile_disc(value, {[(rank - 0.5) / counts[grp] for rank in ranks]}) FILTER (WHERE grp = {grp})"
        for grp, ranks in wanted.items()
    ]
    row = con.execute(f"SELECT {', '.join(columns)} FROM mature_value").fetchone()  # noqa: S608 - numbers only
    assert row is not None
    found: dict[tuple[int, int], float] = {}
    for (grp, ranks), values in zip(wanted.items(), row, strict=True):
        found |= {(grp, rank): value for rank, value in zip(ranks, values, strict=True)}
    return found


def _indicator(sums: Sequence[float]) -> Comoments:
    """Per unit: rows at or below the quantile (y) and rows (x). Small integers, so sums about zero are exact."""
    units, below, rows, bb, nn, bn = sums
    return Comoments.from_sums(int(units), below, rows, bb, nn, bn, centre_y=0.0, centre_x=0.0)
