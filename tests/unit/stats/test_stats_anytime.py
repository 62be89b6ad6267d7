"""Confidence sequences: the formulas of arXiv 2103.06476v7 and their refusals."""

from __future__ import annotations

import math

import pytest
from scipy import optimize

from fairtrial.stats.anytime import Side, confidence_sequence, mixture_precision, one_sided_bound
from fairtrial.stats.result import Effect, Interval, NotEnoughData


def interval(result: Interval | NotEnoughData) -> Interval:
    assert isinstance(result, Interval), result
    return result


def half_width(units: int, tightest_at: int, alpha: float = 0.05) -> float:
    found = interval(confidence_sequence(Effect(0.0, 1.0, None, units), units, alpha=alpha, tightest_at=tightest_at))
    assert found.upper is not None
    return found.upper


def test_half_width_is_equation_9() -> None:
    """In the paper's own terms: t = 4,000 units of variance 9, rho from eq. 161 with t* = 10,000."""
    t, sigma, alpha = 4_000, 3.0, 0.05
    rho = math.sqrt(mixture_precision(alpha, 10_000)) / sigma
    inside = 2 * (t * sigma**2 * rho**2 + 1) / (t**2 * rho**2) * math.log(math.sqrt(t * sigma**2 * rho**2 + 1) / alpha)
    effect = Effect(1.0, sigma / math.sqrt(t), None, t)
    found = interval(confidence_sequence(effect, t, alpha=alpha, tightest_at=10_000))
    assert found.upper == pytest.approx(1.0 + math.sqrt(inside))
    assert found.lower == pytest.approx(1.0 - math.sqrt(inside))


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.2])
def test_the_mixture_is_tightest_where_it_was_told_to_be(alpha: float) -> None:
    def width(log_precision: float) -> float:
        info = 5_000 * math.exp(log_precision)
        return (info + 1) / info * math.log(math.sqrt(info + 1) / alpha)

    best = optimize.minimize_scalar(width, bounds=(-15.0, 0.0), method="bounded", options={"xatol": 1e-10})
    assert math.log(mixture_precision(alpha, 5_000)) == pytest.approx(best.x, abs=1e-5)


def test_precision_is_close_to_the_papers_approximation() -> None:
    """Eq. 161: rho^2 = (-2 log alpha + log(-2 log alpha + 1)) / t."""
    approximate = (-2 * math.log(0.05) + math.log(-2 * math.log(0.05) + 1)) / 5_000
    assert mixture_precision(0.05, 5_000) == pytest.approx(approximate, rel=0.06)


@pytest.mark.parametrize("z", [0.5, 2.0, 2.9, 3.3, -4.0, 30.0])
def test_p_value_is_the_alpha_at_which_the_sequence_touches_zero(z: float) -> None:
    """Eq. 155, checked by inverting eq. 9 at the same rho."""
    units = 2_000
    found = interval(confidence_sequence(Effect(z, 1.0, None, units), units, alpha=0.05, tightest_at=3_000))
    info = units * mixture_precision(0.05, 3_000)
    assert found.p_value is not None
    if found.p_value < 1.0:
        touching = math.sqrt(2 * (info + 1) / info * (0.5 * math.log1p(info) - math.log(found.p_value)))
        assert touching == pytest.approx(abs(z))
    else:
        assert abs(z) < math.sqrt((info + 1) / info * math.log1p(info))


def test_overwhelming_evidence_has_a_small_p_value_not_zero() -> None:
    found = interval(confidence_sequence(Effect(99.0, 1.0, None, 2_000), 2_000, alpha=0.05, tightest_at=3_000))
    assert found.p_value == 1e-300


def test_one_sided_bound_is_equation_134_and_mirrors() -> None:
    units, alpha = 4_000, 0.025
    info = units * mixture_precision(2 * alpha, 10_000)
    half = math.sqrt(2 * (info + 1) / info * math.log(1 + math.sqrt(info + 1) / (2 * alpha)))
    up = interval(
        one_sided_bound(Effect(1.0, 1.0, None, units), units, alpha=alpha, tightest_at=10_000, side=Side.LOWER)
    )
    down = interval(
        one_sided_bound(Effect(-1.0, 1.0, None, units), units, alpha=alpha, tightest_at=10_000, side=Side.UPPER)
    )
    assert up.lower == pytest.approx(1.0 - half)
    assert up.upper is None
    assert down.upper == pytest.approx(-1.0 + half)
    assert down.lower is None
    assert up.p_value == down.p_value


@pytest.mark.parametrize("z", [-1.0, 0.0, 1e-9, 2.0, 4.0, 45.0])
def test_one_sided_p_value_and_bound_agree(z: float) -> None:
    units = 2_000
    found = interval(
        one_sided_bound(Effect(z, 1.0, None, units), units, alpha=0.01, tightest_at=1_000, side=Side.LOWER)
    )
    assert found.lower is not None
    assert found.p_value is not None
    assert 0.0 <= found.p_value <= 1.0
    assert (found.lower > 0.0) == (found.p_value < 0.01)


def test_width_is_least_at_the_chosen_count_relative_to_other_choices() -> None:
    assert half_width(5_000, 5_000) < half_width(5_000, 500)
    assert half_width(5_000, 5_000) < half_width(5_000, 50_000)


@pytest.mark.parametrize(
    ("effect", "code"),
    [
        (Effect(0.1, 0.1, None, 1_000, smallest_count=9.0), "too_few_events"),
        (Effect(0.1, 0.1, None, 99), "too_few_units"),
        (Effect(0.1, 0.1, 20.0, 5_000), "too_few_units"),
    ],
)
def test_refuses_before_its_promise_holds(effect: Effect, code: str) -> None:
    refused = confidence_sequence(effect, effect.units, alpha=0.05, tightest_at=5_000)
    assert isinstance(refused, NotEnoughData)
    assert refused.code == code
    sided = one_sided_bound(effect, effect.units, alpha=0.05, tightest_at=5_000, side=Side.LOWER)
    assert isinstance(sided, NotEnoughData)
    assert sided.code == code


def test_nonsense_is_an_error() -> None:
    effect = Effect(0.1, 0.1, None, 1_000)
    with pytest.raises(ValueError, match="alpha"):
        confidence_sequence(effect, 1_000, alpha=0.0, tightest_at=100)
    with pytest.raises(ValueError, match="tightest_at"):
        confidence_sequence(effect, 1_000, alpha=0.05, tightest_at=0)
