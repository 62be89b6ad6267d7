"""Effects of a treatment, and their standard errors, from moments per randomisation unit.

Every function takes control first and answers treatment minus control; swapping the two flips the sign and nothing
else. The unit of the moments must be the unit of randomisation: that is what makes request-level means of a
user-randomised trial honest (`ratio_effect` on per-user sums and counts).

Where one variant is smaller, an effect carries a second standard error for methods that allow repeated looks
(`Effect.for_any_look`): the small variant that has not met a large value yet looks both low and certain, and somebody
who looks often stops just then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from fairtrial.stats.moments import Comoments, Moments
from fairtrial.stats.result import Effect, Interval, NotEnoughData

MIN_RELATIVE_Z: Final = 3.0
"""A level must lie this many standard errors above zero before a ratio to it is reported."""

MAX_LEFT_OUT: Final = 0.1
"""Largest share of units in epochs without an effect of their own that a stratified effect leaves out."""


BORROWED_UNITS: Final = 200.0
"""Strength with which the smaller variant's variance is drawn towards the larger's where looks are repeated."""


def proportion_effect(control: Moments, treatment: Moments) -> Effect | NotEnoughData:
    """Difference of two proportions (points), from moments of 0/1 values.

    The standard error is Agresti & Caffo 2000 (one event and one non-event added to each variant), which is Wald's for
    large counts and does not vanish when a variant has no events. Raises ValueError for a mean outside [0, 1].
    """
    if refusal := _too_few_units(control, treatment, minimum=1):
        return refusal
    for moments in (control, treatment):
        if not 0.0 <= moments.mean <= 1.0:
            raise ValueError(f"proportion is {moments.mean}; values must be 0 or 1")
    counts = control.count + 2, treatment.count + 2
    spreads = agresti_caffo_variance(control) * counts[0], agresti_caffo_variance(treatment) * counts[1]
    pooled = (control + treatment).mean
    # All against nothing is no accident of a rare event, however small the one variant is beside the other.
    is_all_against_nothing = {control.mean, treatment.mean} == {0.0, 1.0}
    rarer = 0.5 if is_all_against_nothing else min(pooled, 1.0 - pooled)
    smallest = min(control.count, treatment.count) * rarer

    def with_borrowed(units: float) -> Effect:
        variance = sum(_variances(spreads, counts, units))
        total = control.count + treatment.count
        return Effect(treatment.mean - control.mean, math.sqrt(variance), None, total, smallest_count=smallest)

    return _with_watched(with_borrowed)


def mean_effect(control: Moments, treatment: Moments) -> Effect | NotEnoughData:
    """Difference of two means with Welch's standard error and degrees of freedom (Welch 1947)."""
    if refusal := _too_few_units(control, treatment, minimum=2):
        return refusal
    return _welch(treatment.mean - control.mean, control, treatment)


def ratio_effect(control: Comoments, treatment: Comoments) -> Effect | NotEnoughData:
    """Difference of two ratios sum(y) / sum(x), by the delta method over units.

    y: numerator, x: denominator of each randomised unit (clicks and views of a user, summed latency and requests).
    Source: Deng, Knoblich & Lu, KDD 2018 (arXiv 1803.06336), section 3: V = (s_y^2 - 2 R s_xy + R^2 s_x^2) / (n m_x^2).
    """
    if refusal := _too_few_units(control.y, treatment.y, minimum=2):
        return refusal
    before, after = ratio_level(control), ratio_level(treatment)
    if isinstance(before, NotEnoughData):
        return before
    if isinstance(after, NotEnoughData):
        return after
    return _welch(after.mean - before.mean, before, after)


def ratio_level(variant: Comoments) -> Moments | NotEnoughData:
    """One variant's ratio as a mean of linearised units: `.mean` is the ratio, `.std_error` the delta method's."""
    if variant.count == 0 or variant.mean_x == 0.0:
        return NotEnoughData("the denominator is zero in one variant", "zero_denominator")
    ratio = variant.mean_y / variant.mean_x
    return Moments(variant.count, ratio, variant.residual(ratio).sum_sq_dev / variant.mean_x**2)


def covariate_adjusted_effect(control: Comoments, treatment: Comoments) -> Effect | NotEnoughData:
    """Difference of means of y after taking out what the pre-period covariate x explains (CUPED).

    One slope for both variants, from the pooled within-variant covariance: Deng, Xu, Kohavi & Walker, WSDM 2013, eq. 5.
    x must be measured before exposure, and be known (or imputed by the same rule) for every unit. A covariate that does
    not vary changes nothing.
    """
    if refusal := _too_few_units(control.y, treatment.y, minimum=2):
        return refusal
    spread = control.ssd_x + treatment.ssd_x
    slope = (control.cross_dev + treatment.cross_dev) / spread if spread > 0.0 else 0.0
    before, after = control.residual(slope), treatment.residual(slope)
    return _welch(after.mean - before.mean, before, after)


def stratified_effect(effects_by_epoch: Sequence[tuple[float, Effect | NotEnoughData]]) -> Effect | NotEnoughData:
    """Effect over epochs with different allocations: sum of w * effect, w = the epoch's share of all units.

    effects_by_epoch: (units of all compared variants in that epoch, its effect). Pooling units over epochs whose split
    differs answers Simpson's paradox instead of the question; weighting effects does not. V = sum of w^2 V_h (Miratrix,
    Sekhon & Yu 2013). Epochs without an effect of their own are left out while they hold at most MAX_LEFT_OUT of all
    units; above that their refusal is the answer.
    """
    refusals = [(weight, effect) for weight, effect in effects_by_epoch if isinstance(effect, NotEnoughData)]
    parts = [(weight, effect) for weight, effect in effects_by_epoch if isinstance(effect, Effect) and weight > 0.0]
    total = sum(weight for weight, _ in parts)
    left_out = sum(weight for weight, _ in refusals)
    if not parts or left_out > MAX_LEFT_OUT * (total + left_out):
        return max(refusals, key=lambda part: part[0])[1] if refusals else NotEnoughData("no units yet", "no_units")
    plain = _weighted(parts)
    if all(effect.watched is None for _, effect in parts):
        return plain
    return replace(plain, watched=_weighted([(weight, effect.for_any_look) for weight, effect in parts]))


def _weighted(parts: Sequence[tuple[float, Effect]]) -> Effect:
    total = sum(weight for weight, _ in parts)
    variances = [(weight / total) ** 2 * effect.std_error**2 for weight, effect in parts]
    counts = [effect.smallest_count for _, effect in parts if effect.smallest_count is not None]
    return Effect(
        sum(weight / total * effect.estimate for weight, effect in parts),
        math.sqrt(sum(variances)),
        _combined_df(variances, [effect.df for _, effect in parts]),
        sum(effect.units for _, effect in parts),
        smallest_count=sum(counts) if len(counts) == len(parts) else None,
    )


def relative_effect(
    control_value: float,
    control_se: float,
    treatment_value: float,
    treatment_se: float,
    *,
    units: int,
    df: float | None = None,
    watched_factor: float = 1.0,
) -> Effect | NotEnoughData:
    """Log of treatment / control, with its delta-method standard error; for showing, never for deciding.

    watched_factor: standard error under repeated looks over that of one look, of the absolute effect
    (`for_any_look.std_error / std_error`), >= 1.

    Any interval of it becomes one for the relative effect through `as_fraction`. Both levels must be positive and lie
    MIN_RELATIVE_Z standard errors from zero: nearer, the log ratio is not close to normal and the interval is fiction.
    """
    for name, value, std_error in (
        ("control", control_value, control_se),
        ("treatment", treatment_value, treatment_se),
    ):
        if not value > MIN_RELATIVE_Z * std_error:
            return NotEnoughData(
                f"{name} ({value:.4g}) is not clearly above zero (standard error {std_error:.2g}); "
                f"a relative effect needs at least {MIN_RELATIVE_Z:g} standard errors",
                f"{name}_near_zero",
            )
    std_error = math.hypot(control_se / control_value, treatment_se / treatment_value)
    if std_error == 0.0:
        return NotEnoughData("neither variant varies", "no_variation")
    plain = Effect(math.log(treatment_value / control_value), std_error, df, units)
    return (
        plain if watched_factor == 1.0 else replace(plain, watched=replace(plain, std_error=std_error * watched_factor))
    )


def as_fraction(log_ratio: Interval) -> Interval:
    """Interval of a log ratio as a fraction of control: 0.02 is +2 %. The p-value stays."""
    return Interval(
        math.expm1(log_ratio.estimate),
        None if log_ratio.lower is None else math.expm1(log_ratio.lower),
        # Above 700 the bound leaves float64: it is open for every practical purpose.
        None if log_ratio.upper is None or log_ratio.upper > 700.0 else math.expm1(log_ratio.upper),
        log_ratio.level,
        log_ratio.kind,
        log_ratio.p_value,
    )


def agresti_caffo_variance(moments: Moments) -> float:
    """Variance of a proportion with one event and one non-event added; above zero for any count."""
    count = moments.count + 2
    proportion = (moments.mean * moments.count + 1.0) / count
    return proportion * (1.0 - proportion) / count


def _welch(estimate: float, control: Moments, treatment: Moments) -> Effect | NotEnoughData:
    spreads = control.variance, treatment.variance
    if max(spreads) == 0.0:
        return NotEnoughData("no unit differs from another in either variant", "no_variation")
    # A variant without variation (no timeouts yet) borrows the other's: zero would claim to know its mean exactly.
    filled = spreads[0] or spreads[1], spreads[1] or spreads[0]

    def with_borrowed(units: float) -> Effect:
        variances = _variances(filled, (control.count, treatment.count), units)
        df = _combined_df(variances, [control.count - 1.0, treatment.count - 1.0])
        return Effect(estimate, math.sqrt(sum(variances)), df, control.count + treatment.count)

    return _with_watched(with_borrowed)


def _with_watched(with_borrowed: Callable[[float], Effect]) -> Effect:
    plain, watched = with_borrowed(0.0), with_borrowed(BORROWED_UNITS)
    return plain if watched == plain else replace(plain, watched=watched)


def _variances(spreads: tuple[float, float], counts: tuple[int, int], borrowed_units: float) -> tuple[float, float]:
    """Variances of the two means, the smaller variant's drawn towards the larger's; Welch's with borrowed_units = 0.

    With a skewed metric and a 90/10 split, type I under peeking is 0.23 at a nominal 0.05. Counting the larger
    variant's variance as borrowed_units * (imbalance of the counts) units of the smaller's keeps it below 0.035, costs
    nothing at even splits and vanishes as units come in: tests/calibration/test_calibration_sequences.py.
    """
    first, second = counts
    to_first = borrowed_units * max(0, second - first) / (first + second)
    to_second = borrowed_units * max(0, first - second) / (first + second)
    return (
        (first * spreads[0] + to_first * spreads[1]) / (first + to_first) / first,
        (second * spreads[1] + to_second * spreads[0]) / (second + to_second) / second,
    )


def _combined_df(variances: Sequence[float], dfs: Sequence[float | None]) -> float | None:
    """Satterthwaite's degrees of freedom of a sum of independent variance estimates; None is infinitely many."""
    total = sum(variances)
    uncertainty = sum((v / total) ** 2 / df for v, df in zip(variances, dfs, strict=True) if df is not None)
    return 1.0 / uncertainty if uncertainty > 0.0 else None


def _too_few_units(control: Moments, treatment: Moments, *, minimum: int) -> NotEnoughData | None:
    for name, moments in (("control", control), ("treatment", treatment)):
        if moments.count < minimum:
            return NotEnoughData(f"{name} has {moments.count} units; {minimum} are needed", "too_few_units")
    return None
