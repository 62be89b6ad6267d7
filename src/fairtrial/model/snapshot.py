"""Snapshots: what routers run on, as one JSON text whose digest tells whether anything changed or broke."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from fairtrial.model.allocation import Allocation, Snapshot, Status
from fairtrial.model.document import to_document
from fairtrial.model.errors import ConfigError
from fairtrial.model.experiment import Experiment, ExperimentFile, JsonValue
from fairtrial.model.parse import parse_document

SNAPSHOT_FORMAT: Final = 1


def stage_enrolment(experiment: Experiment, stage: float) -> float:
    """Enrolment at which the largest treatment meets `stage` of the traffic; 1 where the split cannot give more."""
    treatments = [share for name, share in experiment.split if name != experiment.control]
    return min(1.0, stage / max(treatments, default=1.0))


def first_allocations(file: ExperimentFile, *, started_at: int) -> dict[str, Allocation]:
    """Every experiment running at its first stage, or at its enrolment. started_at: microseconds since 1970, UTC."""
    return {
        name: Allocation(
            experiment=name,
            epoch=0,
            enrolment=_first_enrolment(experiment),
            split=experiment.split,
            started_at=started_at,
            stage=experiment.rollout.stages[0] if experiment.rollout is not None else None,
        )
        for name, experiment in file.experiments.items()
    }


def _first_enrolment(experiment: Experiment) -> float:
    if experiment.rollout is None:
        return experiment.enrolment
    return stage_enrolment(experiment, experiment.rollout.stages[0])


def make_snapshot(file: ExperimentFile, allocations: Mapping[str, Allocation], *, version: int) -> Snapshot:
    """Snapshot of a file and one allocation per experiment. version: rises with every change."""
    return Snapshot(version, _digest(_content(file, allocations)), file, dict(allocations))


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """JSON text that `decode_snapshot` reads back as an equal snapshot."""
    content = _content(snapshot.file, snapshot.allocations)
    document = {"format": SNAPSHOT_FORMAT, "version": snapshot.version, "digest": snapshot.digest, **content}
    return json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1).encode()


def decode_snapshot(data: bytes) -> Snapshot:
    """The snapshot that `data` holds. Raises ConfigError if it is not one, is cut short, or fails its digest."""
    try:
        document = json.loads(data)
        if not isinstance(document, dict) or document.get("format") != SNAPSHOT_FORMAT:
            raise ConfigError(
                f"not a snapshot of format {SNAPSHOT_FORMAT}; write it again with this version of Fairtrial"
            )
        file = parse_document(document["file"], name="snapshot")
        allocations = {name: _decoded(name, item) for name, item in document["allocations"].items()}
        snapshot = make_snapshot(file, allocations, version=int(document["version"]))
        digest = str(document["digest"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise ConfigError(f"not a snapshot: {type(exc).__name__}: {exc}") from exc
    if digest != snapshot.digest:
        raise ConfigError(
            f"snapshot {snapshot.version} says its digest is {digest[:12]}, but it is {snapshot.digest[:12]}"
        )
    missing = file.experiments.keys() ^ allocations.keys()
    if missing:
        raise ConfigError(
            f"snapshot {snapshot.version} has experiments without allocation, or the other way: {sorted(missing)}"
        )
    return snapshot


def _content(file: ExperimentFile, allocations: Mapping[str, Allocation]) -> dict[str, JsonValue]:
    return {"file": to_document(file), "allocations": {name: _encoded(item) for name, item in allocations.items()}}


def _digest(content: dict[str, JsonValue]) -> str:
    # Key order stays: the order of the split and of experiments is part of what a file means.
    return sha256(json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()).hexdigest()


def _encoded(allocation: Allocation) -> JsonValue:
    return {
        "epoch": allocation.epoch,
        "enrolment": allocation.enrolment,
        "split": dict(allocation.split),
        "started_at": allocation.started_at,
        "status": allocation.status.value,
        "stage": allocation.stage,
    }


def _decoded(name: str, item: Mapping[str, object]) -> Allocation:
    split, stage = item["split"], item["stage"]
    if not isinstance(split, dict):
        raise TypeError("split is not a mapping")
    return Allocation(
        experiment=name,
        epoch=_whole(item["epoch"]),
        enrolment=_share(item["enrolment"]),
        split=tuple((str(variant), _share(share)) for variant, share in split.items()),
        started_at=_whole(item["started_at"]),
        status=Status(str(item["status"])),
        stage=None if stage is None else _share(stage),
    )


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _share(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise TypeError(f"{value!r} is not a share")
    return float(value)
