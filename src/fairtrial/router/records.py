"""Request records on their way to the log: a finished exchange is its own record until the next flush.

On the request path a record costs one list append. Every 50 ms, or FLUSH_RECORDS, whichever comes first, the batch is
turned into JSON lines (units hashed here, not in the request's time) and given to the event log's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from fairtrial.model.records import RequestRecord
from fairtrial.router.counters import WorkerCounters

# Encoding holds the event loop for about 2 us a record: half a millisecond at most.
FLUSH_RECORDS: Final = 250
FLUSH_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class RecordContext:
    """What turns a finished request into a record. key: hashes a unit. epoch_offset_ns: unix minus perf_counter."""

    key: Callable[[str], int]
    keep_unit_ids: bool
    epoch_offset_ns: int

    def unit_id(self, unit: str) -> str:
        """The raw unit where the file allows it; bytes that are not UTF-8 become U+FFFD, as JSON needs text."""
        if not self.keep_unit_ids:
            return ""
        return unit.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class Recordable(Protocol):
    """A finished request."""

    def to_record(self, context: RecordContext) -> RequestRecord:
        """Its line in the log."""


class RecordBuffer:
    """Finished requests of one worker. submit: gives encoded lines to the log, False where it refused them."""

    __slots__ = ("_counters", "_encoder", "_entries", "_submit", "context")

    def __init__(
        self, submit: Callable[[bytes, int], bool], *, context: RecordContext, counters: WorkerCounters
    ) -> None:
        self._submit = submit
        self._entries: list[Recordable] = []
        self._encoder = msgspec.json.Encoder()
        self._counters = counters
        self.context = context

    def add(self, entry: Recordable) -> None:
        """Take one finished request."""
        entries = self._entries
        entries.append(entry)
        if len(entries) >= FLUSH_RECORDS:
            self.flush()

    def flush(self) -> None:
        """Hand everything on."""
        entries = self._entries
        if not entries:
            return
        self._entries = []
        context = self.context
        payload = self._encoder.encode_lines([entry.to_record(context) for entry in entries])
        if self._submit(payload, len(entries)):
            self._counters.records_written += len(entries)
        else:
            self._counters.records_dropped += len(entries)
