"""Opening a log after a crash: keep every valid commit, drop the one that was cut short, never write into old bytes.

The last segment of a crashed writer has no seal. Its valid prefix is copied, with a seal, to a new file that takes its
place, so that the rule "only the last segment may lack a seal" holds again and the copy's pages are really written
out: after a failed fsync the old file's pages may exist in the cache only. Unreadable bytes behind the prefix are kept
beside it in `<segment>.torn`, for people.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from fairtrial.events.disk import publish, sync_directory, write_at, write_durably
from fairtrial.events.frames import HEADER_BYTES, encode_seal, segment_name
from fairtrial.events.reading import SegmentEnd, list_segments, scan_segment
from fairtrial.events.spare import discard_spares


@dataclass(frozen=True, slots=True)
class Recovery:
    """What opening found. next_seq: number for the new segment. torn_bytes: dropped from the tail, 0 if clean."""

    next_seq: int
    frames_kept: int = 0
    torn_bytes: int = 0


def recover(directory: Path) -> Recovery:
    """Bring the log in `directory` to a state where every segment is sealed. Raises CorruptLogError, OSError.

    Repeating it after a crash at any point of it ends in the same state.
    """
    discard_spares(directory)
    segments = list_segments(directory)
    if not segments:
        return Recovery(next_seq=1)
    seq = segments[-1]
    path = directory / segment_name(seq)
    frames, payload_bytes, end = _measure(path, seq)
    if end.is_sealed:
        return Recovery(next_seq=seq + 1)
    torn = _keep_torn_tail(path, end)
    if frames == 0:
        path.unlink()
        sync_directory(directory)
        return Recovery(next_seq=seq, torn_bytes=torn)
    _replace_with_sealed_copy(path, seq, end.offset, frames=frames, payload_bytes=payload_bytes)
    return Recovery(next_seq=seq + 1, frames_kept=frames, torn_bytes=torn)


def _measure(path: Path, seq: int) -> tuple[int, int, SegmentEnd]:
    frames = payload_bytes = 0
    scan = scan_segment(path, seq=seq, is_last=True)
    while True:
        try:
            frame = next(scan)
        except StopIteration as stop:
            end: SegmentEnd = stop.value
            return frames, payload_bytes, end
        frames += 1
        payload_bytes += len(frame.payload)


def _keep_torn_tail(path: Path, end: SegmentEnd) -> int:
    if end.torn_bytes:
        with path.open("rb") as file:
            file.seek(end.offset)
            write_durably(path.with_name(path.name + ".torn"), file.read(end.torn_bytes))
    return end.torn_bytes


def _replace_with_sealed_copy(path: Path, seq: int, end: int, *, frames: int, payload_bytes: int) -> None:
    copy = path.with_name(path.name + ".sealing")
    assert end > HEADER_BYTES
    fd = os.open(copy, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o640)
    try:
        with path.open("rb") as file:
            write_at(fd, file.read(end), 0)
        write_at(fd, encode_seal(seq, end, frames=frames, payload_bytes=payload_bytes), end)
    finally:
        os.close(fd)
    publish(copy, path)
