"""Request records on their way to disk: the router's hot path pays for one append to a deque.

A thread encodes what has gathered every 50 ms and hands it to a LogWriter, which syncs it. Nothing here ever blocks or
fails a request: what cannot be taken is dropped and counted (`fairtrial_events_dropped_total`).
"""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path

import msgspec

from fairtrial.events.log import SEGMENT_BYTES
from fairtrial.events.writer import RELAXED_INTERVAL_S, LogFullError, LogPoisonedError, LogWriter
from fairtrial.model.records import RequestRecord

_ENCODE_AT_ONCE = 5_000


class RecordWriter:
    """Bounded, never blocking writer of request records; `write` may be called from any one thread.

    directory: log of this worker, `<state>/log/requests-<worker_id>`. max_pending: most records that wait to be
    encoded. max_queue_bytes: most encoded bytes that wait for the disk. Raises LogLockedError, CorruptLogError,
    OSError.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_pending: int = 200_000,
        max_queue_bytes: int = 32 << 20,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        # Gathering happens here already, and nobody waits for the commit: no second 50 ms, no zeros ahead.
        self._writer = LogWriter(directory, max_queue_bytes=max_queue_bytes, segment_bytes=segment_bytes, prefill=False)
        self._pending: deque[RequestRecord] = deque()
        self._max_pending = max_pending
        self._encoder = msgspec.json.Encoder()
        self._overflowed = 0  # by the caller's thread
        self._refused = 0  # by our thread
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"records-{directory.name}", daemon=True)
        self._thread.start()

    def write(self, record: RequestRecord) -> None:
        """Take one record: on disk within about 0.1 s, or counted in `dropped`."""
        if len(self._pending) < self._max_pending:
            self._pending.append(record)
        else:
            self._overflowed += 1

    @property
    def dropped(self) -> int:
        """Records that never reached the disk, for any reason."""
        counts = self._writer.counts
        return self._overflowed + self._refused + counts.refused_by_disk + counts.failed_records

    @property
    def written(self) -> int:
        """Records that are durable."""
        return self._writer.counts.records

    def close(self) -> None:
        """Write what is pending, seal the log, stop the threads."""
        self._closing.set()
        self._thread.join()
        self._writer.close()

    def _run(self) -> None:
        is_closing = False
        while not is_closing:
            is_closing = self._closing.wait(RELAXED_INTERVAL_S)
            self._flush()

    def _flush(self) -> None:
        take = self._pending.popleft
        while self._pending:
            # A part at a time: encoding holds the interpreter lock, and so the router, for 0.1 us a record.
            records = [take() for _ in range(min(len(self._pending), _ENCODE_AT_ONCE))]
            try:
                self._writer.append_relaxed(self._encoder.encode_lines(records), len(records))
            except (LogFullError, LogPoisonedError):
                self._refused += len(records)
