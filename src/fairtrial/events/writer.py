"""Group commit: whoever submits while one fdatasync runs shares the next one.

One thread owns the log. It takes everything queued (up to 4 MiB), writes it as one frame, syncs once, and only then
reports to every submitter. Under load the groups grow by themselves; an idle log commits at once.

Failures, all tested:
  queue full      `submit` raises LogFullError; nothing was taken. The caller says 503 and Retry-After.
  disk full       the group is refused with LogFullError, the log stays sound and goes on once there is room.
  sync failed     the writer is poisoned: nothing of the group, the queue or later is ever acknowledged, `on_poison` is
                  called once, and only a new process, on a new segment, may write again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Literal

import structlog

from fairtrial.events.disk import is_out_of_space
from fairtrial.events.log import SEGMENT_BYTES, LogSyncError, Position, SegmentLog
from fairtrial.model.errors import CorruptLogError, FairtrialError, UpstreamError

MAX_GROUP_BYTES = 4 << 20
RELAXED_INTERVAL_S = 0.05

OnDurable = Callable[[Position | None, BaseException | None], None]
Deliver = Callable[[Sequence[OnDurable], Position | None, BaseException | None], None]
Durability = Literal["group", "relaxed"]

_logger = structlog.get_logger("fairtrial.events")


class LogFullError(UpstreamError):
    """Nothing was taken: the queue or the disk is full. Trying again later may help."""


class LogPoisonedError(FairtrialError):
    """A sync failed earlier: this process must not acknowledge anything any more. A human restarts it."""


class LogClosedError(FairtrialError):
    """The writer was closed."""


def deliver_here(callbacks: Sequence[OnDurable], position: Position | None, error: BaseException | None) -> None:
    """Call every submitter back in the writer's thread."""
    for on_durable in callbacks:
        on_durable(position, error)


def _ignore(_position: Position | None, _error: BaseException | None) -> None:
    """The submitter asked for no report."""


@dataclass(slots=True)
class WriterCounts:
    """What one writer did since it was opened; written by its thread, read by anyone.

    refused_by_queue: records turned away at `submit`. refused_by_disk: taken, then refused for lack of space.
    failed_records: taken and never acknowledged, because the log was poisoned.
    """

    commits: int = 0
    records: int = 0
    payload_bytes: int = 0
    refused_by_queue: int = 0
    refused_by_disk: int = 0
    failed_records: int = 0


@dataclass(frozen=True, slots=True)
class _Submission:
    payload: bytes
    count: int
    on_durable: OnDurable


class LogWriter:
    """Thread-safe, bounded front of one SegmentLog. Raises LogLockedError, CorruptLogError, OSError when made.

    max_queue_bytes: most that may wait, including the group being written. durability: "group" syncs at once; "relaxed"
    collects for 50 ms first (a crash may lose that much, so nobody may promise it to a client). on_poison: called once,
    in the writer's thread. deliver: how a commit group's callbacks are run, one call per group. prefill: fill segments
    with zeros ahead (spare.py); by default where somebody waits for commits, as small disks like growing files better.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_queue_bytes: int = 64 << 20,
        durability: Durability = "group",
        on_poison: Callable[[BaseException], None] | None = None,
        deliver: Deliver = deliver_here,
        segment_bytes: int = SEGMENT_BYTES,
        prefill: bool | None = None,
    ) -> None:
        should_prefill = durability == "group" if prefill is None else prefill
        self._log = SegmentLog.open(directory, segment_bytes=segment_bytes, prefill=should_prefill)
        self.directory = directory
        self.counts = WriterCounts()
        self.max_queue_bytes = max_queue_bytes
        self._interval_s = RELAXED_INTERVAL_S if durability == "relaxed" else 0.0
        self._on_poison = on_poison
        self._deliver = deliver
        self._queue: SimpleQueue[_Submission | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._submitted_bytes = 0  # grows under the lock
        self._finished_bytes = 0  # grows in the writer's thread only
        self._error: FairtrialError | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"log-{directory.name}", daemon=True)
        self._thread.start()

    @property
    def queued_bytes(self) -> int:
        """Bytes submitted and neither durable nor refused yet."""
        return self._submitted_bytes - self._finished_bytes

    @property
    def is_poisoned(self) -> bool:
        """True once a sync failed."""
        return isinstance(self._error, LogPoisonedError)

    def submit(self, payload: bytes, count: int, on_durable: OnDurable) -> None:
        """Queue `count` newline-terminated JSON records; `on_durable(position, None)` once they are on disk.

        position: of the frame that holds them, together with others'. On failure: `on_durable(None, error)`. Raises
        LogFullError, LogPoisonedError, LogClosedError; then `on_durable` is never called.
        """
        if not payload.endswith(b"\n"):
            raise ValueError("a payload is lines, each ending in a newline")
        with self._lock:
            if self._error is not None:
                raise self._error
            if self.queued_bytes + len(payload) > self.max_queue_bytes:
                self.counts.refused_by_queue += count
                raise LogFullError(f"{self.queued_bytes} of {self.max_queue_bytes} bytes are waiting for the disk")
            self._submitted_bytes += len(payload)
            self._queue.put(_Submission(payload, count, on_durable))

    def append_relaxed(self, payload: bytes, count: int) -> None:
        """`submit` for records whose sender is not told. Raises as `submit`; later failures are only counted."""
        self.submit(payload, count, _ignore)

    def close(self) -> None:
        """Write what is queued, seal the log, stop the thread. Later submissions raise LogClosedError."""
        with self._lock:
            if self._error is None:
                self._error = LogClosedError(f"log {self.directory} is closed")
            if not self._closing.is_set():
                self._closing.set()
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            first = self._queue.get()
            if first is None:
                break
            if self._interval_s:
                self._closing.wait(self._interval_s)
            if not self._commit(self._take_group(first)):
                break
        self._finish()

    def _take_group(self, first: _Submission) -> list[_Submission]:
        group, size = [first], len(first.payload)
        while size < MAX_GROUP_BYTES:
            try:
                submission = self._queue.get_nowait()
            except Empty:
                break
            if submission is None:
                self._queue.put(None)  # `close` puts it last and only once: leave it for the loop
                break
            group.append(submission)
            size += len(submission.payload)
        return group

    def _commit(self, group: list[_Submission]) -> bool:
        """Make one group durable and report; False where the writer must stop."""
        payload = b"".join([s.payload for s in group]) if len(group) > 1 else group[0].payload
        try:
            position = self._log.append(payload)
            self._log.sync()
        except OSError as exc:
            if is_out_of_space(exc):
                self._refuse(group, len(payload), exc)
                return True
            self._poison(group, len(payload), exc)
            return False
        except (LogSyncError, CorruptLogError) as exc:
            self._poison(group, len(payload), exc)
            return False
        self.counts.commits += 1
        self.counts.records += sum([s.count for s in group])
        self.counts.payload_bytes += len(payload)
        self._report(group, len(payload), position, None)
        return True

    def _refuse(self, group: list[_Submission], size: int, exc: OSError) -> None:
        self.counts.refused_by_disk += sum(s.count for s in group)
        _logger.error("disk full: records refused", log=str(self.directory), error=str(exc))
        self._report(group, size, None, LogFullError(f"no room for the log: {exc}"))

    def _poison(self, group: list[_Submission], size: int, exc: Exception) -> None:
        error = LogPoisonedError(f"log {self.directory}: {exc}; nothing is acknowledged until a restart")
        with self._lock:  # from here on `submit` raises, so the queue only shrinks
            self._error = error
        _logger.critical("log poisoned", log=str(self.directory), error=str(exc))
        self._fail(group, size, error)
        self._fail_queue(error)
        if self._on_poison is not None:
            self._on_poison(error)

    def _fail(self, group: list[_Submission], size: int, error: FairtrialError) -> None:
        self.counts.failed_records += sum(s.count for s in group)
        self._report(group, size, None, error)

    def _fail_queue(self, error: FairtrialError) -> None:
        while True:
            try:
                submission = self._queue.get_nowait()
            except Empty:
                return
            if submission is not None:
                self._fail([submission], len(submission.payload), error)

    def _report(
        self, group: list[_Submission], size: int, position: Position | None, error: FairtrialError | None
    ) -> None:
        self._finished_bytes += size
        try:
            self._deliver([s.on_durable for s in group], position, error)
        except RuntimeError:
            # The event loop that waited for this is closed: its clients are gone. The records are safe all the same.
            _logger.warning("nobody left to tell of a commit", log=str(self.directory), records=len(group))

    def _finish(self) -> None:
        try:
            if self.is_poisoned:
                self._log.abandon()
            else:
                self._log.close()
        except (OSError, LogSyncError):
            # Everything acknowledged was synced before; the next opening recovers an unsealed segment.
            _logger.exception("log left unsealed", log=str(self.directory))
