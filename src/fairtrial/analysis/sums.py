"""Sums over unit rows that lose no digits: deviations from a centre near the mean, in one pass.

The centre is found once, by a pass of its own, remembered, and found again when the mean has drifted away from it.
Units without a row have zeros; they are added here, from the number of units of the cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import duckdb

from fairtrial.analysis.insert import insert_rows
from fairtrial.analysis.rules import Estimator, MeasurePlan
from fairtrial.stats.moments import Comoments

# What a unit's row is worth: 0/1 of a share, at most the cap of a mean. x: a ratio's denominator, else the covariate.
_WORTH: Final = """
  SELECT metric, cell, CASE WHEN is_share THEN (y > 0)::DOUBLE ELSE least(y, coalesce(cap, y)) END AS y,
    CASE WHEN is_ratio THEN d ELSE x END AS x
  FROM unit_metric JOIN setting USING (metric) WHERE t0 <= mature_until
"""
_TOTALS: Final = f"SELECT metric, fsum(y), fsum(x) FROM ({_WORTH}) w GROUP BY metric"  # noqa: S608 - a constant
# fsum is Kahan's sum: the order in which threads add then stays below the sixteenth digit.
_SUMS: Final = f"""
SELECT metric, cell, count(*), fsum(y), fsum(x), fsum(y * y), fsum(x * x), fsum(y * x)
FROM (SELECT w.metric, cell, w.y - centre.y AS y, w.x - centre.x AS x FROM ({_WORTH}) w JOIN centre USING (metric)) v
GROUP BY metric, cell
"""  # noqa: S608 - a constant


class Cell(NamedTuple):
    """The stratum of a unit: which variant it met first, in which epoch. arm: place in the split."""

    epoch: int
    arm: int


class _Sums(NamedTuple):
    """Sums about the centres over the rows of one cell, or of several."""

    rows: int = 0
    y: float = 0.0
    x: float = 0.0
    yy: float = 0.0
    xx: float = 0.0
    yx: float = 0.0


Centre = tuple[float, float]


@dataclass(frozen=True, slots=True)
class MetricSums:
    """One metric. centre: near the means of y and x over all units. cells: sums without the zeros of rowless units."""

    centre: Centre = (0.0, 0.0)
    cells: dict[Cell, _Sums] = field(default_factory=dict)

    def comoments(self, cell: Cell, units: int) -> Comoments:
        """Comoments of all `units` (> 0) of a cell."""
        sums = self._with_zeros(self.cells.get(cell, _Sums()), units)
        found = Comoments.from_sums(
            units, sums.y, sums.x, sums.yy, sums.xx, sums.yx, centre_y=self.centre[0], centre_x=self.centre[1]
        )
        return replace(
            found,
            mean_y=_without_noise(found.mean_y, self.centre[0]),
            mean_x=_without_noise(found.mean_x, self.centre[1]),
            ssd_y=_without_noise(found.ssd_y, sums.yy),
            ssd_x=_without_noise(found.ssd_x, sums.xx),
        )

    def has_drifted(self, units: int) -> bool:
        """True where a mean lies over ten standard deviations from its centre, which costs two of sixteen digits."""
        if units < 2 or not self.cells:
            return False
        everyone = self._with_zeros(_Sums(*map(sum, zip(*self.cells.values(), strict=True))), units)
        pairs = ((everyone.y, everyone.yy), (everyone.x, everyone.xx))
        return any(total * total / units > 0.99 * square > 0.0 for total, square in pairs)

    def _with_zeros(self, sums: _Sums, units: int) -> _Sums:
        zeros, (y, x) = units - sums.rows, self.centre
        assert zeros >= 0
        return _Sums(
            units,
            sums.y - zeros * y,
            sums.x - zeros * x,
            sums.yy + zeros * y * y,
            sums.xx + zeros * x * x,
            sums.yx + zeros * y * x,
        )


def _without_noise(number: float, scale: float) -> float:
    """Zero where nothing but rounding is left: no events are 0 and not -1e-17, equal units have no spread at all."""
    return number if abs(number) > 1e-13 * abs(scale) else 0.0


def centred_sums(
    con: duckdb.DuckDBPyConnection, plan: MeasurePlan, matured: Mapping[int, Mapping[Cell, int]]
) -> dict[int, MetricSums]:
    """Sums about the remembered centres; a centre that the mean has left behind is found anew."""
    units = {metric: sum(cells.values()) for metric, cells in matured.items()}
    centres = _read_centres(con) or _find_centres(con, plan, units)
    found = _sums_about(con, centres, arms=len(plan.arms))
    if any(sums.has_drifted(units[metric]) for metric, sums in found.items()):
        return _sums_about(con, _find_centres(con, plan, units), arms=len(plan.arms))
    return found


def _sums_about(con: duckdb.DuckDBPyConnection, centres: Mapping[int, Centre], *, arms: int) -> dict[int, MetricSums]:
    found = {metric: MetricSums(centre) for metric, centre in centres.items()}
    for metric, cell, *sums in con.execute(_SUMS).fetchall():
        found[metric].cells[Cell(*divmod(cell, arms))] = _Sums(*sums)
    return found


def _read_centres(con: duckdb.DuckDBPyConnection) -> dict[int, Centre]:
    return {metric: (y, x) for metric, y, x in con.execute("SELECT metric, y, x FROM centre").fetchall()}


def _find_centres(con: duckdb.DuckDBPyConnection, plan: MeasurePlan, units: Mapping[int, int]) -> dict[int, Centre]:
    """Means of all units now. A share's y stays about zero: its sums are small integers, exact as they are."""
    totals = {metric: (y, x) for metric, y, x in con.execute(_TOTALS).fetchall()}
    centres = {}
    for metric in plan.metrics:
        y, x = totals.get(metric.index, (0.0, 0.0))
        n = units[metric.index] or 1
        centres[metric.index] = (0.0 if metric.estimator is Estimator.SHARE else y / n, x / n)
    con.execute("DELETE FROM centre")
    if any(units.values()):
        insert_rows(con, "centre", [(metric, *centre) for metric, centre in centres.items()])
    return centres
