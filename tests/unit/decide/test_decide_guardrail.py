"""Guardrails: safe only within the margin, alarmed only beyond it, in either direction."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fairtrial.decide.guardrail import GuardrailReading, alarm_count, judge_guardrail
from fairtrial.decide.scorecard import State
from fairtrial.model.experiment import Better, Margin
from fairtrial.model.view import CheckState
from fairtrial.stats.effects import as_fraction, relative_effect
from fairtrial.stats.fixed import confidence_interval
from fairtrial.stats.result import Effect, Interval, NotEnoughData

POINT = Margin(0.01, is_relative=False)
FIFTH = Margin(0.2, is_relative=True)
NOTHING = NotEnoughData("control has 0 units; 1 are needed", "too_few_units")


def reading(  # noqa: PLR0917 - one line per case
    control: float,
    treatment: float,
    std_error: float,
    margin: Margin | None,
    better: Better = Better.LOWER,
    limit: float | None = None,
    events: tuple[int, int] | None = None,
) -> GuardrailReading:
    """Two levels, each with the same standard error, of 10,000 units a variant."""
    levels = Effect(control, std_error, None, 10_000), Effect(treatment, std_error, None, 10_000)
    effect = Effect(treatment - control, std_error * 2.0**0.5, None, 20_000)
    relative = relative_effect(control, std_error, treatment, std_error, units=20_000)
    shown: Interval | NotEnoughData = NOTHING
    if isinstance(relative, Effect):
        log_ratio = confidence_interval(relative, alpha=0.05)
        assert isinstance(log_ratio, Interval)
        shown = as_fraction(log_ratio)
    absolute = confidence_interval(effect, alpha=0.05)
    return GuardrailReading("errors", "b", better, effect, absolute, shown, *levels, margin, limit, events)


@pytest.mark.parametrize(
    ("given", "state", "comparison"),
    [
        (reading(0.02, 0.021, 0.001, POINT), CheckState.OK, State.NOT_WORSE),
        (reading(0.02, 0.026, 0.001, POINT), CheckState.OK, State.NOT_WORSE),
        (reading(0.02, 0.012, 0.001, POINT), CheckState.OK, State.BETTER),
        (reading(0.02, 0.021, 0.01, POINT), CheckState.WAITING, State.WAITING),
        (reading(0.02, 0.028, 0.001, POINT), CheckState.WAITING, State.WAITING),
        (reading(0.02, 0.060, 0.001, POINT), CheckState.FAILED, State.WORSE),
        (reading(1.0, 1.02, 0.02, FIFTH), CheckState.OK, State.NOT_WORSE),
        (reading(1.0, 1.19, 0.02, FIFTH), CheckState.WAITING, State.WAITING),
        (reading(1.0, 1.60, 0.02, FIFTH), CheckState.FAILED, State.WORSE),
        (reading(0.0, 0.60, 0.02, FIFTH), CheckState.FAILED, State.WORSE),
        (reading(1.0, 1.01, 0.02, None), CheckState.WARN, State.NO_DIFFERENCE_FOUND),
        (reading(1.0, 1.60, 0.02, None), CheckState.FAILED, State.WORSE),
    ],
)
def test_the_margin_separates_safe_from_unknown_from_harmful(
    given: GuardrailReading, state: CheckState, comparison: State
) -> None:
    result = judge_guardrail(given, alpha=0.05, alarms=2)
    assert (result.state, result.comparison) == (state, comparison), result.reason


@pytest.mark.parametrize("margin", [POINT, Margin(0.1, is_relative=True), None])
@pytest.mark.parametrize("treatment", [0.85, 0.98, 1.0, 1.3])
def test_an_absolute_mirror_image_is_judged_alike(margin: Margin | None, treatment: float) -> None:
    """Latency that rises by x is as bad as a score that falls by x (relative margins mirror around 1 - m)."""
    low = judge_guardrail(reading(1.0, treatment, 0.001, margin), alpha=0.05, alarms=1)
    high = judge_guardrail(reading(1.0, 2.0 - treatment, 0.001, margin, Better.HIGHER), alpha=0.05, alarms=1)
    assert (low.state, low.comparison) == (high.state, high.comparison)


def test_no_difference_found_is_not_safety() -> None:
    result = judge_guardrail(reading(0.02, 0.02, 0.02, POINT), alpha=0.05, alarms=1)
    assert result.state is CheckState.WAITING
    assert result.reason.code == "guardrail_waiting"
    assert result.reason.unblocks


def test_a_level_beyond_its_limit_fails_even_if_control_is_as_bad() -> None:
    result = judge_guardrail(reading(0.5, 0.5, 0.01, POINT, limit=0.4), alpha=0.05, alarms=1)
    assert result.state is CheckState.FAILED
    assert result.reason.code == "guardrail_limit"
    assert "above its limit of 0.4" in result.reason.message


def test_a_lower_limit_guards_what_should_be_high() -> None:
    result = judge_guardrail(reading(0.5, 0.5, 0.01, POINT, Better.HIGHER, limit=0.6), alpha=0.05, alarms=1)
    assert result.reason.code == "guardrail_limit"
    assert "below" in result.reason.message


def test_event_limits_are_exact_and_need_no_minimum_of_units() -> None:
    few = replace(reading(0.02, 1.0, 0.1, POINT, limit=0.05, events=(5, 5)), effect=NOTHING, interval=NOTHING)
    assert judge_guardrail(few, alpha=0.05, alarms=4).reason.code == "guardrail_limit"
    unlucky = replace(few, events=(1, 3))
    assert judge_guardrail(unlucky, alpha=0.05, alarms=4).state is CheckState.WAITING


def test_sharing_alpha_makes_each_alarm_harder_to_raise() -> None:
    given = reading(0.02, 0.0355, 0.001, POINT)
    assert judge_guardrail(given, alpha=0.05, alarms=1).state is CheckState.FAILED
    assert judge_guardrail(given, alpha=0.05, alarms=500).state is CheckState.WAITING
    assert alarm_count(guardrails=3, limits=1, treatments=2) == 8
    assert alarm_count(guardrails=0, limits=0, treatments=1) == 1


def test_what_cannot_be_computed_waits_and_says_why() -> None:
    given = replace(reading(1.0, 1.0, 0.02, FIFTH), effect=NOTHING, interval=NOTHING, relative_interval=NOTHING)
    result = judge_guardrail(given, alpha=0.05, alarms=1)
    assert result.state is CheckState.WAITING
    assert "control has 0 units" in result.reason.message
    unmargined = replace(given, margin=None)
    assert judge_guardrail(unmargined, alpha=0.05, alarms=1).state is CheckState.WAITING


TWO_POINTS = Margin(0.02, is_relative=False)


def without_spread(events_at_most: tuple[int, int], margin: Margin = TWO_POINTS) -> GuardrailReading:
    """No error in control, few in treatment: no difference can be computed."""
    nothing = NotEnoughData("no unit differs from another in either variant", "no_variation")
    return GuardrailReading(
        "errors", "b", Better.LOWER, nothing, nothing, nothing, nothing, nothing, margin, events_at_most=events_at_most
    )


def test_no_error_among_many_units_passes_although_no_difference_can_be_computed() -> None:
    # Rule of three: 0 of 600 bounds the rate at about 0.5 %, well below a margin of 2 points.
    result = judge_guardrail(without_spread((0, 600)), alpha=0.05, alarms=2)
    assert result.state is CheckState.OK
    assert result.comparison is State.NOT_WORSE


def test_no_error_among_few_units_proves_nothing() -> None:
    # 0 of 100 still allows 3 %.
    assert judge_guardrail(without_spread((0, 100)), alpha=0.05, alarms=2).state is CheckState.WAITING


def test_a_relative_margin_cannot_be_passed_without_a_level_of_control() -> None:
    given = without_spread((0, 600), Margin(0.2, is_relative=True))
    assert judge_guardrail(given, alpha=0.05, alarms=2).state is CheckState.WAITING


def test_a_method_with_one_look_keeps_its_lock_on_rare_events() -> None:
    given = replace(without_spread((0, 600)), interval=NotEnoughData("one look", "locked"))
    assert judge_guardrail(given, alpha=0.05, alarms=2).state is CheckState.WAITING


def test_a_margin_reads_as_it_was_written() -> None:
    result = judge_guardrail(reading(1.0, 1.19, 0.02, FIFTH), alpha=0.05, alarms=1)
    assert "its margin of 20% (at worst" in result.reason.message
