# ruff: noqa: D102 - `Kind` says what read, schema, allowed and inner are
"""Sections: mappings whose keys are declared, each key once, with its kind, meaning, default and an example."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from fairtrial.model.kinds import JsonObject, Kind
from fairtrial.model.report import Place
from fairtrial.model.tree import MapNode, Mark, Node, shown

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Key(Generic[T_co]):
    """One key of a section. doc: what it means. default: what holds without it, for people. example: for the fix."""

    name: str
    kind: Kind[T_co]
    doc: str
    default: str = ""
    example: str = ""
    is_required: bool = False


class Section(Kind[T_co]):
    """A mapping of declared keys. name: unique, for the schema. build: makes the value; it runs on broken input too."""

    def __init__(
        self, name: str, doc: str, keys: tuple[Key[object], ...], build: Callable[[Fields], T_co | None]
    ) -> None:
        self.name = name
        self.doc = doc
        self.keys = keys
        self._build = build

    def read(self, node: Node, place: Place) -> T_co | None:
        if not isinstance(node, MapNode):
            names = ", ".join(key.name for key in self.keys)
            place.error(
                node,
                f"found {shown(node)}; allowed: a mapping with the keys {names}",
                f"write `{self.keys[0].name}: ...` below it",
            )
            return None
        return self._build(Fields(self, node, place))

    def schema(self) -> JsonObject:
        return {"$ref": f"#/$defs/{self.name}"}

    def definition(self) -> JsonObject:
        """The schema that `schema()` refers to."""
        properties: JsonObject = {}
        for key in self.keys:
            described: JsonObject = {"description": key.doc + (f" Default: {key.default}." if key.default else "")}
            properties[key.name] = key.kind.schema() | described
        definition: JsonObject = {
            "type": "object",
            "description": self.doc,
            "properties": properties,
            "additionalProperties": False,
        }
        required = [key.name for key in self.keys if key.is_required]
        return definition | {"required": list(required)} if required else definition

    def allowed(self) -> str:
        return f"[{self.name}](#{self.name})"

    def inner(self) -> Iterator[Kind[object]]:
        return (key.kind for key in self.keys)


class Fields:
    """What one mapping says, key by key, unknown and missing keys reported."""

    def __init__(self, section: Section[object], node: MapNode, place: Place) -> None:
        self.node = node
        self.place = place
        self._nodes: dict[str, tuple[Mark, Node]] = {}
        self._values: dict[str, object] = {}
        names = tuple(key.name for key in section.keys)
        for key, item in node.items:
            if key.text in names:
                self._nodes[key.text] = (key.mark, item)
            else:
                close = place.report.nearest(key.text, names)
                fix = f"did you mean `{close}`?" if close else "remove it"
                place.child(key.text).error(key, f"unknown key `{key.text[:60]}`; allowed: {', '.join(names)}", fix)
        for declared in section.keys:
            self._read(declared)

    def _read(self, key: Key[object]) -> None:
        if key.name in self._nodes:
            value = key.kind.read(self._nodes[key.name][1], self.place.child(key.name))
            if value is not None:
                self._values[key.name] = value
        elif key.is_required:
            fix = f"add `{key.name}: {key.example}`" if key.example else f"add `{key.name}`"
            self.place.error(self.node, f"`{key.name}` is missing: {key.doc[:1].lower()}{key.doc[1:].rstrip('.')}", fix)

    @property
    def name(self) -> str:
        """The name under which the mapping stands."""
        return self.place.name

    def get(self, key: Key[T], default: T) -> T:
        """The key's value; `default` where it is absent or broken (and reported)."""
        return cast("T", self._values.get(key.name, default))

    def find(self, key: Key[T]) -> T | None:
        """The key's value; None where it is absent or broken (and reported)."""
        return cast("T | None", self._values.get(key.name))

    def has(self, key: Key[object]) -> bool:
        """True where the key is written, broken or not."""
        return key.name in self._nodes

    def value_node(self, key: Key[object]) -> Node:
        """The key's value as it stands in the file; the whole mapping where it is absent."""
        return self._nodes[key.name][1] if key.name in self._nodes else self.node

    def error(self, key: Key[object], message: str, fix: str) -> None:
        """Report a mistake at a key's value, or at the mapping where the key is absent."""
        place = self.place.child(key.name) if self.has(key) else self.place
        place.error(self.value_node(key), message, fix)

    def warn(self, key: Key[object], message: str, fix: str) -> None:
        """Report a doubt at a key's value, or at the mapping where the key is absent."""
        place = self.place.child(key.name) if self.has(key) else self.place
        place.warn(self.value_node(key), message, fix)

    def only(self, keys: tuple[Key[object], ...], reason: str) -> None:
        """Report every one of `keys` that is written: it has no meaning here, because of `reason`."""
        for key in keys:
            if self.has(key):
                self.error(key, f"`{key.name}` has no meaning here: {reason}", "remove it")
