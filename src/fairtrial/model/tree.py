"""The experiment file as a tree that remembers where each value stands, whatever it was written in.

`read_yaml`, `read_json` and `from_value` make it; the sections of the schema read it. Limits keep a hostile file from
costing more than seconds: bytes, depth, and nodes counted after aliases are followed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from fairtrial.model.experiment import JsonValue

MAX_FILE_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 64
MAX_NODES: Final = 100_000

# Words that are booleans to YAML 1.1 readers (and to most tools) but text to YAML 1.2 ones: Norway is `NO`.
BOOLEAN_LOOK_ALIKES: Final = {"yes": True, "no": False, "on": True, "off": False}


@dataclass(frozen=True, slots=True)
class Mark:
    """1-based place of a value's first character; zeros where the value never was in a file."""

    line: int = 0
    column: int = 0


@dataclass(frozen=True, slots=True)
class Scalar:
    """value: as read. text: as written, without quotes."""

    mark: Mark
    value: bool | float | str | None
    text: str
    is_quoted: bool = False

    @property
    def is_ambiguous(self) -> bool:
        """True where YAML versions disagree whether this is text or a boolean."""
        return not self.is_quoted and isinstance(self.value, str) and self.text.lower() in BOOLEAN_LOOK_ALIKES


@dataclass(frozen=True, slots=True)
class ListNode:
    """A sequence."""

    mark: Mark
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class MapNode:
    """A mapping with its keys in file order; no key twice."""

    mark: Mark
    items: tuple[tuple[Scalar, Node], ...]


Node = Scalar | ListNode | MapNode


def shown(node: Node) -> str:
    """What was found, in words short enough for an error message."""
    match node:
        case MapNode():
            return "a mapping"
        case ListNode():
            return "a list"
        case Scalar(value=None):
            return "nothing"
        case Scalar(value=str(text)):
            return json.dumps(text if len(text) <= 60 else text[:57] + "...", ensure_ascii=False)
        case Scalar():
            return node.text if len(node.text) <= 60 else node.text[:57] + "..."


def from_value(value: JsonValue) -> Node:
    """Tree of a value that comes from a program, not from a file: places are unknown.

    value: as from `json.loads`, nested no deeper than MAX_DEPTH (the caller's decoder has read it from trusted bytes).
    """
    nowhere = Mark()
    match value:
        case dict():
            return MapNode(
                nowhere,
                tuple((Scalar(nowhere, key, key, is_quoted=True), from_value(item)) for key, item in value.items()),
            )
        case list():
            return ListNode(nowhere, tuple(from_value(item) for item in value))
        case str():
            return Scalar(nowhere, value, value, is_quoted=True)
        case _:
            return Scalar(nowhere, value, json.dumps(value))
