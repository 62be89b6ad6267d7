"""What must hold of assignment for any salt, split and unit.

The chi-square tests use fixed samples, so they pass or fail for ever; at the stated level of 1e-4 a correct hash would
have been unlucky once in ten thousand choices of salt.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fairtrial.assign.assignment import Assigner, Reason
from fairtrial.assign.bucket import boundaries, buckets
from fairtrial.assign.many import assign_many, buckets_many
from fairtrial.model.allocation import Allocation
from fairtrial.model.experiment import Experiment, Holdout, LayerSlice, RequestUnit, Variant

LEVEL = 1e-4
MANY = 200_000
UNITS = [f"user-{number}" for number in range(MANY)]
HALVES = (("control", 0.5), ("treatment", 0.5))

names = st.text(alphabet="abcXYZ019._-", min_size=1, max_size=20)
unit_ids = st.text(min_size=1, max_size=40)
shares = st.integers(min_value=0, max_value=1000).map(lambda thousandths: thousandths / 1000)


@st.composite
def splits(draw: st.DrawFn) -> tuple[tuple[str, float], ...]:
    cuts = sorted(draw(st.sets(st.integers(min_value=1, max_value=999), min_size=1, max_size=5)))
    ends = [*cuts, 1000]
    sizes = [end - start for start, end in zip([0, *cuts], ends, strict=True)]
    return tuple((f"v{index}", size / 1000) for index, size in enumerate(sizes))


def assigner(
    salt: str = "x",
    enrolment: float = 1.0,
    split: tuple[tuple[str, float], ...] = HALVES,
    layer: LayerSlice | None = None,
    holdout: Holdout | None = None,
) -> Assigner:
    variants = tuple(Variant(name, "m") for name, _ in split)
    experiment = Experiment("x", "e", RequestUnit(), variants, split, split[0][0], salt, layer=layer, holdout=holdout)
    return Assigner(experiment, Allocation("x", 0, enrolment, split, started_at=0))


@pytest.mark.parametrize("salt", ["churn-3-launch", "s", "A.b_C-1", "0"])
def test_both_numbers_are_uniform_and_independent_of_each_other(salt: str) -> None:
    whether, bucket = (numbers / 2**52 for numbers in buckets_many(salt, UNITS))
    for values in (whether, bucket):
        counts = np.histogram(values, bins=100, range=(0, 1))[0]
        assert stats.chisquare(counts).pvalue > LEVEL
        assert stats.kstest(values, "uniform").pvalue > LEVEL
    table = np.histogram2d(whether, bucket, bins=10, range=[[0, 1], [0, 1]])[0]
    assert stats.chi2_contingency(table).pvalue > LEVEL


@pytest.mark.parametrize(
    ("first", "second"), [("a", "b"), ("launch-1", "launch-2"), ("x", "x.layer"), ("x", "x.holdout")]
)
def test_experiments_are_independent_of_each_other_and_of_layers(first: str, second: str) -> None:
    split = (("a", 0.2), ("b", 0.3), ("c", 0.5))
    one, two = (assign_many(UNITS, assigner(salt, 0.7, split)).variant for salt in (first, second))
    table = np.zeros((4, 4))
    np.add.at(table, (one + 1, two + 1), 1)
    assert stats.chi2_contingency(table).pvalue > LEVEL


@pytest.mark.parametrize("enrolment", [0.01, 0.1, 0.5, 1.0])
def test_arms_divide_the_enrolled_as_the_split_says(enrolment: float) -> None:
    split = (("a", 0.1), ("b", 0.3), ("c", 0.6))
    result = assign_many(UNITS, assigner("ratio", enrolment, split))
    counts = np.bincount(result.variant[result.is_enrolled], minlength=3)
    assert stats.chisquare(counts, counts.sum() * np.array([0.1, 0.3, 0.6])).pvalue > LEVEL
    assert stats.binomtest(int(counts.sum()), MANY, enrolment).pvalue > LEVEL


@given(names, splits(), st.lists(unit_ids, max_size=20), shares, shares)
def test_a_ramp_only_adds_units_and_never_moves_one(
    salt: str, split: tuple[tuple[str, float], ...], units: list[str], one: float, two: float
) -> None:
    low, high = sorted((one, two))
    before, after = assigner(salt, low, split), assigner(salt, high, split)
    for unit in units:
        if before.variant_of(unit) >= 0:
            assert after.variant_of(unit) == before.variant_of(unit)


def test_a_ramp_in_stages_keeps_every_unit_in_its_arm() -> None:
    variants = [assign_many(UNITS, assigner("ramp", enrolment)).variant for enrolment in (0.02, 0.1, 0.4, 1.0)]
    for before, after in itertools.pairwise(variants):
        assert (after[before >= 0] == before[before >= 0]).all()
        assert (after >= 0).sum() > (before >= 0).sum()


@settings(max_examples=50)
@given(names, st.lists(unit_ids, min_size=1, max_size=30), st.sets(st.integers(1, 999), max_size=4))
def test_experiments_of_one_layer_never_share_a_unit(layer: str, units: list[str], cuts: set[int]) -> None:
    ends = [0.0, *(cut / 1000 for cut in sorted(cuts)), 1.0]
    slices = [LayerSlice(layer, low, high) for low, high in itertools.pairwise(ends)]
    assigners = [assigner(f"s{index}", layer=piece) for index, piece in enumerate(slices)]
    for unit in units:
        assert sum(one.variant_of(unit) >= 0 for one in assigners) == 1  # the slices cover the layer, so exactly one


def test_slices_of_a_layer_never_overlap_on_a_large_sample() -> None:
    thirds = [LayerSlice("l", 0.0, 1 / 3), LayerSlice("l", 1 / 3, 2 / 3), LayerSlice("l", 2 / 3, 1.0)]
    enrolled = np.array(
        [assign_many(UNITS, assigner(f"s{i}", layer=piece)).is_enrolled for i, piece in enumerate(thirds)]
    )
    assert (enrolled.sum(axis=0) == 1).all()
    assert stats.chisquare(enrolled.sum(axis=1)).pvalue > LEVEL


@given(names, unit_ids, st.integers(1, 999).map(lambda thousandths: thousandths / 1000))
def test_a_held_out_unit_is_never_enrolled(salt: str, unit: str, share: float) -> None:
    one = assigner(salt, holdout=Holdout("q4", share))
    is_held = buckets("q4.holdout", unit)[0] < share
    assert (one.variant_of(unit) == -1) is is_held
    assert (one.assign(unit).reason is Reason.HOLDOUT) is is_held


@settings(max_examples=200)
@given(
    names,
    shares,
    splits(),
    st.lists(st.one_of(st.none(), st.text(max_size=20)), max_size=20),
    st.tuples(st.sampled_from([None, LayerSlice("l", 0.1, 0.8)]), st.sampled_from([None, Holdout("h", 0.2)])),
)
def test_explained_lean_and_vectorised_assignment_agree(
    salt: str,
    enrolment: float,
    split: tuple[tuple[str, float], ...],
    units: list[str | None],
    gates: tuple[LayerSlice | None, Holdout | None],
) -> None:
    one = assigner(salt, enrolment, split, *gates)
    many = assign_many(units, one)
    for index, unit in enumerate(units):
        explained = one.assign(unit)
        expected = -1 if explained.variant is None else [name for name, _ in split].index(explained.variant)
        assert one.variant_of(unit or "") == expected
        assert many.variant[index] == expected
        assert bool(many.is_enrolled[index]) is explained.is_enrolled
        if unit:
            assert (many.whether[index], many.bucket[index]) == buckets(salt, unit)
            assert explained.bucket == many.bucket[index]


def test_scalar_and_vectorised_assignment_agree_on_a_large_sample() -> None:
    one = assigner("agree", 0.6, (("a", 0.1), ("b", 0.2), ("c", 0.7)), LayerSlice("l", 0.0, 0.7), Holdout("h", 0.1))
    assert [one.variant_of(unit) for unit in UNITS] == assign_many(UNITS, one).variant.tolist()


@given(splits(), unit_ids)
def test_arms_are_half_open_intervals_in_file_order(split: tuple[tuple[str, float], ...], unit: str) -> None:
    ends = boundaries([share for _, share in split])
    _, bucket = buckets("x", unit)
    index = assigner("x", 1.0, split).variant_of(unit)
    assert (0.0, *ends)[index] <= bucket < ends[index]


@given(unit_ids)
def test_a_paused_allocation_changes_no_arm_when_it_resumes(unit: str) -> None:
    one = assigner()
    again = Assigner(one.experiment, dataclasses.replace(one.allocation, epoch=2))
    assert again.variant_of(unit) == one.variant_of(unit)
