"""One word per comparison, whatever direction is better."""

from __future__ import annotations

import pytest

from fairtrial.decide.scorecard import (
    SecondaryReading,
    State,
    comparison_alpha,
    comparison_state,
    judge_secondaries,
)
from fairtrial.model.experiment import Better
from fairtrial.model.view import IntervalKind
from fairtrial.stats.result import Interval, NotEnoughData

NOTHING = NotEnoughData("control has 1 units; 2 are needed", "too_few_units")


def interval(lower: float | None, upper: float | None, p_value: float | None = None) -> Interval:
    middle = 0.5 * ((lower or 0.0) + (upper or 0.0))
    return Interval(middle, lower, upper, 0.95, IntervalKind.CONFIDENCE_INTERVAL, p_value)


@pytest.mark.parametrize(
    ("bounds", "higher", "lower"),
    [
        ((0.1, 0.3), State.BETTER, State.WORSE),
        ((-0.3, -0.1), State.WORSE, State.BETTER),
        ((-0.1, 0.3), State.NO_DIFFERENCE_FOUND, State.NO_DIFFERENCE_FOUND),
        ((0.0, 0.3), State.NO_DIFFERENCE_FOUND, State.NO_DIFFERENCE_FOUND),
        ((0.1, None), State.BETTER, State.WORSE),
    ],
)
def test_direction_decides_what_a_side_means(bounds: tuple[float, float | None], higher: State, lower: State) -> None:
    assert comparison_state(interval(*bounds), better=Better.HIGHER) is higher
    assert comparison_state(interval(*bounds), better=Better.LOWER) is lower


def test_a_locked_comparison_says_nothing_however_clear_it_is() -> None:
    assert comparison_state(interval(1.0, 2.0), better=Better.HIGHER, is_locked=True) is State.LOCKED
    result = judge_secondaries([SecondaryReading(Better.HIGHER, interval(1.0, 2.0, 1e-9))], alpha=0.05, is_locked=True)
    assert result[0].state is State.LOCKED
    assert result[0].adjusted_p_value is None


def test_no_number_is_waiting() -> None:
    assert comparison_state(NOTHING, better=Better.HIGHER) is State.WAITING


def test_secondaries_are_named_only_after_adjustment() -> None:
    """p = 0.03 stands alone at 5 %, but not as the best of three (0.09 by Benjamini-Hochberg)."""
    one = SecondaryReading(Better.HIGHER, interval(0.1, 0.5, 0.03))
    flat = SecondaryReading(Better.HIGHER, interval(-0.4, 0.5, 0.7))
    assert judge_secondaries([one], alpha=0.05)[0].state is State.BETTER
    three = judge_secondaries([flat, one, flat], alpha=0.05)
    assert three[1].state is State.NO_DIFFERENCE_FOUND
    assert three[1].adjusted_p_value == pytest.approx(0.09)


def test_secondaries_without_a_number_do_not_count_as_tests() -> None:
    one = SecondaryReading(Better.LOWER, interval(0.1, 0.5, 0.03))
    waiting = SecondaryReading(Better.LOWER, NOTHING)
    results = judge_secondaries([waiting, one, waiting], alpha=0.05)
    assert [result.state for result in results] == [State.WAITING, State.WORSE, State.WAITING]
    assert results[0].adjusted_p_value is None


def test_a_posterior_speaks_through_its_interval() -> None:
    results = judge_secondaries([SecondaryReading(Better.HIGHER, interval(0.1, 0.5))], alpha=0.05)
    assert results[0].state is State.BETTER
    assert results[0].adjusted_p_value is None


def test_treatments_share_the_alpha_of_the_primary() -> None:
    assert comparison_alpha(0.05, 1) == 0.05
    assert comparison_alpha(0.05, 4) == pytest.approx(0.0125)
    with pytest.raises(ValueError, match="at least one"):
        comparison_alpha(0.05, 0)
