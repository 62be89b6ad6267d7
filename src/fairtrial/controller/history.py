"""Every epoch that an experiment has had: the analysis compares within epochs and checks each against its own split.

A JSON object, experiment to epochs, oldest first; written before the snapshot that opens an epoch, so that no request
is ever recorded under an epoch that the history does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from fairtrial.controller.statedir import write_atomically
from fairtrial.model.allocation import Allocation
from fairtrial.model.errors import FairtrialError

History = dict[str, tuple[Allocation, ...]]


def read_history(path: Path) -> History:
    """The epochs on disk; empty where there are none. Raises FairtrialError where the file does not decode."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    try:
        return msgspec.json.decode(content, type=History)
    except msgspec.DecodeError as error:
        raise FairtrialError(f"{path} is damaged ({error}); restore it: past epochs are known from it only") from error


def extend_history(path: Path, allocations: Mapping[str, Allocation]) -> None:
    """Add the epochs of `allocations` that the history lacks; one that never came into force is replaced."""
    history = read_history(path)
    extended = {**history, **{name: _with(history.get(name, ()), epoch) for name, epoch in allocations.items()}}
    if extended != history:
        write_atomically(path, msgspec.json.encode(extended))


def _with(epochs: tuple[Allocation, ...], latest: Allocation) -> tuple[Allocation, ...]:
    return (*(epoch for epoch in epochs if epoch.epoch < latest.epoch), latest)
