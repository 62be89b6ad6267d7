"""Reading a log back: every frame checked, from any position, also while another process writes it.

Only the last segment may lack a seal. There, bytes that are no frame end the log: zeros are the part not written yet,
anything else is the commit that a crash (or a writer at work) left unfinished, and was never acknowledged. Everywhere
else such bytes are damage, and reading stops with `CorruptLogError`.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fairtrial.events.frames import (
    FRAME_HEAD,
    FRAME_HEAD_BYTES,
    HEADER,
    HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    SEAL,
    SEAL_BYTES,
    START,
    SUFFIX,
    Frame,
    FrameKind,
    Position,
    check_header,
    find_valid_frame,
    frame_checksum,
    segment_name,
)
from fairtrial.model.errors import CorruptLogError

_READ_BUFFER_BYTES = 256 << 10
# A writer at work may have put the second page of a frame in place before the first: look again before crying damage.
_RECHECKS = 3
_RECHECK_AFTER_S = 0.02


@dataclass(frozen=True, slots=True)
class SegmentEnd:
    """How a segment ends. offset: just past the last valid frame. torn_bytes: unreadable ones behind it, 0 if clean."""

    offset: int
    is_sealed: bool
    torn_bytes: int = 0


def list_segments(directory: Path) -> list[int]:
    """Numbers of the segments in `directory`, rising; empty where there is no log. Raises CorruptLogError on a gap."""
    if not directory.is_dir():
        return []
    names = [e.name for e in os.scandir(directory) if e.name.endswith(SUFFIX)]
    numbers = sorted(int(name.removesuffix(SUFFIX)) for name in names)
    for earlier, later in itertools.pairwise(numbers):
        if later != earlier + 1:
            raise CorruptLogError(f"log {directory}: segment {segment_name(earlier + 1)} is missing")
    return numbers


def segment_created_at(path: Path) -> int:
    """When a segment was begun (microseconds since 1970), from its header: two logs never share it and a number."""
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    check_header(head, seq=int(path.name.removesuffix(SUFFIX)), name=path.name)
    created_at: int = HEADER.unpack_from(head)[3]
    return created_at


def scan_segment(
    path: Path, *, seq: int, start: int = HEADER_BYTES, is_last: bool, is_thorough: bool = True
) -> Generator[Frame, None, SegmentEnd]:
    """Yield the record frames of one segment from `start`; the generator's value says how the segment ends.

    start: offset of a frame. is_last: nothing was written behind this segment, so its tail may be torn. is_thorough:
    look through the whole tail for frames behind a hole of zeros; not needed to follow a log that is being written.
    Raises CorruptLogError naming the segment and the offset.
    """
    with path.open("rb", buffering=_READ_BUFFER_BYTES) as file:
        check_header(file.read(HEADER_BYTES), seq=seq, name=path.name)
        offset = max(start, HEADER_BYTES)
        file.seek(offset)
        while True:
            kind, payload = _read_frame(file, seq, offset)
            if payload is None:
                if is_last and not is_thorough and _is_blank(file, offset):
                    return SegmentEnd(offset=offset, is_sealed=False)
                return _end_of_segment(file, path, seq, offset, is_last=is_last)
            after = offset + FRAME_HEAD_BYTES + len(payload)
            if kind == FrameKind.SEAL:
                _check_seal(payload, path, offset)
                return SegmentEnd(offset=after, is_sealed=True)
            yield Frame(Position(seq, offset), Position(seq, after), kind, payload)
            offset = after


def _read_frame(file: BinaryIO, seq: int, offset: int) -> tuple[int, bytes | None]:
    head = file.read(FRAME_HEAD_BYTES)
    if len(head) < FRAME_HEAD_BYTES:
        return 0, None
    length, crc, kind = FRAME_HEAD.unpack(head)
    if not 0 < length <= MAX_PAYLOAD_BYTES:
        return 0, None
    payload = file.read(length)
    if len(payload) < length or crc != frame_checksum(seq, offset, kind, payload):
        return 0, None
    return kind, payload


def _is_blank(file: BinaryIO, offset: int) -> bool:
    file.seek(offset)
    return not file.read(FRAME_HEAD_BYTES).rstrip(b"\0")


def _check_seal(payload: bytes, path: Path, offset: int) -> None:
    if len(payload) != SEAL.size:
        raise CorruptLogError(f"segment {path.name}: the seal at offset {offset} has {len(payload)} bytes, not 16")


def _end_of_segment(file: BinaryIO, path: Path, seq: int, offset: int, *, is_last: bool) -> SegmentEnd:
    """Tell a clean end from a torn one from damage at `offset`, where no valid frame starts."""
    if not is_last:
        raise CorruptLogError(
            f"segment {path.name}: no valid frame at offset {offset}, and the segment is not sealed before it although "
            "later segments exist: acknowledged events are damaged. Restore this file from a backup"
        )
    for _ in range(_RECHECKS):
        file.seek(offset)
        tail = file.read()
        torn = len(tail.rstrip(b"\0"))
        later = find_valid_frame(tail, seq=seq, offset=offset) if torn else None
        if later is None or later == offset:
            return SegmentEnd(offset=offset, is_sealed=False, torn_bytes=torn)
        time.sleep(_RECHECK_AFTER_S)
        file.seek(offset)
        if _read_frame(file, seq, offset)[1] is not None:
            return SegmentEnd(offset=offset, is_sealed=False)
    raise CorruptLogError(
        f"segment {path.name}: no valid frame at offset {offset}, but one at offset {later}: acknowledged events are "
        "damaged. Restore this file from a backup"
    )


def read_frames(directory: Path, start: Position = START) -> Iterator[Frame]:
    """Yield the log's record frames from `start` (a frame's position or next_position) to its end as of now.

    A start past the end of its segment goes on with the next one: a reader may have seen a commit that a power cut then
    took away, before it was acknowledged. Raises CorruptLogError.
    """
    segments = list_segments(directory)
    if segments and start.seq and start.seq < segments[0] - 1:
        raise CorruptLogError(f"log {directory}: segment {segment_name(start.seq)} is missing")
    for seq in segments:
        if seq < start.seq:
            continue
        path = directory / segment_name(seq)
        offset = start.offset if seq == start.seq else HEADER_BYTES
        is_last = seq == segments[-1]
        if is_last or offset <= path.stat().st_size - SEAL_BYTES:
            yield from scan_segment(path, seq=seq, start=offset, is_last=is_last, is_thorough=False)
