"""Which Parquet files hold the events, and which of them can hold a given stretch of time.

Progress is the set of file ids already counted, never an event time: a late file has a new id, so it is counted exactly
once however old its events are. Event times serve one purpose only, to leave out files that cannot matter.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DataFile:
    """One immutable Parquet file. id: rises with log order within its stream, never used again.

    day: `YYYY-MM-DD` of its events, for people. min_at, max_at: bounds of its events' `at`, microseconds since 1970.
    """

    id: int
    path: str
    day: str
    rows: int
    min_at: int
    max_at: int


@dataclass(frozen=True, slots=True)
class FilesByStream:
    """Every file of the three streams, as one manifest read saw them. Columns: `fairtrial.model.records`."""

    requests: tuple[DataFile, ...] = ()
    exposures: tuple[DataFile, ...] = ()
    outcomes: tuple[DataFile, ...] = ()

    def without(self, seen: SeenIds) -> FilesByStream:
        """The files that have not been counted yet."""
        return FilesByStream(
            requests=unseen(self.requests, seen.requests),
            exposures=unseen(self.exposures, seen.exposures),
            outcomes=unseen(self.outcomes, seen.outcomes),
        )

    def holds(self, seen: SeenIds) -> bool:
        """True while no counted file has gone: after a merge or an erasure what was counted must be counted anew."""
        return (
            seen.requests <= {file.id for file in self.requests}
            and seen.exposures <= {file.id for file in self.exposures}
            and seen.outcomes <= {file.id for file in self.outcomes}
        )

    def is_empty(self) -> bool:
        """True where there is nothing to read."""
        return not (self.requests or self.exposures or self.outcomes)

    def newest_at(self) -> int | None:
        """Time of the newest event in any file; None without files."""
        return max((file.max_at for file in (*self.requests, *self.exposures, *self.outcomes)), default=None)


@dataclass(frozen=True, slots=True)
class SeenIds:
    """Ids of the files that a state already counts, by stream."""

    requests: frozenset[int] = frozenset()
    exposures: frozenset[int] = frozenset()
    outcomes: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time [start, end], microseconds since 1970; None leaves that side open."""

    start: int | None = None
    end: int | None = None

    def overlaps(self, low: int, high: int) -> bool:
        """True where [low, high] and this span share an instant."""
        return (self.start is None or high >= self.start) and (self.end is None or low <= self.end)


def unseen(files: Iterable[DataFile], seen: Collection[int]) -> tuple[DataFile, ...]:
    """The files whose id is not among `seen`, in order."""
    return tuple(file for file in files if file.id not in seen)


def within(files: Iterable[DataFile], span: Span) -> tuple[DataFile, ...]:
    """The files that can hold an event of `span`."""
    return tuple(file for file in files if span.overlaps(file.min_at, file.max_at))
