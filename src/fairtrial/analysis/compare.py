"""One treatment against control on one metric: the effect, both levels, and the relative effect, stratified by epoch.

Pooling units over epochs whose split differs answers Simpson's paradox instead of the question, so effects are taken
within each epoch and averaged; levels are averaged with the same weights, so that their difference is the effect.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from fairtrial.analysis.moments import Cell, MetricMoments
from fairtrial.analysis.rules import Estimator
from fairtrial.model.experiment import Better, MetricKind
from fairtrial.stats.effects import (
    covariate_adjusted_effect,
    mean_effect,
    proportion_effect,
    ratio_effect,
    relative_effect,
    stratified_effect,
)
from fairtrial.stats.levels import level_of_mean, level_of_proportion, level_of_quantile, level_of_ratio
from fairtrial.stats.moments import Comoments, Moments
from fairtrial.stats.quantile import QuantileSummary, quantile_effect
from fairtrial.stats.rates import level_of_rate, one_rate, rate_effect
from fairtrial.stats.result import Effect, NotEnoughData

Found = Effect | NotEnoughData


@dataclass(frozen=True, slots=True)
class Contrast:
    """One treatment against control. relative: log ratio of the levels. units: matured, of both variants.

    control, treatment: levels behind the relative effect (covariate-adjusted where the effect is). events: of a share,
    (units with the event, units) of the treatment, and of a rate that all units share (sum of unit rates, units).
    events_at_most: the same for units with several requests, every event counted as a unit of its own.
    """

    effect: Found
    relative: Found
    control: Found
    treatment: Found
    units: int
    events: tuple[int, int] | None
    events_at_most: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Level:
    """A metric in one variant, for display. value: None without data. std_error: None where it cannot be told."""

    units: int
    value: float | None
    std_error: float | None


@dataclass(frozen=True, slots=True)
class _Stratum:
    """One epoch. weight: matured units of both variants."""

    weight: float
    effect: Found
    control: Found
    treatment: Found


def contrast(moments: MetricMoments, control: int, treatment: int) -> Contrast:
    """Compare two arms (places in the split) on matured units."""
    strata = [_stratum(moments, epoch, control, treatment) for epoch in _epochs(moments)]
    units = sum(n for cell, n in moments.units.items() if cell.arm in {control, treatment})
    effect = stratified_effect([(s.weight, s.effect) for s in strata])
    before = stratified_effect([(s.weight, s.control) for s in strata])
    after = stratified_effect([(s.weight, s.treatment) for s in strata])
    return Contrast(
        effect=effect,
        relative=_relative(before, after, effect, units),
        control=before,
        treatment=after,
        units=units,
        events=_events(moments, treatment),
        events_at_most=_events_at_most(moments, treatment),
    )


def level(moments: MetricMoments, arm: int) -> Level:
    """A metric in one arm, averaged over epochs with the weights of all arms together."""
    units = sum(n for cell, n in moments.units.items() if cell.arm == arm)
    weights = {epoch: sum(n for c, n in moments.units.items() if c.epoch == epoch) for epoch in _epochs(moments)}
    parts = [(weights[epoch], value) for epoch in weights if (value := _value(moments, Cell(epoch, arm))) is not None]
    total = sum(weight for weight, _ in parts)
    if not total:
        return Level(units, None, None)
    found = stratified_effect([(weights[epoch], _level(moments, Cell(epoch, arm))) for epoch in weights])
    std_error = found.std_error if isinstance(found, Effect) else None
    return Level(units, sum(weight / total * value for weight, value in parts), std_error)


def _epochs(moments: MetricMoments) -> list[int]:
    return sorted({cell.epoch for cell in moments.units})


def _stratum(moments: MetricMoments, epoch: int, control: int, treatment: int) -> _Stratum:
    one, other = Cell(epoch, control), Cell(epoch, treatment)
    weight = moments.units.get(one, 0) + moments.units.get(other, 0)
    if moments.plan.estimator is Estimator.QUANTILE:
        return _quantile_stratum(weight, *(_quantile(moments, cell) for cell in (one, other)))
    before, after = _comoments(moments, one), _comoments(moments, other)
    if moments.plan.metric.covariate is not None and moments.plan.estimator is not Estimator.RATIO:
        return _adjusted_stratum(weight, before, after)
    match moments.plan.estimator:
        case Estimator.SHARE:
            effect = proportion_effect(before.y, after.y)
        case Estimator.RATIO:
            effect = (rate_effect if moments.plan.is_rate else ratio_effect)(before, after)
        case _:
            effect = mean_effect(before.y, after.y)
    return _Stratum(weight, effect, _level(moments, one), _level(moments, other))


def _adjusted_stratum(weight: float, control: Comoments, treatment: Comoments) -> _Stratum:
    """CUPED. Levels are those at the pooled mean of the covariate, so that their difference is the adjusted effect."""
    effect = covariate_adjusted_effect(control, treatment)
    spread = control.ssd_x + treatment.ssd_x
    slope = (control.cross_dev + treatment.cross_dev) / spread if spread > 0.0 else 0.0
    centre = (control.x + treatment.x).mean

    def adjusted(variant: Comoments) -> Found:
        residual = variant.residual(slope)
        return level_of_mean(Moments(residual.count, residual.mean + slope * centre, residual.sum_sq_dev))

    return _Stratum(weight, effect, adjusted(control), adjusted(treatment))


def _quantile_stratum(
    weight: float, control: QuantileSummary | NotEnoughData, treatment: QuantileSummary | NotEnoughData
) -> _Stratum:
    if isinstance(control, NotEnoughData):
        return _Stratum(weight, control, control, control)
    if isinstance(treatment, NotEnoughData):
        return _Stratum(weight, treatment, treatment, treatment)
    effect = quantile_effect(control, treatment)
    return _Stratum(weight, effect, level_of_quantile(control), level_of_quantile(treatment))


def _relative(control: Found, treatment: Found, effect: Found, units: int) -> Found:
    for found in (effect, control, treatment):
        if isinstance(found, NotEnoughData):
            return found
    assert isinstance(control, Effect)
    assert isinstance(treatment, Effect)
    assert isinstance(effect, Effect)
    return relative_effect(
        control.estimate,
        control.std_error,
        treatment.estimate,
        treatment.std_error,
        units=units,
        df=effect.df,
        watched_factor=max(1.0, effect.for_any_look.std_error / effect.std_error),
    )


def _level(moments: MetricMoments, cell: Cell) -> Found:
    if moments.plan.estimator is Estimator.QUANTILE:
        summary = _quantile(moments, cell)
        return summary if isinstance(summary, NotEnoughData) else level_of_quantile(summary)
    comoments = _comoments(moments, cell)
    levels: dict[Estimator, Callable[[], Found]] = {
        Estimator.SHARE: lambda: level_of_proportion(comoments.y),
        Estimator.RATIO: lambda: (level_of_rate if moments.plan.is_rate else level_of_ratio)(comoments),
        Estimator.MEAN: lambda: level_of_mean(comoments.y),
    }
    return levels[moments.plan.estimator]()


def _value(moments: MetricMoments, cell: Cell) -> float | None:
    """The plain value, also where no standard error can be given: a rate of nothing is 0, not unknown."""
    if moments.plan.estimator is Estimator.QUANTILE:
        summary = _quantile(moments, cell)
        return None if isinstance(summary, NotEnoughData) else summary.value
    comoments = _comoments(moments, cell)
    if comoments.count == 0:
        return None
    if moments.plan.estimator is Estimator.RATIO:
        return comoments.mean_y / comoments.mean_x if comoments.mean_x != 0.0 else None
    return comoments.mean_y


def _events(moments: MetricMoments, arm: int) -> tuple[int, int] | None:
    """Exact counts: units with the event of a share; and of a rate, where a unit is a 0/1 trial or all have one rate.

    Units that share a rate m add n * m to the sum of unit rates. The exact test holds for any rates in [0, 1], not for
    0/1 alone: its likelihood ratio is convex in the rate, so at most what 0/1 trials of the same mean would give.
    """
    cells = _filled_cells(moments, arm)
    if moments.plan.estimator is Estimator.SHARE or (
        moments.plan.is_rate and all(c.ssd_x == 0.0 and c.mean_x == 1.0 for c in cells)
    ):
        return (round(sum(c.mean_y * c.count for c in cells)), sum(c.count for c in cells)) if cells else None
    if not moments.plan.is_rate:
        return None
    rates = [one_rate(cell) for cell in cells if cell.mean_x > 0.0]
    known = [rate for rate in rates if rate is not None]
    if not known or len(known) < len(rates):
        return None
    total = sum(rate.mean * rate.count for rate in known)
    # Rounded towards "no breach" of a limit.
    is_lower_better = moments.plan.metric.better is Better.LOWER
    events = math.floor(total + 1e-6) if is_lower_better else math.ceil(total - 1e-6)
    return events, sum(rate.count for rate in known)


def _events_at_most(moments: MetricMoments, arm: int) -> tuple[int, int] | None:
    """Events and units of a share or a rate; a unit's rate is at most its number of events, so this errs upwards."""
    if not (moments.plan.metric.kind is MetricKind.PROPORTION or moments.plan.is_rate):
        return None
    cells = _filled_cells(moments, arm)
    units = sum(c.count for c in cells)
    if units == 0:
        return None
    return min(units, math.ceil(sum(c.mean_y * c.count for c in cells) - 1e-9)), units


def _filled_cells(moments: MetricMoments, arm: int) -> list[Comoments]:
    return [comoments for cell, comoments in moments.cells.items() if cell.arm == arm and comoments.count]


def _comoments(moments: MetricMoments, cell: Cell) -> Comoments:
    return moments.cells.get(cell, Comoments.empty())


def _quantile(moments: MetricMoments, cell: Cell) -> QuantileSummary | NotEnoughData:
    return moments.quantiles.get(cell, NotEnoughData("no rows yet", "no_rows"))
