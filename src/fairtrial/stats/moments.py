"""Count, mean and centred sum of squares: all that the effects need to know of a variant, merged in any order.

Squares are always taken about a mean or a nearby centre, never about zero: at mean 1e8 and standard deviation 1, the
sum of squares minus the square of the sum has no correct digit left in float64. Merging is Chan, Golub & LeVeque 1979,
written so that `a + b` and `b + a` are the same floats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Moments:
    """Of one number per unit. count: units, >= 0. mean: 0 when empty. sum_sq_dev: of deviations from the mean, >= 0."""

    count: int
    mean: float
    sum_sq_dev: float

    def __post_init__(self) -> None:
        _check(self.count, (self.mean, self.sum_sq_dev), (self.sum_sq_dev,))

    @classmethod
    def empty(cls) -> Self:
        """Moments of no unit; adding them changes nothing."""
        return cls(0, 0.0, 0.0)

    @classmethod
    def of(cls, values: npt.ArrayLike) -> Self:
        """Moments of one finite number per unit. Raises ValueError for NaN or infinity."""
        array = np.asarray(values, dtype=np.float64).ravel()
        if array.size == 0:
            return cls.empty()
        _check_finite(array)
        mean = float(array.mean())
        return cls(int(array.size), mean, float(np.square(array - mean).sum()))

    @classmethod
    def from_sums(cls, count: int, total: float, total_sq: float, *, centre: float) -> Self:
        """Moments from sum(y - c) and sum((y - c)^2) about a centre c.

        Any c is right in exact arithmetic; within a few standard deviations of the mean no digits are lost.
        """
        if count == 0:
            return cls.empty()
        return cls(count, centre + total / count, max(0.0, total_sq - total * total / count))

    @property
    def variance(self) -> float:
        """Sample variance (ddof 1); NaN below two units."""
        return self.sum_sq_dev / (self.count - 1) if self.count > 1 else math.nan

    @property
    def std_error(self) -> float:
        """Standard error of the mean; NaN below two units."""
        return math.sqrt(self.variance / self.count) if self.count > 1 else math.nan

    def __add__(self, other: Self) -> Self:
        if self.count == 0 or other.count == 0:
            return self if other.count == 0 else other
        count = self.count + other.count
        gap = other.mean - self.mean
        return type(self)(
            count,
            _merged_mean(self.count, self.mean, other.count, other.mean),
            (self.sum_sq_dev + other.sum_sq_dev) + gap * gap * (self.count * other.count / count),
        )


@dataclass(frozen=True, slots=True)
class Comoments:
    """Of two numbers per unit, y and x: numerator and denominator of a ratio, or outcome and covariate.

    ssd_y, ssd_x: sums of squared deviations. cross_dev: sum of (y - mean_y) * (x - mean_x).
    """

    count: int
    mean_y: float
    mean_x: float
    ssd_y: float
    ssd_x: float
    cross_dev: float

    def __post_init__(self) -> None:
        numbers = (self.mean_y, self.mean_x, self.ssd_y, self.ssd_x, self.cross_dev)
        _check(self.count, numbers, (self.ssd_y, self.ssd_x))

    @classmethod
    def empty(cls) -> Self:
        """Comoments of no unit; adding them changes nothing."""
        return cls(0, 0.0, 0.0, 0.0, 0.0, 0.0)

    @classmethod
    def of(cls, y: npt.ArrayLike, x: npt.ArrayLike) -> Self:
        """Comoments of two equally long rows. Raises ValueError for NaN, infinity or unequal lengths."""
        ys = np.asarray(y, dtype=np.float64).ravel()
        xs = np.asarray(x, dtype=np.float64).ravel()
        if ys.size != xs.size:
            raise ValueError(f"y has {ys.size} values and x has {xs.size}; every unit needs both")
        if ys.size == 0:
            return cls.empty()
        _check_finite(ys)
        _check_finite(xs)
        mean_y, mean_x = float(ys.mean()), float(xs.mean())
        dev_y, dev_x = ys - mean_y, xs - mean_x
        return cls(int(ys.size), mean_y, mean_x, float(dev_y @ dev_y), float(dev_x @ dev_x), float(dev_y @ dev_x))

    @classmethod
    def from_sums(  # noqa: PLR0917 - the sums in the order SQL gives them
        cls,
        count: int,
        total_y: float,
        total_x: float,
        total_yy: float,
        total_xx: float,
        total_xy: float,
        *,
        centre_y: float,
        centre_x: float,
    ) -> Self:
        """Comoments from sums about centres: sum(y-c), sum(x-d), sum((y-c)^2), sum((x-d)^2), sum((y-c)*(x-d))."""
        if count == 0:
            return cls.empty()
        return cls(
            count,
            centre_y + total_y / count,
            centre_x + total_x / count,
            max(0.0, total_yy - total_y * total_y / count),
            max(0.0, total_xx - total_x * total_x / count),
            total_xy - total_y * total_x / count,
        )

    @property
    def y(self) -> Moments:
        """Moments of y alone."""
        return Moments(self.count, self.mean_y, self.ssd_y)

    @property
    def x(self) -> Moments:
        """Moments of x alone."""
        return Moments(self.count, self.mean_x, self.ssd_x)

    def residual(self, slope: float) -> Moments:
        """Moments of y - slope * x."""
        spread = self.ssd_y - 2.0 * slope * self.cross_dev + slope * slope * self.ssd_x
        return Moments(self.count, self.mean_y - slope * self.mean_x, max(0.0, spread))

    def __add__(self, other: Self) -> Self:
        if self.count == 0 or other.count == 0:
            return self if other.count == 0 else other
        count = self.count + other.count
        weight = self.count * other.count / count
        gap_y, gap_x = other.mean_y - self.mean_y, other.mean_x - self.mean_x
        return type(self)(
            count,
            _merged_mean(self.count, self.mean_y, other.count, other.mean_y),
            _merged_mean(self.count, self.mean_x, other.count, other.mean_x),
            (self.ssd_y + other.ssd_y) + gap_y * gap_y * weight,
            (self.ssd_x + other.ssd_x) + gap_x * gap_x * weight,
            (self.cross_dev + other.cross_dev) + gap_y * gap_x * weight,
        )


def _merged_mean(count_a: int, mean_a: float, count_b: int, mean_b: float) -> float:
    return (count_a * mean_a + count_b * mean_b) / (count_a + count_b)


def _check(count: int, numbers: tuple[float, ...], not_negative: tuple[float, ...]) -> None:
    if count < 0:
        raise ValueError(f"count is {count}; must be 0 or more")
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"moments {numbers} hold NaN or infinity: find the value that is not finite")
    if min(not_negative) < 0.0:
        raise ValueError(f"sum of squared deviations is {min(not_negative)}; must be 0 or more")


def _check_finite(array: FloatArray) -> None:
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise ValueError(f"value {array[bad[0]]} at row {bad[0]} ({bad.size} in all); every value must be finite")
