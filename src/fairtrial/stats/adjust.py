"""P-values adjusted for several tests: an adjusted value at or below alpha rejects at alpha. Order is kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fairtrial.stats.moments import FloatArray


def benjamini_hochberg(p_values: Sequence[float]) -> tuple[float, ...]:
    """Control the share of false discoveries (Benjamini & Hochberg 1995); independent or positively dependent tests."""
    ranked, order = _ranked(p_values)
    size = ranked.size
    scaled = ranked * size / np.arange(1, size + 1)
    return _unranked(np.minimum.accumulate(scaled[::-1])[::-1], order)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Control the chance of any false rejection (Holm 1979); any dependence, never worse than Bonferroni."""
    ranked, order = _ranked(p_values)
    return _unranked(np.maximum.accumulate(ranked * np.arange(ranked.size, 0, -1)), order)


def bonferroni(p_values: Sequence[float]) -> tuple[float, ...]:
    """Control the chance of any false rejection by multiplying with the number of tests; any dependence."""
    ranked, order = _ranked(p_values)
    return _unranked(ranked * ranked.size, order)


def _ranked(p_values: Sequence[float]) -> tuple[FloatArray, np.ndarray[tuple[int], np.dtype[np.intp]]]:
    array = np.asarray(p_values, dtype=np.float64)
    if array.size and not (np.all(array >= 0.0) and np.all(array <= 1.0)):
        raise ValueError(f"p-values must lie in [0, 1], not {array.tolist()}")
    order = np.argsort(array, kind="stable")
    return array[order], order


def _unranked(adjusted: FloatArray, order: np.ndarray[tuple[int], np.dtype[np.intp]]) -> tuple[float, ...]:
    result = np.empty_like(adjusted)
    result[order] = np.minimum(adjusted, 1.0)
    return tuple(result.tolist())
