"""What must hold of any experiment file, valid or not."""

from __future__ import annotations

import itertools
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from fairtrial.model.parse import check_experiment, parse_document, parse_experiment, to_document
from fairtrial.model.parse_layers import equal_pieces

CHURN = (Path(__file__).parents[2] / "examples" / "churn.yaml").read_text()


@settings(max_examples=300)
@given(st.text(max_size=200))
@example("a: &a [*a]")
@example("{")
@example("\ufeff{}")
@example("a: \ud800")
@example("? ? ? a")
@example("a: 0x10\nb: 1_000\nc: 12:30:45\nd: 2001-01-01\ne: 0o7\nf: 017\n")
def test_any_text_is_a_file_or_a_list_of_problems(text: str) -> None:
    for name in ("x.yaml", "x.json"):
        file, problems = check_experiment(text, name=name)
        assert file is not None or any(not problem.is_warning for problem in problems)


@settings(max_examples=300)
@given(
    st.integers(0, len(CHURN) - 1), st.integers(0, 40), st.text(alphabet="{}[]:,#&*!|>'\"%@`- \n\tab01.~", max_size=6)
)
def test_any_damage_to_a_valid_file_is_a_file_or_a_list_of_problems(start: int, length: int, inserted: str) -> None:
    text = CHURN[:start] + inserted + CHURN[start + length :]
    file, problems = check_experiment(text, name="x.yaml")
    assert file is not None or any(not problem.is_warning for problem in problems)
    if file is not None:
        assert parse_document(to_document(file)) == file


@given(st.sets(st.integers(1, 9999), max_size=7))
def test_any_split_that_sums_to_100_is_read_exactly(cuts: set[int]) -> None:
    """Shares with two decimals; what is read is the float nearest to the decimal, not a quotient of floats."""
    ends = [*sorted(cuts), 10_000]
    sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    split = {f"v{index}": Decimal(size) / 100 for index, size in enumerate(sizes)}
    text = (
        "models: {m: {url: 'http://h'}}\nendpoints: {e: {model: m}}\nexperiments:\n  x:\n    endpoint: e\n"
        f"    unit: {{request: true}}\n    variants: {{{', '.join(f'{name}: {{model: m}}' for name in split)}}}\n"
        f"    split: {{{', '.join(f'{name}: {share}' for name, share in split.items())}}}\n"
    )
    expected = tuple((name, float(share / 100)) for name, share in split.items())
    assert parse_experiment(text).experiments["x"].split == expected


@given(st.sets(st.integers(0, 100), min_size=2, max_size=12), st.integers(1, 12))
def test_pieces_of_a_layer_are_equal_and_stay_inside_the_gaps(cuts: set[int], count: int) -> None:
    ends = [Fraction(cut, 100) for cut in sorted(cuts)]
    gaps = list(zip(ends[::2], ends[1::2], strict=False))
    pieces = equal_pieces(gaps, count)
    assert len(pieces) == count
    assert len({high - low for low, high in pieces}) == 1
    assert all(any(start <= low and high <= end for start, end in gaps) for low, high in pieces)
    assert all(one[1] <= two[0] for one, two in itertools.pairwise(pieces))
