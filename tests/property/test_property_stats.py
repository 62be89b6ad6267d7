"""Laws of the statistics: merging, mirroring, nesting."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fairtrial.model.experiment import Spending
from fairtrial.stats.adjust import benjamini_hochberg, bonferroni, holm
from fairtrial.stats.anytime import Side, confidence_sequence, one_sided_bound
from fairtrial.stats.bayesian import credible_interval
from fairtrial.stats.effects import (
    covariate_adjusted_effect,
    mean_effect,
    proportion_effect,
    ratio_effect,
    relative_effect,
)
from fairtrial.stats.fixed import confidence_interval
from fairtrial.stats.group_sequential import boundaries, repeated_interval, spent_alpha
from fairtrial.stats.moments import Comoments, Moments
from fairtrial.stats.result import Effect, Interval, NotEnoughData
from fairtrial.stats.srm import EpochCounts, srm_test

VALUES = st.lists(st.floats(-1e6, 1e6), max_size=30)
PAIRS = st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(0.5, 1e3)), min_size=2, max_size=30)
EFFECTS = st.builds(
    Effect,
    st.floats(-50.0, 50.0),
    st.floats(0.01, 10.0),
    st.one_of(st.none(), st.floats(60.0, 1e6)),
    st.integers(200, 1_000_000),
)
ALPHAS = st.floats(0.001, 0.4)
FRACTIONS = st.lists(st.floats(0.1, 1.4), min_size=1, max_size=4).map(sorted)


def moments_close(a: Moments, b: Moments) -> bool:
    scale = max(1.0, abs(a.mean)) ** 2 * max(1, a.count)
    return (
        a.count == b.count
        and math.isclose(a.mean, b.mean, rel_tol=1e-9, abs_tol=1e-9 * max(1.0, abs(a.mean)) + 1e-6)
        and math.isclose(a.sum_sq_dev, b.sum_sq_dev, rel_tol=1e-6, abs_tol=1e-6 * scale)
    )


def comoments(rows: list[tuple[float, float]]) -> Comoments:
    return Comoments.of([row[0] for row in rows], [row[1] for row in rows])


@given(VALUES, VALUES, VALUES)
def test_merging_moments_is_commutative_and_associative(a: list[float], b: list[float], c: list[float]) -> None:
    x, y, z = Moments.of(a), Moments.of(b), Moments.of(c)
    assert x + y == y + x
    assert moments_close((x + y) + z, x + (y + z))
    assert moments_close((x + y) + z, Moments.of(a + b + c))


@given(PAIRS, PAIRS)
def test_merging_comoments_is_commutative_and_agrees_with_the_whole(
    a: list[tuple[float, float]], b: list[tuple[float, float]]
) -> None:
    merged, whole = comoments(a) + comoments(b), comoments(a + b)
    assert merged == comoments(b) + comoments(a)
    assert moments_close(merged.y, whole.y)
    assert moments_close(merged.x, whole.x)
    assert merged.cross_dev == pytest.approx(whole.cross_dev, rel=1e-6, abs=1e-3)


def mirrored(there: Effect | NotEnoughData, back: Effect | NotEnoughData) -> None:
    assert isinstance(there, Effect) == isinstance(back, Effect)
    if isinstance(there, Effect) and isinstance(back, Effect):
        assert back.estimate == -there.estimate
        assert back.std_error == pytest.approx(there.std_error, rel=1e-12)
        assert back.units == there.units
        assert back.smallest_count == there.smallest_count
        assert back.df == (None if there.df is None else pytest.approx(there.df, rel=1e-9))


@given(PAIRS, PAIRS)
def test_swapping_the_variants_flips_the_sign_and_nothing_else(
    a: list[tuple[float, float]], b: list[tuple[float, float]]
) -> None:
    x, y = comoments(a), comoments(b)
    mirrored(mean_effect(x.y, y.y), mean_effect(y.y, x.y))
    mirrored(ratio_effect(x, y), ratio_effect(y, x))
    one, two = Moments.of([v > 0 for v, _ in a]), Moments.of([v > 0 for v, _ in b])
    mirrored(proportion_effect(one, two), proportion_effect(two, one))


@given(PAIRS, PAIRS)
def test_swapping_the_variants_mirrors_the_adjusted_effect(
    a: list[tuple[float, float]], b: list[tuple[float, float]]
) -> None:
    there, back = (covariate_adjusted_effect(comoments(p), comoments(q)) for p, q in ((a, b), (b, a)))
    assume(isinstance(there, Effect) and isinstance(back, Effect))
    assert isinstance(there, Effect)
    assert isinstance(back, Effect)
    assert back.estimate == pytest.approx(-there.estimate, rel=1e-6, abs=1e-6)
    assert back.std_error == pytest.approx(there.std_error, rel=1e-6)


@given(st.floats(-1.0, 10.0), st.floats(0.001, 1.0), st.floats(-1.0, 10.0), st.floats(0.001, 1.0))
def test_relative_effects_mirror_as_logs(control: float, error: float, treatment: float, other: float) -> None:
    there = relative_effect(control, error, treatment, other, units=100)
    back = relative_effect(treatment, other, control, error, units=100)
    assert isinstance(there, Effect) == isinstance(back, Effect)
    if isinstance(there, Effect) and isinstance(back, Effect):
        assert back.estimate == pytest.approx(-there.estimate, abs=1e-12)
        assert back.std_error == pytest.approx(there.std_error)


def every_interval(effect: Effect, alpha: float, fractions: list[float]) -> list[Interval | NotEnoughData]:
    return [
        confidence_interval(effect, alpha=alpha),
        credible_interval(effect, alpha=alpha),
        confidence_sequence(effect, effect.units, alpha=alpha, tightest_at=5_000),
        one_sided_bound(effect, effect.units, alpha=alpha, tightest_at=5_000, side=Side.LOWER),
        one_sided_bound(effect, effect.units, alpha=alpha, tightest_at=5_000, side=Side.UPPER),
        *(repeated_interval(effect, fractions, alpha=alpha, spending=spending) for spending in Spending),
    ]


# Above 0.1 the one-sided mixture, tuned as if at 2 * alpha, becomes so flat that a larger alpha can be wider.
@settings(max_examples=60)
@given(EFFECTS, st.floats(0.001, 0.1), st.floats(0.001, 0.1), FRACTIONS)
def test_intervals_nest_in_alpha(effect: Effect, one: float, other: float, fractions: list[float]) -> None:
    small, large = sorted((one, other))
    assume(large > 1.01 * small)
    for wide, narrow in zip(
        every_interval(effect, small, fractions), every_interval(effect, large, fractions), strict=True
    ):
        assert isinstance(wide, Interval)
        assert isinstance(narrow, Interval)
        assert (wide.lower is None) == (narrow.lower is None)
        if wide.lower is not None and narrow.lower is not None:
            assert wide.lower <= narrow.lower
        if wide.upper is not None and narrow.upper is not None:
            assert wide.upper >= narrow.upper


@settings(max_examples=60)
@given(EFFECTS, ALPHAS, FRACTIONS)
def test_intervals_mirror_and_agree_with_their_p_values(effect: Effect, alpha: float, fractions: list[float]) -> None:
    flipped = Effect(-effect.estimate, effect.std_error, effect.df, effect.units)
    for place, (there, back) in enumerate(
        zip(every_interval(effect, alpha, fractions), every_interval(flipped, alpha, fractions), strict=True)
    ):
        assert isinstance(there, Interval)
        assert isinstance(back, Interval)
        if place in {3, 4}:  # one-sided bounds mirror into each other
            continue
        assert there.lower is not None
        assert there.upper is not None
        assert (back.lower, back.upper) == pytest.approx((-there.upper, -there.lower))
        assert back.p_value == (None if there.p_value is None else pytest.approx(there.p_value, rel=1e-3))
        if there.p_value is not None and not math.isclose(there.p_value, alpha, rel_tol=1e-6):
            assert (there.p_value < alpha) == (there.lower > 0.0 or there.upper < 0.0)


@given(FRACTIONS, ALPHAS, st.sampled_from(Spending))
def test_bounds_are_at_least_those_of_a_single_look(fractions: list[float], alpha: float, spending: Spending) -> None:
    single = boundaries([1.0], alpha, spending)[0]
    assert np.all(boundaries(fractions, alpha, spending) >= single - 1e-6)


@given(st.floats(0.0, 1.5), st.floats(0.0, 1.5), ALPHAS, st.sampled_from(Spending))
def test_spending_rises_to_alpha_and_stays(one: float, other: float, alpha: float, spending: Spending) -> None:
    low, high = sorted((one, other))
    spent = spent_alpha(low, alpha, spending), spent_alpha(high, alpha, spending)
    assert 0.0 <= spent[0] <= spent[1] <= alpha * (1 + 1e-12)
    if high >= 1.0:
        assert spent[1] == pytest.approx(alpha)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12))
def test_corrections_are_ordered_and_never_below_the_raw_value(p_values: list[float]) -> None:
    for raw, bh, step, blunt in zip(
        p_values, benjamini_hochberg(p_values), holm(p_values), bonferroni(p_values), strict=True
    ):
        assert raw <= bh + 1e-15
        assert bh <= step * (1 + 1e-12) + 1e-15
        assert step <= blunt * (1 + 1e-12)


@given(st.lists(st.integers(0, 10_000), min_size=3, max_size=3), st.permutations([0, 1, 2]))
def test_sample_ratio_does_not_depend_on_the_order_of_variants(counts: list[int], order: list[int]) -> None:
    shares = (0.2, 0.3, 0.5)
    one = srm_test([EpochCounts(tuple(counts), shares)])
    other = srm_test([EpochCounts(tuple(counts[i] for i in order), tuple(shares[i] for i in order))])
    assert one.log_e_value == pytest.approx(other.log_e_value, rel=1e-9, abs=1e-6)
    assert 0.0 < one.p_value <= 1.0
