"""Sample-ratio mismatch: the e-value against scipy's distributions, epochs, and what it finds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fairtrial.stats.srm import CONCENTRATIONS, EpochCounts, srm_test


def test_the_e_value_is_the_mean_bayes_factor_of_dirichlet_multinomials() -> None:
    counts, shares = (430, 570, 210), np.array([0.35, 0.45, 0.2])
    at_split = stats.multinomial(sum(counts), shares).logpmf(counts)
    factors = [
        math.exp(stats.dirichlet_multinomial(weight * shares, sum(counts)).logpmf(counts) - at_split)
        for weight in CONCENTRATIONS
    ]
    found = srm_test([EpochCounts(counts, tuple(shares))])
    assert found.log_e_value == pytest.approx(math.log(np.mean(factors)))


def test_chi_squared_is_shown_as_scipy_computes_it() -> None:
    found = srm_test([EpochCounts((5_200, 4_800), (0.5, 0.5))])
    assert found.chi2_p_value == pytest.approx(stats.chisquare([5_200, 4_800]).pvalue)
    assert found.largest_deviation == pytest.approx(0.02)
    assert found.units == 10_000


def test_fabijan_example_is_found() -> None:
    """Fabijan et al., KDD 2019: 821,588 against 815,482 users at 50/50 is a mismatch (p about 2e-6)."""
    found = srm_test([EpochCounts((821_588, 815_482), (0.5, 0.5))])
    assert found.chi2_p_value == pytest.approx(1.8e-6, rel=0.1)
    assert found.p_value < 0.001


@pytest.mark.parametrize("counts", [(78, 22), (700, 500), (26_300, 25_000), (0, 40)])
def test_gross_and_subtle_mismatches_are_found_at_their_scale(counts: tuple[int, int]) -> None:
    found = srm_test([EpochCounts(counts, (0.5, 0.5))])
    assert found.p_value < 0.001


def test_a_changed_split_is_no_mismatch_when_each_epoch_is_true_to_its_own() -> None:
    epochs = [EpochCounts((9_010, 990), (0.9, 0.1)), EpochCounts((4_980, 5_020), (0.5, 0.5))]
    assert srm_test(epochs).p_value == 1.0
    pooled = EpochCounts((13_990, 6_010), (0.5, 0.5))
    assert srm_test([pooled]).p_value < 1e-12


def test_evidence_multiplies_over_epochs() -> None:
    once = EpochCounts((2_200, 2_000), (0.5, 0.5))
    assert srm_test([once, once]).log_e_value > srm_test([once]).log_e_value


def test_nobody_yet_is_no_evidence() -> None:
    found = srm_test([EpochCounts((0, 0), (0.5, 0.5))])
    assert (found.p_value, found.chi2_p_value, found.largest_deviation, found.units) == (1.0, 1.0, 0.0, 0)
    assert srm_test([]) == found


@pytest.mark.parametrize(
    ("counts", "shares"),
    [((1, 2), (0.5, 0.6)), ((1,), (1.0,)), ((1, 2, 3), (0.5, 0.5)), ((-1, 2), (0.5, 0.5)), ((1, 2), (1.0, 0.0))],
)
def test_impossible_counts_are_errors(counts: tuple[int, ...], shares: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"shares|counts"):
        EpochCounts(counts, shares)
