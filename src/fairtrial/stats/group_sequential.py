"""Group-sequential designs: look several times at a planned trial and keep alpha, at a cost of a few percent of units.

Alpha is spent as information accrues (Lan & DeMets 1983), so looks need be neither planned nor evenly spaced; each
bound depends only on the looks so far. The null density of the z-statistic on the continuation region is carried from
look to look by numerical integration: Jennison & Turnbull 2000, chapter 19 (grid of section 19.2, Simpson's rule).
Intervals are repeated confidence intervals (chapter 9): estimate -+ bound * standard error, all of them right at once.

Looks that add less than MIN_STEP of the plan since the last counted one get that one's bound, raised by what a
continuously watched random walk adds (0.583 standard deviations of a step: Siegmund 1985, chapter X). Once the plan
is reached, the look at hand is taken as the final one and replaces earlier looks past it (the deletion method for
over-running, Whitehead 1992): the first verdict at or past the horizon is the one that counts.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, assert_never

import numpy as np
from scipy import special

from fairtrial.model.experiment import Spending
from fairtrial.stats.fixed import critical_value, upper_tail
from fairtrial.stats.moments import FloatArray
from fairtrial.stats.result import (
    MIN_COUNT_ANY_LOOK,
    Effect,
    Interval,
    IntervalKind,
    NotEnoughData,
    check_alpha,
    too_few_events,
)

MIN_STEP: Final = 0.02
"""Share of the planned information that a look must add to be counted."""

_GRID: Final = 12  # r of section 19.2: bounds to five digits, and steps of MIN_STEP still resolved
_LEAST_STEP: Final = 0.005  # relative step below which the kernel would fall between grid points
_LEAST_SPENT: Final = 1e-300  # less alpha than this is kept for the next look; the bound is infinite
_WATCHED: Final = 0.583
_NORMAL_POINTS: Final = (0.05, *(0.25 * step for step in range(1, 30)))


@dataclass(frozen=True, slots=True)
class _Look:
    """State after one look. nodes: z values where the trial goes on; weights: sub-density times quadrature weight."""

    fraction: float
    bound: float
    nodes: FloatArray
    weights: FloatArray


def spent_alpha(fraction: float, alpha: float, spending: Spending) -> float:
    """Two-sided alpha spent by `fraction` (>= 0) of the planned information; all of it from 1 on."""
    if fraction <= 0.0:
        return 0.0
    share = min(fraction, 1.0)
    match spending:
        case Spending.OBRIEN_FLEMING:  # each side spends its half by 2 - 2 Phi(z / sqrt(t))
            return 4.0 * upper_tail(critical_value(alpha / 4.0, None) / math.sqrt(share), None)
        case Spending.POCOCK:
            return alpha * math.log1p((math.e - 1.0) * share)
        case _:
            assert_never(spending)


def boundaries(fractions: Sequence[float], alpha: float, spending: Spending) -> FloatArray:
    """Bound of |z| at each look. fractions: share of the planned information at each look so far, > 0, in order.

    A fraction may exceed 1 (over-running) or repeat; one that falls counts as its predecessor, because information
    cannot be lost. alpha: two-sided, in (0, 1). A bound is infinite where too little alpha is spent to reject with.
    """
    check_alpha(alpha)
    looks = _rising(fractions)
    return np.array([_bound_at(looks[: place + 1], alpha, spending) for place in range(len(looks))])


def repeated_interval(
    effect: Effect,
    fractions_so_far: Sequence[float],
    *,
    alpha: float,
    spending: Spending = Spending.OBRIEN_FLEMING,
) -> Interval | NotEnoughData:
    """Two-sided interval valid at every look of a planned trial; its p-value is the repeated one (section 9.5).

    fractions_so_far: shares of the planned information at every look so far, this one last (see `boundaries`). With
    degrees of freedom, the bound is carried over to Student's t at equal tail probability (section 11.4).
    """
    check_alpha(alpha)
    looks = _rising(fractions_so_far)
    effect = effect.for_any_look
    if refusal := too_few_events(effect, MIN_COUNT_ANY_LOOK):
        return refusal
    bound = _bound_at(looks, alpha, spending)
    critical = critical_value(upper_tail(bound, None), effect.df)
    if not math.isfinite(critical):
        return NotEnoughData(
            f"{looks[-1]:.2%} of the planned information is too little for a first look", "too_little_information"
        )
    half = critical * effect.std_error
    p_value = _repeated_p_value(looks, _as_normal(abs(effect.z), effect.df), spending)
    # The two are inverses of each other up to the tolerance of the root; never let them contradict.
    p_value = min(p_value, alpha) if abs(effect.estimate) > half else max(p_value, alpha)
    kind = IntervalKind.REPEATED_CONFIDENCE_INTERVAL
    return Interval(effect.estimate, effect.estimate - half, effect.estimate + half, 1.0 - alpha, kind, p_value)


def crossing_probabilities(fractions: Sequence[float], bounds: Sequence[float], drift: float) -> FloatArray:
    """Chance of first crossing +-bound at each look, where z has mean drift * sqrt(fraction)."""
    chances = []
    look: _Look | None = None
    for fraction, bound in zip(fractions, bounds, strict=True):
        chances.append(_exceeds(look, fraction, bound, drift))
        look = _advance(look, fraction, bound, drift)
    return np.array(chances)


def _rising(fractions: Sequence[float]) -> tuple[float, ...]:
    if len(fractions) == 0 or not all(math.isfinite(f) and f > 0.0 for f in fractions):
        raise ValueError(f"information fractions are {list(fractions)}; at least one, all finite and above 0")
    return tuple(np.maximum.accumulate(np.asarray(fractions, dtype=np.float64)).tolist())


def _counted(looks: tuple[float, ...]) -> tuple[float, ...]:
    """The looks that spend alpha: MIN_STEP apart, and at most one at or past the horizon: the last."""
    counted: list[float] = []
    for fraction in looks:
        if fraction < 1.0 and (not counted or fraction - counted[-1] >= MIN_STEP):
            counted.append(fraction)
    return (*counted, looks[-1]) if looks[-1] >= 1.0 else tuple(counted)


def _bound_at(looks: tuple[float, ...], alpha: float, spending: Spending) -> float:
    counted = _counted(looks)
    bound = _look(counted, alpha, spending).bound
    if looks[-1] == counted[-1]:
        return bound
    return bound + _WATCHED * math.sqrt(MIN_STEP / looks[-1])


@lru_cache(maxsize=4096)
def _look(counted: tuple[float, ...], alpha: float, spending: Spending) -> _Look:
    """State after the last of these looks; the state before it comes from the cache when looks are appended."""
    fraction = counted[-1]
    before = _look(counted[:-1], alpha, spending) if len(counted) > 1 else None
    already = spent_alpha(before.fraction, alpha, spending) if before else 0.0
    increment = spent_alpha(fraction, alpha, spending) - already
    bound = math.inf
    if increment > _LEAST_SPENT:
        # On the scale of normal points the chance is almost linear in the bound: the secant needs four or five steps.
        target = critical_value(increment / 2.0, None)
        bound = _root(lambda c: critical_value(_exceeds(before, fraction, c, 0.0) / 2.0, None) - target, 0.0, target)
    return _advance(before, fraction, bound, 0.0)


def _steps(before: _Look, fraction: float) -> tuple[float, float, float]:
    """Square roots of the information before, of the information now, and of the step between them."""
    step = max(fraction - before.fraction, _LEAST_STEP * fraction)
    return math.sqrt(fraction - step), math.sqrt(fraction), math.sqrt(step)


def _exceeds(before: _Look | None, fraction: float, bound: float, drift: float) -> float:
    """Chance of going on until now and then crossing +-bound."""
    if before is None:
        mean = drift * math.sqrt(fraction)
        return float(special.ndtr(mean - bound) + special.ndtr(-mean - bound))
    root_before, root, root_step = _steps(before, fraction)
    arrivals = before.nodes * root_before + drift * root_step**2
    edge = bound * root
    crossing = special.ndtr((arrivals - edge) / root_step) + special.ndtr((-arrivals - edge) / root_step)
    return float(before.weights @ crossing)


def _advance(before: _Look | None, fraction: float, bound: float, drift: float) -> _Look:
    mean = drift * math.sqrt(fraction)
    nodes, quadrature = _simpson_grid(mean, bound)
    if before is None:
        return _Look(fraction, bound, nodes, quadrature * _normal_density(nodes - mean))
    root_before, root, root_step = _steps(before, fraction)
    arrivals = before.nodes * root_before + drift * root_step**2
    kernel = _normal_density((nodes[:, None] * root - arrivals[None, :]) / root_step)
    return _Look(fraction, bound, nodes, quadrature * (kernel @ before.weights) * (root / root_step))


def _simpson_grid(mean: float, bound: float) -> tuple[FloatArray, FloatArray]:
    """Nodes and weights within +-bound: dense to 3 standard deviations around the mean, logarithmic beyond."""
    tail = 3.0 + 4.0 * np.log(_GRID / np.arange(1, _GRID))
    body = np.linspace(-3.0, 3.0, 4 * _GRID + 1)
    points = mean + np.concatenate([-tail, body, tail[::-1]])
    points = points[(points > -bound) & (points < bound)]
    if math.isfinite(bound):
        points = np.concatenate([[-bound], points, [bound]])
    gaps = np.diff(points)
    nodes = np.empty(2 * points.size - 1)
    nodes[0::2], nodes[1::2] = points, points[:-1] + gaps / 2.0
    weights = np.zeros_like(nodes)
    weights[1::2] = 4.0 * gaps / 6.0
    weights[0:-1:2] += gaps / 6.0
    weights[2::2] += gaps / 6.0
    return nodes, weights


def _normal_density(z: FloatArray) -> FloatArray:
    density: FloatArray = np.exp(-0.5 * np.square(z)) / math.sqrt(2.0 * math.pi)
    return density


def _repeated_p_value(looks: tuple[float, ...], z: float, spending: Spending) -> float:
    """The alpha whose bound at this look is exactly z; 1 above 0.96.

    The normal point of alpha is a smooth, almost linear function of the bound, so it is interpolated through four
    alphas of a fixed grid. Fixed, because then the recursion over past looks comes from the cache at the next look.
    """

    def bound(place: int) -> float:
        return _bound_at(looks, _alpha_of(_NORMAL_POINTS[place]), spending)

    above = bisect.bisect_left(range(len(_NORMAL_POINTS)), z, key=bound)
    if above == 0:
        return 1.0
    if above == len(_NORMAL_POINTS):
        return _alpha_of(_NORMAL_POINTS[-1])
    first = min(max(above - 2, 0), len(_NORMAL_POINTS) - 4)
    known = [(x, _NORMAL_POINTS[place]) for place in range(first, first + 4) if math.isfinite(x := bound(place))]
    return _alpha_of(_interpolate(known, z))


def _alpha_of(normal_point: float) -> float:
    return 2.0 * upper_tail(normal_point, None)


def _interpolate(points: Sequence[tuple[float, float]], x: float) -> float:
    """Value at x of the polynomial through the points (Lagrange)."""
    return sum(y * math.prod((x - other) / (own - other) for other, _ in points if other != own) for own, y in points)


def _as_normal(point: float, df: float | None) -> float:
    """The normal point with the same tail probability as this point of Student's t."""
    return point if df is None else critical_value(max(upper_tail(point, df), _LEAST_SPENT), None)


def _root(function: Callable[[float], float], low: float, high: float, *, tolerance: float = 1e-10) -> float:
    """Root of a rising function that is not above 0 at low and not below 0 at high: the Illinois secant."""
    at_low, at_high = function(low), function(high)
    guess, last = high, 0.0
    while high - low > tolerance:
        before = guess
        is_flat = not math.isfinite(at_high - at_low) or at_high <= at_low
        guess = 0.5 * (low + high) if is_flat else low - at_low * (high - low) / (at_high - at_low)
        value = function(guess)
        if value == 0.0 or abs(guess - before) < tolerance:
            return guess
        if value < 0.0:
            low, at_low, at_high = guess, value, at_high / 2.0 if last < 0.0 else at_high
        else:
            high, at_high, at_low = guess, value, at_low / 2.0 if last > 0.0 else at_low
        last = value
    return 0.5 * (low + high)
