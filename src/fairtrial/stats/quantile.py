"""Difference of quantiles of request-level values (p95 latency) when users, not requests, were randomised.

Requests of one user resemble each other, so the usual order-statistic interval is too narrow (3x for p95 with heavy
users). The trick: count, per unit, its rows and its rows at or below the quantile; the delta method on those two counts
gives the standard error of the empirical distribution function there, and the ranks n * (q -+ z * se) turn it back
into values. Only two order statistics per variant are read; no density is estimated.

What the engine supplies, per variant:
1. `rows`, and `value` = the order statistic of rank `quantile_rank(rows, q)` (DuckDB: `quantile_disc`);
2. per unit, (y = rows <= value, x = rows), as `Comoments`;
3. the values at the two ranks that `rank_bounds(rows, q, comoments)` answers.
`QuantileSummary(units, value, quantile_std_error(low, high))` then goes to `quantile_effect`.

Source: Deng, Knoblich & Lu, KDD 2018 (arXiv 1803.06336), section 4 (outer interval with pre-adjustment);
Liu, Sun, Varshney & Xu 2019 (arXiv 1903.08762).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from fairtrial.stats.effects import ratio_level
from fairtrial.stats.moments import Comoments
from fairtrial.stats.result import Effect, NotEnoughData

OUTER_Z: Final = 1.959963984540054
"""Half-width, in standard errors, of the interval that is read off the order statistics (95 %)."""


@dataclass(frozen=True, slots=True)
class QuantileSummary:
    """One variant. units: randomised units behind it. value: its quantile. std_error: cluster-correct, in its unit."""

    units: int
    value: float
    std_error: float

    @classmethod
    def of(cls, values: npt.ArrayLike, unit_ids: npt.ArrayLike, q: float) -> Self | NotEnoughData:
        """Summary of rows in memory: values[i] belongs to unit unit_ids[i]. Raises ValueError for NaN or infinity."""
        rows = np.asarray(values, dtype=np.float64).ravel()
        if not np.isfinite(rows).all():
            raise ValueError("values hold NaN or infinity; every value must be finite")
        if rows.size == 0:
            return NotEnoughData("no rows yet", "no_rows")
        _, unit_of_row = np.unique(np.asarray(unit_ids).ravel(), return_inverse=True)
        ordered = np.sort(rows)
        value = float(ordered[quantile_rank(rows.size, q) - 1])
        indicator = Comoments.of(np.bincount(unit_of_row, weights=rows <= value), np.bincount(unit_of_row))
        ranks = rank_bounds(rows.size, q, indicator)
        if isinstance(ranks, NotEnoughData):
            return ranks
        std_error = quantile_std_error(float(ordered[ranks[0] - 1]), float(ordered[ranks[1] - 1]))
        if isinstance(std_error, NotEnoughData):
            return std_error
        return cls(indicator.count, value, std_error)


def quantile_rank(n_rows: int, q: float) -> int:
    """1-based rank of the order statistic that is the q-quantile of n_rows >= 1 values: the inverse of the ECDF."""
    _check_quantile(q)
    # 0.95 * 20 is 19.000000000000004 in float64: shave what rounding added before taking the ceiling.
    return min(n_rows, max(1, math.ceil(n_rows * q - 1e-9)))


def rank_bounds(n_rows: int, q: float, indicator: Comoments) -> tuple[int, int] | NotEnoughData:
    """1-based ranks of the two order statistics that bound the q-quantile (95 %).

    n_rows: rows of the variant. indicator: per unit, y = rows at or below the quantile, x = rows. Refuses with fewer
    than two units, or where a rank falls off either end (too few rows beyond a far quantile).
    """
    _check_quantile(q)
    if indicator.count < 2:
        return NotEnoughData(f"{indicator.count} units; 2 are needed", "too_few_units")
    share = ratio_level(indicator)
    if isinstance(share, NotEnoughData):
        return share
    # Equal rows per unit and perfectly even indicators would give zero; independent rows are the least one can assume.
    std_error = share.std_error or math.sqrt(q * (1.0 - q) / n_rows)
    low, high = n_rows * (q - OUTER_Z * std_error), n_rows * (q + OUTER_Z * std_error)
    if low < 1.0 or high > n_rows:
        return NotEnoughData(
            f"{n_rows} rows of {indicator.count} units are too few on one side of the {q:g} quantile", "too_few_rows"
        )
    return math.floor(low), math.ceil(high)


def quantile_std_error(low_value: float, high_value: float) -> float | NotEnoughData:
    """Standard error of the quantile, from the values at the two ranks of `rank_bounds`."""
    if high_value < low_value:
        raise ValueError(f"low value {low_value} is above high value {high_value}")
    if high_value == low_value:
        return NotEnoughData(f"values around the quantile are all {low_value:g}", "no_variation")
    return (high_value - low_value) / (2.0 * OUTER_Z)


def quantile_effect(control: QuantileSummary, treatment: QuantileSummary) -> Effect:
    """Difference of two independent quantiles."""
    std_error = math.hypot(control.std_error, treatment.std_error)
    return Effect(treatment.value - control.value, std_error, None, control.units + treatment.units)


def _check_quantile(q: float) -> None:
    if not 0.0 < q < 1.0:
        raise ValueError(f"quantile is {q}; must lie between 0 and 1")
