"""Reasons, missing units, audiences and time slots."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fairtrial.assign.assignment import Assigner, Assignment, Reason
from fairtrial.assign.audience import compile_audience
from fairtrial.assign.bucket import SCALE, boundaries, buckets, threshold
from fairtrial.assign.many import assign_many
from fairtrial.assign.slots import compile_slot
from fairtrial.model.allocation import Allocation, Status
from fairtrial.model.experiment import Condition, Experiment, Holdout, LayerSlice, RequestUnit, SlotUnit, Variant

SPLIT = (("control", 0.5), ("treatment", 0.5))
EXPERIMENT = Experiment(
    name="x",
    endpoint="e",
    unit=RequestUnit(),
    variants=(Variant("dark", "m", shadow=1.0), Variant("treatment", "m"), Variant("control", "m")),
    split=SPLIT,
    control="control",
    salt="x",
    audience=(Condition("country", one_of=("DE",)),),
)
ALLOCATION = Allocation("x", 0, 1.0, SPLIT, started_at=0)


def test_an_enrolled_unit_knows_its_variant_bucket_and_propensity() -> None:
    _, bucket = buckets("x", "u")
    variant = "control" if bucket < 0.5 else "treatment"
    assert Assigner(EXPERIMENT, ALLOCATION).assign("u") == Assignment(
        "x", "u", variant, True, bucket, 0.5, Reason.ENROLLED
    )


def test_variant_index_counts_all_variants_in_file_order_shadows_too() -> None:
    assigner = Assigner(EXPERIMENT, ALLOCATION)
    indices = {assigner.assign(f"u{i}").variant: assigner.variant_of(f"u{i}") for i in range(20)}
    assert indices == {"treatment": 1, "control": 2}


def test_a_missing_unit_is_not_enrolled() -> None:
    assigner = Assigner(EXPERIMENT, ALLOCATION)
    for unit in (None, ""):
        assignment = assigner.assign(unit)
        assert (assignment.is_enrolled, assignment.variant, assignment.bucket, assignment.reason) == (
            False,
            None,
            None,
            Reason.NO_UNIT,
        )
    assert assigner.variant_of("") == -1
    many = assign_many(["u", None, "", "v"], assigner)
    assert many.is_enrolled.tolist() == [True, False, False, True]
    assert many.variant.tolist()[1:3] == [-1, -1]
    assert np.isnan(many.bucket).tolist() == [False, True, True, False]


@pytest.mark.parametrize("status", [Status.PAUSED, Status.STOPPED])
def test_nobody_is_enrolled_while_an_experiment_does_not_run(status: Status) -> None:
    assigner = Assigner(EXPERIMENT, dataclasses.replace(ALLOCATION, status=status))
    assert assigner.assign("u").reason is Reason.PAUSED
    assert assigner.variant_of("u") == -1
    assert not assign_many(["u"], assigner).is_enrolled.any()


def test_reasons_are_told_in_a_fixed_order() -> None:
    """Audience, holdout, layer, enrolment: the first that turns the unit away."""
    shut = dataclasses.replace(EXPERIMENT, layer=LayerSlice("l", 0.0, 2**-52), holdout=Holdout("h", 1 - 2**-52))
    none = dataclasses.replace(ALLOCATION, enrolment=0.0)
    assert Assigner(shut, none).assign("u", {"country": "FR"}).reason is Reason.AUDIENCE
    assert Assigner(shut, none).assign("u", {"country": "DE"}).reason is Reason.HOLDOUT
    assert Assigner(dataclasses.replace(shut, holdout=None), none).assign("u").reason is Reason.LAYER
    assert Assigner(EXPERIMENT, none).assign("u").reason is Reason.NOT_ENROLLED


def test_the_bucket_of_an_unenrolled_unit_is_told_too() -> None:
    assignment = Assigner(EXPERIMENT, dataclasses.replace(ALLOCATION, enrolment=0.0)).assign("u")
    assert (assignment.bucket, assignment.propensity) == (buckets("x", "u")[1], None)


def test_lone_surrogates_are_units_like_others() -> None:
    assigner = Assigner(EXPERIMENT, ALLOCATION)
    many = assign_many(["\ud800", "a"], assigner)
    assert many.variant.tolist() == [assigner.variant_of("\ud800"), assigner.variant_of("a")]
    assert assigner.assign("\ud800").bucket == many.bucket[0]


def test_no_units_are_no_assignments() -> None:
    assert assign_many([], Assigner(EXPERIMENT, ALLOCATION)).variant.shape == (0,)


def test_boundaries_are_summed_as_decimals() -> None:
    """0.1 + 0.2 is 0.30000000000000004 in floats: one unit in 2**52 would change arms between implementations."""
    assert boundaries((0.1, 0.2, 0.7)) == (0.1, 0.3, 1.0)
    assert boundaries((0.333, 0.333, 0.334)) == (0.333, 0.666, 1.0)
    assert boundaries((0.3333333333, 0.3333333333, 0.3333333333))[-1] == 1.0


@pytest.mark.parametrize("share", [0.0, 2**-52, 0.1, 0.3, 1 / 3, 0.5, 1 - 2**-53, 1.0])
def test_whole_number_threshold_is_the_same_comparison_as_with_floats(share: float) -> None:
    limit = threshold(share)
    for number in (0, limit - 1, limit, limit + 1, SCALE - 1):
        if 0 <= number < SCALE:
            assert (number < limit) == (number / SCALE < share)


@pytest.mark.parametrize(
    ("condition", "value", "expected"),
    [
        (Condition("a", one_of=("DE", "FR")), "DE", True),
        (Condition("a", one_of=("DE", "FR")), "de", False),
        (Condition("a", one_of=("DE", "FR")), None, False),
        (Condition("a", none_of=("internal",)), "internal", False),
        (Condition("a", none_of=("internal",)), "x", True),
        (Condition("a", none_of=("internal",)), None, True),
        (Condition("a", one_of=("x", "y"), none_of=("y",)), "y", False),
        (Condition("a", at_least=1.0, at_most=2.5), "2.5", True),
        (Condition("a", at_least=1.0, at_most=2.5), "2.51", False),
        (Condition("a", at_least=1.0), "nan", False),
        (Condition("a", at_least=1.0), "inf", False),
        (Condition("a", at_least=1.0), "1e400", False),
        (Condition("a", at_least=1.0), "1_000", False),
        (Condition("a", at_least=1.0), "ten", False),
        (Condition("a", at_least=1.0), "9" * 10_000, False),
        (Condition("a", at_most=1.0), None, False),
        (Condition("a", exists=True), "", True),
        (Condition("a", exists=True), None, False),
        (Condition("a", exists=False), None, True),
        (Condition("a", exists=False), "x", False),
    ],
)
def test_a_condition_admits_what_it_says(condition: Condition, value: str | None, *, expected: bool) -> None:
    admits = compile_audience([condition])
    assert admits({"a": value}) is expected
    if value is None:
        assert admits({}) is expected


def test_all_conditions_must_hold_and_none_admit_everyone() -> None:
    both = compile_audience([Condition("a", one_of=("x",)), Condition("b", exists=True)])
    assert both({"a": "x", "b": "1"})
    assert not both({"a": "x"})
    assert compile_audience([])({})


def test_a_slot_is_its_number_since_1970_and_the_attributes() -> None:
    slot = compile_slot(SlotUnit(1800.0, ("region", "tier")))
    at = 1_750_000_000_000_000
    assert slot(at, {"region": "eu|west", "tier": "ü"}) == f"{1_750_000_000 // 1800}|eu%7Cwest|%C3%BC"
    assert slot(at, {"region": "eu"}) is None
    assert slot(at, {"region": "eu", "tier": None}) is None


def test_slots_change_at_multiples_of_their_length() -> None:
    slot = compile_slot(SlotUnit(0.1))
    assert [slot(at, {}) for at in (0, 99_999, 100_000, 299_999, 300_000)] == ["0", "0", "1", "2", "3"]
