"""From experiment file to the snapshot that routers serve.

An experiment keeps its epoch for as long as its allocation stays the same; any change of enrolment or split opens the
next one, because effects are compared within epochs. Publishing is one atomic file replacement: routers see the old
snapshot or the new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import structlog

from fairtrial.controller.continuity import refuse_moved_units
from fairtrial.controller.history import extend_history
from fairtrial.controller.statedir import StateDir, write_atomically
from fairtrial.model.allocation import Allocation, Snapshot
from fairtrial.model.errors import FairtrialError
from fairtrial.model.experiment import ExperimentFile
from fairtrial.model.snapshot import decode_snapshot, encode_snapshot, first_allocations, make_snapshot

log = structlog.get_logger()


def next_allocations(
    file: ExperimentFile, previous: Mapping[str, Allocation], *, started_at: int
) -> dict[str, Allocation]:
    """Allocations that `file` asks for, continuing the epochs of `previous`. started_at: microseconds since 1970."""
    wanted = first_allocations(file, started_at=started_at)
    return {name: _continued(previous.get(name), allocation) for name, allocation in wanted.items()}


def _continued(before: Allocation | None, wanted: Allocation) -> Allocation:
    if before is None:
        return wanted
    same = replace(wanted, epoch=before.epoch, started_at=before.started_at)
    if same == before:
        return before
    return replace(wanted, epoch=before.epoch + 1)


def read_snapshot(path: Path) -> Snapshot | None:
    """The snapshot on disk; None where there is none. A broken one is reported and passed over: it can be remade."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return decode_snapshot(content)
    except FairtrialError as error:
        log.warning("snapshot_unreadable", path=str(path), error=str(error))
        return None


def publish(file: ExperimentFile, state: StateDir, *, at: int, name: str = "the file") -> tuple[Snapshot, bool]:
    """Write the snapshot for `file` unless it is already there. Returns it, and whether it is new.

    Raises ConfigError where units of a running trial would change variants.
    """
    before = read_snapshot(state.snapshot)
    if before is not None:
        refuse_moved_units(before.file, file, name=name)
    allocations = next_allocations(file, before.allocations if before else {}, started_at=at)
    snapshot = make_snapshot(file, allocations, version=before.version + 1 if before else 1)
    if before is not None and before.digest == snapshot.digest:
        return before, False
    extend_history(state.epochs, snapshot.allocations)
    write_atomically(state.snapshot, encode_snapshot(snapshot))
    return snapshot, True
