"""The verdict, case by case, in the order of what must never be overlooked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fairtrial.decide.guardrail import GuardrailResult
from fairtrial.decide.scorecard import State
from fairtrial.decide.verdict import Evidence, PrimaryReading, verdict
from fairtrial.model.experiment import Better
from fairtrial.model.view import CheckState, HealthCheck, IntervalKind, Reason, Verdict, VerdictKind
from fairtrial.stats.result import Interval, NotEnoughData

DAY = 86_400.0


def primary(lower: float, upper: float, variant: str = "b", better: Better = Better.HIGHER) -> PrimaryReading:
    interval = Interval((lower + upper) / 2, lower, upper, 0.95, IntervalKind.REPEATED_CONFIDENCE_INTERVAL, 0.5)
    return PrimaryReading("conversion", variant, better, interval)


def guardrail(state: CheckState, variant: str = "b") -> GuardrailResult:
    reason = Reason(f"guardrail_{state}", f"latency of {variant} is {state}")
    return GuardrailResult("latency", variant, state, State.WAITING, reason)


def evidence(*readings: PrimaryReading, guardrails: tuple[GuardrailResult, ...] = ()) -> Evidence:
    return Evidence((), readings, guardrails, 8 * DAY, 7 * DAY, 28 * DAY, information=0.5)


BETTER, WORSE, OPEN = primary(0.01, 0.03), primary(-0.03, -0.01), primary(-0.01, 0.02)


def kind_and_code(given: Evidence) -> tuple[VerdictKind, str]:
    found = verdict(given)
    return found.kind, found.reasons[0].code


def test_a_win_with_every_guardrail_passed_ships_that_variant() -> None:
    found = verdict(evidence(BETTER, guardrails=(guardrail(CheckState.OK),)))
    assert found.kind is VerdictKind.SHIP
    assert found.variant == "b"
    assert found.reasons[0].code == "primary_better"


@pytest.mark.parametrize("better", Better)
def test_lower_is_better_mirrors_exactly(better: Better) -> None:
    sign = 1.0 if better is Better.HIGHER else -1.0
    win = primary(sign * 0.02 - 0.01, sign * 0.02 + 0.01, better=better)
    loss = primary(-sign * 0.02 - 0.01, -sign * 0.02 + 0.01, better=better)
    assert verdict(evidence(win)).kind is VerdictKind.SHIP
    assert verdict(evidence(loss)).kind is VerdictKind.ROLL_BACK


def test_a_significantly_worse_primary_rolls_back() -> None:
    assert kind_and_code(evidence(WORSE)) == (VerdictKind.ROLL_BACK, "primary_worse")


@pytest.mark.parametrize("name", ["srm", "crossover"])
def test_broken_assignment_invalidates_before_anything_else(name: str) -> None:
    broken = HealthCheck(name, CheckState.FAILED, "units do not arrive as split")
    given = replace(evidence(BETTER, guardrails=(guardrail(CheckState.FAILED),)), health=(broken,))
    found = verdict(given)
    assert found.kind is VerdictKind.INVALID
    assert [reason.code for reason in found.reasons] == [name, "guardrail_failed"]
    assert found.reasons[0].unblocks


def test_harm_rolls_back_even_before_the_minimum_runtime_and_over_a_win() -> None:
    given = replace(evidence(BETTER, guardrails=(guardrail(CheckState.FAILED),)), running_s=60.0)
    assert kind_and_code(given) == (VerdictKind.ROLL_BACK, "guardrail_failed")


@pytest.mark.parametrize("reading", [BETTER, WORSE])
def test_nothing_else_is_decided_before_the_minimum_runtime(reading: PrimaryReading) -> None:
    found = verdict(replace(evidence(reading), running_s=2 * DAY))
    assert found.kind is VerdictKind.KEEP_RUNNING
    assert found.reasons[0].code == "min_runtime"
    assert found.reasons[0].unblocks == "5 d more"


def test_a_fixed_horizon_locks_the_verdict_until_it_is_reached() -> None:
    given = replace(evidence(BETTER), is_locked=True)
    assert kind_and_code(given) == (VerdictKind.KEEP_RUNNING, "locked")
    assert verdict(replace(given, information=1.0)).kind is VerdictKind.SHIP


def test_a_win_waits_for_its_guardrails() -> None:
    found = verdict(evidence(BETTER, guardrails=(guardrail(CheckState.WAITING),)))
    assert found.kind is VerdictKind.KEEP_RUNNING
    assert [reason.code for reason in found.reasons] == ["primary_better", "guardrail_waiting"]


def test_a_win_whose_guardrail_never_passed_is_inconclusive_at_the_horizon() -> None:
    found = verdict(replace(evidence(BETTER, guardrails=(guardrail(CheckState.WAITING),)), information=1.0))
    assert found.kind is VerdictKind.INCONCLUSIVE
    assert [reason.code for reason in found.reasons] == [
        "primary_better",
        "guardrail_waiting",
        "planned_units_reached",
    ]


def test_other_failed_checks_hold_a_ship_back_but_do_not_invalidate() -> None:
    stale = HealthCheck("freshness", CheckState.FAILED, "newest outcome is 3 h old")
    found = verdict(replace(evidence(BETTER), health=(stale,)))
    assert found.kind is VerdictKind.KEEP_RUNNING
    assert found.reasons[1].code == "health_freshness"


def test_the_plan_ends_inconclusive_and_says_what_is_ruled_out() -> None:
    found = verdict(replace(evidence(OPEN), information=1.02))
    assert found.kind is VerdictKind.INCONCLUSIVE
    assert found.reasons[0].code == "planned_units_reached"
    assert "planned sample reached" in found.reasons[0].message
    assert "an effect above +0.02 is unlikely" in found.reasons[0].message


def test_time_ends_the_plan_too() -> None:
    assert kind_and_code(replace(evidence(OPEN), running_s=28 * DAY)) == (
        VerdictKind.INCONCLUSIVE,
        "max_runtime_reached",
    )


def test_until_then_it_keeps_running_and_says_what_is_missing() -> None:
    found = verdict(replace(evidence(OPEN), waiting_units=120))
    assert found.kind is VerdictKind.KEEP_RUNNING
    assert found.reasons[0].code == "no_difference_yet"
    assert found.reasons[0].unblocks == "more matured units: 50% of the plan so far; 120 units wait for their windows"


def test_no_number_is_a_reason_of_its_own() -> None:
    nothing = PrimaryReading("conversion", "b", Better.HIGHER, NotEnoughData("no units yet", "no_units"))
    assert kind_and_code(evidence(nothing)) == (VerdictKind.KEEP_RUNNING, "not_enough_data")
    at_end = verdict(replace(evidence(nothing), information=1.0))
    assert at_end.kind is VerdictKind.INCONCLUSIVE
    assert "no units yet" in at_end.reasons[0].message


def test_without_a_primary_nothing_ships() -> None:
    assert kind_and_code(evidence()) == (VerdictKind.KEEP_RUNNING, "no_primary")
    assert kind_and_code(replace(evidence(), information=1.0)) == (VerdictKind.INCONCLUSIVE, "no_primary")


def test_of_several_winners_the_best_one_that_is_safe_ships() -> None:
    small, large = primary(0.01, 0.03, "b"), primary(0.04, 0.08, "c")
    safe = (guardrail(CheckState.OK, "b"), guardrail(CheckState.OK, "c"))
    assert verdict(evidence(small, large, guardrails=safe)).variant == "c"
    unsafe = (guardrail(CheckState.OK, "b"), guardrail(CheckState.WAITING, "c"))
    assert verdict(evidence(small, large, guardrails=unsafe)).variant == "b"


def test_one_loser_among_several_does_not_end_the_trial() -> None:
    found = verdict(evidence(primary(-0.03, -0.01, "b"), primary(-0.01, 0.02, "c")))
    assert found.kind is VerdictKind.KEEP_RUNNING
    assert {reason.code for reason in found.reasons} == {"primary_worse", "no_difference_yet"}


def test_the_verdict_of_the_final_look_stands_when_more_units_trickle_in() -> None:
    settled = Verdict(VerdictKind.INCONCLUSIVE, (Reason("planned_units_reached", "planned sample reached"),))
    later = replace(evidence(BETTER), information=1.3, settled=settled)
    assert verdict(later) == settled
    assert verdict(replace(later, guardrails=(guardrail(CheckState.FAILED),))).kind is VerdictKind.ROLL_BACK


SUSPECTED = HealthCheck("srm", CheckState.WARN, "units may not arrive as split (a 300, b 200; p = 0.0011)")


@pytest.mark.parametrize(("information", "kind"), [(0.5, VerdictKind.KEEP_RUNNING), (1.0, VerdictKind.INCONCLUSIVE)])
def test_a_suspected_split_forbids_to_ship(information: float, kind: VerdictKind) -> None:
    found = verdict(replace(evidence(BETTER), health=(SUSPECTED,), information=information))
    assert found.kind is kind
    assert [reason.code for reason in found.reasons][:2] == ["primary_better", "srm_suspected"]
    assert "lost or added" in found.reasons[1].unblocks


def test_a_suspected_split_does_not_stop_a_roll_back() -> None:
    assert kind_and_code(replace(evidence(WORSE), health=(SUSPECTED,))) == (VerdictKind.ROLL_BACK, "primary_worse")


def test_a_settled_ship_waits_while_the_split_is_in_doubt() -> None:
    settled = Verdict(VerdictKind.SHIP, (Reason("primary_better", "conversion of b is better"),), "b")
    later = replace(evidence(BETTER), information=1.3, settled=settled)
    assert verdict(later) == settled
    doubted = verdict(replace(later, health=(SUSPECTED,)))
    assert doubted.kind is VerdictKind.INCONCLUSIVE
    assert [reason.code for reason in doubted.reasons] == ["srm_suspected", "primary_better"]


def test_a_ship_in_spite_of_a_few_crossovers_says_so() -> None:
    crossed = HealthCheck("crossover", CheckState.WARN, "40 units (1.00%) met two variants; they are set apart")
    found = verdict(replace(evidence(BETTER), health=(crossed,)))
    assert found.kind is VerdictKind.SHIP
    assert [reason.code for reason in found.reasons] == ["primary_better", "crossover_warning"]


@pytest.mark.parametrize(("is_locked", "unblocks"), [(True, "a new table"), (False, "a table of more units")])
def test_a_table_that_nobody_planned_speaks_of_no_plan(is_locked: bool, unblocks: str) -> None:  # noqa: FBT001
    table = replace(
        evidence(OPEN), is_unplanned_table=True, is_locked=is_locked, information=1.0 if is_locked else None
    )
    (reason,) = verdict(table).reasons
    assert reason.code == "table_undecided"
    assert reason.message == (
        "this table does not decide conversion of b: no difference found; an effect above +0.02 is unlikely"
    )
    assert reason.unblocks.startswith(unblocks)
    nothing = PrimaryReading("conversion", "b", Better.HIGHER, NotEnoughData("b has 0 units", "too_few_units"))
    (empty,) = verdict(replace(table, primary=(nothing,))).reasons
    assert empty.message == "this table does not decide conversion of b: b has 0 units"
    held_back = verdict(replace(table, primary=(BETTER,), health=(SUSPECTED,)))
    assert [found.code for found in held_back.reasons] == ["primary_better", "srm_suspected"]
