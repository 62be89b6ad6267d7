"""JSON text into a tree with places (RFC 8259), strict where the standard library is not: no NaN, no key twice."""

from __future__ import annotations

import re
from json import JSONDecodeError, JSONDecoder
from typing import Final

from fairtrial.model.report import Report, report_duplicate
from fairtrial.model.tree import MAX_DEPTH, MAX_NODES, ListNode, MapNode, Mark, Node, Scalar

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?P<fraction>\.[0-9]+)?(?P<exponent>[eE][-+]?[0-9]+)?")
_WORDS: Final[dict[str, bool | None]] = {"null": None, "true": True, "false": False}
# At a double quote, `raw_decode` reads that string and stops.
_STRINGS: Final = JSONDecoder()
_WORD: Final = re.compile("null|true|false")


class JsonSyntaxError(ValueError):
    """Text that is not JSON. position: 0-based character. message, fix: for the report."""

    def __init__(self, position: int, message: str, fix: str) -> None:
        super().__init__(message)
        self.position = position
        self.message = message
        self.fix = fix


def read_json(text: str, report: Report) -> Node:
    """Tree of `text`; keys that stand twice are reported. Raises JsonSyntaxError at the first mistake of syntax."""
    reader = _Reader(text, report)
    root, end = reader.value(reader.skip(0), "", 0)
    end = reader.skip(end)
    if end < len(text):
        raise JsonSyntaxError(end, "text after the end of the JSON value", "remove it")
    return root


class _Reader:
    def __init__(self, text: str, report: Report) -> None:
        self.text = text
        self.report = report
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._line = 0
        self._nodes = 0

    def mark(self, position: int) -> Mark:
        """Place of a character; positions only ever rise, so finding the line is free."""
        while self._line + 1 < len(self._starts) and self._starts[self._line + 1] <= position:
            self._line += 1
        return Mark(self._line + 1, position - self._starts[self._line] + 1)

    def skip(self, position: int) -> int:
        match = _SPACE.match(self.text, position)
        assert match is not None  # the pattern matches the empty text
        return match.end()

    def value(self, at: int, path: str, depth: int) -> tuple[Node, int]:
        self._nodes += 1
        if depth > MAX_DEPTH:
            raise JsonSyntaxError(at, f"nested deeper than {MAX_DEPTH} levels", "nest less deeply")
        if self._nodes > MAX_NODES:
            raise JsonSyntaxError(at, f"more than {MAX_NODES} values", "make the file smaller")
        match self.text[at : at + 1]:
            case "{":
                return self._map(at, path, depth)
            case "[":
                return self._list(at, path, depth)
            case '"':
                return self._string(at)
            case _:
                return self._literal(at)

    def _string(self, at: int) -> tuple[Scalar, int]:
        if self.text[at : at + 1] != '"':
            raise JsonSyntaxError(at, "a key in double quotes was expected", 'write it as "key"')
        mark = self.mark(at)
        try:
            value, end = _STRINGS.raw_decode(self.text, at)
        except JSONDecodeError as exc:
            raise JsonSyntaxError(exc.pos, f"not JSON: {exc.msg}", "correct the text in quotes") from exc
        return Scalar(mark, value, value, is_quoted=True), end

    def _literal(self, at: int) -> tuple[Scalar, int]:
        word = _WORD.match(self.text, at)
        if word is not None:
            return Scalar(self.mark(at), _WORDS[word[0]], word[0]), word.end()
        number = _NUMBER.match(self.text, at)
        if number is None:
            raise JsonSyntaxError(at, "not JSON: a value was expected", "write a value; text stands in double quotes")
        is_whole = number["fraction"] is None and number["exponent"] is None and len(number[0]) <= 40
        value = int(number[0]) if is_whole else float(number[0])
        return Scalar(self.mark(at), value, number[0]), number.end()

    def _list(self, at: int, path: str, depth: int) -> tuple[ListNode, int]:
        mark = self.mark(at)
        items: list[Node] = []
        at = self.skip(at + 1)
        if self.text[at : at + 1] == "]":
            return ListNode(mark, ()), at + 1
        while True:
            item, at = self.value(at, f"{path}[{len(items)}]", depth + 1)
            items.append(item)
            at, is_end = self._next(at, "]")
            if is_end:
                return ListNode(mark, tuple(items)), at

    def _map(self, at: int, path: str, depth: int) -> tuple[MapNode, int]:
        mark = self.mark(at)
        items: list[tuple[Scalar, Node]] = []
        seen: dict[str, Mark] = {}
        at = self.skip(at + 1)
        if self.text[at : at + 1] == "}":
            return MapNode(mark, ()), at + 1
        while True:
            key, at = self._string(at)
            at = self.skip(at)
            if self.text[at : at + 1] != ":":
                raise JsonSyntaxError(at, f"no `:` after the key `{key.text[:60]}`", "add it")
            where = f"{path}.{key.text}" if path else key.text
            item, at = self.value(self.skip(at + 1), where, depth + 1)
            if key.text in seen:
                report_duplicate(self.report, where, seen[key.text], key)
            else:
                seen[key.text] = key.mark
                items.append((key, item))
            at, is_end = self._next(at, "}")
            if is_end:
                return MapNode(mark, tuple(items)), at

    def _next(self, at: int, closing: str) -> tuple[int, bool]:
        """Position after the comma, or after the closing bracket."""
        at = self.skip(at)
        found = self.text[at : at + 1]
        if found == closing:
            return at + 1, True
        if found != ",":
            raise JsonSyntaxError(
                at, f"not JSON: `,` or `{closing}` was expected", f"add a comma, or close with `{closing}`"
            )
        return self.skip(at + 1), False
