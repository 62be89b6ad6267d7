"""From events to a verdict: ramps, directions, looks, horizons, health."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from tests.unit.analysis.support_analysis import (
    CONVERSION,
    DAY,
    DAY_S,
    PURCHASE,
    START,
    Log,
    Row,
    experiment,
    exposure,
    outcome,
)

from fairtrial.analysis.files import DataFile, FilesByStream
from fairtrial.analysis.state import AnalysisState
from fairtrial.analysis.view import Circumstances, build_view, view_from_json, view_to_json
from fairtrial.model.allocation import Allocation
from fairtrial.model.experiment import (
    AnalysisPlan,
    Better,
    Experiment,
    Margin,
    Method,
    Metric,
    MetricKind,
    MetricRole,
    RequestMeasure,
    RequestSource,
)
from fairtrial.model.view import CheckState, ExperimentView, HealthCheck, IntervalKind, VerdictKind

ANYTIME = AnalysisPlan(method=Method.ANYTIME)


def crowd(units: int, rates: tuple[float, float], *, first: int = 0, at: int = START) -> dict[str, list[Row]]:
    """Half in each arm; the first part of each arm converts, so that rates are exact."""
    half = units // 2
    events: dict[str, list[Row]] = {"exposures": [], "outcomes": []}
    for arm, (name, rate) in enumerate(zip(("control", "treatment"), rates, strict=True)):
        for number in range(half):
            unit = first + arm * half + number
            events["exposures"].append(exposure(unit, name, at))
            if number < round(half * rate):
                events["outcomes"].append(outcome(unit, at=at + 1))
    return events


def view_of(folder: Path, trial: Experiment, events: dict[str, list[Row]], **circumstances: object) -> ExperimentView:
    log = Log(folder)
    for stream, rows in events.items():
        log.append(stream, rows)
    with AnalysisState(folder / "state.duckdb") as state:
        state.refresh(trial, log.listing())
        return build_view(state, trial, Circumstances(**{"now": START + DAY, **circumstances}))  # type: ignore[arg-type]


def check(view: ExperimentView, name: str) -> HealthCheck:
    return next(check for check in view.health if check.name == name)


def kohavi_files(folder: Path, scale: int) -> FilesByStream:
    """Crook, Frasca, Kohavi & Longbotham 2009, table 1, by 1/scale: control wins pooled, treatment wins both days."""
    days = [(0, "control", 990_000, 20_000), (0, "treatment", 10_000, 230)]
    days += [(1, "control", 500_000, 5_000), (1, "treatment", 500_000, 6_000)]
    parts, first = [], 0
    for epoch, variant, units, events in days:
        parts.append(
            f"SELECT range + {first} AS unit, {START} + {epoch} * {DAY} + range AS at_us, '{variant}' AS variant, "
            f"{epoch} AS epoch, range < {events // scale} AS bought FROM range({units // scale})"
        )
        first += units // scale
    with duckdb.connect() as con:
        con.execute("CREATE TABLE visit AS " + " UNION ALL ".join(parts))
        con.execute(
            "COPY (SELECT 'x' AS id, at_us AS \"at\", 'trial' AS experiment, variant, unit, epoch FROM visit) "
            f"TO '{folder}/exposures.parquet'"
        )
        con.execute(
            "COPY (SELECT 'x' AS id, at_us + 1 AS \"at\", 'purchase' AS name, 1.0::DOUBLE AS value, "
            "NULL::VARCHAR AS \"values\", unit, '' AS request_id FROM visit WHERE bought) "
            f"TO '{folder}/outcomes.parquet'"
        )
    span = (START, START + 3 * DAY)
    return FilesByStream(
        exposures=(DataFile(1, f"{folder}/exposures.parquet", "both", 1, *span),),
        outcomes=(DataFile(1, f"{folder}/outcomes.parquet", "both", 1, *span),),
    )


def test_a_ramp_does_not_turn_a_winner_into_a_loser(tmp_path: Path) -> None:
    trial = experiment(CONVERSION, plan=ANYTIME)
    files = kohavi_files(tmp_path, 10)
    allocations = (
        Allocation("trial", 0, 1.0, (("control", 0.99), ("treatment", 0.01)), START),
        Allocation("trial", 1, 1.0, (("control", 0.5), ("treatment", 0.5)), START + DAY),
    )
    with AnalysisState(tmp_path / "state.duckdb") as state:
        state.refresh(trial, files)
        view = build_view(state, trial, Circumstances(now=START + 3 * DAY, allocations=allocations))
    (metric,) = view.metrics
    effect = metric.comparisons[0].effect
    assert effect is not None
    # Half of all units on each day: 0.5 * (2.30 % - 2.0202 %) + 0.5 * (1.20 % - 1.00 %).
    expected = 0.5 * (0.023 - 2_000 / 99_000) + 0.5 * 0.002
    assert effect.estimate == pytest.approx(expected, rel=1e-9)
    assert effect.estimate > 0.0
    levels = {value.variant: value.value for value in metric.values}
    assert levels["treatment"] is not None
    assert levels["control"] is not None
    assert levels["treatment"] - levels["control"] == pytest.approx(expected, rel=1e-9)
    assert check(view, "srm").state is CheckState.OK


def test_the_same_units_against_an_even_split_are_a_mismatch(tmp_path: Path) -> None:
    trial = experiment(CONVERSION, plan=ANYTIME)
    with AnalysisState(tmp_path / "state.duckdb") as state:
        state.refresh(trial, kohavi_files(tmp_path, 1000))
        view = build_view(state, trial, Circumstances(now=START + 3 * DAY))
    assert check(view, "srm").state is CheckState.FAILED
    assert view.verdict.kind is VerdictKind.INVALID


@pytest.mark.parametrize("method", [Method.ANYTIME, Method.GROUP_SEQUENTIAL, Method.BAYESIAN])
def test_lower_is_better_mirrors_higher_is_better(tmp_path: Path, method: Method) -> None:
    plan = AnalysisPlan(method=method, planned_units=2000)
    bounds = []
    for number, (better, rates) in enumerate(((Better.HIGHER, (0.2, 0.35)), (Better.LOWER, (0.35, 0.2)))):
        folder = tmp_path / str(number)
        folder.mkdir()
        metric = replace(CONVERSION, better=better)
        view = view_of(folder, experiment(metric, plan=plan), crowd(2000, rates))
        assert view.verdict.kind is VerdictKind.SHIP, view.verdict
        comparison = view.metrics[0].comparisons[0]
        assert comparison.state == "better"
        assert comparison.effect is not None
        bounds.append((comparison.effect.estimate, comparison.effect.lower, comparison.effect.upper))
    (estimate, lower, upper), mirrored = bounds
    assert lower is not None
    assert upper is not None
    assert mirrored == pytest.approx((-estimate, -upper, -lower), rel=1e-12)


def test_swapping_control_and_treatment_flips_the_effect_and_the_verdict(tmp_path: Path) -> None:
    views = []
    for control in ("control", "treatment"):
        folder = tmp_path / control
        folder.mkdir()
        views.append(view_of(folder, experiment(CONVERSION, plan=ANYTIME, control=control), crowd(2000, (0.2, 0.35))))
    effects = [view.metrics[0].comparisons[0].effect for view in views]
    assert effects[0] is not None
    assert effects[1] is not None
    assert effects[0].estimate == -effects[1].estimate
    assert effects[0].std_error == effects[1].std_error
    assert [view.verdict.kind for view in views] == [VerdictKind.SHIP, VerdictKind.ROLL_BACK]


def test_nothing_yet_is_said_to_be_nothing_yet(tmp_path: Path) -> None:
    view = view_of(tmp_path, experiment(CONVERSION), {})
    assert view.verdict.kind is VerdictKind.KEEP_RUNNING
    assert view.metrics[0].comparisons[0].state == "waiting"
    assert view.metrics[0].values[0].value is None
    assert check(view, "exposures").state is CheckState.WAITING
    assert view.data_through is None


def test_an_experiment_without_metrics_still_has_a_view(tmp_path: Path) -> None:
    view = view_of(tmp_path, experiment(plan=ANYTIME), crowd(10, (0.0, 0.0)))
    assert (view.metrics, [v.units for v in view.variants]) == ((), [5, 5])
    assert view.verdict.reasons[0].code == "no_primary"


def test_json_holds_the_whole_view(tmp_path: Path) -> None:
    view = view_of(tmp_path, experiment(CONVERSION, plan=ANYTIME), crowd(400, (0.2, 0.4)))
    assert view_from_json(view_to_json(view)) == view


# --- looks and horizons ----------------------------------------------------------------------------------------------


def stages(folder: Path, trial: Experiment, batches: Sequence[dict[str, list[Row]]]) -> list[ExperimentView]:
    """One view after each batch of events, of one state."""
    log, views = Log(folder), []
    with AnalysisState(folder / "state.duckdb") as state:
        for batch in batches:
            for stream, rows in batch.items():
                log.append(stream, rows)
            state.refresh(trial, log.listing())
            views.append(build_view(state, trial, Circumstances(now=START + DAY)))
    return views


def test_a_fixed_trial_is_locked_until_its_horizon(tmp_path: Path) -> None:
    plan = AnalysisPlan(method=Method.FIXED, planned_units=2000)
    halves = [crowd(1000, (0.2, 0.35)), crowd(1000, (0.2, 0.35), first=5000)]
    before, after = stages(tmp_path, experiment(CONVERSION, plan=plan), halves)
    assert before.metrics[0].comparisons[0].state == "locked"
    assert before.metrics[0].comparisons[0].effect is None
    assert before.verdict.reasons[0].code == "locked"
    assert before.progress.information == 0.5
    assert after.verdict.kind is VerdictKind.SHIP
    assert after.metrics[0].comparisons[0].effect is not None
    assert after.metrics[0].comparisons[0].effect.kind is IntervalKind.CONFIDENCE_INTERVAL


def test_each_look_makes_later_intervals_of_a_sequential_trial_pay(tmp_path: Path) -> None:
    plan = AnalysisPlan(method=Method.GROUP_SEQUENTIAL, planned_units=4000)
    batches = [crowd(800, (0.3, 0.32), first=10_000 * number) for number in range(4)]
    (tmp_path / "looked").mkdir()
    (tmp_path / "once").mkdir()
    looked = stages(tmp_path / "looked", experiment(CONVERSION, plan=plan), batches)[-1]
    everything = {stream: [row for batch in batches for row in batch[stream]] for stream in batches[0]}
    once = stages(tmp_path / "once", experiment(CONVERSION, plan=plan), [everything])[-1]
    wide, narrow = (view.metrics[0].comparisons[0].effect for view in (looked, once))
    assert wide is not None
    assert narrow is not None
    assert wide.estimate == narrow.estimate
    assert wide.lower is not None
    assert narrow.lower is not None
    assert wide.lower < narrow.lower


def test_looking_again_at_the_same_data_changes_nothing(tmp_path: Path) -> None:
    plan = AnalysisPlan(method=Method.GROUP_SEQUENTIAL, planned_units=4000)
    first, again = stages(tmp_path, experiment(CONVERSION, plan=plan), [crowd(800, (0.3, 0.32)), {}])
    assert first == again


def test_the_verdict_at_the_horizon_stands(tmp_path: Path) -> None:
    plan = AnalysisPlan(method=Method.GROUP_SEQUENTIAL, planned_units=1000)
    batches = [crowd(1000, (0.3, 0.3)), crowd(4000, (0.1, 0.6), first=5000)]
    at_horizon, later = stages(tmp_path, experiment(CONVERSION, plan=plan), batches)
    assert at_horizon.verdict.kind is VerdictKind.INCONCLUSIVE
    assert later.verdict == at_horizon.verdict


def test_a_winner_held_back_by_a_guardrail_at_the_horizon_may_still_ship(tmp_path: Path) -> None:
    plan = AnalysisPlan(method=Method.GROUP_SEQUENTIAL, planned_units=1000)
    strict = replace(ERRORS, margin=Margin(0.006, is_relative=False))
    batches = []
    for number in range(2):
        events = crowd(1000, (0.2, 0.4), first=number * 10_000)
        asked = [{**row, "unit": int(row["unit"] or 0) + number * 10_000} for row in requests(1000, (0.0, 0.0))]
        for row in asked:
            row["variant"] = "control" if int(row["unit"] or 0) % 10_000 < 500 else "treatment"
        bought: list[Row] = [{**row, "at": START + DAY} for row in events["outcomes"]]
        batches.append({"outcomes": bought, "requests": asked})
    at_horizon, later = stages(tmp_path, experiment(CONVERSION, strict, plan=plan), batches)
    assert at_horizon.verdict.kind is VerdictKind.INCONCLUSIVE
    assert [reason.code for reason in at_horizon.verdict.reasons][:2] == ["primary_better", "guardrail_waiting"]
    assert later.metrics[1].guardrail is CheckState.OK
    assert later.verdict.kind is VerdictKind.SHIP


def test_the_horizon_comes_from_the_smallest_effect_worth_finding_and_stays(tmp_path: Path) -> None:
    metric = replace(CONVERSION, mde=Margin(0.05, is_relative=False))
    batches = [crowd(100, (0.2, 0.2)), crowd(2000, (0.2, 0.2), first=5000), crowd(2000, (0.5, 0.5), first=9000)]
    early, planned, later = stages(tmp_path, experiment(metric), batches)
    assert early.progress.planned_units is None
    assert check(early, "plan").state is CheckState.WAITING
    assert early.metrics[0].comparisons[0].effect is None
    assert early.verdict.reasons[0].code == "not_enough_data"
    # R: power.prop.test(p1 = .2, p2 = .25, power = .8) gives 1093.7 per group; sequential looks cost a few percent.
    assert planned.progress.planned_units is not None
    assert 2 * 1094 < planned.progress.planned_units < 2 * 1094 * 1.1
    assert later.progress.planned_units == planned.progress.planned_units


@pytest.mark.parametrize(
    ("units", "rate", "message"),
    [
        (56, 0.2, "the horizon is computed from the first 200 units; 56 so far"),
        (400, 0.01, "the first 200 units; 400 so far, which do not tell control's level of conversion well enough yet"),
    ],
)
def test_a_horizon_to_come_says_what_it_waits_for(tmp_path: Path, units: int, rate: float, message: str) -> None:
    metric = replace(CONVERSION, mde=Margin(0.05, is_relative=False))
    view = view_of(tmp_path, experiment(metric), crowd(units, (rate, rate)))
    assert check(view, "plan").message.endswith(message)


def test_without_a_horizon_a_sequential_trial_falls_back_on_confidence_sequences(tmp_path: Path) -> None:
    view = view_of(tmp_path, experiment(CONVERSION), crowd(2000, (0.2, 0.35)))
    effect = view.metrics[0].comparisons[0].effect
    assert effect is not None
    assert effect.kind is IntervalKind.CONFIDENCE_SEQUENCE
    assert "confidence sequences" in check(view, "plan").message


def test_the_minimum_runtime_holds_the_verdict_back(tmp_path: Path) -> None:
    plan = AnalysisPlan(method=Method.ANYTIME, min_runtime_s=7 * DAY_S)
    allocations = (Allocation("trial", 0, 1.0, (("control", 0.5), ("treatment", 0.5)), START),)
    view = view_of(tmp_path, experiment(CONVERSION, plan=plan), crowd(2000, (0.2, 0.5)), allocations=allocations)
    assert view.verdict.reasons[0].code == "min_runtime"
    assert view.progress.running_s == DAY_S


# --- guardrails and health -------------------------------------------------------------------------------------------


def requests(units: int, errors: tuple[float, float], fallbacks: float = 0.0) -> list[Row]:
    """Five requests a unit; the first units of each arm fail, the last ones of treatment fall back."""
    rows: list[Row] = []
    for unit in range(units):
        arm, place = unit % 2, unit // 2 / (units / 2)
        result = "error" if place < errors[arm] else "ok"
        if arm == 1 and place >= 1.0 - fallbacks:
            result = "fallback"
        for number in range(5):
            at = START + unit * 1000 + number
            row: Row = {"request_id": f"{at // 1000:012x}{number}", "at": at, "unit": unit, "experiment": "trial"}
            rows.append({**row, "variant": ("control", "treatment")[arm], "outcome": result, "latency_us": 1000 + unit})
    return rows


ERRORS = Metric(
    "errors",
    MetricRole.GUARDRAIL,
    MetricKind.PROPORTION,
    RequestSource(RequestMeasure.ERROR),
    better=Better.LOWER,
    margin=Margin(0.01, is_relative=False),
)
LATENCY = Metric(
    "latency",
    MetricRole.GUARDRAIL,
    MetricKind.QUANTILE,
    RequestSource(RequestMeasure.LATENCY_S),
    better=Better.LOWER,
    quantile=0.9,
    margin=Margin(0.5, is_relative=True),
)


def test_a_breached_guardrail_rolls_back_whatever_the_primary_says(tmp_path: Path) -> None:
    events = {**crowd(0, (0.0, 0.0)), "requests": requests(1000, (0.0, 0.3))}
    view = view_of(tmp_path, experiment(CONVERSION, ERRORS, plan=ANYTIME), events)
    assert view.verdict.kind is VerdictKind.ROLL_BACK
    assert view.metrics[1].guardrail is CheckState.FAILED
    assert view.variants[1].errors == 750


def test_guardrails_within_their_margins_pass(tmp_path: Path) -> None:
    events = {"requests": requests(3000, (0.002, 0.002))}
    view = view_of(tmp_path, experiment(CONVERSION, ERRORS, LATENCY, plan=ANYTIME), events)
    assert [metric.guardrail for metric in view.metrics] == [None, CheckState.OK, CheckState.OK]
    assert [metric.comparisons[0].state for metric in view.metrics[1:]] == ["not_worse", "not_worse"]


def test_a_model_that_rarely_answers_cannot_ship(tmp_path: Path) -> None:
    view = view_of(tmp_path, experiment(CONVERSION, plan=ANYTIME), {"requests": requests(1000, (0.0, 0.0), 0.5)})
    assert check(view, "fallback").state is CheckState.FAILED
    assert "treatment" in check(view, "fallback").message


def test_crossovers_beyond_bad_luck_invalidate(tmp_path: Path) -> None:
    events = crowd(400, (0.2, 0.2))
    events["exposures"] += [exposure(unit, "treatment", START + 9) for unit in range(40)]
    view = view_of(tmp_path, experiment(CONVERSION, plan=ANYTIME), events)
    assert check(view, "crossover").details["units"] == 40
    assert view.verdict.kind is VerdictKind.INVALID


def test_a_few_crossovers_are_named_with_the_ship(tmp_path: Path) -> None:
    events = crowd(2000, (0.2, 0.5))
    events["exposures"] += [exposure(unit, "treatment", START + 9) for unit in range(990, 1000)]
    view = view_of(tmp_path, experiment(CONVERSION, plan=ANYTIME), events)
    assert view.verdict.kind is VerdictKind.SHIP
    assert view.verdict.reasons[-1].code == "crossover_warning"


def test_a_live_trial_whose_split_is_in_doubt_keeps_running(tmp_path: Path) -> None:
    events = crowd(400, (0.1, 0.9))
    events["exposures"] += [exposure(unit, "control") for unit in range(9000, 9100)]
    view = view_of(tmp_path, experiment(CONVERSION, plan=ANYTIME), events)
    assert check(view, "srm").state is CheckState.WARN
    assert view.verdict.kind is VerdictKind.KEEP_RUNNING
    assert [reason.code for reason in view.verdict.reasons] == ["primary_better", "srm_suspected"]


def test_a_metric_that_nobody_sends_is_named(tmp_path: Path) -> None:
    silent = Metric("signups", MetricRole.SECONDARY, MetricKind.COUNT, replace(PURCHASE, event="sign-up"))
    view = view_of(tmp_path, experiment(CONVERSION, silent, plan=ANYTIME), crowd(100, (0.2, 0.2)))
    assert check(view, "outcomes").state is CheckState.WARN
    assert "signups" in check(view, "outcomes").message
    assert view.metrics[1].comparisons[0].not_enough_data is not None


def test_problems_come_first_and_checks_from_elsewhere_are_kept(tmp_path: Path) -> None:
    seen = HealthCheck("routers", CheckState.FAILED, "worker 2 serves an old snapshot")
    view = view_of(tmp_path, experiment(CONVERSION, plan=ANYTIME), crowd(400, (0.2, 0.2)), extra_checks=(seen,))
    assert view.health[0] == seen


def test_numbers_are_finite_or_absent(tmp_path: Path) -> None:
    for number, events in enumerate(({}, crowd(2, (0.0, 1.0)), crowd(4, (0.0, 0.0)), crowd(4, (1.0, 1.0)))):
        folder = tmp_path / str(number)
        folder.mkdir()
        view = view_of(folder, experiment(CONVERSION, ERRORS, LATENCY), events)
        for metric in view.metrics:
            for value in metric.values:
                assert value.value is None or math.isfinite(value.value)
        assert b"NaN" not in view_to_json(view)
