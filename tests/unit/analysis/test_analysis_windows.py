"""Which events and which units count: windows, maturity, caps, crossovers, sources."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

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
    moments_from,
    moments_of,
    outcome,
)

from fairtrial.analysis.moments import Cell
from fairtrial.analysis.state import AnalysisState
from fairtrial.model.experiment import (
    Covariate,
    EventSource,
    Metric,
    MetricKind,
    MetricRole,
    RequestMeasure,
    RequestSource,
)

CONTROL = Cell(0, 0)


def revenue(**changes: object) -> Metric:
    metric = Metric("revenue", MetricRole.PRIMARY, MetricKind.MEAN, PURCHASE)
    return replace(metric, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("at", "counts"),
    [(START - 1, False), (START, True), (START + DAY - 1, True), (START + DAY, False)],
    ids=["just before", "at the first exposure", "last microsecond", "just after"],
)
def test_a_window_is_half_open_from_the_first_exposure(tmp_path: Path, at: int, *, counts: bool) -> None:
    events = {"exposures": [exposure(1, "control")], "outcomes": [outcome(1, at=at, value=3.0)]}
    found = moments_from(tmp_path, experiment(revenue(within_s=DAY_S)), events, START + 9 * DAY)
    assert found.metrics[0].cells[CONTROL].mean_y == (3.0 if counts else 0.0)


@pytest.mark.parametrize(("now", "matured"), [(START + DAY - 1, 0), (START + DAY, 1)])
def test_a_unit_counts_once_its_whole_window_has_passed(tmp_path: Path, now: int, matured: int) -> None:
    events = {"exposures": [exposure(1, "control")], "outcomes": [outcome(1)]}
    found = moments_from(tmp_path, experiment(revenue(within_s=DAY_S)), events, now).metrics[0]
    assert (found.units[CONTROL], found.waiting) == (matured, 1 - matured)
    assert (CONTROL in found.cells) == bool(matured)


def test_without_a_window_every_unit_counts_at_once(tmp_path: Path) -> None:
    events = {"exposures": [exposure(1, "control")], "outcomes": [outcome(1, at=START + 99 * DAY)]}
    found = moments_from(tmp_path, experiment(revenue()), events, START).metrics[0]
    assert (found.units[CONTROL], found.cells[CONTROL].mean_y) == (1, 1.0)


@pytest.mark.parametrize(
    ("at", "counts"), [(START - DAY - 1, False), (START - DAY, True), (START - 1, True), (START, False)]
)
def test_a_covariate_is_what_happened_before_the_first_exposure(tmp_path: Path, at: int, *, counts: bool) -> None:
    metric = revenue(covariate=Covariate(PURCHASE, DAY_S))
    events = {"exposures": [exposure(1, "control")], "outcomes": [outcome(1, at=at, value=2.0)]}
    found = moments_from(tmp_path, experiment(metric), events, START).metrics[0]
    assert found.cells[CONTROL].mean_x == (2.0 if counts else 0.0)


def test_a_cap_holds_the_sum_of_a_unit_and_not_single_events(tmp_path: Path) -> None:
    events = {"exposures": [exposure(1, "control")], "outcomes": [outcome(1, value=4.0), outcome(1, value=4.0)]}
    found = moments_from(tmp_path, experiment(revenue(cap=5.0)), events, START).metrics[0]
    assert found.cells[CONTROL].mean_y == 5.0


def test_a_unit_that_met_two_variants_is_set_apart_and_counted(tmp_path: Path) -> None:
    met = [exposure(1, "control"), exposure(1, "treatment", START + 5), exposure(2, "control")]
    found = moments_from(tmp_path, experiment(CONVERSION), {"exposures": met, "outcomes": [outcome(1)]}, START)
    assert found.crossovers == 1
    assert found.units[CONTROL] == 1
    assert found.metrics[0].cells[CONTROL].mean_y == 0.0


def test_a_unit_belongs_to_the_epoch_of_its_first_exposure(tmp_path: Path) -> None:
    met = [exposure(1, "control", START + 5, epoch=1), exposure(1, "control", START, epoch=0)]
    found = moments_from(tmp_path, experiment(CONVERSION), {"exposures": met}, START)
    assert found.units == {CONTROL: 1}


def test_a_unit_without_events_is_a_zero(tmp_path: Path) -> None:
    met = [exposure(unit, "control") for unit in range(4)]
    found = moments_from(tmp_path, experiment(CONVERSION), {"exposures": met, "outcomes": [outcome(2)]}, START)
    cell = found.metrics[0].cells[CONTROL]
    assert (cell.count, cell.mean_y, cell.ssd_y) == (4, 0.25, 0.75)


def test_a_proportion_asks_for_a_positive_value(tmp_path: Path) -> None:
    met = [exposure(1, "control"), exposure(2, "control")]
    outcomes = [outcome(1, value=0.0), outcome(2, value=0.5), outcome(2, value=1.0)]
    found = moments_from(tmp_path, experiment(CONVERSION), {"exposures": met, "outcomes": outcomes}, START)
    assert found.metrics[0].cells[CONTROL].mean_y == 0.5


def test_a_named_value_falls_back_on_the_plain_one_only_without_an_object(tmp_path: Path) -> None:
    metric = revenue(source=EventSource("purchase", "amount"))
    rows: list[Row] = [
        {**outcome(1), "values": '{"amount": 7.5, "other": 1.0}'},
        {**outcome(2), "values": '{"other": 1.0}'},
        outcome(3, value=2.0),
    ]
    met = [exposure(unit, "control") for unit in (1, 2, 3)]
    found = moments_from(tmp_path, experiment(metric), {"exposures": met, "outcomes": rows}, START)
    assert found.metrics[0].cells[CONTROL].mean_y == pytest.approx(9.5 / 3)


def request(unit: int, variant: str = "control", at: int = START, **changes: int | str) -> Row:
    row: Row = {"request_id": f"{at // 1000:012x}{unit:04x}", "at": at, "unit": unit, "variant": variant}
    return {**row, "experiment": "trial", **changes}


def test_the_first_request_is_an_exposure_and_shadow_copies_are_not(tmp_path: Path) -> None:
    requests = [request(1), request(1, at=START + 9), request(2, kind="shadow")]
    found = moments_from(tmp_path, experiment(CONVERSION), {"requests": requests}, START)
    assert found.units == {CONTROL: 1}
    assert found.traffic[0].requests == 2


def test_errors_are_counted_per_request_and_clustered_by_unit(tmp_path: Path) -> None:
    metric = Metric("errors", MetricRole.GUARDRAIL, MetricKind.PROPORTION, RequestSource(RequestMeasure.ERROR))
    requests = [request(1), request(1, at=START + 1, outcome="error"), request(2, at=START + 2, outcome="timeout")]
    requests.append(request(2, at=START + 3, outcome="fallback"))
    found = moments_from(tmp_path, experiment(metric), {"requests": requests}, START)
    cell = found.metrics[0].cells[CONTROL]
    assert (cell.count, cell.mean_y, cell.mean_x) == (2, 1.0, 2.0)
    assert found.traffic[0].errors == 2


def test_an_outcome_of_a_request_belongs_to_the_unit_of_that_request(tmp_path: Path) -> None:
    asked = request(1)
    early: Row = {"unit": None, "request_id": asked["request_id"], "name": "purchase", "at": START - 5_000_000}
    found = moments_from(tmp_path, experiment(CONVERSION), {"requests": [asked], "outcomes": [early]}, START)
    # The client's clock is five seconds slow: an outcome cannot precede its request.
    assert found.metrics[0].cells[CONTROL].mean_y == 1.0


def test_a_request_id_of_another_shape_is_found_too(tmp_path: Path) -> None:
    late: Row = {"unit": None, "request_id": "not-hex-at-all", "name": "purchase", "at": START + DAY}
    with AnalysisState(tmp_path / "state.duckdb") as state:
        log = Log(tmp_path)
        log.append("requests", [request(1, request_id="not-hex-at-all")])
        state.refresh(experiment(CONVERSION), log.listing())
        log.append("outcomes", [late])
        state.refresh(experiment(CONVERSION), log.listing())
        found = moments_of(state, experiment(CONVERSION), START)
    assert found.metrics[0].cells[CONTROL].mean_y == 1.0


def test_exposures_of_unknown_variants_are_left_out_and_counted(tmp_path: Path) -> None:
    met = [exposure(1, "control"), exposure(2, "renamed")]
    found = moments_from(tmp_path, experiment(CONVERSION), {"exposures": met}, START)
    assert (sum(found.units.values()), found.unknown_exposures) == (1, 1)


def test_no_files_are_no_units(tmp_path: Path) -> None:
    found = moments_from(tmp_path, experiment(CONVERSION), {}, START)
    assert (found.units, found.crossovers, found.first_exposure_at) == ({}, 0, None)


def test_large_values_keep_their_digits(tmp_path: Path) -> None:
    values = {1: 1e9, 2: 1e9 + 1.0, 3: 1e9 + 2.0}
    met = [exposure(unit, "control") for unit in values]
    outcomes = [outcome(unit, value=value) for unit, value in values.items()]
    found = moments_from(tmp_path, experiment(revenue()), {"exposures": met, "outcomes": outcomes}, START)
    cell = found.metrics[0].cells[CONTROL]
    assert (cell.mean_y, cell.ssd_y) == (1e9 + 1.0, 2.0)


def test_units_that_are_all_equal_have_no_spread_at_all(tmp_path: Path) -> None:
    met = [exposure(unit, "control") for unit in range(7)] + [exposure(unit, "treatment") for unit in range(7, 20)]
    outcomes = [outcome(unit, value=0.3 if unit < 7 else 0.7) for unit in range(20)]
    found = moments_from(tmp_path, experiment(revenue()), {"exposures": met, "outcomes": outcomes}, START).metrics[0]
    assert [cell.ssd_y for cell in found.cells.values()] == [0.0, 0.0]
    assert found.cells[Cell(0, 1)].mean_y == pytest.approx(0.7, rel=1e-15)
