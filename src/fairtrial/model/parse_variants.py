# ruff: noqa: D102 - `Kind` says what read, schema, allowed and inner are
"""What an experiment is made of: variants, the unit, the rollout."""

from __future__ import annotations

import math
from typing import Final

from fairtrial.model.experiment import (
    FieldUnit,
    JsonValue,
    OnBreach,
    RequestUnit,
    Rollout,
    SlotUnit,
    Unit,
    Variant,
)
from fairtrial.model.kinds import Choice, Flag, JsonObject, Kind, ListOf, Reference, name_kind, report_not_text
from fairtrial.model.parse_values import (
    DURATION,
    FIELD_KEYS,
    LONG_DURATION,
    POSITIVE_SHARE,
    Headers,
    check_exactly_one,
    request_field,
)
from fairtrial.model.report import Place
from fairtrial.model.sections import Fields, Key, Section
from fairtrial.model.tree import ListNode, MapNode, Node, Scalar, shown


class FreeJson(Kind[JsonValue]):
    """Any JSON value but null at the top; numbers are finite."""

    def read(self, node: Node, place: Place) -> JsonValue:
        if isinstance(node, Scalar) and node.value is None:
            place.error(
                node, "found nothing; allowed: a JSON value", "write a mapping of what to change, or leave it out"
            )
            return None
        return self._value(node, place)

    def _value(self, node: Node, place: Place) -> JsonValue:
        match node:
            case MapNode():
                for key, _ in node.items:
                    if key.is_ambiguous:
                        report_not_text(key, place.child(key.text), "a key")
                return {key.text: self._value(item, place.child(key.text)) for key, item in node.items}
            case ListNode():
                return [self._value(item, place.item(index)) for index, item in enumerate(node.items)]
            case Scalar() if node.is_ambiguous:
                report_not_text(node, place, "JSON text, or true and false")
                return None
            case Scalar(value=float(number)) if not math.isfinite(number):
                place.error(node, f"found {shown(node)}; JSON numbers are finite", "write a finite number")
                return None
            case Scalar():
                return node.value

    def schema(self) -> JsonObject:
        return {"not": {"type": "null"}}

    def allowed(self) -> str:
        return "any JSON value"


class Shadow(Kind[float]):
    """true for every request, or a share of them."""

    def read(self, node: Node, place: Place) -> float | None:
        if isinstance(node, Scalar) and isinstance(node.value, bool):
            return 1.0 if node.value else 0.0
        return POSITIVE_SHARE.read(node, place)

    def schema(self) -> JsonObject:
        return {"anyOf": [{"type": "boolean"}, POSITIVE_SHARE.schema()]}

    def allowed(self) -> str:
        return "`true`, or a share (`20%`)"


MODEL = Key("model", Reference("models", "model"), "The model that answers.", example="churn-2", is_required=True)
HEADERS = Key("headers", Headers(), "Headers set on the request.", "none")
BODY = Key("body", FreeJson(), "JSON merge patch (RFC 7396) of the request body.", "no change")
SHADOW = Key(
    "shadow",
    Shadow(),
    "The variant only gets copies of enrolled requests, all or a share; it is not in the split.",
    "false",
)


def _build_variant(fields: Fields) -> Variant:
    return Variant(
        name=fields.name,
        model=fields.get(MODEL, ""),
        headers=fields.get(HEADERS, ()),
        body=fields.find(BODY),
        shadow=fields.get(SHADOW, 0.0),
    )


VARIANT: Final = Section(
    "variant",
    "One model version, or one configuration of it, under test.",
    (MODEL, HEADERS, BODY, SHADOW),
    _build_variant,
)

REQUEST = Key("request", Flag(), "Every request is a unit of its own.")
SLOT = Key(
    "slot",
    LONG_DURATION,
    "A stretch of time is the unit (switchback); slots begin at multiples of it since 1970, UTC.",
    example="30m",
)
BY = Key(
    "by",
    ListOf(name_kind("an attribute's name")),
    "With `slot`: attributes of which each combination is a unit of its own.",
    "none",
)


def _build_unit(fields: Fields) -> Unit | None:
    check_exactly_one(fields, (*FIELD_KEYS, REQUEST, SLOT), "{header: x-user-id}")
    slot, by = fields.find(SLOT), fields.get(BY, ())
    if fields.has(BY) and not fields.has(SLOT):
        fields.only((BY,), "it belongs to `slot`")
    for name in sorted({name for name in by if by.count(name) > 1}):
        fields.error(BY, f"attribute `{name}` stands twice", "remove one")
    if slot is not None:
        return SlotUnit(slot, by)
    if fields.has(REQUEST):
        if fields.find(REQUEST) is False:
            fields.error(REQUEST, "`request: false` names no unit", "write true, or name a header")
        return RequestUnit()
    field = request_field(fields)
    return FieldUnit(field) if field is not None else None


UNIT: Final[Section[Unit]] = Section(
    "unit",
    "What is randomised: exactly one of these keys (`by` goes with `slot`).",
    (*FIELD_KEYS, REQUEST, SLOT, BY),
    _build_unit,
)

STAGES = Key(
    "stages",
    ListOf(POSITIVE_SHARE),
    "Shares of all traffic that meet the treatment, rising.",
    example="[1%, 5%, 20%, 50%, 100%]",
    is_required=True,
)
HOLD = Key("hold", DURATION, "At least so long in each stage.", "0s", "24h")
ON_BREACH = Key("on_breach", Choice(OnBreach), "What a breached guardrail does.", "roll_back")


def _build_rollout(fields: Fields) -> Rollout:
    stages = fields.get(STAGES, ())
    node = fields.value_node(STAGES)
    for index in range(1, len(stages)):
        if stages[index] <= stages[index - 1]:
            at = node.items[index] if isinstance(node, ListNode) and len(node.items) == len(stages) else node
            place = fields.place.child(STAGES.name).item(index)
            place.error(
                at, f"stage {index + 1} is not above the one before it; stages rise", "sort them, and remove repeats"
            )
    return Rollout(stages, fields.get(HOLD, 0.0), fields.get(ON_BREACH, OnBreach.ROLL_BACK))


ROLLOUT: Final = Section(
    "rollout", "How the treatment's share of traffic grows.", (STAGES, HOLD, ON_BREACH), _build_rollout
)
