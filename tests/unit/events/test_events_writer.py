"""Group commit: acknowledged means synced; full queues, full disks and failed syncs are told, never swallowed."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from fairtrial.events.frames import Position
from fairtrial.events.log import read_frames
from fairtrial.events.writer import (
    LogClosedError,
    LogFullError,
    LogPoisonedError,
    LogWriter,
    OnDurable,
)

LINE = b'{"id":"a"}\n'


class Acks:
    """Collects reports and lets a test wait for them."""

    def __init__(self) -> None:
        self.positions: list[Position | None] = []
        self.errors: list[BaseException | None] = []
        self._arrived = threading.Semaphore(0)

    def __call__(self, position: Position | None, error: BaseException | None) -> None:
        self.positions.append(position)
        self.errors.append(error)
        self._arrived.release()

    def wait(self, count: int = 1) -> None:
        for _ in range(count):
            assert self._arrived.acquire(timeout=20)


class Gate:
    """Stands in for fdatasync: holds the writer's thread until opened, then answers with `error`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: OSError | None = None) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        self.calls = 0
        self._error = error
        monkeypatch.setattr(os, "fdatasync", self)

    def __call__(self, _fd: int) -> None:
        self.calls += 1
        self.entered.release()
        assert self.open.wait(20)
        if self._error is not None:
            raise self._error


def test_every_submission_is_acknowledged_and_readable(tmp_path: Path) -> None:
    writer, acks = LogWriter(tmp_path), Acks()
    for _ in range(200):
        writer.submit(LINE, 1, acks)
    acks.wait(200)
    assert acks.errors == [None] * 200
    assert writer.counts.records == 200
    writer.close()
    assert b"".join(f.payload for f in read_frames(tmp_path)) == LINE * 200


def test_nothing_is_acknowledged_before_its_sync_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, acks = LogWriter(tmp_path), Acks()
    gate = Gate(monkeypatch)
    writer.submit(LINE, 1, acks)
    assert gate.entered.acquire(timeout=20)
    assert acks.positions == []
    gate.open.set()
    acks.wait()
    writer.close()


def test_what_arrives_during_a_sync_shares_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[int] = []

    def deliver(callbacks: Sequence[OnDurable], position: Position | None, error: BaseException | None) -> None:
        groups.append(len(callbacks))
        for on_durable in callbacks:
            on_durable(position, error)

    writer, acks = LogWriter(tmp_path, deliver=deliver), Acks()
    gate = Gate(monkeypatch)
    writer.submit(LINE, 1, acks)
    assert gate.entered.acquire(timeout=20)
    for _ in range(50):
        writer.submit(LINE, 1, acks)
    gate.open.set()
    acks.wait(51)
    writer.close()
    assert groups == [1, 50]
    assert gate.calls == 2


def test_a_full_queue_refuses_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, acks = LogWriter(tmp_path, max_queue_bytes=3 * len(LINE)), Acks()
    gate = Gate(monkeypatch)
    for _ in range(3):
        writer.submit(LINE, 1, acks)
    with pytest.raises(LogFullError, match="33 of 33 bytes"):
        writer.submit(LINE, 7, acks)
    gate.open.set()
    acks.wait(3)
    assert writer.counts.refused_by_queue == 7
    assert writer.queued_bytes == 0
    writer.submit(LINE, 1, acks)
    acks.wait()
    writer.close()


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_failed_sync_never_acknowledges_and_poisons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    poisoned: list[BaseException] = []
    writer, acks = LogWriter(tmp_path, on_poison=poisoned.append), Acks()
    with monkeypatch.context() as patch:
        gate = Gate(patch, OSError(code, os.strerror(code)))
        writer.submit(LINE, 1, acks)
        assert gate.entered.acquire(timeout=20)
        for _ in range(5):
            writer.submit(LINE, 1, acks)  # waits in the queue while the sync fails
        gate.open.set()
        acks.wait(6)
    writer._thread.join(20)
    assert acks.positions == [None] * 6
    assert all(isinstance(e, LogPoisonedError) for e in acks.errors)
    assert len(poisoned) == 1
    assert writer.is_poisoned
    assert writer.counts.failed_records == 6
    assert writer.queued_bytes == 0
    with pytest.raises(LogPoisonedError):
        writer.submit(LINE, 1, acks)
    writer.close()


def test_after_a_poisoned_writer_the_log_opens_on_a_new_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, acks = LogWriter(tmp_path), Acks()
    writer.submit(LINE, 1, acks)
    acks.wait()
    with monkeypatch.context() as patch:
        Gate(patch, OSError(errno.EIO, "io")).open.set()
        writer.submit(LINE, 1, acks)
        acks.wait()
        writer.close()
    writer = LogWriter(tmp_path)
    writer.submit(LINE, 1, acks)
    acks.wait()
    assert acks.positions[0] is not None
    assert acks.positions[2] is not None
    assert acks.positions[2].seq == acks.positions[0].seq + 1
    writer.close()
    assert b"".join(f.payload for f in read_frames(tmp_path)).startswith(LINE)


def test_a_full_disk_refuses_the_group_and_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, acks = LogWriter(tmp_path), Acks()

    def no_space(_fd: int, _data: bytes, _offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", no_space)
        writer.submit(LINE, 4, acks)
        acks.wait()
    assert isinstance(acks.errors[0], LogFullError)
    assert writer.counts.refused_by_disk == 4
    assert not writer.is_poisoned
    writer.submit(LINE, 1, acks)
    acks.wait()
    assert acks.errors[1] is None
    writer.close()
    assert [f.payload for f in read_frames(tmp_path)] == [LINE]


def test_closing_writes_what_is_queued(tmp_path: Path) -> None:
    writer, acks = LogWriter(tmp_path, durability="relaxed"), Acks()
    for _ in range(100):
        writer.submit(LINE, 1, acks)
    writer.close()
    assert acks.errors == [None] * 100
    with pytest.raises(LogClosedError):
        writer.submit(LINE, 1, acks)
    writer.close()


def test_many_threads_may_submit(tmp_path: Path) -> None:
    writer, acks = LogWriter(tmp_path), Acks()

    def submit_many() -> None:
        for _ in range(500):
            writer.submit(LINE, 1, acks)

    threads = [threading.Thread(target=submit_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert writer.counts.records == 2000
    assert b"".join(f.payload for f in read_frames(tmp_path)) == LINE * 2000


def test_a_payload_without_its_last_newline_is_refused(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path)
    with pytest.raises(ValueError, match="newline"):
        writer.submit(b"{}", 1, Acks())
    writer.close()
