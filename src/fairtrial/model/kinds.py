# ruff: noqa: D102 - `Kind` says what read, schema, allowed and inner are
"""Kinds of value that the experiment file can hold. Each reads a node, describes itself, and gives its JSON Schema.

One declaration serves the parser, the schema and the reference page, so the three cannot disagree.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Final, Generic, TypeVar

from fairtrial.model.experiment import JsonValue
from fairtrial.model.quantities import QuantityError
from fairtrial.model.report import Place
from fairtrial.model.tree import BOOLEAN_LOOK_ALIKES, ListNode, MapNode, Node, Scalar, shown

T_co = TypeVar("T_co", covariant=True)
E = TypeVar("E", bound=StrEnum)
JsonObject = dict[str, JsonValue]

NAME_PATTERN: Final = r"^[A-Za-z0-9._-]{1,128}$"
FIELD_NAME_PATTERN: Final = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$"
HEADER_VALUE_PATTERN: Final = r"^$|^[!-~](?:[\t -~]{0,4094}[!-~])?$"


# Names are compared with each other, so the cost grows with the square of their count.
MAX_NAMES: Final = 1000


class Kind(ABC, Generic[T_co]):
    """Something a value can be."""

    @abstractmethod
    def read(self, node: Node, place: Place) -> T_co | None:
        """The value; None where a problem has been reported at `place`."""

    @abstractmethod
    def schema(self) -> JsonObject:
        """JSON Schema (2020-12) of the value."""

    @abstractmethod
    def allowed(self) -> str:
        """What is allowed, for the reference page."""

    def inner(self) -> Iterator[Kind[object]]:
        """Kinds that this one is made of."""
        return iter(())


class Text(Kind[str]):
    """Text that matches a pattern. what: the words for it in messages."""

    def __init__(
        self, what: str = "text", pattern: str = r"^[^\x00-\x08\x0b-\x1f\x7f]{0,4096}$", *, rule: str = ""
    ) -> None:
        self.what = what
        self.pattern = pattern
        self.rule = rule or "up to 4096 characters"
        self._matches = re.compile(pattern[:-1] + r"\Z", re.DOTALL).match

    def read(self, node: Node, place: Place) -> str | None:
        if not isinstance(node, Scalar) or not isinstance(node.value, str) or node.is_ambiguous:
            report_not_text(node, place, self.what)
            return None
        if not self._matches(node.value):
            place.error(node, f"{shown(node)} is not {self.what}; allowed: {self.rule}", "write it with those only")
            return None
        return node.value

    def schema(self) -> JsonObject:
        return {"type": "string", "pattern": self.pattern}

    def allowed(self) -> str:
        if self.pattern == NAME_PATTERN:
            return "name"
        return "text" if self.what == "text" else self.rule


def name_kind(what: str) -> Text:
    """A name that can stand in paths, SQL and metric labels unquoted."""
    return Text(what, NAME_PATTERN, rule="letters, digits, `.`, `_` and `-`, 1 to 128 of them")


class Reference(Kind[str]):
    """Name of something that another part of the file declares. group: key of `Report.known`."""

    def __init__(self, group: str, what: str) -> None:
        self.group = group
        self.what = what

    def read(self, node: Node, place: Place) -> str | None:
        if not isinstance(node, Scalar) or not isinstance(node.value, str) or node.is_ambiguous:
            report_not_text(node, place, f"the name of a {self.what}")
            return None
        known = place.report.known.get(self.group, ())
        if node.value not in known:
            report_unknown(node, place, self.what, known, self.group)
            return None
        return node.value

    def schema(self) -> JsonObject:
        return {"type": "string", "pattern": NAME_PATTERN}

    def allowed(self) -> str:
        return f"name of one of the `{self.group}`"


class Flag(Kind[bool]):
    """true or false."""

    def read(self, node: Node, place: Place) -> bool | None:
        if isinstance(node, Scalar) and isinstance(node.value, bool):
            return node.value
        word = BOOLEAN_LOOK_ALIKES.get(node.text.lower()) if isinstance(node, Scalar) else None
        fix = f"write {str(word).lower()}" if word is not None else "write true or false"
        place.error(node, f"found {shown(node)}; allowed: true or false", fix)
        return None

    def schema(self) -> JsonObject:
        return {"type": "boolean"}

    def allowed(self) -> str:
        return "`true` or `false`"


class Number(Kind[float]):
    """A finite number in (low, high), or in [low, high) and so on where the end is closed."""

    def __init__(self, low: float, high: float, *, low_open: bool = True, high_open: bool = True) -> None:
        self.low, self.high, self.low_open, self.high_open = low, high, low_open, high_open

    def read(self, node: Node, place: Place) -> float | None:
        value = number_of(node)
        is_high = value is not None and (value > self.low or (value == self.low and not self.low_open))
        is_low = value is not None and (value < self.high or (value == self.high and not self.high_open))
        if value is None or not math.isfinite(value) or not (is_high and is_low):
            place.error(node, f"found {shown(node)}; allowed: {self.allowed()}", "write such a number, without quotes")
            return None
        return float(value)

    def schema(self) -> JsonObject:
        schema: JsonObject = {"type": "number"}
        if math.isfinite(self.low):
            schema["exclusiveMinimum" if self.low_open else "minimum"] = self.low
        if math.isfinite(self.high):
            schema["exclusiveMaximum" if self.high_open else "maximum"] = self.high
        return schema

    def allowed(self) -> str:
        low = f"{'over' if self.low_open else 'at least'} {self.low:g}" if math.isfinite(self.low) else ""
        high = f"{'below' if self.high_open else 'at most'} {self.high:g}" if math.isfinite(self.high) else ""
        return f"a number{' ' if low or high else ''}{' and '.join(part for part in (low, high) if part)}"


class WholeNumber(Kind[int]):
    """A whole number in [low, high]."""

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    def read(self, node: Node, place: Place) -> int | None:
        value = number_of(node)
        if not isinstance(value, int) or not self.low <= value <= self.high:
            place.error(node, f"found {shown(node)}; allowed: {self.allowed()}", "write such a number, without quotes")
            return None
        return value

    def schema(self) -> JsonObject:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}

    def allowed(self) -> str:
        return f"a whole number from {self.low} to {self.high}"


class Quantity(Kind[T_co]):
    """A quantity with a unit. is_fine: a further rule, told in `rule`."""

    def __init__(
        self,
        parse: Callable[[str | float], T_co],
        schema: JsonObject,
        what: str,
        is_fine: Callable[[T_co], bool] | None = None,
        rule: str = "",
    ) -> None:
        self._parse = parse
        self._schema = schema
        self._what = what
        self._is_fine = is_fine
        self._rule = rule

    def read(self, node: Node, place: Place) -> T_co | None:
        if not isinstance(node, Scalar) or node.value is None or isinstance(node.value, bool):
            place.error(node, f"found {shown(node)}; allowed: {self.allowed()}", "write it like the examples")
            return None
        try:
            value = self._parse(node.value)
        except QuantityError as exc:
            place.error(node, exc.message, exc.fix)
            return None
        if self._is_fine is not None and not self._is_fine(value):
            place.error(node, f"found {shown(node)}; it must be {self._rule}", f"write one that is {self._rule}")
            return None
        return value

    def schema(self) -> JsonObject:
        return dict(self._schema)

    def allowed(self) -> str:
        return f"{self._what}, {self._rule}" if self._rule else self._what


class Choice(Kind[E], Generic[E]):
    """One of the words of an enum."""

    def __init__(self, words: type[E]) -> None:
        self._words = words

    def read(self, node: Node, place: Place) -> E | None:
        for word in self._words:
            if isinstance(node, Scalar) and node.value == word.value:
                return word
        report_unknown(node, place, "", tuple(word.value for word in self._words), "")
        return None

    def schema(self) -> JsonObject:
        return {"enum": [word.value for word in self._words]}

    def allowed(self) -> str:
        return ", ".join(f"`{word.value}`" for word in self._words)


class ListOf(Kind[tuple[T_co, ...]], Generic[T_co]):
    """A list; broken items are reported and left out."""

    def __init__(self, kind: Kind[T_co], *, at_least: int = 1) -> None:
        self.kind = kind
        self.at_least = at_least

    def read(self, node: Node, place: Place) -> tuple[T_co, ...] | None:
        if not isinstance(node, ListNode):
            place.error(node, f"found {shown(node)}; allowed: a list", "put it into [ ]")
            return None
        if len(node.items) < self.at_least:
            place.error(node, "the list is empty", f"give at least {self.at_least}")
            return None
        read = (self.kind.read(item, place.item(index)) for index, item in enumerate(node.items))
        return tuple(value for value in read if value is not None)

    def schema(self) -> JsonObject:
        return {"type": "array", "items": self.kind.schema(), "minItems": self.at_least}

    def allowed(self) -> str:
        return f"list of: {self.kind.allowed()}"

    def inner(self) -> Iterator[Kind[object]]:
        yield self.kind


class MapOf(Kind[dict[str, T_co]], Generic[T_co]):
    """A mapping from names of the writer's choice. group: where `Report.known` keeps the names for references."""

    def __init__(self, key: Text, kind: Kind[T_co], *, group: str = "", at_least: int = 0) -> None:
        self.key = key
        self.kind = kind
        self.group = group
        self.at_least = at_least

    def read(self, node: Node, place: Place) -> dict[str, T_co] | None:
        if not isinstance(node, MapNode):
            place.error(
                node,
                f"found {shown(node)}; allowed: a mapping",
                f"write `{self.key.what.split()[-1]}: ...` lines below it",
            )
            return None
        if len(node.items) < self.at_least:
            place.error(node, "the mapping is empty", f"give at least {self.at_least}")
        if len(node.items) > MAX_NAMES:
            place.error(node.items[MAX_NAMES][0], f"more than {MAX_NAMES} entries", "split the file")
        entries = node.items[:MAX_NAMES]
        if self.group:
            place.report.known[self.group] = tuple(key.text for key, _ in entries)
        values: dict[str, T_co] = {}
        for key, item in entries:
            self._check(key, place.child(key.text))
            value = self.kind.read(item, place.child(key.text))
            if value is not None:
                values[key.text] = value
        return values

    def _check(self, key: Scalar, place: Place) -> None:
        """Keys are names as written: `1` is fine, `no` is a boolean to other tools."""
        is_number = isinstance(key.value, int | float) and not isinstance(key.value, bool)
        self.key.read(Scalar(key.mark, key.text, key.text, is_quoted=True) if is_number else key, place)

    def schema(self) -> JsonObject:
        schema: JsonObject = {
            "type": "object",
            "propertyNames": {"pattern": self.key.pattern},
            "additionalProperties": self.kind.schema(),
        }
        return schema | {"minProperties": self.at_least} if self.at_least else schema

    def allowed(self) -> str:
        return f"mapping of {self.key.what} to: {self.kind.allowed()}"

    def inner(self) -> Iterator[Kind[object]]:
        yield self.kind


def number_of(node: Node) -> float | None:
    """The number a node is; None for anything else (true is not 1)."""
    if isinstance(node, Scalar) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return node.value
    return None


def report_not_text(node: Node, place: Place, what: str) -> None:
    """Say why a node is not text, and how to make it text."""
    if isinstance(node, Scalar) and (node.is_ambiguous or isinstance(node.value, bool)):
        message = f"{node.text} without quotes is a boolean to many YAML readers; allowed: {what}"
        place.error(node, message, f'quote it: "{node.text}"')
    elif number_of(node) is not None:
        place.error(node, f"found the number {shown(node)}; allowed: {what}", f'quote it: "{shown(node)}"')
    else:
        place.error(node, f"found {shown(node)}; allowed: {what}", "write text in quotes")


def report_unknown(node: Node, place: Place, what: str, known: tuple[str, ...], group: str) -> None:
    """Say that a word is not one of the known ones, and which one is nearest."""
    listed = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
    close = place.report.nearest(node.text, known) if isinstance(node, Scalar) else None
    add = f"add it to `{group}`" if group else f"write one of {listed}"
    fix = f"write {close}" if close else add
    allowed = f"allowed: {listed}" if listed else f"`{group}` declares none"
    place.error(
        node, f"{shown(node)} is not a known {what}; {allowed}" if what else f"found {shown(node)}; {allowed}", fix
    )
