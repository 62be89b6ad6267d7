"""The analysis of files that the real compactor made out of a real log, before and after it merges them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.unit.analysis.support_analysis import CONVERSION, DAY, START, experiment

from fairtrial.analysis.files import DataFile, FilesByStream
from fairtrial.analysis.refresh import RefreshKind
from fairtrial.analysis.state import AnalysisState
from fairtrial.analysis.view import Circumstances, build_view
from fairtrial.events.compact import Compactor
from fairtrial.events.log import SegmentLog
from fairtrial.model.experiment import (
    AnalysisPlan,
    EventSource,
    Method,
    Metric,
    MetricKind,
    MetricRole,
    RequestMeasure,
    RequestSource,
)
from fairtrial.model.records import ExposureRecord, OutcomeRecord, RequestRecord
from fairtrial.model.view import ExperimentView

LATENCY = Metric("latency", MetricRole.SECONDARY, MetricKind.MEAN, RequestSource(RequestMeasure.LATENCY_S))
AMOUNT = Metric("amount", MetricRole.SECONDARY, MetricKind.MEAN, EventSource("purchase", "amount"))
TRIAL = experiment(CONVERSION, LATENCY, AMOUNT, plan=AnalysisPlan(method=Method.ANYTIME))


def write(state: Path, log: str, *records: msgspec.Struct) -> None:
    segments = SegmentLog.open(state / "log" / log, prefill=False)
    segments.append(msgspec.json.Encoder().encode_lines(records))
    segments.sync()
    segments.close()


def request(unit: int, at: int) -> RequestRecord:
    return RequestRecord(
        request_id=f"{at // 1000:012x}{unit:08x}",
        at=at,
        endpoint="e",
        experiment="trial",
        variant="control" if unit % 2 else "treatment",
        unit=unit,
        assigned_model="a",
        served_model="a",
        status=200,
        outcome="ok",
        latency_us=2_000,
    )


def listing(compactor: Compactor) -> FilesByStream:
    def of(stream: str) -> tuple[DataFile, ...]:
        return tuple(
            DataFile(f.id, str(f.path), f.day, f.rows, f.min_at, f.max_at, f.first_id)
            for f in compactor.manifest.files(stream)
        )

    return FilesByStream(requests=of("requests"), exposures=of("exposures"), outcomes=of("outcomes"))


def values(view: ExperimentView) -> dict[str, list[float | None]]:
    return {metric.name: [found.value for found in metric.values] for metric in view.metrics}


def test_a_log_becomes_a_view_and_merging_its_files_changes_nothing(tmp_path: Path) -> None:
    compactor = Compactor(tmp_path, threads=1)
    circumstances = Circumstances(now=START + 9 * DAY)
    with AnalysisState(tmp_path / "state.duckdb") as state:
        for part in range(2):
            at = START + part * 1_000_000
            requests = [request(unit, at + unit) for unit in range(part * 40, part * 40 + 40)]
            write(tmp_path, "requests-0", *requests)
            first, second = requests[1], requests[2]
            by_unit = OutcomeRecord(f"u{part}", at + 99, at + 99, "purchase", unit=first.unit, values={"amount": 8.0})
            by_request = OutcomeRecord(f"r{part}", at + 99, at + 99, "purchase", request_id=second.request_id)
            write(tmp_path, "outcomes", by_unit, by_request, by_unit)
            write(tmp_path, "exposures", ExposureRecord(f"x{part}", at, at, "trial", "control", 1_001 + 2 * part))
            compactor.run_once()
            result = state.refresh(TRIAL, listing(compactor))
            assert result.kind is (RefreshKind.INCREMENTAL if part else RefreshKind.FULL)
        before = build_view(state, TRIAL, circumstances)
        assert [(v.units, v.exposures, v.requests) for v in before.variants] == [(42, 42, 40), (40, 40, 40)]
        expected = {"conversion": (2 / 42, 2 / 40), "amount": (16 / 42, 2 / 40), "latency": (0.002, 0.002)}
        assert values(before) == {name: pytest.approx(pair, rel=1e-12) for name, pair in expected.items()}
        compactor.merge_days(now_us=START + 30 * DAY)
        assert state.refresh(TRIAL, listing(compactor)).kind is RefreshKind.UNCHANGED
        state.recompute(TRIAL, listing(compactor))
        assert values(build_view(state, TRIAL, circumstances)) == values(before)
    compactor.close()
