"""The level of a metric in one variant: value and standard error, for display, relative effects and hard limits.

Levels are `Effect` values against zero, so the intervals and `stratified_effect` take them too.
"""

from __future__ import annotations

import math

from fairtrial.stats.effects import agresti_caffo_variance, ratio_level
from fairtrial.stats.moments import Comoments, Moments
from fairtrial.stats.quantile import QuantileSummary
from fairtrial.stats.result import Effect, NotEnoughData


def level_of_proportion(variant: Moments) -> Effect | NotEnoughData:
    """Share of units with the event; the standard error does not vanish at 0 or 1."""
    if variant.count < 1:
        return NotEnoughData("no units yet", "no_units")
    smallest = variant.count * min(variant.mean, 1.0 - variant.mean)
    return Effect(variant.mean, math.sqrt(agresti_caffo_variance(variant)), None, variant.count, smallest)


def level_of_mean(variant: Moments) -> Effect | NotEnoughData:
    """Mean of one number per unit."""
    if variant.count < 2:
        return NotEnoughData(f"{variant.count} units; 2 are needed", "too_few_units")
    if variant.sum_sq_dev == 0.0:
        return NotEnoughData("no unit differs from another", "no_variation")
    return Effect(variant.mean, variant.std_error, variant.count - 1.0, variant.count)


def level_of_ratio(variant: Comoments) -> Effect | NotEnoughData:
    """Sum of y over sum of x, by the delta method over units."""
    linear = ratio_level(variant)
    return linear if isinstance(linear, NotEnoughData) else level_of_mean(linear)


def level_of_quantile(summary: QuantileSummary) -> Effect:
    """A quantile."""
    return Effect(summary.value, summary.std_error, None, summary.units)
