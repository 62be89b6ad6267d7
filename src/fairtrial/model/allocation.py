"""What traffic is set to do right now: the file plus, per experiment, the epoch's enrolment and split.

A snapshot is immutable. Routers compile one, swap it in whole, and keep the last good one on disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from fairtrial.model.experiment import ExperimentFile


class Status(StrEnum):
    """Whether an experiment enrols units now."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Allocation:
    """One epoch of one experiment. enrolment: in [0, 1]. started_at: microseconds since 1970, UTC.

    stage: share of all traffic that meets the treatment, for display; None without a rollout.
    """

    experiment: str
    epoch: int
    enrolment: float
    split: tuple[tuple[str, float], ...]
    started_at: int
    status: Status = Status.RUNNING
    stage: float | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """version: rises with every change. digest: sha256 (hex) of file and allocations: equal content, equal digest."""

    version: int
    digest: str
    file: ExperimentFile
    allocations: Mapping[str, Allocation]
