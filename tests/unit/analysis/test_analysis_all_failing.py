"""A challenger that fails every request: the plainest harm there is, and the one without any spread to learn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.analysis.support_analysis import DAY, START, Log, Row, experiment, moments_from

from fairtrial.analysis.compare import contrast
from fairtrial.analysis.state import AnalysisState
from fairtrial.analysis.view import Circumstances, build_view
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
from fairtrial.model.view import CheckState, ExperimentView, VerdictKind
from fairtrial.stats.result import Effect, NotEnoughData

ANYTIME = AnalysisPlan(method=Method.ANYTIME)
ERRORS = Metric(
    "errors",
    MetricRole.GUARDRAIL,
    MetricKind.PROPORTION,
    RequestSource(RequestMeasure.ERROR),
    better=Better.LOWER,
    margin=Margin(0.01, is_relative=False),
)
LIMITED = replace(ERRORS, limit=0.05)
PRIMARY = replace(ERRORS, role=MetricRole.PRIMARY, margin=None)
Fails = Callable[[int, int], bool]


def only_treatment(arm: int, _: int) -> bool:
    return arm == 1


def traffic(per_variant: int, fails: Fails = only_treatment, *, epoch: int = 0, first: int = 0) -> list[Row]:
    """One to five requests a unit. fails(arm, number of the unit in its arm)."""
    return [
        {
            "request_id": f"{epoch}-{first + unit}-{request}",
            "at": START + epoch * DAY // 4 + unit * 1000 + request,
            "unit": first + unit,
            "experiment": "trial",
            "variant": ("control", "treatment")[unit % 2],
            "outcome": "error" if fails(unit % 2, unit // 2) else "ok",
            "epoch": epoch,
        }
        for unit in range(2 * per_variant)
        for request in range(1 + unit // 2 % 5)
    ]


def view_of(
    folder: Path, trial: Experiment, rows: list[Row], allocations: tuple[Allocation, ...] = ()
) -> ExperimentView:
    log = Log(folder)
    log.append("requests", rows)
    with AnalysisState(folder / "state.duckdb") as state:
        state.refresh(trial, log.listing())
        return build_view(state, trial, Circumstances(now=START + DAY, allocations=allocations))


def test_thirty_units_that_all_fail_breach_a_limit(tmp_path: Path) -> None:
    view = view_of(tmp_path, experiment(LIMITED, plan=ANYTIME), traffic(30))
    assert view.verdict.kind is VerdictKind.ROLL_BACK
    assert view.verdict.reasons[0].code == "guardrail_limit"
    assert "is 1, above its limit of 0.05" in view.verdict.reasons[0].message


@pytest.mark.parametrize("margin", [Margin(0.01, is_relative=False), Margin(0.2, is_relative=True), None])
@pytest.mark.parametrize("kind", [MetricKind.PROPORTION, MetricKind.MEAN])
def test_without_a_limit_the_harm_alarm_goes_off(tmp_path: Path, margin: Margin | None, kind: MetricKind) -> None:
    trial = experiment(replace(ERRORS, margin=margin, kind=kind), plan=ANYTIME)
    view = view_of(tmp_path, trial, traffic(150))
    assert view.verdict.kind is VerdictKind.ROLL_BACK
    assert view.verdict.reasons[0].code == "guardrail_harm"
    assert view.metrics[0].comparisons[0].effect is not None
    assert view.metrics[0].comparisons[0].state == "worse"


@pytest.mark.parametrize("method", [Method.ANYTIME, Method.GROUP_SEQUENTIAL, Method.FIXED, Method.BAYESIAN])
@pytest.mark.parametrize(
    ("failing", "kind"), [(1, VerdictKind.ROLL_BACK), (0, VerdictKind.SHIP)], ids=["treatment", "control"]
)
def test_all_against_nothing_decides_a_primary(tmp_path: Path, method: Method, failing: int, kind: VerdictKind) -> None:
    trial = experiment(PRIMARY, plan=AnalysisPlan(method=method, planned_units=300))
    assert view_of(tmp_path, trial, traffic(150, lambda arm, _: arm == failing)).verdict.kind is kind


def test_a_relative_margin_is_judged_where_control_never_fails(tmp_path: Path) -> None:
    trial = experiment(replace(ERRORS, margin=Margin(0.2, is_relative=True)), plan=ANYTIME)
    view = view_of(tmp_path, trial, traffic(500, lambda arm, number: arm == 1 and number % 2 == 0))
    assert view.verdict.reasons[0].code == "guardrail_harm"


def test_nothing_fails_anywhere_still_passes_by_its_own_rate(tmp_path: Path) -> None:
    trial = experiment(replace(ERRORS, margin=Margin(0.02, is_relative=False)), plan=ANYTIME)
    view = view_of(tmp_path, trial, traffic(600, lambda *_: False))
    assert view.metrics[0].guardrail is CheckState.OK
    assert view.metrics[0].comparisons[0].effect is None


@pytest.mark.parametrize("later_fails", [True, False], ids=["still fails", "recovers"])
def test_epochs_with_and_without_spread_are_averaged(tmp_path: Path, later_fails: bool) -> None:  # noqa: FBT001
    """First all-or-nothing, then a day on which half of the units of both variants fail."""
    rows = traffic(200)
    rows += traffic(200, lambda arm, number: (later_fails and arm == 1) or number % 2 == 0, epoch=1, first=1000)
    even = (("control", 0.5), ("treatment", 0.5))
    allocations = tuple(Allocation("trial", epoch, 1.0, even, START + epoch * DAY // 4) for epoch in range(2))
    view = view_of(tmp_path, experiment(ERRORS, plan=ANYTIME), rows, allocations)
    effect = view.metrics[0].comparisons[0].effect
    assert effect is not None
    assert effect.estimate == pytest.approx(0.75 if later_fails else 0.5, abs=0.01)
    assert view.verdict.kind is VerdictKind.ROLL_BACK


def test_units_of_different_epochs_are_counted_at_the_rate_of_their_own(tmp_path: Path) -> None:
    """All fail in the first epoch and none in the second: events are units of the first."""
    rows = traffic(40) + traffic(80, lambda *_: False, epoch=1, first=1000)
    trial = experiment(LIMITED, plan=ANYTIME)
    moments = moments_from(tmp_path, trial, {"requests": rows}, START + DAY)
    found = contrast(moments.metrics[0], 0, 1)
    assert found.events is not None
    events, units = found.events
    # Units send 1 to 5 requests, so they weigh 9/11 as much as equal ones would.
    assert (events, units) == (32, 32 + 65)
    assert isinstance(found.effect, Effect)


def test_a_mean_that_varies_nowhere_stays_refused(tmp_path: Path) -> None:
    """Nothing bounds the next unit's value, so constant 1 against constant 2 has no standard error to give."""
    latency = Metric("latency", MetricRole.PRIMARY, MetricKind.MEAN, RequestSource(RequestMeasure.LATENCY_S))
    rows = [{**row, "latency_us": 1_000_000 * (1 + int(row["unit"] or 0) % 2)} for row in traffic(150)]
    moments = moments_from(tmp_path, experiment(latency), {"requests": rows}, START + DAY)
    found = contrast(moments.metrics[0], 0, 1)
    assert isinstance(found.effect, NotEnoughData)
    assert found.effect.code == "no_variation"
