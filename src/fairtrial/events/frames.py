"""The bytes of a log segment: header, frames, seal. docs/reference/log-format.md is the same thing in prose.

One frame is one commit: everything that one fdatasync made durable. The checksum covers the segment number and the
offset, so bytes of another file or place can never look valid. A frame is written only after the fdatasync of the one
before it returned; therefore an invalid frame with a valid one behind it cannot be a torn write: acknowledged bytes
were damaged. An invalid frame with nothing valid behind it is the commit that a crash cut short, and nobody was told.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from fairtrial.model.errors import CorruptLogError

MAGIC = b"FTRLOG\r\n"
VERSION = 1
HEADER = struct.Struct("<8sIQQ")  # magic, version, seq, created_at (us since 1970)
CHECKSUM = struct.Struct("<I")
HEADER_BYTES = HEADER.size + CHECKSUM.size
FRAME_HEAD = struct.Struct("<IIB")  # payload length, crc32, kind
FRAME_HEAD_BYTES = FRAME_HEAD.size
SEALED_BY_CRC = struct.Struct("<QQIB")  # seq, offset, payload length, kind; then the payload
SEAL = struct.Struct("<QQ")  # frames, payload bytes before the seal
SEAL_BYTES = FRAME_HEAD_BYTES + SEAL.size
MAX_PAYLOAD_BYTES = 256 << 20
SUFFIX = ".seg"


class FrameKind(IntEnum):
    """What a frame's payload is. Zero is never used: a run of zeros must not be a frame."""

    RECORDS = 1  # JSON objects, each followed by a newline
    SEAL = 2  # end of the segment: nothing follows


class Position(NamedTuple):
    """A place in one log, ordered: segment number (from 1) and byte offset in it. Text form `seq:offset`."""

    seq: int
    offset: int

    def __str__(self) -> str:
        return f"{self.seq}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read `seq:offset`. Raises ValueError."""
        seq, _, offset = text.partition(":")
        return cls(int(seq), int(offset))


START = Position(0, 0)


@dataclass(frozen=True, slots=True)
class Frame:
    """One commit as read back. next_position: where the following frame starts, if there is one."""

    position: Position
    next_position: Position
    kind: int
    payload: bytes


def segment_name(seq: int) -> str:
    """File name of segment `seq`; names sort as the numbers do."""
    return f"{seq:010d}{SUFFIX}"


def encode_header(seq: int, created_at: int) -> bytes:
    """The 32 bytes that open segment `seq`. created_at: microseconds since 1970."""
    head = HEADER.pack(MAGIC, VERSION, seq, created_at)
    return head + CHECKSUM.pack(zlib.crc32(head))


def check_header(data: bytes, *, seq: int, name: str) -> None:
    """Check that `data` opens segment `seq`. Raises CorruptLogError naming the file."""
    if len(data) < HEADER_BYTES or CHECKSUM.unpack_from(data, HEADER.size)[0] != zlib.crc32(data[: HEADER.size]):
        raise CorruptLogError(f"segment {name}: the 32-byte header is damaged or cut off (offset 0)")
    magic, version, found, _ = HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise CorruptLogError(f"segment {name}: not a Fairtrial log of version {VERSION} (magic {magic!r}, {version})")
    if found != seq:
        raise CorruptLogError(f"segment {name}: its header says it is segment {found}; was the file renamed?")


def frame_checksum(seq: int, offset: int, kind: int, payload: bytes | memoryview) -> int:
    """CRC-32 over place, length, kind and payload: valid only here."""
    return zlib.crc32(payload, zlib.crc32(SEALED_BY_CRC.pack(seq, offset, len(payload), kind)))


def encode_frame(seq: int, offset: int, kind: int, payload: bytes) -> bytes:
    """The bytes of a frame that starts at `offset` of segment `seq`. payload: 1 byte to 256 MiB."""
    return FRAME_HEAD.pack(len(payload), frame_checksum(seq, offset, kind, payload), kind) + payload


def encode_seal(seq: int, offset: int, *, frames: int, payload_bytes: int) -> bytes:
    """The last frame of a segment: how much comes before it."""
    return encode_frame(seq, offset, FrameKind.SEAL, SEAL.pack(frames, payload_bytes))


_KINDS = re.compile(rb"[\x01\x02]")


def find_valid_frame(data: bytes, *, seq: int, offset: int) -> int | None:
    """Offset (in the segment) of some valid frame in `data`, which starts at `offset` of segment `seq`; None if none.

    Looks at every byte that could be a frame's kind. Record payloads are JSON, where 0x01 and 0x02 cannot stand
    unescaped, so there are few of them.
    """
    view = memoryview(data)
    for match in _KINDS.finditer(data):
        start = match.start() - (FRAME_HEAD_BYTES - 1)
        if start < 0:
            continue
        length, crc, kind = FRAME_HEAD.unpack_from(data, start)
        body = start + FRAME_HEAD_BYTES
        is_plausible = 0 < length <= len(data) - body
        if is_plausible and crc == frame_checksum(seq, offset + start, kind, view[body : body + length]):
            return offset + start
    return None
