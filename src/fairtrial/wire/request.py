"""Request heads: bytes in, one unambiguous meaning out, or a refusal.

The trick: one possessive regular expression validates a whole head and captures what routing needs in 1 to 4 us, and
the validated bytes themselves are forwarded. Whatever it does not match - because it is rare, incomplete or wrong -
goes to one strict general parser, which says which of the three it is. Both are made of `fairtrial.wire.grammar`, and
tests/property/test_wire_agreement.py holds them to the same answers. docs/decisions/0010.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from fairtrial.model.errors import ConfigError
from fairtrial.wire.errors import WireError
from fairtrial.wire.fields import FieldRules, FieldTable, read_fields
from fairtrial.wire.grammar import (
    HOP_BY_HOP,
    HOST,
    LENGTH,
    PLAIN_HOST,
    SPACES,
    TARGET_CHARACTER,
    TOKEN,
    VALUE,
    any_of,
    either_case,
    first_bytes_outside,
    is_token,
)
from fairtrial.wire.limits import Limits

MAX_METHOD_BYTES: Final = 32
# RFC 9112, 2.2: at least one empty line before a request is ignored.
MAX_EMPTY_LINES: Final = 2
_VERSION_BYTES: Final = len(" HTTP/1.1")

# Fields that change what a message means to us; the fast path leaves all of them but the plainest to the general one.
_SPECIAL: Final = HOP_BY_HOP | {b"content-length", b"expect", b"host", b"max-forwards"}
_DROPPED: Final = HOP_BY_HOP | {b"content-length", b"expect", b"host"}
# Captured fields that may come in several lines, by what joins them (RFC 9110, 5.3; cookies: RFC 9113, 8.2.3).
JOINED: Final = {
    b"cookie": b"; ",
    **dict.fromkeys(
        (
            b"accept",
            b"accept-charset",
            b"accept-encoding",
            b"accept-language",
            b"baggage",
            b"cache-control",
            b"forwarded",
            b"tracestate",
            b"via",
            b"x-forwarded-for",
            b"x-forwarded-host",
            b"x-forwarded-proto",
        ),
        b", ",
    ),
}

_METHOD: Final = re.compile(TOKEN + b"{1,%d}+" % (MAX_METHOD_BYTES + 1)).match
_LINE_BYTES: Final = re.compile(rb"[\x20-\x7e\x80-\xff]*+").match
_VERSION: Final = re.compile(rb"HTTP/([0-9])\.([0-9])").fullmatch
_ORIGIN_FORM: Final = re.compile(b"/" + TARGET_CHARACTER + b"*+").fullmatch
_ABSOLUTE_FORM: Final = re.compile(
    b"[hH][tT][tT][pP]://(" + HOST + rb")((?:[/?]" + TARGET_CHARACTER + rb"*+)?)"
).fullmatch
_HOST: Final = re.compile(HOST).fullmatch
_NEVER: Final = re.compile(b"(?!)").match
_EMPTY_LINES: Final = re.compile(b"(?:\r\n){0,%d}+" % MAX_EMPTY_LINES).match


class RequestHead(msgspec.Struct, gc=False, eq=False):
    """One request head that has one meaning. A msgspec.Struct: slots, made in 0.15 us by C.

    method: a token, at most 32 bytes. target: origin-form or `*`, as forwarded. host: of the Host field or, for a
    request in absolute-form, of its target; None in HTTP/1.0 without one (`head` then names the parser's default).
    head: request line and fields to forward, HTTP/1.1, each line with its CRLF, without the blank line; it has exactly
    one Host, at most one framing field, and nothing hop-by-hop, so `head + more_fields + CRLF + body` is a message.
    size: bytes that the head took from `data`. content_length: bytes; None without the field. is_chunked: the body is;
    neither means no body. keep_alive: another request may follow. expects_continue: the client waits for a 100 before
    it sends the body. is_http10: no chunked and no 1xx answers. captured: values of the captured fields, without white
    space around them, in the order asked for; None where absent.
    """

    method: bytes
    target: bytes
    host: bytes | None
    head: bytes
    size: int
    content_length: int | None
    is_chunked: bool
    keep_alive: bool
    expects_continue: bool
    is_http10: bool
    captured: tuple[bytes | None, ...]


class _RequestLine(msgspec.Struct, gc=False, eq=False):
    """host: of a target in absolute-form. end: offset of the first field line."""

    method: bytes
    target: bytes
    host: bytes | None
    is_http10: bool
    end: int


class RequestParser:
    """Parses request heads under `limits`.

    capture: lower-case names of the fields whose values are wanted. Several values of one are joined where the field is
    a list or a cookie (JOINED) and refused with 400 otherwise: whose unit it would be is a guess. drop: lower-case
    names of fields never forwarded. default_host: sent to the model when an HTTP/1.0 client names no host. Immutable,
    so one parser serves any number of connections. Capturing a field that has a meaning of its own (Host, Connection,
    ...) sends every head through the general parser. Raises ConfigError for a name that is not a lower-case token, or
    stands twice.
    """

    __slots__ = ("_capture", "_default_host", "_dropped", "_limits", "_match", "_max_body", "_max_head", "_rules")

    def __init__(
        self,
        limits: Limits,
        capture: tuple[bytes, ...] = (),
        *,
        drop: tuple[bytes, ...] = (),
        default_host: bytes = b"localhost",
    ) -> None:
        for name in (*capture, *drop):
            if not is_token(name) or name != name.lower():
                raise ConfigError(f"{name!r} is not a field name in lower case")
        if len(set(capture)) != len(capture):
            raise ConfigError(f"a field is captured twice: {capture!r}")
        self._limits = limits
        self._capture = capture
        self._default_host = default_host
        self._dropped = _DROPPED | frozenset(drop)
        self._max_head = limits.max_head_bytes
        self._max_body = limits.max_body_bytes
        self._rules = FieldRules(limits.max_fields)
        special = _SPECIAL | frozenset(drop)
        self._match = _NEVER if special.intersection(capture) else _fast_matcher(limits, capture, special)

    def parse(self, data: bytes) -> RequestHead | None:
        """The head that `data` begins with; None where more bytes are needed.

        data: everything received since the end of the last request. Raises WireError as soon as no continuation of
        `data` could be a request that we take.
        """
        match = self._match(data)
        if match is None or (end := match.end()) > self._max_head:
            return self._parse_general(data)
        groups = match.groups()
        method, target, host, digits, chunked, persistent = groups[:6]
        length = None if digits is None else int(digits)
        if host is None or (length is not None and (chunked is not None or self._is_too_long(length))):
            return self._parse_general(data)
        if persistent is None:
            head = data[: end - 2]
        else:
            cut_from, cut_to = match.span(6)
            head = data[:cut_from] + data[cut_to : end - 2]
        return RequestHead(method, target, host, head, end, length, chunked is not None, True, False, False, groups[6:])

    def _is_too_long(self, length: int) -> bool:
        return self._max_body is not None and length > self._max_body

    def _parse_general(self, data: bytes) -> RequestHead | None:
        """What `parse` says, in 6 to 15 us, about every head there is."""
        max_head = self._max_head
        window = data if len(data) <= max_head else data[:max_head]
        line = self._read_line(window)
        found = None if line is None else read_fields(window, line.end, self._rules)
        if line is None or found is None:
            if len(data) >= max_head:
                raise WireError(431, f"the head is longer than {max_head} bytes")
            return None
        lines, end = found
        return self._interpret(line, FieldTable(lines, 400), end)

    def _read_line(self, data: bytes) -> _RequestLine | None:
        """The request line (RFC 9112, 3); None where it is not whole. Reads strictly in the order of the bytes."""
        blank = _EMPTY_LINES(data)
        assert blank is not None, "it matches nothing too"
        start = blank.end()
        found = _METHOD(data, start)
        if found is None:
            rest = data[start : start + 2]
            if not rest or (rest == b"\r" and start < 2 * MAX_EMPTY_LINES):
                return None
            raise WireError(400, "a request begins with a method")
        method = found.group()
        if len(method) > MAX_METHOD_BYTES:
            raise WireError(501, f"the method is longer than {MAX_METHOD_BYTES} bytes")
        space = found.end()
        if space == len(data):
            return None
        if data[space] != 0x20:
            raise WireError(400, "no space after the method")
        run = _LINE_BYTES(data, space + 1)
        assert run is not None, "it matches nothing too"
        stop = run.end()
        if stop - space - 1 > self._limits.max_target_bytes + _VERSION_BYTES:
            raise WireError(414, f"the target is longer than {self._limits.max_target_bytes} bytes")
        line_end = data[stop : stop + 2]
        if line_end in {b"", b"\r"}:
            return None
        if line_end != b"\r\n":
            raise WireError(400, "a control character or a bare line end in the request line")
        return self._read_target(method, data[space + 1 : stop], stop + 2)

    def _read_target(self, method: bytes, rest: bytes, end: int) -> _RequestLine:
        """rest: target and version."""
        target, _, version = rest.rpartition(b" ")
        numbers = _VERSION(version)
        if numbers is None:
            raise WireError(400, "the request line does not end in an HTTP version")
        if numbers[1] != b"1":
            raise WireError(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
        if method in {b"CONNECT", b"TRACE"}:
            raise WireError(405, f"{method.decode('ascii')} is not allowed")
        if len(target) > self._limits.max_target_bytes:
            raise WireError(414, f"the target is longer than {self._limits.max_target_bytes} bytes")
        # Minors above 1 are read as 1.1 (RFC 9110, 2.5).
        is_http10 = numbers[2] == b"0"
        if _ORIGIN_FORM(target) or (target == b"*" and method == b"OPTIONS"):
            return _RequestLine(method, target, None, is_http10, end)
        absolute = _ABSOLUTE_FORM(target)
        if absolute is None:
            raise WireError(400, "the target is neither a path nor an http URI")
        host, path = absolute.groups()
        if not path:
            # RFC 9112, 3.2.4: OPTIONS of a URI without path asks about the server.
            path = b"*" if method == b"OPTIONS" else b"/"
        return _RequestLine(method, path if path[:1] != b"?" else b"/" + path, host, is_http10, end)

    def _interpret(self, line: _RequestLine, table: FieldTable, end: int) -> RequestHead:
        host = self._host(line, table)
        length, is_chunked = self._framing(table, is_http10=line.is_http10)
        options = table.connection_options()
        keep_alive = b"close" not in options and (not line.is_http10 or b"keep-alive" in options)
        expects_continue = _expects_continue(table) and not line.is_http10 and (is_chunked or bool(length))
        _check_upgrade(table, options, line)
        _check_max_forwards(table, line)
        head = [
            b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (line.method, line.target, host or self._default_host),
            *table.kept_lines(self._dropped, options),
        ]
        if is_chunked:
            head.append(b"Transfer-Encoding: chunked\r\n")
        elif length is not None:
            head.append(b"Content-Length: %d\r\n" % length)
        return RequestHead(
            line.method,
            line.target,
            host,
            b"".join(head),
            end,
            length,
            is_chunked,
            keep_alive,
            expects_continue,
            line.is_http10,
            tuple([_captured(table, name) for name in self._capture]),
        )

    def _host(self, line: _RequestLine, table: FieldTable) -> bytes | None:
        """RFC 9112, 3.2: exactly one valid Host; the authority of a target in absolute-form replaces it."""
        host = table.one(b"host")
        if host is None and not line.is_http10:
            raise WireError(400, "no host field")
        if host is not None and not _HOST(host):
            raise WireError(400, "the host field is not a host and port")
        return line.host or host

    def _framing(self, table: FieldTable, *, is_http10: bool) -> tuple[int | None, bool]:
        """Content length and whether the body is chunked (RFC 9112, 6.3)."""
        length = table.content_length()
        if length is not None and self._is_too_long(length):
            raise WireError(413, f"the body is longer than {self._max_body} bytes")
        values = table.all(b"transfer-encoding")
        if not values:
            return length, False
        if length is not None:
            raise WireError(400, "both transfer-encoding and content-length")
        if is_http10:
            raise WireError(400, "transfer-encoding in HTTP/1.0")
        check_codings(values, status=400, unknown_status=501)
        return None, True


def check_codings(values: list[bytes], *, status: int, unknown_status: int) -> None:
    """Raise WireError unless the transfer codings are exactly `chunked`, once (RFC 9112, 6.1 and 6.3)."""
    codings = [coding.strip(b" \t").lower() for value in values for coding in value.split(b",")]
    if codings == [b"chunked"]:
        return
    # Not chunked at the end, or twice: nobody can say where the body ends.
    if codings[-1] != b"chunked" or codings.count(b"chunked") > 1 or not all(map(is_token, codings)):
        raise WireError(status, "transfer-encoding is not one chunked coding")
    raise WireError(unknown_status, "a transfer coding other than chunked")


def _expects_continue(table: FieldTable) -> bool:
    """RFC 9110, 10.1.1: 100-continue is the only expectation there is."""
    values = table.all(b"expect")
    if any(value.lower() != b"100-continue" for value in values):
        raise WireError(417, "an expectation other than 100-continue")
    return bool(values)


def _check_upgrade(table: FieldTable, options: set[bytes], line: _RequestLine) -> None:
    """An upgrade may be ignored (RFC 9110, 7.8), but a websocket client cannot use any other answer: say so."""
    if b"upgrade" in options and not line.is_http10 and b"websocket" in table.elements(b"upgrade"):
        raise WireError(501, "this router does not tunnel websockets: connect to the model directly")


def _check_max_forwards(table: FieldTable, line: _RequestLine) -> None:
    """RFC 9110, 7.6.2: an OPTIONS request that may not be forwarded again has its answer here."""
    if line.method != b"OPTIONS":
        return
    value = table.one(b"max-forwards")
    if value is None:
        return
    if not value.isdigit():
        raise WireError(400, "max-forwards is not a number")
    if not value.strip(b"0"):
        raise WireError(501, "max-forwards is 0 and this router has no options of its own")
    number = b"%d" % (int(value.lstrip(b"0")[:9]) - 1)
    table.lines[:] = [
        (name, number, b"Max-Forwards: %b\r\n" % number) if name == b"max-forwards" else (name, value, line)
        for name, value, line in table.lines
    ]


def _captured(table: FieldTable, name: bytes) -> bytes | None:
    separator = JOINED.get(name)
    if separator is None:
        return table.one(name)
    values = table.all(name)
    return separator.join(values) if values else None


def _fast_matcher(
    limits: Limits, capture: tuple[bytes, ...], special: frozenset[bytes]
) -> Callable[[bytes], re.Match[bytes] | None]:
    """Groups: method, target, host, content length, chunked, the line `Connection: keep-alive`, captured values.

    capture: fields with a group. special: fields that match by an alternative of their own or not at all.
    """
    end = SPACES + b"\r\n"
    known = special | set(capture)
    once = b"(?(%d)(?!))"  # a second one of these does not match: the general parser says what is wrong with it
    alternatives = [
        first_bytes_outside(known) + TOKEN + b"*+:" + VALUE + b"\r\n",
        either_case(b"host") + b":" + SPACES + once % 3 + b"(" + PLAIN_HOST + b")" + end,
        either_case(b"content-length") + b":" + SPACES + once % 4 + b"(" + LENGTH + b")" + end,
        either_case(b"transfer-encoding") + b":" + SPACES + once % 5 + b"(" + either_case(b"chunked") + b")" + end,
        once % 6 + b"(" + either_case(b"connection") + b":" + SPACES + either_case(b"keep-alive") + end + b")",
    ]
    for group, name in enumerate(capture, start=7):
        # The look-behind leaves values with white space at their end to the general parser: no strip() here.
        value = b"(" + VALUE + rb")(?<![ \t])" + b"\r\n"
        alternatives.append(either_case(name) + b":" + SPACES + once % group + value)
    alternatives.append(b"(?!" + any_of(known) + b":)" + TOKEN + b"++:" + VALUE + b"\r\n")
    pattern = (
        b"(?!CONNECT |TRACE )(" + TOKEN + b"{1,%d}+) (/" % MAX_METHOD_BYTES
        + TARGET_CHARACTER + b"{0,%d}+) HTTP/1\\.1\r\n" % (limits.max_target_bytes - 1)
        + b"(?:" + b"|".join(alternatives) + b"){0,%d}+\r\n" % limits.max_fields
    )  # fmt: skip
    return re.compile(pattern).match
