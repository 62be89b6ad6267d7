"""Reads whole messages through the parsers as a connection would: any segments in, one outcome out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairtrial.wire.chunks import ChunkDecoder
from fairtrial.wire.errors import WireError
from fairtrial.wire.limits import Limits
from fairtrial.wire.request import RequestHead, RequestParser
from fairtrial.wire.response import Framing, ResponseHead, ResponseParser

GOLDEN = Path(__file__).parents[2] / "golden"
CAPTURE = (b"x-user-id", b"cookie", b"via")


def general_parser(limits: Limits) -> RequestParser:
    """A parser without its fast path."""
    parser = RequestParser(limits, CAPTURE)
    parser._match = re.compile(b"(?!)").match
    return parser


@dataclass(frozen=True)
class Refused:
    status: int


@dataclass(frozen=True)
class Unfinished:
    """More bytes are needed."""


@dataclass(frozen=True)
class Message:
    """head: of the message, as fields by name. body: as it is passed on. rest: bytes after the message."""

    head: dict[str, Any]
    body: bytes
    rest: bytes


Outcome = Refused | Unfinished | Message


def read_request(segments: Iterable[bytes], parser: RequestParser, limits: Limits, *, raw: bool = True) -> Outcome:
    feed = iter(segments)
    buffer = b""
    try:
        head: RequestHead | None = None
        while head is None:
            segment = next(feed, None)
            if segment is None:
                return Unfinished()
            buffer += segment
            head = parser.parse(buffer)
        rest = buffer[head.size :]
        if head.is_chunked:
            return _chunked(_as_dict(head), rest, feed, ChunkDecoder(limits, raw=raw))
        return _counted(_as_dict(head), head.content_length or 0, rest, feed)
    except WireError as error:
        return Refused(error.status)


def read_response(segments: Iterable[bytes], parser: ResponseParser, limits: Limits, method: bytes) -> Outcome:
    feed = iter(segments)
    buffer = b""
    try:
        head: ResponseHead | None = None
        while head is None:
            segment = next(feed, None)
            if segment is None:
                return Unfinished()
            buffer += segment
            head = parser.parse(buffer, method=method)
        rest = buffer[head.size :]
        match head.framing:
            case Framing.CHUNKED:
                return _chunked(_as_dict(head), rest, feed, ChunkDecoder(limits, is_response=True))
            case Framing.UNTIL_CLOSE:
                return Message(_as_dict(head), rest + b"".join(feed), b"")
            case Framing.LENGTH:
                return _counted(_as_dict(head), head.content_length or 0, rest, feed)
            case Framing.NO_BODY:
                return _counted(_as_dict(head), 0, rest, feed)
    except WireError as error:
        return Refused(error.status)


def _as_dict(head: RequestHead | ResponseHead) -> dict[str, object]:
    return {name: getattr(head, name) for name in head.__struct_fields__}


def _counted(head: dict[str, object], length: int, rest: bytes, feed: Iterator[bytes]) -> Outcome:
    rest += b"".join(feed)
    return Message(head, rest[:length], rest[length:]) if len(rest) >= length else Unfinished()


def _chunked(head: dict[str, object], rest: bytes, feed: Iterator[bytes], decoder: ChunkDecoder) -> Outcome:
    body = b""
    segment: bytes | None = rest
    while segment is not None:
        pieces, end = decoder.feed(segment)
        body += b"".join(pieces)
        if end >= 0:
            return Message(head, body, segment[end:] + b"".join(feed))
        segment = next(feed, None)
    return Unfinished()


def load_cases(name: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((GOLDEN / name).read_text())
    return cases


def sent_bytes(case: dict[str, Any]) -> bytes:
    """`send` is text (Latin-1) in parts; a part is text, or text and how often it stands there."""
    parts = [part if isinstance(part, str) else part[0] * part[1] for part in case["send"]]
    return "".join(parts).encode("latin-1")


def splits(data: bytes) -> Iterator[tuple[bytes, ...]]:
    """The whole, every two parts of a short one, and single bytes."""
    yield (data,)
    if len(data) <= 400:
        for at in range(1, len(data)):
            yield data[:at], data[at:]
        yield tuple(data[at : at + 1] for at in range(len(data)))
    else:
        yield tuple(data[at : at + 997] for at in range(0, len(data), 997))
