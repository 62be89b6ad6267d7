"""Snapshots: first allocations, digests, and refusal of anything that does not check out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from fairtrial.model.allocation import Allocation, Snapshot, Status
from fairtrial.model.errors import ConfigError
from fairtrial.model.experiment import ExperimentFile
from fairtrial.model.parse import load_experiment, parse_experiment
from fairtrial.model.snapshot import decode_snapshot, encode_snapshot, first_allocations, make_snapshot, stage_enrolment

EXAMPLES = Path(__file__).parents[3] / "examples"
STARTED_AT = 1_750_000_000_000_000


@pytest.fixture(name="file")
def _file() -> ExperimentFile:
    return load_experiment(EXAMPLES / "churn.yaml")


@pytest.fixture(name="snapshot")
def _snapshot(file: ExperimentFile) -> Snapshot:
    return make_snapshot(file, first_allocations(file, started_at=STARTED_AT), version=7)


def test_a_rollout_starts_at_its_first_stage(file: ExperimentFile) -> None:
    """1 % of all traffic meets the treatment, so with 50/50 2 % of the units are enrolled."""
    (allocation,) = first_allocations(file, started_at=STARTED_AT).values()
    assert (allocation.enrolment, allocation.stage, allocation.epoch) == (0.02, 0.01, 0)
    assert (allocation.split, allocation.status) == ((("control", 0.5), ("treatment", 0.5)), Status.RUNNING)


def test_without_a_rollout_the_enrolment_holds() -> None:
    file = load_experiment(EXAMPLES / "llm.yaml")
    (allocation,) = first_allocations(file, started_at=STARTED_AT).values()
    assert (allocation.enrolment, allocation.stage) == (0.2, None)


def test_a_stage_above_the_treatments_share_enrols_everyone(file: ExperimentFile) -> None:
    experiment = file.experiments["churn-3-launch"]
    assert [stage_enrolment(experiment, stage) for stage in (0.05, 0.5, 1.0)] == [0.1, 1.0, 1.0]
    uneven = dataclasses.replace(experiment, split=(("control", 0.5), ("a", 0.4), ("b", 0.1)))
    assert stage_enrolment(uneven, 0.1) == 0.25


def test_a_snapshot_reads_back_as_an_equal_one(snapshot: Snapshot) -> None:
    assert decode_snapshot(encode_snapshot(snapshot)) == snapshot


def test_equal_content_has_an_equal_digest_whatever_the_version(file: ExperimentFile, snapshot: Snapshot) -> None:
    again = make_snapshot(file, snapshot.allocations, version=8)
    assert again.digest == snapshot.digest
    paused = {name: dataclasses.replace(item, status=Status.PAUSED) for name, item in snapshot.allocations.items()}
    assert make_snapshot(file, paused, version=8).digest != snapshot.digest


def test_order_of_the_split_is_part_of_the_digest() -> None:
    """Swapping two variants moves units between arms."""
    text = (EXAMPLES / "churn.yaml").read_text()
    swapped = text.replace("{control: 50, treatment: 50}", "{treatment: 50, control: 50}")
    digests = set()
    for source in (text, swapped):
        file = parse_experiment(source)
        digests.add(make_snapshot(file, first_allocations(file, started_at=STARTED_AT), version=1).digest)
    assert len(digests) == 2


def test_every_cut_of_a_snapshot_is_refused(snapshot: Snapshot) -> None:
    data = encode_snapshot(snapshot)
    for end in range(0, len(data) - 1, 97):
        with pytest.raises(ConfigError):
            decode_snapshot(data[:end])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"enrolment": 0.02', '"enrolment": 0.03'),
        ('"enrolment": 0.02', '"enrolment": 2'),
        ('"enrolment": 0.02', '"enrolment": "all"'),
        ('"status": "running"', '"status": "walking"'),
        ('"epoch": 0', '"epoch": true'),
        ('"format": 1', '"format": 2'),
        ('"url": "http://127.0.0.1:8501"', '"url": "http://127.0.0.1:8509"'),
        ('"url": "http://127.0.0.1:8501"', '"ulr": "http://127.0.0.1:8501"'),
    ],
)
def test_a_changed_snapshot_is_refused(snapshot: Snapshot, old: str, new: str) -> None:
    data = encode_snapshot(snapshot).decode()
    assert old in data
    with pytest.raises(ConfigError):
        decode_snapshot(data.replace(old, new).encode())


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{}", b"\xff", b'{"format": 1}', b"[" * 100_000])
def test_what_is_no_snapshot_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigError):
        decode_snapshot(data)


def test_an_experiment_without_allocation_is_refused(file: ExperimentFile) -> None:
    with pytest.raises(ConfigError, match="without allocation"):
        decode_snapshot(encode_snapshot(make_snapshot(file, {}, version=1)))


def test_a_snapshot_is_plain_json(snapshot: Snapshot) -> None:
    document = json.loads(encode_snapshot(snapshot))
    assert list(document) == ["format", "version", "digest", "file", "allocations"]
    assert document["allocations"]["churn-3-launch"]["started_at"] == STARTED_AT


def test_an_allocation_of_any_status_survives(file: ExperimentFile) -> None:
    for status in Status:
        allocation = Allocation(
            "churn-3-launch", 3, 0.1, (("control", 0.7), ("treatment", 0.3)), STARTED_AT, status, 0.03
        )
        snapshot = make_snapshot(file, {"churn-3-launch": allocation}, version=1)
        assert decode_snapshot(encode_snapshot(snapshot)).allocations["churn-3-launch"] == allocation
