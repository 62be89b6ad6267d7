"""Rates of yes/no events, several per randomised unit: errors per request of a user.

`ratio_effect` learns the spread from units that differ. Where none does - a challenger that fails every request against
a control that fails none - there is no spread to learn, but a bound on it is known: no number in [0, 1] with mean m
varies more than m (1 - m), the variance of a coin. So such rates are compared as coins, which errs to the wide side.
A mean of anything else has no such bound, and stays refused: 1.0 s for all against 2.0 s for all says nothing about the
next user.
"""

from __future__ import annotations

import math
from typing import Final

from fairtrial.stats.effects import proportion_effect, ratio_effect
from fairtrial.stats.levels import level_of_proportion, level_of_ratio
from fairtrial.stats.moments import Comoments, Moments
from fairtrial.stats.result import Effect, NotEnoughData

ROUNDING: Final = 1e-12
"""Relative size below which a spread is rounding: a single odd request among a million units is 1e-6."""


def rate_effect(control: Comoments, treatment: Comoments) -> Effect | NotEnoughData:
    """Difference of two rates sum(y) / sum(x). y: events of a unit, 0 <= y <= x; x: its requests.

    `ratio_effect`, and where no unit's rate differs from another's in either variant `proportion_effect` of as many
    units as `one_rate` grants.
    """
    before, after = one_rate(control), one_rate(treatment)
    if before is None or after is None:
        return ratio_effect(control, treatment)
    return proportion_effect(before, after)


def level_of_rate(variant: Comoments) -> Effect | NotEnoughData:
    """One variant's rate; the standard error does not vanish where every unit has the same."""
    same = one_rate(variant)
    return level_of_ratio(variant) if same is None else level_of_proportion(same)


def one_rate(variant: Comoments) -> Moments | None:
    """0/1 moments with the mean that every unit shares; None where units differ, or where there is no request.

    count: Kish's effective number of units, (sum x)^2 / sum x^2, rounded down. It is at most the number of units with a
    request, and for rates weighted by requests, m (1 - m) / count bounds the variance. All units alike: their number.
    """
    if variant.count == 0 or variant.mean_x <= 0.0:
        return None
    rate = variant.mean_y / variant.mean_x
    size = variant.ssd_y + variant.count * variant.mean_y**2
    size += rate * rate * (variant.ssd_x + variant.count * variant.mean_x**2)
    if variant.residual(rate).sum_sq_dev > ROUNDING * size or not -ROUNDING <= rate <= 1.0 + ROUNDING:
        return None
    rate = min(1.0, max(0.0, round(rate, 12)))
    alike = variant.mean_x**2 / (variant.mean_x**2 + variant.ssd_x / variant.count)
    count = max(1, math.floor(variant.count * alike + 1e-6))
    return Moments(count, rate, count * rate * (1.0 - rate))
