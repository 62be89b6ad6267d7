"""Field lines, read one by one: the general reader under both general parsers, also for heads that are not whole yet.

It reads in the order of the bytes and refuses at the first one that cannot be right, so a head that comes in drips is
refused at the same byte, and with the same status, as one that comes at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from fairtrial.wire.errors import WireError
from fairtrial.wire.grammar import NEVER_NAMED_AWAY, SPACES, TOKEN, VALUE, is_token, list_elements

_STRICT: Final = b"((" + TOKEN + b"++):" + SPACES + b"(" + VALUE + b")\r\n)"
# RFC 9112, 5.1: in a response a proxy takes white space before the colon away.
_SPACED: Final = b"((" + TOKEN + b"++)" + SPACES + b":" + SPACES + b"(" + VALUE + b")\r\n)"
_STRICT_RUN: Final = re.compile(b"(?:" + _STRICT + b")*+").match
_SPACED_RUN: Final = re.compile(b"(?:" + _SPACED + b")*+").match
_STRICT_LINES: Final = re.compile(_STRICT).findall
_SPACED_LINES: Final = re.compile(_SPACED).findall
_STRICT_START: Final = re.compile(b"(?:\r|" + TOKEN + b"++(?::" + VALUE + b"\r?)?)").fullmatch
_SPACED_START: Final = re.compile(b"(?:\r|" + TOKEN + b"++(?:" + SPACES + b"(?::" + VALUE + b"\r?)?)?)").fullmatch
_NAME: Final = re.compile(TOKEN + b"++").match


# Name in lower case, value without white space around it, line as it is forwarded, with its CRLF. A plain tuple: a
# named one costs 0.3 us a line.
FieldLine = tuple[bytes, bytes, bytes]


@dataclass(frozen=True, slots=True)
class FieldRules:
    """max_fields: lines. status, too_many_status: of the errors. allows_space: white space may precede the colon."""

    max_fields: int
    status: int = 400
    too_many_status: int = 431
    allows_space: bool = False


def read_fields(data: bytes, start: int, rules: FieldRules) -> tuple[list[FieldLine], int] | None:
    """The field lines from `start` on and the offset past the blank line; None where `data` ends before that.

    Raises WireError at the first byte that no continuation could make right.
    """
    run = (_SPACED_RUN if rules.allows_space else _STRICT_RUN)(data, start)
    assert run is not None, "it matches nothing too"
    position = run.end()
    found = (_SPACED_LINES if rules.allows_space else _STRICT_LINES)(data, start, position)
    if len(found) > rules.max_fields:
        raise _too_many(rules)
    lines = [
        (name.lower(), value.rstrip(b" \t"), line if line[len(name)] == 0x3A else b"%b: %b\r\n" % (name, value))
        for line, name, value in found
    ]
    if data.startswith(b"\r\n", position):
        return lines, position + 2
    if position == len(data):
        return None
    if len(lines) == rules.max_fields and data[position] != 0x0D:
        raise _too_many(rules)
    is_start = _SPACED_START if rules.allows_space else _STRICT_START
    if is_start(data, position) is None:
        raise WireError(rules.status, _fault(data, position))
    return None


def _too_many(rules: FieldRules) -> WireError:
    return WireError(rules.too_many_status, f"more than {rules.max_fields} fields")


def _fault(data: bytes, position: int) -> str:
    if data[position : position + 1] in {b" ", b"\t"}:
        return "a field line begins with white space (line folding is obsolete)"
    match = _NAME(data, position)
    if match is None:
        return "a field line does not begin with a field name"
    name = match.group()[:64].decode("ascii")
    after = data[match.end() : match.end() + 1]
    if after in {b" ", b"\t"}:
        return f"white space after the field name {name}"
    if after != b":":
        return f"no colon after the field name {name}"
    return f"a control character or a bare line end in the value of {name}"


class FieldTable:
    """Values of a head's fields by name. lines: in order. status: of the errors."""

    __slots__ = ("_status", "_values", "lines")

    def __init__(self, lines: list[FieldLine], status: int) -> None:
        self.lines = lines
        self._status = status
        self._values: dict[bytes, list[bytes]] = {}
        for name, value, _ in lines:
            if name in self._values:
                self._values[name].append(value)
            else:
                self._values[name] = [value]

    def all(self, name: bytes) -> list[bytes]:
        """Every value of the field, in order."""
        return self._values.get(name, [])

    def one(self, name: bytes) -> bytes | None:
        """The only value, None without one. Raises WireError for two, be they equal: which one counts is a guess."""
        values = self._values.get(name)
        if values is None:
            return None
        if len(values) > 1:
            raise WireError(self._status, f"two values for {name.decode('ascii')}")
        return values[0]

    def elements(self, name: bytes) -> list[bytes]:
        """Elements of a comma-separated field, all its lines together, lower case."""
        return [element for value in self.all(name) for element in list_elements(value)]

    def connection_options(self) -> set[bytes]:
        """What Connection holds. Raises WireError where one is not a token (RFC 9110, 7.6.1)."""
        if b"connection" not in self._values:
            return set()
        options = set(self.elements(b"connection"))
        if not all(map(is_token, options)):
            raise WireError(self._status, "connection holds something that is not a token")
        return options

    def content_length(self) -> int | None:
        """Content-Length in bytes. Raises WireError for anything but one row of digits (RFC 9112, 6.3).

        isdigit() on bytes takes ASCII digits only; int() alone would take `+5`, `0_5` and ` 5`.
        """
        value = self.one(b"content-length")
        if value is None:
            return None
        if not value.isdigit():
            raise WireError(self._status, "content-length is not a number")
        digits = value.lstrip(b"0") or b"0"
        if len(digits) > 15:
            raise WireError(413 if self._status == 400 else self._status, "content-length is beyond all bounds")
        return int(digits)

    def kept_lines(self, dropped: frozenset[bytes], options: set[bytes]) -> list[bytes]:
        """Lines to forward: without `dropped` fields and those that Connection names."""
        gone = dropped | (options - NEVER_NAMED_AWAY)
        return [line for name, _, line in self.lines if name not in gone]
