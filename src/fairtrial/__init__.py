"""Fairtrial runs fair trials between machine-learning models in production.

    from fairtrial import analyze, load_experiment

Public names are loaded when first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fairtrial.analysis.foreign import analyze
    from fairtrial.model.parse import load_experiment

__version__ = "0.1.0"

__all__ = ["__version__", "analyze", "load_experiment"]

_HOMES = {"analyze": "fairtrial.analysis.foreign", "load_experiment": "fairtrial.model.parse"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'fairtrial' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
