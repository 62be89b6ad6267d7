"""After a crash at any byte the log reopens to a prefix that holds every acknowledged event; damage stops it."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairtrial.events import reading
from fairtrial.events.frames import Position, find_valid_frame, segment_name
from fairtrial.events.log import SegmentLog, read_frames
from fairtrial.events.recovery import recover
from fairtrial.model.errors import CorruptLogError


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No writer is at work and no power is cut here: nothing to look at twice, nothing to wait for the disk for."""
    monkeypatch.setattr(reading, "_RECHECK_AFTER_S", 0)
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
    monkeypatch.setattr(os, "fdatasync", lambda _fd: None)


SIZES = [40, 90, 41, 200, 44, 63]


def payload(number: int) -> bytes:
    return (b'{"id":"%03d","pad":"' % number).ljust(SIZES[number] - 3, b"x") + b'"}\n'


PAYLOADS = [payload(i) for i in range(len(SIZES))]


def crashed_log(directory: Path, *, prefill: bool) -> list[Position]:
    """A log whose writer died: no seal. Returns each frame's position and, last, the end."""
    log = SegmentLog.open(directory, segment_bytes=4096, prefill=prefill)
    positions = [log.append(p) for p in PAYLOADS]
    log.sync()
    positions.append(log.end)
    log.abandon()
    return positions


def reopened(directory: Path) -> list[bytes]:
    """What the log holds after a restart that wrote one more frame; both before and after recovery, equal."""
    before = [f.payload for f in read_frames(directory)]
    log = SegmentLog.open(directory, prefill=False)
    log.append(b'{"id":"new"}\n')
    log.close()
    after = [f.payload for f in read_frames(directory)]
    assert after == [*before, b'{"id":"new"}\n']
    return before


def copy(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target / segment_name(1)


@pytest.mark.parametrize("prefill", [False, True])
def test_a_cut_at_every_byte_of_the_last_three_frames_keeps_the_frames_before_it(
    tmp_path: Path, *, prefill: bool
) -> None:
    positions = crashed_log(tmp_path / "log", prefill=prefill)
    for cut in range(positions[-4].offset, positions[-1].offset + 1):
        path = copy(tmp_path / "log", tmp_path / "copy")
        data = path.read_bytes()
        # A growing file ends at the cut; in a zero-filled one zeros follow.
        path.write_bytes(data[:cut] + bytes(len(data) - cut if prefill else 0))
        whole = sum(p.offset <= cut for p in positions[1:])
        assert reopened(tmp_path / "copy") == PAYLOADS[:whole]


@pytest.mark.parametrize("mode", ["zeros", "ones", "random", "old frames"])
def test_any_tail_behind_the_last_frame_is_ignored(tmp_path: Path, mode: str) -> None:
    end = crashed_log(tmp_path / "log", prefill=False)[-1].offset
    generator = random.Random(7)
    for size in (*range(1, 40), 500, 4000):
        path = copy(tmp_path / "log", tmp_path / "copy")
        data = path.read_bytes()
        tail = {
            "zeros": bytes(size),
            "ones": b"\xff" * size,
            "random": generator.randbytes(size),
            "old frames": data[32 : min(32 + size, end)],  # valid at another offset: the checksum covers the place
        }[mode]
        path.write_bytes(data[:end] + tail)
        assert reopened(tmp_path / "copy") == PAYLOADS


def test_a_flipped_bit_in_the_last_frame_drops_only_that_frame(tmp_path: Path) -> None:
    positions = crashed_log(tmp_path / "log", prefill=False)
    for offset in range(positions[-2].offset, positions[-1].offset):
        path = copy(tmp_path / "log", tmp_path / "copy")
        data = bytearray(path.read_bytes())
        data[offset] ^= 1 << (offset % 8)
        path.write_bytes(data)
        assert reopened(tmp_path / "copy") == PAYLOADS[:-1]


def test_a_flipped_bit_before_the_last_frame_is_damage_not_a_torn_tail(tmp_path: Path) -> None:
    positions = crashed_log(tmp_path / "log", prefill=True)
    for offset in range(positions[-4].offset, positions[-2].offset):
        path = copy(tmp_path / "log", tmp_path / "copy")
        data = bytearray(path.read_bytes())
        data[offset] ^= 1 << (offset % 8)
        path.write_bytes(data)
        with pytest.raises(CorruptLogError, match=segment_name(1)):
            recover(tmp_path / "copy")
        assert path.read_bytes() == bytes(data)


def test_a_hole_of_zeros_before_a_valid_frame_is_damage(tmp_path: Path) -> None:
    positions = crashed_log(tmp_path / "log", prefill=True)
    path = tmp_path / "log" / segment_name(1)
    data = bytearray(path.read_bytes())
    data[positions[2].offset : positions[3].offset] = bytes(positions[3].offset - positions[2].offset)
    path.write_bytes(data)
    with pytest.raises(CorruptLogError, match=f"no valid frame at offset {positions[2].offset}"):
        recover(tmp_path / "log")


@pytest.mark.parametrize("step", range(6))
def test_a_crash_inside_the_recovery_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Recovery itself may be cut short, at any of its writes, and is repeated."""
    crashed_log(tmp_path, prefill=True)
    count = 0

    def die_at(number: int) -> None:
        nonlocal count
        count += 1
        if count > number:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        for name in ("rename", "unlink"):
            original = getattr(Path, name)

            def dying(self: Path, *args: object, _original: object = original, **kwargs: object) -> object:
                die_at(step)
                return _original(self, *args, **kwargs)  # type: ignore[operator]

            patch.setattr(Path, name, dying)
        with contextlib.suppress(KeyboardInterrupt):
            SegmentLog.open(tmp_path, prefill=False).abandon()
    assert reopened(tmp_path) == PAYLOADS


@settings(max_examples=150, deadline=None)
@given(st.binary(min_size=1, max_size=400), st.integers(1, 1 << 40), st.integers(32, 1 << 30))
def test_random_bytes_never_look_like_a_frame(data: bytes, seq: int, offset: int) -> None:
    assert find_valid_frame(data, seq=seq, offset=offset) is None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 300), max_size=12), max_size=5), st.integers(200, 3000))
def test_any_sequence_of_processes_and_sizes_reads_back(
    tmp_path_factory: pytest.TempPathFactory, runs: list[list[int]], segment_bytes: int
) -> None:
    directory = tmp_path_factory.mktemp("log")
    written: list[bytes] = []
    for number, sizes in enumerate(runs):
        log = SegmentLog.open(directory, segment_bytes=segment_bytes, prefill=number % 2 == 0)
        for size in sizes:
            written.append(b'{"n":%d}' % len(written) + b" " * size + b"\n")
            log.append(written[-1])
        log.sync()
        if number % 3:
            log.close()
        else:
            log.abandon()
    frames = list(read_frames(directory))
    assert [f.payload for f in frames] == written
    for frame in frames[:: max(1, len(frames) // 3)]:
        assert next(iter(read_frames(directory, frame.position))) == frame
