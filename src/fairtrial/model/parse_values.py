# ruff: noqa: D102 - `Kind` says what read, schema, allowed and inner are
"""Kinds that several sections share: durations, shares, sizes, headers, fields of a request."""

from __future__ import annotations

from typing import Final

from fairtrial.model.experiment import FieldSource, Margin, RequestField
from fairtrial.model.kinds import FIELD_NAME_PATTERN, HEADER_VALUE_PATTERN, JsonObject, Kind, Quantity, Text, name_kind
from fairtrial.model.quantities import (
    DURATION_PATTERN,
    MARGIN_PATTERN,
    SHARE_PATTERN,
    SIZE_PATTERN,
    parse_duration,
    parse_level,
    parse_margin,
    parse_share,
    parse_size,
)
from fairtrial.model.report import Place
from fairtrial.model.sections import Fields, Key, Section
from fairtrial.model.tree import MapNode, Node

_DURATION_SCHEMA: Final[JsonObject] = {"type": "string", "pattern": DURATION_PATTERN}
_SHARE_SCHEMA: Final[JsonObject] = {
    "anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "string", "pattern": SHARE_PATTERN}]
}
_MARGIN_SCHEMA: Final[JsonObject] = {
    "anyOf": [
        {"type": "number", "minimum": 0},
        {"type": "string", "pattern": MARGIN_PATTERN},
        {"type": "string", "pattern": DURATION_PATTERN},
    ]
}
_LEVEL_SCHEMA: Final[JsonObject] = {
    "anyOf": [
        {"type": "number"},
        {"type": "string", "pattern": SHARE_PATTERN},
        {"type": "string", "pattern": DURATION_PATTERN},
    ]
}
_SIZE_SCHEMA: Final[JsonObject] = {
    "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": SIZE_PATTERN}]
}

DURATION: Final = Quantity(parse_duration, _DURATION_SCHEMA, "duration (`30s`, `24h`, `7d`)")
LONG_DURATION: Final = Quantity(
    parse_duration,
    _DURATION_SCHEMA,
    "duration (`30s`, `24h`, `7d`)",
    lambda seconds: seconds > 0,
    "longer than nothing",
)
SHARE: Final = Quantity(parse_share, _SHARE_SCHEMA, "share (`5%` or `0.05`)")
POSITIVE_SHARE: Final = Quantity(
    parse_share, _SHARE_SCHEMA, "share (`5%` or `0.05`)", lambda share: share > 0, "more than 0"
)
PART_SHARE: Final = Quantity(
    parse_share, _SHARE_SCHEMA, "share (`5%` or `0.05`)", lambda share: share < 1, "less than 100%"
)
LEVEL: Final = Quantity(parse_level, _LEVEL_SCHEMA, "number, share (`5%`) or duration (`300ms`)")
SIZE: Final = Quantity(parse_size, _SIZE_SCHEMA, "size (`64MiB` or bytes)", lambda size: size > 0, "more than 0")


def _is_positive(margin: Margin) -> bool:
    return margin.value > 0


MARGIN: Final = Quantity(parse_margin, _MARGIN_SCHEMA, "margin (`20%` of control, `1pp`, or a number)")
EFFECT: Final = Quantity(
    parse_margin, _MARGIN_SCHEMA, "effect (`2%` of control, `1pp`, or a number)", _is_positive, "more than 0"
)

# Headers that frame or route a message: a second opinion on them is how requests are smuggled.
_RESERVED_HEADERS: Final = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


class Headers(Kind[tuple[tuple[str, str], ...]]):
    """Header names to exact values; names are lower-cased, framing headers refused."""

    _name = Text("a header name", FIELD_NAME_PATTERN, rule="letters, digits and !#$%&'*+.^_`|~-")
    _value = Text(
        "a header value", HEADER_VALUE_PATTERN, rule="up to 4096 printable ASCII characters, no spaces at its ends"
    )

    def read(self, node: Node, place: Place) -> tuple[tuple[str, str], ...] | None:
        if not isinstance(node, MapNode):
            place.error(node, "headers are a mapping of names to values", "write it like {x-prompt: b}")
            return None
        headers: dict[str, str] = {}
        for key, item in node.items:
            inside = place.child(key.text)
            name = self._name.read(key, inside)
            value = self._value.read(item, inside)
            if name is None or value is None:
                continue
            if name.lower() in _RESERVED_HEADERS:
                inside.error(key, f"`{name}` frames or routes the message and cannot be set here", "remove it")
            elif name.lower() in headers:
                inside.error(
                    key, f"header `{name.lower()}` stands twice; case does not matter in header names", "remove one"
                )
            headers[name.lower()] = value
        return tuple(headers.items())

    def schema(self) -> JsonObject:
        return {
            "type": "object",
            "propertyNames": {"pattern": FIELD_NAME_PATTERN},
            "additionalProperties": {"type": "string", "pattern": HEADER_VALUE_PATTERN},
        }

    def allowed(self) -> str:
        return "mapping of header names to values"


HEADER_NAME: Final = Text("a header name", FIELD_NAME_PATTERN, rule="letters, digits and !#$%&'*+.^_`|~-")
EVENT_NAME: Final = name_kind("an outcome's name")

HEADER = Key("header", HEADER_NAME, "Name of a request header; case does not matter.", example="x-user-id")
COOKIE = Key(
    "cookie", Text("a cookie name", FIELD_NAME_PATTERN, rule="letters, digits and !#$%&'*+.^_`|~-"), "Name of a cookie."
)
QUERY = Key(
    "query",
    Text("a query parameter's name", r"^[^\x00-\x1f\x7f]{1,128}$", rule="1 to 128 characters, none of them a control"),
    "Name of a query parameter.",
)
JSON = Key(
    "json",
    Text(
        "a dotted path",
        r"^[^.\x00-\x1f\x7f]{1,128}(?:\.[^.\x00-\x1f\x7f]{1,128}){0,15}$",
        rule="1 to 16 names joined by dots",
    ),
    "Dotted path into the JSON body of the request.",
)
FIELD_KEYS: Final = (HEADER, COOKIE, QUERY, JSON)


def request_field(fields: Fields) -> RequestField | None:
    """The first field that is named, if any is."""
    header = fields.find(HEADER)
    if header is not None:
        return RequestField(FieldSource.HEADER, header.lower())
    for key, source in ((COOKIE, FieldSource.COOKIE), (QUERY, FieldSource.QUERY), (JSON, FieldSource.JSON)):
        name = fields.find(key)
        if name is not None:
            return RequestField(source, name)
    return None


def check_exactly_one(fields: Fields, keys: tuple[Key[object], ...], example: str) -> None:
    """Report a mapping that names none or several of `keys`."""
    named = [key for key in keys if fields.has(key)]
    listed = ", ".join(key.name for key in keys)
    if not named:
        fields.place.error(fields.node, f"none of {listed} is given; exactly one must be", f"write {example}")
    for extra in named[1:]:
        fields.error(
            extra, f"`{named[0].name}` and `{extra.name}` are both given; exactly one of {listed} may be", "remove one"
        )


def _build_field(fields: Fields) -> RequestField | None:
    check_exactly_one(fields, FIELD_KEYS, "{header: x-country}")
    return request_field(fields)


FIELD: Final = Section(
    "field", "Where a value stands in a request: exactly one of these keys.", FIELD_KEYS, _build_field
)
