"""The append side: positions, rotation, seals, the lock, and what opening does to what it finds."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fairtrial.events import log as log_module
from fairtrial.events.disk import is_out_of_space
from fairtrial.events.frames import HEADER_BYTES, Position, segment_name
from fairtrial.events.log import LogLockedError, LogSyncError, SegmentLog, read_frames
from fairtrial.events.reading import list_segments
from fairtrial.model.errors import CorruptLogError


def payload(number: int, size: int = 60) -> bytes:
    return (b'{"id":"%06d"}' % number).ljust(size - 1) + b"\n"


def fill(
    directory: Path, count: int, *, segment_bytes: int = 1 << 20, size: int = 60, close: bool = True
) -> list[Position]:
    log = SegmentLog.open(directory, segment_bytes=segment_bytes)
    positions = [log.append(payload(i, size)) for i in range(count)]
    log.sync()
    if close:
        log.close()
    else:
        log.abandon()
    return positions


def test_frames_come_back_in_order_with_their_positions(tmp_path: Path) -> None:
    positions = fill(tmp_path, 50)
    frames = list(read_frames(tmp_path))
    assert [f.payload for f in frames] == [payload(i) for i in range(50)]
    assert [f.position for f in frames] == positions
    assert positions[0] == Position(1, HEADER_BYTES)


def test_reading_goes_on_from_any_next_position(tmp_path: Path) -> None:
    fill(tmp_path, 40, segment_bytes=1000)
    frames = list(read_frames(tmp_path))
    for i, frame in enumerate(frames):
        rest = [f.payload for f in read_frames(tmp_path, frame.next_position)]
        assert rest == [payload(j) for j in range(i + 1, 40)]


def test_a_full_segment_is_sealed_and_cut_to_its_length(tmp_path: Path) -> None:
    fill(tmp_path, 40, segment_bytes=1000)
    segments = list_segments(tmp_path)
    assert segments == list(range(1, len(segments) + 1))
    assert len(segments) > 2
    assert all((tmp_path / segment_name(s)).stat().st_size <= 1000 for s in segments)


def test_a_frame_larger_than_a_segment_gets_one_of_its_own(tmp_path: Path) -> None:
    log = SegmentLog.open(tmp_path, segment_bytes=1000)
    for size in (60, 5000, 60):
        log.append(payload(1, size))
    log.close()
    assert [len(f.payload) for f in read_frames(tmp_path)] == [60, 5000, 60]


def test_opening_always_starts_a_new_segment(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    fill(tmp_path, 3)
    assert list_segments(tmp_path) == [1, 2]


def test_a_process_that_wrote_nothing_leaves_no_segment(tmp_path: Path) -> None:
    fill(tmp_path, 0)
    assert list_segments(tmp_path) == []
    assert list(read_frames(tmp_path)) == []


def test_a_crashed_segment_is_recovered_whole_and_sealed(tmp_path: Path) -> None:
    fill(tmp_path, 20, close=False)
    log = SegmentLog.open(tmp_path)
    assert log.recovery.frames_kept == 20
    assert log.recovery.torn_bytes == 0
    log.append(payload(20))
    log.close()
    assert [f.payload for f in read_frames(tmp_path)] == [payload(i) for i in range(21)]
    assert (tmp_path / segment_name(1)).stat().st_size < 4096


def test_two_writers_cannot_open_one_log(tmp_path: Path) -> None:
    log = SegmentLog.open(tmp_path)
    with pytest.raises(LogLockedError, match="in use by another process"):
        SegmentLog.open(tmp_path)
    log.close()
    SegmentLog.open(tmp_path).close()


def test_a_missing_segment_in_the_middle_is_damage(tmp_path: Path) -> None:
    fill(tmp_path, 40, segment_bytes=1000)
    (tmp_path / segment_name(2)).unlink()
    with pytest.raises(CorruptLogError, match=r"segment 0000000002\.seg is missing"):
        list(read_frames(tmp_path))


def test_a_renamed_segment_is_noticed(tmp_path: Path) -> None:
    fill(tmp_path, 40, segment_bytes=1000)
    (tmp_path / segment_name(1)).rename(tmp_path / "swap")
    (tmp_path / segment_name(2)).rename(tmp_path / segment_name(1))
    (tmp_path / "swap").rename(tmp_path / segment_name(2))
    with pytest.raises(CorruptLogError, match="says it is segment 2"):
        list(read_frames(tmp_path))


def test_a_flipped_bit_in_a_sealed_segment_names_segment_and_offset(tmp_path: Path) -> None:
    positions = fill(tmp_path, 10)
    fill(tmp_path, 1)
    path = tmp_path / segment_name(1)
    data = bytearray(path.read_bytes())
    data[positions[4].offset + 20] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(CorruptLogError, match=rf"0000000001\.seg.*offset {positions[4].offset}\b"):
        list(read_frames(tmp_path))


def test_damage_before_a_valid_frame_of_the_unsealed_segment_stops_the_opening(tmp_path: Path) -> None:
    positions = fill(tmp_path, 10, close=False)
    path = tmp_path / segment_name(1)
    data = bytearray(path.read_bytes())
    data[positions[4].offset] ^= 0xFF  # the length: the chain to the next frame is cut
    path.write_bytes(data)
    with pytest.raises(CorruptLogError, match="acknowledged events are damaged"):
        SegmentLog.open(tmp_path)
    assert path.read_bytes() == bytes(data), "evidence is left as it was"


def test_a_reader_whose_position_a_power_cut_took_goes_on_with_the_next_segment(tmp_path: Path) -> None:
    fill(tmp_path, 10, close=False)
    seen = list(read_frames(tmp_path))[-1].next_position
    with (tmp_path / segment_name(1)).open("r+b") as file:
        file.truncate(seen.offset - 100)  # the last two commits never reached the device
    log = SegmentLog.open(tmp_path)
    log.append(payload(99))
    log.close()
    assert [f.payload for f in read_frames(tmp_path, seen)] == [payload(99)]


def test_a_full_disk_at_rotation_can_be_waited_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = SegmentLog.open(tmp_path, segment_bytes=1000, prefill=False)
    count = 0
    while log.end.offset < 900:
        log.append(payload(count))
        count += 1

    def no_space(*_: object, **__: object) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(log_module, "create_segment", no_space)
        for _ in range(3):
            with pytest.raises(OSError, match="No space") as caught:
                log.append(payload(count))
            assert is_out_of_space(caught.value)
    log.append(payload(count))
    log.sync()
    log.close()
    assert [f.payload for f in read_frames(tmp_path)] == [payload(i) for i in range(count + 1)]


def test_a_failed_sync_is_not_an_oserror_that_could_be_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = SegmentLog.open(tmp_path)
    log.append(payload(0))

    def broken(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "delayed allocation failed")

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(LogSyncError, match="delayed allocation"):
        log.sync()
    log.abandon()


def test_the_next_segment_is_filled_ahead_of_use(tmp_path: Path) -> None:
    log = SegmentLog.open(tmp_path, segment_bytes=1 << 16)
    while log.end.seq == 1:
        log.append(payload(0, 2000))
        if log._spares._thread is not None:
            log._spares._thread.join()
    assert (tmp_path / segment_name(2)).stat().st_size == 1 << 16
    log.close()
    assert not list(tmp_path.glob("*.spare"))
