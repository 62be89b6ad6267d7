"""Event files and experiments for tests of the analysis."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fairtrial.analysis.files import DataFile, FilesByStream
from fairtrial.analysis.moments import ExperimentMoments, read_moments
from fairtrial.analysis.rules import plan_measures
from fairtrial.analysis.state import AnalysisState
from fairtrial.model.experiment import (
    AnalysisPlan,
    EventSource,
    Experiment,
    FieldSource,
    FieldUnit,
    Metric,
    MetricKind,
    MetricRole,
    RequestField,
    Variant,
)

DAY_S = 86_400.0
DAY = 86_400_000_000
START = 1_760_000_000_000_000 // DAY * DAY
Value = int | float | str | None
Row = dict[str, Value]

PURCHASE = EventSource("purchase")
CONVERSION = Metric("conversion", MetricRole.PRIMARY, MetricKind.PROPORTION, PURCHASE)

SCHEMAS = {
    "exposures": [("id", "s"), ("at", "i"), ("experiment", "s"), ("variant", "s"), ("unit", "i"), ("epoch", "i")],
    "requests": [
        *(("request_id", "s"), ("at", "i"), ("experiment", "s"), ("variant", "s"), ("unit", "i"), ("epoch", "i")),
        *(("outcome", "s"), ("latency_us", "i"), ("upstream_us", "i"), ("bytes_out", "i"), ("kind", "s")),
    ],
    "outcomes": [
        *(("id", "s"), ("at", "i"), ("name", "s"), ("value", "f"), ("values", "s"), ("unit", "i")),
        ("request_id", "s"),
    ],
}
TYPES = {"s": pa.string(), "i": pa.int64(), "f": pa.float64()}
DEFAULTS: dict[str, Mapping[str, Value]] = {
    "exposures": {"epoch": 0, "id": ""},
    "requests": {
        "epoch": 0,
        "outcome": "ok",
        "latency_us": 1_000,
        "upstream_us": 900,
        "bytes_out": 10,
        "kind": "primary",
    },
    "outcomes": {"id": "", "value": 1.0, "request_id": ""},
}


def write_file(path: Path, stream: str, rows: Sequence[Row], *, number: int, first_id: int = 0) -> DataFile:
    """One Parquet file with every column of the stream."""
    schema = pa.schema([(name, TYPES[kind]) for name, kind in SCHEMAS[stream]])
    filled = [{**DEFAULTS[stream], **row} for row in rows]
    pq.write_table(pa.Table.from_pylist(filled, schema=schema), path)
    times = [int(row["at"] or 0) for row in filled]
    return DataFile(number, str(path), "some day", len(rows), min(times), max(times), first_id=first_id)


@dataclass
class Log:
    """Writes rows as the compactor does, three days a file: one per batch, stream and time; ids rise."""

    folder: Path
    files: dict[str, list[DataFile]] = field(default_factory=lambda: defaultdict(list))

    def append(self, stream: str, rows: Sequence[Row]) -> None:
        by_day: dict[int, list[Row]] = defaultdict(list)
        for row in rows:
            by_day[int(row["at"] or 0) // (3 * DAY)].append(row)
        for _, some in sorted(by_day.items()):
            number = len(self.files[stream]) + 1
            path = self.folder / f"{stream}-{number}.parquet"
            self.files[stream].append(write_file(path, stream, some, number=number))

    def listing(self) -> FilesByStream:
        return FilesByStream(**{stream: tuple(files) for stream, files in self.files.items()})


def exposure(unit: int, variant: str, at: int = START, epoch: int = 0) -> Row:
    return {"unit": unit, "variant": variant, "at": at, "epoch": epoch, "experiment": "trial"}


def outcome(unit: int, name: str = "purchase", at: int = START + 1, value: float = 1.0) -> Row:
    return {"unit": unit, "name": name, "at": at, "value": value}


def experiment(
    *metrics: Metric, plan: AnalysisPlan | None = None, name: str = "trial", control: str = "control"
) -> Experiment:
    """Two variants, half and half."""
    return Experiment(
        name=name,
        endpoint="e",
        unit=FieldUnit(RequestField(FieldSource.HEADER, "x-user")),
        variants=(Variant("control", "a"), Variant("treatment", "b")),
        split=(("control", 0.5), ("treatment", 0.5)),
        control=control,
        salt=name,
        metrics=metrics,
        analysis=plan or AnalysisPlan(),
    )


def moments_of(state: AnalysisState, trial: Experiment, now: int) -> ExperimentMoments:
    plan = plan_measures(trial)
    with state.transaction(plan) as con:
        return read_moments(con, plan, now=now)


def moments_from(folder: Path, trial: Experiment, events: Mapping[str, Sequence[Row]], now: int) -> ExperimentMoments:
    """Moments of events that all lie in one batch."""
    log = Log(folder)
    for stream, rows in events.items():
        log.append(stream, rows)
    with AnalysisState(folder / "state.duckdb") as state:
        state.refresh(trial, log.listing())
        return moments_of(state, trial, now)
