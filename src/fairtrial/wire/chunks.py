"""Chunked bodies, piece by piece: validated and passed on, or only their payload (RFC 9112, 7.1).

What is passed on is canonical: chunk extensions and trailers are checked and dropped, the last chunk is written only
once the whole message has been seen, and slices of what came in are handed out where nothing had to change.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final

from fairtrial.wire.errors import WireError
from fairtrial.wire.grammar import QUOTED_STRING, SPACES, TOKEN, VALUE
from fairtrial.wire.limits import Limits
from fairtrial.wire.render import LAST_CHUNK

_EXTENSION: Final = (
    SPACES
    + b";"
    + SPACES
    + TOKEN
    + b"++(?:"
    + SPACES
    + b"="
    + SPACES
    + b"(?:"
    + TOKEN
    + b"++|"
    + QUOTED_STRING
    + b"))?+"
)
# Sixteen digits: int(x, 16) alone would take `0x5`, `+5`, `5_0` and ` 5`, and any number of digits.
_SIZE_LINE: Final = re.compile(b"(0*+)([0-9A-Fa-f]*+)((?:" + _EXTENSION + b")*+)\r\n").match
_PLAIN_SIZE_LINE: Final = re.compile(rb"([1-9A-Fa-f][0-9A-Fa-f]{0,15}+)\r\n").match
_SIZE_START: Final = re.compile(rb"[0-9A-Fa-f]{1,16}+(?:[ \t]*+(?:;[\t\x20-\x7e\x80-\xff]*+)?)?\r?").fullmatch
_MAX_DIGITS: Final = 16
_TRAILER: Final = re.compile(TOKEN + b"++:" + VALUE + b"\r\n").match
_TRAILER_START: Final = re.compile(b"(?:\r|" + TOKEN + b"++(?::" + VALUE + b"\r?)?)").fullmatch


class _Expects(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()
    NOTHING = auto()


class ChunkDecoder:
    """One chunked body. Made anew for each; must not be fed again after its end or after an error.

    raw: `feed` gives the body with its chunk framing; else its payload. is_response: errors are 502, and
    `limits.max_body_bytes` does not apply (a stream may be as long as it likes). max_payload_bytes: takes its place
    where given (413). payload_bytes: announced by the chunks so far, so a chunk that is too long is refused at once.
    """

    __slots__ = ("_extension_bytes", "_held", "_is_raw", "_left", "_limits", "_max_payload", "_state", "_status",
                 "_trailer_bytes", "_trailers", "payload_bytes")  # fmt: skip

    def __init__(
        self, limits: Limits, *, raw: bool = True, is_response: bool = False, max_payload_bytes: int | None = None
    ) -> None:
        self.payload_bytes = 0
        self._limits = limits
        self._is_raw = raw
        self._status = 502 if is_response else 400
        default = None if is_response else limits.max_body_bytes
        self._max_payload = default if max_payload_bytes is None else max_payload_bytes
        self._state = _Expects.SIZE
        self._left = 0
        self._held = b""  # an unfinished line, or half of a CRLF
        self._extension_bytes = 0
        self._trailer_bytes = 0
        self._trailers = 0

    def feed(self, data: bytes) -> tuple[list[bytes], int]:
        """Pieces to pass on, in order, and the offset in `data` just past the body; -1 while it goes on.

        Raises WireError at the first byte that cannot be right; what came before it in `data` is then lost.
        """
        held = len(self._held)
        if held:
            data = self._held + data
            self._held = b""
        pieces: list[bytes] = []
        position = self._pass_whole_chunks(data, pieces) if self._state is _Expects.SIZE else 0
        if position and position == len(data):
            return [data] if self._is_raw else pieces, -1
        end = self._run(data, position, pieces)
        return pieces, end - held if end >= 0 else -1

    def _pass_whole_chunks(self, data: bytes, pieces: list[bytes]) -> int:
        """Offset past the plain chunks, without extensions, that `data` begins with: nearly all there are."""
        position = 0
        while (match := _PLAIN_SIZE_LINE(data, position)) is not None:
            length = int(match[1], 16)
            begin = match.end()
            end = begin + length
            if data[end : end + 2] != b"\r\n":
                return position
            self._count_payload(length)
            position = end + 2
            if not self._is_raw:
                pieces.append(data[begin:end])
        return position

    def _count_payload(self, length: int) -> None:
        self.payload_bytes += length
        if self._max_payload is not None and self.payload_bytes > self._max_payload:
            raise self._error(f"the body is longer than {self._max_payload} bytes", 413)

    def _run(self, data: bytes, position: int, pieces: list[bytes]) -> int:  # noqa: C901, PLR0912 - a call per state costs 0.2 us each
        """Read on. `start` is where bytes begin that go out as they came and have not been handed out yet."""
        size = len(data)
        is_raw = self._is_raw
        start = 0 if is_raw else position
        while True:
            state = self._state
            if state is _Expects.DATA:
                after = position + self._left
                if after > size:
                    self._left = after - size
                    if size > start:
                        pieces.append(data[start:] if start else data)
                    return -1
                position = after
                if not is_raw:
                    pieces.append(data[start:position])
                self._state = _Expects.DATA_END
            elif state is _Expects.DATA_END:
                if not data.startswith(b"\r\n", position):
                    return self._hold(data, start, position, pieces, is_start=data[position:] in {b"", b"\r"})
                position += 2
                if not is_raw:
                    start = position
                self._state = _Expects.SIZE
            elif state is _Expects.SIZE:
                match = _SIZE_LINE(data, position)
                if match is None:
                    return self._hold(data, start, position, pieces, is_start=self._may_be_size(data, position))
                begin, position = position, match.end()
                is_canonical = self._begin_chunk(match)
                if self._state is _Expects.TRAILER:
                    # The last chunk stays back: a message that is cut here must not look whole.
                    if is_raw and begin > start:
                        pieces.append(data[start:begin])
                    start = position
                elif not is_raw:
                    start = position
                elif not is_canonical:
                    pieces.append(data[start:begin] + b"%x\r\n" % self._left)
                    start = position
            else:
                return self._finish(data, position, pieces)

    def _begin_chunk(self, match: re.Match[bytes]) -> bool:
        """Take in a chunk-size line; True where it can be passed on as it is."""
        zeros, digits, extensions = match.groups()
        if not zeros and not digits:
            raise self._error("a chunk has no size")
        if len(zeros) + len(digits) > _MAX_DIGITS:
            raise self._error("a chunk size has too many digits")
        if match.end() - match.start() > self._limits.max_chunk_line_bytes:
            raise self._error(f"a chunk-size line is longer than {self._limits.max_chunk_line_bytes} bytes")
        if extensions:
            self._extension_bytes += len(extensions)
            if self._extension_bytes > self._limits.max_extension_bytes:
                raise self._error(f"chunk extensions are longer than {self._limits.max_extension_bytes} bytes")
        if not digits:
            self._state = _Expects.TRAILER
            return False
        self._left = int(digits, 16)
        self._state = _Expects.DATA
        self._count_payload(self._left)
        return not zeros and not extensions

    def _may_be_size(self, data: bytes, position: int) -> bool:
        if len(data) - position > self._limits.max_chunk_line_bytes:
            raise self._error(f"a chunk-size line is longer than {self._limits.max_chunk_line_bytes} bytes")
        return position == len(data) or _SIZE_START(data, position) is not None

    def _hold(self, data: bytes, start: int, position: int, pieces: list[bytes], *, is_start: bool) -> int:
        """Keep an unfinished line for the next feed. is_start: it may still become a right one."""
        if not is_start:
            raise self._error("a chunk-size line or the end of a chunk is malformed")
        if self._is_raw and position > start:
            pieces.append(data[start:position])
        self._held = data[position:]
        return -1

    def _finish(self, data: bytes, position: int, pieces: list[bytes]) -> int:
        """The trailer section (RFC 9112, 7.1.2): checked and dropped, since merging it into the head is not safe."""
        if self._state is _Expects.NOTHING:
            raise self._error("the body is over")
        limits = self._limits
        while (match := _TRAILER(data, position)) is not None:
            self._trailers += 1
            self._trailer_bytes += match.end() - position
            if self._trailers > limits.max_fields or self._trailer_bytes > limits.max_trailer_bytes:
                raise self._error("the trailer section is too long", 431)
            position = match.end()
        if data.startswith(b"\r\n", position):
            self._state = _Expects.NOTHING
            if self._is_raw:
                pieces.append(LAST_CHUNK)
            return position + 2
        if self._trailer_bytes + len(data) - position > limits.max_trailer_bytes:
            raise self._error("the trailer section is too long", 431)
        if position < len(data) and _TRAILER_START(data, position) is None:
            raise self._error("a trailer field is malformed")
        self._held = data[position:]
        return -1

    def _error(self, reason: str, status: int | None = None) -> WireError:
        return WireError(self._status if status is None or self._status != 400 else status, reason)
