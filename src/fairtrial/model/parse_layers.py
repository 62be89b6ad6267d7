# ruff: noqa: D102 - `Kind` says what read, schema, allowed and inner are
"""Layers: experiments of one layer never share a unit, because each holds a slice [from, to) of the layer's numbers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from fairtrial.model.experiment import LayerSlice
from fairtrial.model.kinds import NAME_PATTERN, JsonObject, Kind, name_kind
from fairtrial.model.parse_values import SHARE
from fairtrial.model.report import Place
from fairtrial.model.sections import Fields, Key, Section
from fairtrial.model.tree import MapNode, Mark, Node

SALT_ENDINGS: Final = (".layer", ".holdout")


@dataclass(frozen=True, slots=True)
class LayerWish:
    """What an experiment asks of a layer: a slice of its own, or (None) an equal part of what is free."""

    name: str
    bounds: tuple[float, float] | None
    place: Place
    mark: Mark


_NAME: Final = name_kind("a layer's name")
NAME = Key("name", _NAME, "The layer.", example="churn", is_required=True)
FROM = Key("from", SHARE, "Where the slice begins, inclusive.", example="0%", is_required=True)
TO = Key("to", SHARE, "Where the slice ends, exclusive.", example="50%", is_required=True)


def _build_slice(fields: Fields) -> LayerWish:
    low, high = fields.get(FROM, 0.0), fields.get(TO, 1.0)
    if high <= low:
        fields.error(TO, "the slice is empty: `to` is not above `from`", "make `to` larger")
    return LayerWish(fields.get(NAME, ""), (low, high), fields.place, fields.node.mark)


SLICE: Final = Section("layer", "A slice of a layer that stays where it is.", (NAME, FROM, TO), _build_slice)


class LayerKind(Kind[LayerWish]):
    """A layer's name, or a slice of it."""

    def read(self, node: Node, place: Place) -> LayerWish | None:
        if isinstance(node, MapNode):
            return SLICE.read(node, place)
        name = _NAME.read(node, place)
        return None if name is None else LayerWish(name, None, place, node.mark)

    def schema(self) -> JsonObject:
        return {"anyOf": [{"type": "string", "pattern": NAME_PATTERN}, SLICE.schema()]}

    def allowed(self) -> str:
        return f"a layer's name (an equal part of its free space), or {SLICE.allowed()}"

    def inner(self) -> Iterator[Kind[object]]:
        yield SLICE


LAYER: Final = LayerKind()


def settle(wishes: Sequence[LayerWish | None]) -> list[LayerSlice | None]:
    """One slice per wish, none overlapping within a layer; overlaps and full layers are reported.

    Pinned slices stay. The others share the free space equally, in order, each in one piece: where pinned slices have
    broken the free space up, the pieces are the largest equal ones that fit.
    """
    slices: list[LayerSlice | None] = [None] * len(wishes)
    for layer in dict.fromkeys(wish.name for wish in wishes if wish is not None):
        members = [(index, wish) for index, wish in enumerate(wishes) if wish is not None and wish.name == layer]
        pinned = [(index, wish, wish.bounds) for index, wish in members if wish.bounds is not None]
        _check_overlaps([(wish, bounds) for _, wish, bounds in pinned])
        for index, _, (low, high) in pinned:
            slices[index] = LayerSlice(layer, low, high)
        short = [(index, wish) for index, wish in members if wish.bounds is None]
        pieces = equal_pieces(_free([bounds for _, _, bounds in pinned]), len(short))
        for (index, _), (start, end) in zip(short, pieces, strict=False):
            slices[index] = LayerSlice(layer, float(start), float(end))
        for _, wish in short[len(pieces) :]:
            fix = "shrink a pinned slice, or use another layer"
            wish.place.error(wish.mark, f"layer `{layer}` has no free space left", fix)
    return slices


def _check_overlaps(pinned: list[tuple[LayerWish, tuple[float, float]]]) -> None:
    for index, (wish, (low, high)) in enumerate(pinned):
        for other, (other_low, other_high) in pinned[:index]:
            if low < other_high and other_low < high:
                owner = other.place.path.split("/")[1]
                theirs = f"{other_low:g} to {other_high:g} of `{owner}`"
                message = f"slice {low:g} to {high:g} of layer `{wish.name}` overlaps {theirs}"
                wish.place.error(wish.mark, message, "move one of them")


def _free(pinned: list[tuple[float, float]]) -> list[tuple[Fraction, Fraction]]:
    """Gaps between pinned slices, in order."""
    gaps: list[tuple[Fraction, Fraction]] = []
    at = Fraction(0)
    for low, high in sorted(pinned):
        if Fraction(low) > at:
            gaps.append((at, Fraction(low)))
        at = max(at, Fraction(high))
    return [*gaps, (at, Fraction(1))] if at < 1 else gaps


def equal_pieces(gaps: list[tuple[Fraction, Fraction]], count: int) -> list[tuple[Fraction, Fraction]]:
    """`count` pieces of one size, the largest for which so many fit into the gaps; none if there is no gap."""
    if not gaps or not count:
        return []
    # The largest size makes some gap an exact multiple of it; the smaller the size, the more pieces fit.
    sizes = sorted({(high - low) / parts for low, high in gaps for parts in range(1, count + 1)})
    too_large = bisect_right(sizes, -count, key=lambda size: -sum((high - low) // size for low, high in gaps))
    size = sizes[too_large - 1]
    pieces = [
        (low + size * part, low + size * (part + 1)) for low, high in gaps for part in range((high - low) // size)
    ]
    return pieces[:count]
