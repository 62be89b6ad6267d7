# ruff: noqa: D102 - `Kind` says what read, schema, allowed and inner are
"""Section `audience`: which requests an experiment may enrol, as conditions on attributes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from fairtrial.model.experiment import Condition
from fairtrial.model.kinds import (
    Flag,
    JsonObject,
    Kind,
    ListOf,
    MapOf,
    Number,
    Text,
    name_kind,
    number_of,
    report_not_text,
)
from fairtrial.model.report import Place
from fairtrial.model.sections import Fields, Key, Section
from fairtrial.model.tree import ListNode, MapNode, Node, Scalar

_INFINITY: Final = float("inf")
_WHOLE: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,39})\Z")


class AttributeValue(Kind[str]):
    """Exact text of an attribute; whole numbers stand for their digits."""

    _text = Text("an attribute's value")

    def read(self, node: Node, place: Place) -> str | None:
        if isinstance(node, Scalar) and number_of(node) is not None and _WHOLE.match(node.text):
            return node.text
        if number_of(node) is not None:
            report_not_text(node, place, "text or a whole number")
            return None
        return self._text.read(node, place)

    def schema(self) -> JsonObject:
        return {"type": ["string", "integer"]}

    def allowed(self) -> str:
        return "text, or a whole number"


_ONE: Final = AttributeValue()
_SEVERAL: Final = ListOf(_ONE)


class AttributeValues(Kind[tuple[str, ...]]):
    """One value or a list of them."""

    def read(self, node: Node, place: Place) -> tuple[str, ...] | None:
        if isinstance(node, ListNode):
            return _SEVERAL.read(node, place)
        value = _ONE.read(node, place)
        return None if value is None else (value,)

    def schema(self) -> JsonObject:
        return {"anyOf": [_ONE.schema(), _SEVERAL.schema()]}

    def allowed(self) -> str:
        return "a value, or a list of values"


IN = Key("in", AttributeValues(), "Allowed values.")
NOT = Key("not", AttributeValues(), "Forbidden values; an absent attribute passes.")
MIN = Key("min", Number(-_INFINITY, _INFINITY), "Smallest allowed number; an absent or non-numeric attribute fails.")
MAX = Key("max", Number(-_INFINITY, _INFINITY), "Largest allowed number; an absent or non-numeric attribute fails.")
EXISTS = Key("exists", Flag(), "The attribute must be present, or must be absent.")


def _build_condition(fields: Fields) -> Condition:
    low, high = fields.find(MIN), fields.find(MAX)
    if low is not None and high is not None and low > high:
        fields.error(MAX, "`max` is below `min`: no request can pass", "swap them")
    if not fields.node.items:
        fields.place.error(fields.node, "the condition is empty", "write a value, a list, or {not: [...]}")
    return Condition(
        attribute=fields.name,
        one_of=fields.get(IN, ()),
        none_of=fields.get(NOT, ()),
        at_least=low,
        at_most=high,
        exists=fields.find(EXISTS),
    )


CONDITION: Final = Section(
    "condition", "Rules for one attribute; all given must hold.", (IN, NOT, MIN, MAX, EXISTS), _build_condition
)
_VALUES: Final = AttributeValues()


class ConditionKind(Kind[Condition]):
    """A value, a list of values, or rules."""

    def read(self, node: Node, place: Place) -> Condition | None:
        if isinstance(node, MapNode):
            return CONDITION.read(node, place)
        values = _VALUES.read(node, place)
        return None if values is None else Condition(place.name, one_of=values)

    def schema(self) -> JsonObject:
        return {"anyOf": [*_VALUES.schema()["anyOf"], CONDITION.schema()]}  # type: ignore[misc]

    def allowed(self) -> str:
        return f"{_VALUES.allowed()}, or {CONDITION.allowed()}"

    def inner(self) -> Iterator[Kind[object]]:
        yield CONDITION


AUDIENCE: Final = MapOf(name_kind("an attribute's name"), ConditionKind())
