"""The shapes in which senders write a batch: an object with a list, a bare list, one item, or a line each (NDJSON).

Two ways in. `FastShape` decodes a whole body straight into structs, 0.5 us an item, and gives up on the first thing it
does not like. `read_items` then takes the body apart with the standard library, slower, so that one bad item does not
cost the sender the good ones and every mistake can be named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from fairtrial.model.errors import RequestError

JsonObject = dict[str, object]
NDJSON_TYPES = (b"application/x-ndjson", b"application/ndjson", b"application/jsonl", b"application/x-jsonlines")
_MAX_QUOTED = 60

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class BadItem:
    """An item that is not even a JSON object. message: what it is instead."""

    message: str


def quote(value: object) -> str:
    """`value` as it may stand in an error message: short, whatever was sent."""
    text = repr(value[: _MAX_QUOTED + 1]) if isinstance(value, str) else repr(value)
    return text if len(text) <= _MAX_QUOTED else text[: _MAX_QUOTED - 3] + "..."


def is_ndjson(content_type: bytes | None) -> bool:
    """True where the sender declared one JSON object a line."""
    if content_type is None or content_type == b"application/json":  # nearly all: worth 0.5 us
        return False
    return content_type.partition(b";")[0].strip().lower() in NDJSON_TYPES


class FastShape(Generic[Item]):
    """Decoder of whole bodies of one item type. key: name of the list in the enclosing object."""

    def __init__(self, item: type[Item], key: str) -> None:
        envelope = msgspec.defstruct("Envelope", [(key, list[item])], gc=False)  # type: ignore[valid-type]
        self.item = item
        self.key = key
        self._envelope = msgspec.json.Decoder(envelope)
        self._list = msgspec.json.Decoder(list[item])  # type: ignore[valid-type]
        self._item = msgspec.json.Decoder(item)
        self._start = re.compile(rb'\s*+(?:(\{\s*+"%s"\s*+:)|(\[)|\{)' % key.encode())

    def decode(self, body: bytes, content_type: bytes | None) -> Sequence[Item]:
        """The body's items. Raises msgspec.DecodeError, RecursionError where anything at all is wrong with it."""
        start = self._start.match(body)
        if start is None:
            raise msgspec.DecodeError("no JSON object or list")
        if is_ndjson(content_type):
            return self._item.decode_lines(body)
        if start[1] is not None:
            items: Sequence[Item] = getattr(self._envelope.decode(body), self.key)
            return items
        if start[2] is not None:
            return self._list.decode(body)
        if b"\n{" in body:
            return self._item.decode_lines(body)
        return [self._item.decode(body)]


def read_items(body: bytes, content_type: bytes | None, *, key: str) -> list[JsonObject | BadItem]:
    """The body's items, each a JSON object or the reason why not; NaN and Infinity come as floats.

    Raises RequestError where the body as a whole makes no sense, with the line and column.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as exc:
        raise RequestError(f"the body is not UTF-8: {exc.reason} at byte {exc.start}") from exc
    if not text.strip():
        raise RequestError(f'the body is empty; send {{"{key}": [...]}} or one JSON object a line')
    if is_ndjson(content_type):
        return _read_lines(text)
    try:
        document = _loads(text)
    except json.JSONDecodeError as exc:
        if exc.msg == "Extra data" and "\n" in text.strip():
            return _read_lines(text)
        raise RequestError(f"not valid JSON: {exc.msg} at line {exc.lineno}, column {exc.colno}") from exc
    except ValueError as exc:
        raise RequestError(f"not valid JSON: {exc}") from exc
    return _items_of(document, key)


def _loads(text: str) -> object:
    try:
        document: object = json.loads(text, parse_int=_parse_int)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    return document


def _parse_int(digits: str) -> int | float:
    """Python refuses to read an integer of over 4300 digits: as a float it is infinite, which its field reports."""
    return int(digits) if len(digits) < 4300 else float(digits)


def _items_of(document: object, key: str) -> list[JsonObject | BadItem]:
    if isinstance(document, dict):
        if key not in document:
            return [document]
        document = document[key]
    if not isinstance(document, list):
        raise RequestError(f"{key} is {_kind(document)}; it must be a list of objects", field=key)
    return [_object_or_reason(item) for item in document]


def _read_lines(text: str) -> list[JsonObject | BadItem]:
    items: list[JsonObject | BadItem] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            items.append(_object_or_reason(_loads(line)))
        except json.JSONDecodeError as exc:
            items.append(BadItem(f"line {number} is not valid JSON: {exc.msg} at column {exc.colno}"))
        except ValueError as exc:
            items.append(BadItem(f"line {number} is not valid JSON: {exc}"))
    return items


def _object_or_reason(item: object) -> JsonObject | BadItem:
    return item if isinstance(item, dict) else BadItem(f"is {_kind(item)}; it must be an object")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
