"""The interval that the plan's method promises, for any effect: one place where methods differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, assert_never

from fairtrial.model.experiment import Method, Spending
from fairtrial.stats.anytime import confidence_sequence
from fairtrial.stats.bayesian import credible_interval
from fairtrial.stats.effects import as_fraction
from fairtrial.stats.fixed import confidence_interval
from fairtrial.stats.group_sequential import repeated_interval
from fairtrial.stats.result import Effect, Interval, NotEnoughData

TIGHTEST_AT: Final = 10_000
"""Units of both variants at which a confidence sequence is narrowest where no horizon is planned."""

# Deciding by a sequence now and by the plan later would spend alpha twice.
PLANNING: Final = NotEnoughData(
    "the horizon is not known yet: it comes from the level of the first units", "no_horizon_yet"
)
LOCKED: Final = NotEnoughData("this method allows one look, at the horizon", "locked")


@dataclass(frozen=True, slots=True)
class Look:
    """How one metric is looked at now.

    fractions: of the planned information at every look so far, this one last; empty without a plan, where a
    group-sequential design falls back on a confidence sequence. tightest_at: units of both variants at which a
    confidence sequence is narrowest; fixed before launch. is_planning: the horizon will come from the first units.
    """

    method: Method
    alpha: float
    spending: Spending = Spending.OBRIEN_FLEMING
    fractions: tuple[float, ...] = ()
    tightest_at: int = TIGHTEST_AT
    is_locked: bool = False
    is_planning: bool = False


def interval(effect: Effect | NotEnoughData, look: Look) -> Interval | NotEnoughData:
    """Interval and p-value of an effect under this look; a refusal passes through."""
    if look.is_locked or look.is_planning:
        return LOCKED if look.is_locked else PLANNING
    if isinstance(effect, NotEnoughData):
        return effect
    match look.method:
        case Method.FIXED:
            return confidence_interval(effect, alpha=look.alpha)
        case Method.BAYESIAN:
            return credible_interval(effect, alpha=look.alpha)
        case Method.GROUP_SEQUENTIAL if look.fractions:
            return repeated_interval(effect, look.fractions, alpha=look.alpha, spending=look.spending)
        case Method.GROUP_SEQUENTIAL | Method.ANYTIME:
            return confidence_sequence(effect, effect.units, alpha=look.alpha, tightest_at=look.tightest_at)
        case _:
            assert_never(look.method)


def relative_interval(log_ratio: Effect | NotEnoughData, look: Look) -> Interval | NotEnoughData:
    """The same for a log ratio, answered as a fraction of control."""
    found = interval(log_ratio, look)
    return found if isinstance(found, NotEnoughData) else as_fraction(found)
