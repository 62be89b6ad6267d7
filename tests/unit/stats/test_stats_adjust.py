"""Adjusted p-values against statsmodels and Benjamini & Hochberg's own example."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from fairtrial.stats.adjust import benjamini_hochberg, bonferroni, holm

Adjust = Callable[[Sequence[float]], tuple[float, ...]]


@pytest.mark.parametrize(
    ("adjust", "name"), [(benjamini_hochberg, "fdr_bh"), (holm, "holm"), (bonferroni, "bonferroni")]
)
def test_agrees_with_statsmodels_in_any_order_and_with_ties(adjust: Adjust, name: str) -> None:
    rng = np.random.default_rng(31)
    for size in (1, 2, 7, 40):
        p_values = np.round(rng.uniform(size=size) ** 3, 2).tolist()
        assert adjust(p_values) == pytest.approx(multipletests(p_values, method=name)[1].tolist())


def test_benjamini_and_hochberg_find_four_of_their_fifteen() -> None:
    """Benjamini & Hochberg 1995, section 4.1: 4 rejections at q = 0.05 where Bonferroni makes 3."""
    p_values = [
        0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344,
        0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0,
    ]  # fmt: skip
    assert sum(p <= 0.05 for p in benjamini_hochberg(p_values)) == 4
    assert sum(p <= 0.05 for p in bonferroni(p_values)) == 3


def test_no_tests_have_no_adjusted_values() -> None:
    assert benjamini_hochberg([]) == holm([]) == bonferroni([]) == ()


def test_something_that_is_no_probability_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm([0.1, 1.2])
