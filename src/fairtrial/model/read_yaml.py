"""YAML text into a tree with places, from parser events rather than objects.

Events need no recursion, so depth costs nothing; an alias is the same node again, its size counted each time, so a
"billion laughs" file stops at MAX_NODES. Plain scalars are read as YAML 1.2 reads them; words on which YAML 1.1 and
1.2 disagree (`no`, `on`) are kept as text and refused wherever they would matter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, NoReturn, Protocol

import yaml

from fairtrial.model.report import Report, report_duplicate
from fairtrial.model.tree import MAX_DEPTH, MAX_NODES, ListNode, MapNode, Mark, Node, Scalar

_NUMBER: Final = re.compile(
    r"[-+]?(?:0|[1-9][0-9]*)(?P<fraction>\.[0-9]*)?(?P<exponent>[eE][-+]?[0-9]+)?\Z|[-+]?\.[0-9]+\Z"
)
_NOT_FINITE: Final = re.compile(r"([-+]?)\.(inf|Inf|INF|nan|NaN|NAN)\Z")
_WORDS: Final[dict[str, bool | None]] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_STRING_TAG: Final = "tag:yaml.org,2002:str"


class _YamlMark(Protocol):
    """0-based place, as both of PyYAML's parsers give it."""

    line: int
    column: int


class _Stop(Exception):  # noqa: N818 - it carries no error, only the way out of the event loop
    """The rest of the file cannot be read; the problem has been noted."""


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not been seen."""

    mark: Mark
    is_map: bool
    anchor: str | None
    size: int = 1
    items: list[Node] = field(default_factory=list)
    keys: list[Node] = field(default_factory=list)

    def add(self, node: Node, size: int) -> None:
        self.size += size
        target = self.keys if self.is_map and len(self.keys) == len(self.items) else self.items
        target.append(node)


def read_yaml(text: str, report: Report) -> Node | None:
    """Tree of the one document in `text`; None where a problem that ends the reading has been reported."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    builder = _Builder(report)
    try:
        for event in yaml.parse(text, Loader=loader):
            builder.take(event)
    except _Stop:
        return None
    except yaml.MarkedYAMLError as exc:
        _report_syntax(exc, text, report)
        return None
    except (yaml.reader.ReaderError, UnicodeEncodeError) as exc:
        where = exc.position if isinstance(exc, yaml.reader.ReaderError) else exc.start
        report.add(
            _mark_at(text, where), "", "a character that YAML does not allow", "remove it, or write it as an escape"
        )
        return None
    return builder.root or Scalar(Mark(), None, "")


class _Builder:
    def __init__(self, report: Report) -> None:
        self.report = report
        self.root: Node | None = None
        self._stack: list[_Open] = []
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._nodes = 0
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        match event:
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    self._stop(
                        event,
                        "a second document (`---`) starts here; a file holds one",
                        "put it into a file of its own",
                    )
            case yaml.ScalarEvent():
                self._tag(event, event.tag)
                self._add(self._scalar(event), 1, event, event.anchor)
            case yaml.AliasEvent():
                known = self._anchors.get(event.anchor or "")
                if known is None:
                    self._stop(event, f"alias *{event.anchor} stands for nothing before it", "write the value out")
                self._add(*known, event, None)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._tag(event, event.tag)
                if len(self._stack) >= MAX_DEPTH:
                    self._stop(event, f"nested deeper than {MAX_DEPTH} levels", "nest less deeply")
                is_map = isinstance(event, yaml.MappingStartEvent)
                self._stack.append(_Open(_mark(event), is_map, event.anchor))
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                done = self._stack.pop()
                node = self._map(done) if done.is_map else ListNode(done.mark, tuple(done.items))
                self._add(node, done.size, event, done.anchor)
            case _:
                pass

    def _add(self, node: Node, size: int, event: yaml.Event, anchor: str | None) -> None:
        self._nodes += 1 if isinstance(event, yaml.ScalarEvent | yaml.MappingEndEvent | yaml.SequenceEndEvent) else size
        if self._nodes > MAX_NODES:
            self._stop(event, f"more than {MAX_NODES} values, aliases followed", "make the file smaller")
        if anchor is not None:
            self._anchors[anchor] = (node, size)
        if self._stack:
            self._stack[-1].add(node, size)
        else:
            self.root = node

    def _path(self) -> str:
        """Dotted path of the collection that has just been closed."""
        parts = [opened.keys[-1] for opened in self._stack if opened.is_map and opened.keys]
        return "".join(part.text + "." for part in parts if isinstance(part, Scalar))

    def _map(self, done: _Open) -> MapNode:
        path = self._path()
        pairs: list[tuple[Scalar, Node]] = []
        seen: dict[str, Mark] = {}
        for key, value in zip(done.keys, done.items, strict=True):
            if not isinstance(key, Scalar):
                self.report.add(
                    key.mark,
                    path[:-1],
                    "a key that is a list or mapping; keys are names",
                    "write a name before the `:`",
                )
            elif key.text == "<<" and not key.is_quoted:
                self.report.add(
                    key.mark, path + "<<", "merge keys (`<<`) are not read", "write the keys out, or use `key: *alias`"
                )
            elif key.text in seen:
                report_duplicate(self.report, path + key.text, seen[key.text], key)
            else:
                seen[key.text] = key.mark
                pairs.append((key, value))
        return MapNode(done.mark, tuple(pairs))

    def _scalar(self, event: yaml.ScalarEvent) -> Scalar:
        is_quoted = bool(event.style) or event.tag == _STRING_TAG  # plain: None, or "" from the C parser
        value = event.value if is_quoted else plain_value(event.value)
        return Scalar(_mark(event), value, event.value, is_quoted)

    def _tag(self, event: yaml.NodeEvent, tag: str | None) -> None:
        if tag not in {None, "!", _STRING_TAG}:
            self._stop(event, f"tag {tag} is not read; values are plain YAML", "remove the tag")

    def _stop(self, event: yaml.Event, message: str, fix: str) -> NoReturn:
        self.report.add(_mark(event), "", message, fix)
        raise _Stop


def plain_value(text: str) -> bool | float | str | None:
    """Value of a scalar without quotes: null, true, false, a number, or else text."""
    if text in _WORDS:
        return _WORDS[text]
    match = _NUMBER.match(text)
    if match is None:
        special = _NOT_FINITE.match(text)
        return float(special[1] + special[2]) if special else text
    # Longer than any number that could be meant: float() is linear, int() is quadratic and limited to 4300 digits.
    is_whole = match["fraction"] is None and match["exponent"] is None and "." not in text
    return int(text) if is_whole and len(text) <= 40 else float(text)


def _report_syntax(exc: yaml.MarkedYAMLError, text: str, report: Report) -> None:
    """Note a mistake of YAML itself, with a fix for those that people make; the parser's own words hide the tab."""
    mark, problem = exc.problem_mark or exc.context_mark, exc.problem or "it cannot be read"
    fix = "correct the line, or the one above it"
    lines = text.split("\n")
    found = lines[mark.line] if mark is not None and mark.line < len(lines) else ""
    indent = found[: len(found) - len(found.lstrip())]
    if "\t" in indent or (mark is not None and found[mark.column : mark.column + 1] == "\t"):
        report.add(_place(mark), "", "a tab; YAML is indented with spaces", "replace each tab by spaces")
        return
    if "mapping values are not allowed" in problem:
        problem, fix = "a `:` where none can be", "quote text that holds `: `, or add the `:` that the line above lacks"
    elif "cannot start any token" in problem:
        problem, fix = (
            f"{found[mark.column : mark.column + 1] if mark else ''!r} cannot begin a value",
            "quote the value",
        )
    elif "end of stream" in problem and "quoted" in (exc.context or ""):
        mark, problem, fix = exc.context_mark, "the quoted text that begins here has no end", "close the quote"
    elif "expected" in problem and exc.context_mark is not None:
        problem = f"{problem} {exc.context}, which begins in line {exc.context_mark.line + 1}"
        fix = "indent it like its neighbours, and close every bracket"
    report.add(_place(mark), "", f"not YAML: {problem}", fix)


def _place(mark: _YamlMark | None) -> Mark:
    return Mark(mark.line + 1, mark.column + 1) if mark is not None else Mark()


def _mark(event: yaml.Event) -> Mark:
    return _place(event.start_mark)


def _mark_at(text: str, position: int) -> Mark:
    before = text[:position]
    return Mark(before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1)
