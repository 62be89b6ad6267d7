"""However events arrive - late, out of order, in any batches - the unit rows equal a full recompute and a naive one."""

from __future__ import annotations

import json
import math
import random
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.unit.analysis.support_analysis import DAY, DAY_S, PURCHASE, START, Log, moments_of, write_file

from fairtrial.analysis.moments import Cell, ExperimentMoments
from fairtrial.analysis.refresh import RefreshKind
from fairtrial.analysis.state import AnalysisState
from fairtrial.model.experiment import (
    Covariate,
    EventSource,
    Experiment,
    FieldSource,
    FieldUnit,
    Metric,
    MetricKind,
    MetricRole,
    RequestField,
    RequestMeasure,
    RequestSource,
    Variant,
)
from fairtrial.stats.moments import Comoments
from fairtrial.stats.quantile import QuantileSummary
from fairtrial.stats.result import NotEnoughData

Row = dict[str, Any]

AMOUNT = EventSource("purchase", "amount")
METRICS = (
    Metric("conversion", MetricRole.PRIMARY, MetricKind.PROPORTION, PURCHASE, within_s=2 * DAY_S),
    Metric(
        "revenue",
        MetricRole.SECONDARY,
        MetricKind.MEAN,
        AMOUNT,
        within_s=2 * DAY_S,
        cap=30.0,
        covariate=Covariate(AMOUNT, 3 * DAY_S),
    ),
    Metric("views", MetricRole.SECONDARY, MetricKind.COUNT, EventSource("view"), covariate=Covariate(PURCHASE, DAY_S)),
    Metric(
        "ctr",
        MetricRole.SECONDARY,
        MetricKind.RATIO,
        EventSource("click"),
        denominator=EventSource("view"),
        within_s=DAY_S,
    ),
    Metric("back", MetricRole.SECONDARY, MetricKind.RETENTION, EventSource("view"), after_s=DAY_S, within_s=3 * DAY_S),
    Metric("errors", MetricRole.GUARDRAIL, MetricKind.PROPORTION, RequestSource(RequestMeasure.ERROR)),
    Metric("slow", MetricRole.SECONDARY, MetricKind.MEAN, RequestSource(RequestMeasure.LATENCY_S), within_s=DAY_S),
    Metric("p90", MetricRole.GUARDRAIL, MetricKind.QUANTILE, RequestSource(RequestMeasure.LATENCY_S), quantile=0.9),
)
EXPERIMENT = Experiment(
    name="it's one",
    endpoint="e",
    unit=FieldUnit(RequestField(FieldSource.HEADER, "x-user")),
    variants=(Variant("control", "a"), Variant("treatment", "b")),
    split=(("control", 0.5), ("treatment", 0.5)),
    control="control",
    salt="s",
    metrics=METRICS,
)


def made_up_events(rng: random.Random) -> dict[str, list[Row]]:
    """Six days of 60 units, 5 of them in both variants, with requests, exposures and outcomes of both kinds."""
    events: dict[str, list[Row]] = {"exposures": [], "requests": [], "outcomes": []}
    arms = {unit: rng.choice(["control", "treatment"]) for unit in range(-30, 30)}

    def any_time(low: float = 0.0) -> int:
        return START + int(rng.uniform(low, 6.0) * DAY)

    def variant(unit: int) -> str:
        return "treatment" if unit < -25 and rng.random() < 0.5 else arms[unit]

    for number in range(90):
        unit, at = rng.randrange(-30, 30), any_time(1.0)
        row = {"id": f"x{number}", "at": at, "experiment": "it's one", "variant": variant(unit), "unit": unit}
        if rng.random() < 0.1:
            row["experiment"] = "another"
        events["exposures"].append(row | {"epoch": (at - START) // (3 * DAY)})
    for number in range(120):
        unit, at = rng.randrange(-30, 30), any_time(1.0)
        row = {
            "request_id": f"{at // 1000:012x}{number:04x}",
            "at": at,
            "experiment": "it's one",
            "variant": variant(unit) if rng.random() < 0.98 else "renamed",
            "unit": unit,
            "epoch": (at - START) // (3 * DAY),
            "outcome": rng.choice(["ok", "ok", "ok", "error", "timeout", "fallback"]),
            "latency_us": int(rng.lognormvariate(11, 1)),
            "upstream_us": 5,
            "bytes_out": 100,
            "kind": rng.choice(["primary", "primary", "primary", "shadow"]),
        }
        events["requests"].append(row)
    for number in range(600):
        row = {"id": f"o{number}", "at": any_time(-3.0), "name": rng.choice(["purchase", "view", "click", "noise"])}
        row["value"] = rng.choice([0.0, 1.0, round(rng.gauss(3.0, 2.0), 3)])
        row["values"] = rng.choice([None, None, json.dumps({"amount": rng.expovariate(0.1)}), '{"other": 1.0}'])
        if rng.random() < 0.3:
            request = rng.choice(events["requests"])
            row["request_id"] = request["request_id"]
            row["at"] = request["at"] + int(rng.gauss(0.5, 0.5) * DAY)
            row["unit"] = None
        else:
            row |= {"unit": rng.randrange(-35, 35), "request_id": ""}
        events["outcomes"].append(row)
    return events


# --- the same rules once more, one event at a time -------------------------------------------------------------------


def naive_units(events: dict[str, list[Row]]) -> tuple[dict[int, tuple[int, Cell]], int]:
    """unit -> (first exposure, cell) without those that met two variants; and how many did."""
    met: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    arms = ["control", "treatment"]
    for row in events["exposures"] + [row for row in events["requests"] if row["kind"] == "primary"]:
        if row["experiment"] == "it's one" and row["variant"] in arms:
            met[row["unit"]].append((row["at"], row["epoch"], arms.index(row["variant"])))
    crossed = {unit for unit, seen in met.items() if len({arm for _, _, arm in seen}) > 1}
    first = {unit: min(seen) for unit, seen in met.items() if unit not in crossed}
    return {unit: (at, Cell(epoch, arm)) for unit, (at, epoch, arm) in first.items()}, len(crossed)


def naive_outcomes(events: dict[str, list[Row]]) -> list[Row]:
    """Outcomes with their units, those of requests looked up; an outcome never precedes its request."""
    requests = {row["request_id"]: row for row in events["requests"] if row["kind"] == "primary"}
    found = []
    for row in events["outcomes"]:
        if row["unit"] is not None:
            found.append(row)
        elif request := requests.get(row["request_id"]):
            found.append(row | {"unit": request["unit"], "at": max(row["at"], request["at"])})
    return found


def amount(row: Row) -> float | None:
    found: float | None = row["value"] if row["values"] is None else json.loads(row["values"]).get("amount")
    return found


def naive_metric(  # noqa: PLR0911 - one answer per metric
    name: str, ages: list[tuple[float, Row]], requests: list[tuple[float, Row]]
) -> tuple[float, float]:
    """(y, x) of one unit. ages: its outcomes with their age in days; requests: its requests likewise."""
    requests = [(age, row) for age, row in requests if age >= 0]  # met under a name that the split does not have

    def total(event: str, low: float, high: float, value: Any) -> float:
        values = [value(row) for age, row in ages if row["name"] == event and low <= age < high]
        return math.fsum(v for v in values if v is not None)

    match name:
        case "conversion":
            return float(total("purchase", 0, 2, lambda row: float(row["value"] > 0)) > 0), 0.0
        case "revenue":
            return min(30.0, total("purchase", 0, 2, amount)), total("purchase", -3, 0, amount)
        case "views":
            return total("view", 0, math.inf, lambda _: 1.0), total("purchase", -1, 0, lambda row: row["value"])
        case "ctr":
            return total("click", 0, 1, lambda row: row["value"]), total("view", 0, 1, lambda row: row["value"])
        case "back":
            return float(total("view", 1, 3, lambda _: 1.0) > 0), 0.0
        case "errors":
            return float(sum(row["outcome"] in {"error", "timeout"} for _, row in requests)), float(len(requests))
        case "slow":
            inside = [row["latency_us"] / 1e6 for age, row in requests if age < 1]
            return math.fsum(inside), float(len(inside))
    raise AssertionError(name)


def naive_cells(events: dict[str, list[Row]], metric: Metric, now: int) -> dict[Cell, Comoments]:
    units, _ = naive_units(events)
    outcomes, requests = defaultdict(list), defaultdict(list)
    for row in naive_outcomes(events):
        outcomes[row["unit"]].append(row)
    for row in events["requests"]:
        if row["kind"] == "primary":
            requests[row["unit"]].append(row)
    cells: dict[Cell, list[tuple[float, float]]] = defaultdict(list)
    for unit, (t0, cell) in units.items():
        if metric.within_s is None or t0 + metric.within_s * 1e6 <= now:
            aged = [[((row["at"] - t0) / DAY, row) for row in rows[unit]] for rows in (outcomes, requests)]
            cells[cell].append(naive_metric(metric.name, aged[0], aged[1]))
    return {cell: Comoments.of([y for y, _ in pairs], [x for _, x in pairs]) for cell, pairs in cells.items()}


def naive_quantiles(events: dict[str, list[Row]]) -> dict[Cell, QuantileSummary | NotEnoughData]:
    units, _ = naive_units(events)
    rows: dict[Cell, list[tuple[float, int]]] = defaultdict(list)
    for row in events["requests"]:
        if row["kind"] == "primary" and row["unit"] in units and row["at"] >= units[row["unit"]][0]:
            rows[units[row["unit"]][1]].append((row["latency_us"] / 1e6, row["unit"]))
    return {cell: QuantileSummary.of([v for v, _ in some], [u for _, u in some], 0.9) for cell, some in rows.items()}


# --- comparison ------------------------------------------------------------------------------------------------------


def found_by(state: AnalysisState, now: int) -> ExperimentMoments:
    return moments_of(state, EXPERIMENT, now)


def assert_close(left: Comoments, right: Comoments) -> None:
    assert left.count == right.count
    scale = max(1.0, *(abs(v) for v in (right.ssd_y, right.ssd_x, right.mean_y, right.mean_x)))
    for name in ("mean_y", "mean_x", "ssd_y", "ssd_x", "cross_dev"):
        assert getattr(left, name) == pytest.approx(getattr(right, name), rel=1e-12, abs=1e-12 * scale), name


def assert_same(left: ExperimentMoments, right: ExperimentMoments) -> None:
    assert left.units == right.units
    assert left.crossovers == right.crossovers
    assert left.traffic == right.traffic
    assert left.unknown_exposures == right.unknown_exposures
    for one, other in zip(left.metrics, right.metrics, strict=True):
        assert (one.units, one.waiting, one.rows) == (other.units, other.waiting, other.rows)
        assert one.quantiles == other.quantiles
        assert one.pooled_quantiles == other.pooled_quantiles
        for cell, comoments in one.cells.items():
            assert_close(comoments, other.cells[cell])


Quantiles = Mapping[Cell, QuantileSummary | NotEnoughData]


def assert_same_quantiles(found: Quantiles, expected: Quantiles) -> None:
    assert found.keys() == expected.keys()
    for cell, summary in expected.items():
        other = found[cell]
        if isinstance(summary, NotEnoughData) or isinstance(other, NotEnoughData):
            assert other == summary
        else:
            assert (other.units, other.value) == (summary.units, summary.value)
            assert other.std_error == pytest.approx(summary.std_error, rel=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_any_order_and_any_batches_equal_full_and_naive_recompute(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    events = made_up_events(rng)
    log = Log(tmp_path)
    queue = [(stream, row) for stream, rows in events.items() for row in rows]
    rng.shuffle(queue)
    now = START + int(rng.uniform(2.0, 7.0) * DAY)
    with AnalysisState(tmp_path / "state.duckdb") as state:
        batches = 4
        for batch in range(batches):
            part = queue[batch * len(queue) // batches : (batch + 1) * len(queue) // batches]
            for stream in events:
                log.append(stream, [row for name, row in part if name == stream])
            result = state.refresh(EXPERIMENT, log.listing())
            assert result.kind is (RefreshKind.INCREMENTAL if batch else RefreshKind.FULL)
        assert state.refresh(EXPERIMENT, log.listing()).kind is RefreshKind.UNCHANGED
        incremental = found_by(state, now)
        state.recompute(EXPERIMENT, log.listing())
        full = found_by(state, now)
    assert_same(incremental, full)
    units, crossovers = naive_units(events)
    assert crossovers == full.crossovers > 0
    counts: dict[Cell, int] = defaultdict(int)
    for _, cell in units.values():
        counts[cell] += 1
    assert {cell: n for cell, n in full.units.items() if n} == counts
    for found in full.metrics:
        if found.plan.metric.kind is MetricKind.QUANTILE:
            assert_same_quantiles(found.quantiles, naive_quantiles(events))
            continue
        expected = naive_cells(events, found.plan.metric, now)
        assert {cell: c for cell, c in found.cells.items() if c.count}.keys() == expected.keys()
        for cell, comoments in expected.items():
            assert_close(found.cells[cell], comoments)


@pytest.mark.parametrize("is_behind", [False, True])
def test_merged_files_are_never_counted_twice(tmp_path: Path, *, is_behind: bool) -> None:
    events = made_up_events(random.Random(99))
    log = Log(tmp_path)
    with AnalysisState(tmp_path / "state.duckdb") as state:
        for half in (0, 1):
            for stream, rows in events.items():
                log.append(stream, rows[half::2])
            if half == 0 or not is_behind:
                state.refresh(EXPERIMENT, log.listing())
        last = len(log.files["outcomes"])
        merged = write_file(tmp_path / "merged.parquet", "outcomes", events["outcomes"], number=last, first_id=1)
        late: Row = {"at": START + 4 * DAY, "name": "view", "unit": 3}
        newest = write_file(tmp_path / "late.parquet", "outcomes", [late], number=last + 1)
        log.files["outcomes"] = [merged, newest]
        result = state.refresh(EXPERIMENT, log.listing())
        assert result.kind is (RefreshKind.FULL if is_behind else RefreshKind.INCREMENTAL)
        found = found_by(state, START + 9 * DAY)
        state.recompute(EXPERIMENT, log.listing())
        assert_same(found, found_by(state, START + 9 * DAY))
