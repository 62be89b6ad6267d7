"""Which Parquet files hold the events, and which of them can hold a given stretch of time.

Progress is a file id per stream, never an event time: a late file has a new id, so it is counted exactly once however
old its events are. Event times serve one purpose only, to leave out files that cannot matter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DataFile:
    """One immutable Parquet file. id: from 1, rises with log order within its stream, never used again.

    day: `YYYY-MM-DD` of its events, for people. min_at, max_at: bounds of its events' `at`, microseconds since 1970.
    first_id: of a file that replaces several, the lowest of their ids (its own is their highest); 0 for any other.
    """

    id: int
    path: str
    day: str
    rows: int
    min_at: int
    max_at: int
    first_id: int = 0

    @property
    def lowest_id(self) -> int:
        """The lowest id whose rows it holds."""
        return self.first_id or self.id


@dataclass(frozen=True, slots=True)
class Cursor:
    """The highest id counted so far, by stream; 0 where nothing is."""

    requests: int = 0
    exposures: int = 0
    outcomes: int = 0


@dataclass(frozen=True, slots=True)
class FilesByStream:
    """Every live file of the three streams, as one manifest read saw them. Columns: `fairtrial.model.records`."""

    requests: tuple[DataFile, ...] = ()
    exposures: tuple[DataFile, ...] = ()
    outcomes: tuple[DataFile, ...] = ()

    def after(self, cursor: Cursor) -> FilesByStream:
        """The files not counted yet."""
        return FilesByStream(
            requests=_after(self.requests, cursor.requests),
            exposures=_after(self.exposures, cursor.exposures),
            outcomes=_after(self.outcomes, cursor.outcomes),
        )

    def straddles(self, cursor: Cursor) -> bool:
        """True where a merged file holds counted and uncounted rows: they cannot be told apart any more."""
        new = self.after(cursor)
        return (
            any(file.lowest_id <= cursor.requests for file in new.requests)
            or any(file.lowest_id <= cursor.exposures for file in new.exposures)
            or any(file.lowest_id <= cursor.outcomes for file in new.outcomes)
        )

    def newest(self, cursor: Cursor) -> Cursor:
        """The cursor once these files are counted on top of it."""
        return Cursor(
            requests=max([cursor.requests, *(file.id for file in self.requests)]),
            exposures=max([cursor.exposures, *(file.id for file in self.exposures)]),
            outcomes=max([cursor.outcomes, *(file.id for file in self.outcomes)]),
        )

    def is_empty(self) -> bool:
        """True where there is nothing to read."""
        return not (self.requests or self.exposures or self.outcomes)

    def newest_at(self) -> int | None:
        """Time of the newest event in any file, microseconds since 1970; None without files."""
        return max((file.max_at for file in (*self.requests, *self.exposures, *self.outcomes)), default=None)


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time [start, end], microseconds since 1970; None leaves that side open."""

    start: int | None = None
    end: int | None = None

    def overlaps(self, low: int, high: int) -> bool:
        """True where [low, high] and this span share an instant."""
        return (self.start is None or high >= self.start) and (self.end is None or low <= self.end)


def within(files: Iterable[DataFile], span: Span) -> tuple[DataFile, ...]:
    """The files that can hold an event of `span`."""
    return tuple(file for file in files if span.overlaps(file.min_at, file.max_at))


def _after(files: Iterable[DataFile], cursor: int) -> tuple[DataFile, ...]:
    return tuple(file for file in files if file.id > cursor)
