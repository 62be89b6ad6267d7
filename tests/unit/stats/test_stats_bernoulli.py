"""Exact anytime-valid test of an event rate against a limit."""

from __future__ import annotations

import math

import pytest
from scipy import integrate

from fairtrial.stats.bernoulli import rate_above, rate_below


@pytest.mark.parametrize(("events", "units", "limit"), [(3, 5, 0.05), (12, 100, 0.05), (60, 100, 0.5), (9, 9, 0.9)])
def test_p_value_inverts_the_mixture_likelihood_ratio(events: int, units: int, limit: float) -> None:
    def ratio(rate: float) -> float:
        return (rate / limit) ** events * ((1 - rate) / (1 - limit)) ** (units - events)

    mixture = integrate.quad(ratio, limit, 1.0)[0] / (1.0 - limit)
    assert rate_above(events, units, limit) == pytest.approx(min(1.0, 1.0 / mixture))


def test_a_model_that_always_fails_is_caught_after_a_handful_of_units() -> None:
    assert rate_above(4, 4, 0.05) < 0.001


@pytest.mark.parametrize("units", [0, 10, 10_000, 10_000_000])
def test_a_healthy_model_is_no_evidence(units: int) -> None:
    assert rate_above(0, units, 0.05) == 1.0


def test_huge_counts_stay_finite() -> None:
    assert 0.0 < rate_above(600_000, 1_000_000, 0.05) < 1e-100
    assert rate_above(50_000, 1_000_000, 0.05) == 1.0


def test_below_is_the_mirror_image_of_above() -> None:
    assert rate_below(2, 50, 0.3) == rate_above(48, 50, 0.7)
    assert rate_below(2, 50, 0.3) < 0.01


@pytest.mark.parametrize(("events", "units", "limit"), [(3, 2, 0.5), (-1, 2, 0.5), (1, 2, 0.0), (1, 2, math.nan)])
def test_nonsense_is_an_error(events: int, units: int, limit: float) -> None:
    with pytest.raises(ValueError, match=r"events|limit"):
        rate_above(events, units, limit)
