"""Response heads: what a model answered, ready to relay, or a refusal.

The same trick as in `fairtrial.wire.request`: one possessive regular expression for the plain case, one general parser
for the rest. A model's mistake never reaches the client as another message: what is not certain becomes a 502.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from typing import Final

import msgspec

from fairtrial.model.errors import ConfigError
from fairtrial.wire.errors import WireError
from fairtrial.wire.fields import FieldRules, FieldTable, read_fields
from fairtrial.wire.grammar import (
    HOP_BY_HOP,
    LENGTH,
    REASON,
    SPACES,
    TOKEN,
    VALUE,
    any_of,
    either_case,
    first_bytes_outside,
    is_token,
)
from fairtrial.wire.limits import Limits
from fairtrial.wire.request import check_codings

_SPECIAL: Final = HOP_BY_HOP | {b"content-length"}
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([0-9]) ([1-5][0-9][0-9])(?: (" + REASON + b"))?\r\n").match
# Anything that a status line may begin with; _STATUS_LINE then says whether it is one.
_STATUS_START: Final = re.compile(rb"HTTP/1\.[0-9] [1-5][0-9][0-9](?: " + REASON + b")?\r?").fullmatch
_SHORTEST: Final = len("HTTP/1.1 200")
_PLACEHOLDER: Final = b"HTTP/1.1 200"


class Framing(Enum):
    """What ends a response's body."""

    NO_BODY = "no_body"
    LENGTH = "length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until_close"


class ResponseHead(msgspec.Struct, gc=False, eq=False):
    """One response head that has one meaning.

    status: 100 to 599, never 101. head: status line and fields to relay, HTTP/1.1, each line with its CRLF, without the
    blank line and without anything hop-by-hop. Its framing field says what `framing` says: Content-Length for LENGTH,
    Transfer-Encoding for CHUNKED (take that out for an HTTP/1.0 client), none for UNTIL_CLOSE (the relay adds its own);
    for NO_BODY a Content-Length is that of the body left out (HEAD, 304). size: bytes that the head took from `data`.
    content_length: bytes; None without the field. keep_alive: the connection may be used again after the body.
    is_informational: 1xx, a final head is still to come.
    """

    status: int
    head: bytes
    size: int
    content_length: int | None
    is_chunked: bool
    keep_alive: bool
    framing: Framing
    is_informational: bool


class ResponseParser:
    """Parses response heads under `limits`. drop: lower-case names of fields never relayed. Immutable.

    Raises ConfigError for a name that is not a lower-case token.
    """

    __slots__ = ("_dropped", "_match", "_max_head", "_rules")

    def __init__(self, limits: Limits, *, drop: tuple[bytes, ...] = ()) -> None:
        for name in drop:
            if not is_token(name) or name != name.lower():
                raise ConfigError(f"{name!r} is not a field name in lower case")
        self._dropped = _SPECIAL | frozenset(drop)
        self._max_head = limits.max_response_head_bytes
        self._rules = FieldRules(limits.max_fields, status=502, too_many_status=502, allows_space=True)
        self._match = _fast_matcher(limits.max_fields, _SPECIAL | frozenset(drop))

    def parse(self, data: bytes, *, method: bytes) -> ResponseHead | None:
        """The head that `data` begins with; None where more bytes are needed.

        data: everything received since the request, or the last head, was done with. method: of the request, since HEAD
        has no body whatever the fields say. Raises WireError 502 as soon as no continuation of `data` could be a
        response.
        """
        match = self._match(data)
        if match is None or (end := match.end()) > self._max_head or method == b"HEAD":
            return self._parse_general(data, method)
        code, digits, chunked, persistent = match.groups()
        status = int(code)
        if persistent is None:
            head = data[: end - 2]
        else:
            cut_from, cut_to = match.span(4)
            head = data[:cut_from] + data[cut_to : end - 2]
        if digits is not None:
            if chunked is not None or status in {204, 304}:
                return self._parse_general(data, method)
            return ResponseHead(status, head, end, int(digits), False, True, Framing.LENGTH, False)
        if status in {204, 304}:
            return self._parse_general(data, method)
        if chunked is not None:
            return ResponseHead(status, head, end, None, True, True, Framing.CHUNKED, False)
        return ResponseHead(status, head, end, None, False, False, Framing.UNTIL_CLOSE, False)

    def _parse_general(self, data: bytes, method: bytes) -> ResponseHead | None:
        """What `parse` says, in 5 to 10 us, about every head there is."""
        max_head = self._max_head
        window = data if len(data) <= max_head else data[:max_head]
        line = _STATUS_LINE(window)
        if line is None:
            if not _may_begin(window):
                raise WireError(502, "the answer does not begin with an HTTP/1 status line")
            found = None
        else:
            found = read_fields(window, line.end(), self._rules)
        if line is None or found is None:
            if len(data) >= max_head:
                raise WireError(502, f"the head of the answer is longer than {max_head} bytes")
            return None
        lines, end = found
        return self._interpret(line, FieldTable(lines, 502), end, method)

    def _interpret(self, line: re.Match[bytes], table: FieldTable, end: int, method: bytes) -> ResponseHead:
        minor, code, reason = line.groups()
        status = int(code)
        if status == 101:
            raise WireError(502, "the answer switches protocols unasked")
        length = table.content_length()
        codings = table.all(b"transfer-encoding")
        if codings:
            if length is not None:
                raise WireError(502, "the answer has both transfer-encoding and content-length")
            if minor == b"0":
                raise WireError(502, "the answer has transfer-encoding in HTTP/1.0")
            check_codings(codings, status=502, unknown_status=502)
        options = table.connection_options()
        framing = _framing(status, method, length, is_chunked=bool(codings))
        # A space stands after the code even where there is no reason (RFC 9112, 4).
        head = [b"HTTP/1.1 %b %b\r\n" % (code, reason or b""), *table.kept_lines(self._dropped, options)]
        if framing is Framing.CHUNKED:
            head.append(b"Transfer-Encoding: chunked\r\n")
        elif length is not None and status >= 200 and status != 204:
            head.append(b"Content-Length: %d\r\n" % length)
        is_kept = b"keep-alive" in options if minor == b"0" else True
        return ResponseHead(
            status,
            b"".join(head),
            end,
            length,
            bool(codings),
            is_kept and b"close" not in options and framing is not Framing.UNTIL_CLOSE,
            framing,
            status < 200,
        )


def _framing(status: int, method: bytes, length: int | None, *, is_chunked: bool) -> Framing:
    """RFC 9112, 6.3: what has no body by rule comes before what the fields say."""
    if method == b"HEAD" or status < 200 or status in {204, 304}:
        return Framing.NO_BODY
    if is_chunked:
        return Framing.CHUNKED
    return Framing.UNTIL_CLOSE if length is None else Framing.LENGTH


def _may_begin(data: bytes) -> bool:
    """True where some continuation of `data` begins with a status line."""
    if len(data) >= _SHORTEST:
        return _STATUS_START(data) is not None
    return _STATUS_START(data + _PLACEHOLDER[len(data) :]) is not None


def _fast_matcher(max_fields: int, special: frozenset[bytes]) -> Callable[[bytes], re.Match[bytes] | None]:
    """Groups: status, content length, chunked, the line `Connection: keep-alive`."""
    end = SPACES + b"\r\n"
    once = b"(?(%d)(?!))"
    alternatives = [
        first_bytes_outside(special) + TOKEN + b"*+:" + VALUE + b"\r\n",
        either_case(b"content-length") + b":" + SPACES + once % 2 + b"(" + LENGTH + b")" + end,
        either_case(b"transfer-encoding") + b":" + SPACES + once % 3 + b"(" + either_case(b"chunked") + b")" + end,
        once % 4 + b"(" + either_case(b"connection") + b":" + SPACES + either_case(b"keep-alive") + end + b")",
        b"(?!" + any_of(special) + b":)" + TOKEN + b"++:" + VALUE + b"\r\n",
    ]
    pattern = (
        rb"HTTP/1\.1 ([2-5][0-9][0-9]) " + REASON + b"\r\n(?:" + b"|".join(alternatives) + b"){0,%d}+\r\n" % max_fields
    )
    return re.compile(pattern).match
