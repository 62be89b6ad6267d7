"""Golden vectors: (salt, unit) to numbers to variant, frozen for ever and for every language.

tests/golden/assignment.json was written once by `reference`, which shares nothing with the code under test.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TypedDict

import pytest

from fairtrial.assign.assignment import Assigner
from fairtrial.assign.bucket import buckets
from fairtrial.assign.many import assign_many
from fairtrial.model.allocation import Allocation
from fairtrial.model.experiment import Experiment, Holdout, LayerSlice, RequestUnit, Variant


class Vector(TypedDict):
    """One line of the file. layer: name, from, to. holdout: name, share."""

    salt: str
    unit: str
    enrolment: float
    split: list[tuple[str, float]]
    layer: tuple[str, float, float] | None
    holdout: tuple[str, float] | None
    whether: float
    bucket: float
    variant: str | None
    reason: str


PATH = Path(__file__).parents[2] / "golden" / "assignment.json"
VECTORS: list[Vector] = json.loads(PATH.read_text())["vectors"]


def reference(salt: str, unit: str) -> tuple[float, float]:
    h = hashlib.sha256(f"{salt}:{unit}".encode()).hexdigest()
    return int(h[:13], 16) / 2**52, int(h[13:26], 16) / 2**52


def reference_assignment(vector: Vector) -> tuple[str | None, str]:
    holdout, layer = vector["holdout"], vector["layer"]
    if holdout and reference(f"{holdout[0]}.holdout", vector["unit"])[0] < holdout[1]:
        return None, "holdout"
    if layer and not layer[1] <= reference(f"{layer[0]}.layer", vector["unit"])[0] < layer[2]:
        return None, "layer"
    whether, bucket = reference(vector["salt"], vector["unit"])
    if whether >= vector["enrolment"]:
        return None, "not_enrolled"
    end = 0.0
    for variant, share in vector["split"]:
        end += share
        if bucket < end:
            return variant, "enrolled"
    return vector["split"][-1][0], "enrolled"


def assigner_of(vector: Vector) -> Assigner:
    split = tuple((name, share) for name, share in vector["split"])
    experiment = Experiment(
        name="golden",
        endpoint="e",
        unit=RequestUnit(),
        variants=tuple(Variant(name, "m") for name, _ in split),
        split=split,
        control=split[0][0],
        salt=vector["salt"],
        layer=LayerSlice(*vector["layer"]) if vector["layer"] else None,
        holdout=Holdout(*vector["holdout"]) if vector["holdout"] else None,
    )
    return Assigner(experiment, Allocation("golden", 0, vector["enrolment"], split, started_at=0))


def test_there_are_enough_vectors_of_every_sort() -> None:
    assert len(VECTORS) >= 60
    assert {vector["reason"] for vector in VECTORS} == {"enrolled", "not_enrolled", "layer", "holdout"}
    assert {len(vector["split"]) for vector in VECTORS} >= {2, 3}
    assert max(len(vector["unit"]) for vector in VECTORS) > 10_000


@pytest.mark.parametrize("vector", VECTORS, ids=[f"{v['salt']}-{i}" for i, v in enumerate(VECTORS)])
def test_golden_vector_is_what_the_reference_and_every_path_compute(vector: Vector) -> None:
    assert reference(vector["salt"], vector["unit"]) == (vector["whether"], vector["bucket"])
    assert reference_assignment(vector) == (vector["variant"], vector["reason"])
    assert buckets(vector["salt"], vector["unit"]) == (vector["whether"], vector["bucket"])
    assigner = assigner_of(vector)
    assignment = assigner.assign(vector["unit"])
    assert (assignment.variant, assignment.reason, assignment.bucket) == (
        vector["variant"],
        vector["reason"],
        vector["bucket"],
    )
    names = [name for name, _ in vector["split"]]
    index = names.index(vector["variant"]) if vector["variant"] is not None else -1
    assert assigner.variant_of(vector["unit"]) == index
    many = assign_many([vector["unit"]], assigner)
    assert (many.variant[0], many.whether[0], many.bucket[0]) == (index, vector["whether"], vector["bucket"])


def test_vectors_have_not_changed() -> None:
    """Changing one would move real users between arms in the middle of a trial."""
    digest = hashlib.sha256(PATH.read_bytes()).hexdigest()
    assert digest == "8306c17f1566125219a0b6643c3801819c5df0883bba64c6681b197fa7ad832d"
