# ruff: noqa: D102 - `Kind` says what read, schema, allowed and inner are
"""Section `split`: how variants divide the enrolled units; the shares must sum to exactly one."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from fairtrial.model.kinds import NAME_PATTERN, JsonObject, Kind, number_of
from fairtrial.model.quantities import SHARE_PATTERN, QuantityError, parse_share, plain
from fairtrial.model.report import Place
from fairtrial.model.tree import MapNode, Node, Scalar, shown

Split = tuple[tuple[str, float], ...]
POLICIES: Final = ("epsilon_greedy", "ucb1", "thompson", "top_two_thompson", "linucb", "linear_thompson")
# Thirds written with ten decimals still sum to one; a mistake that a person makes is larger.
TOLERANCE: Final = Decimal("1e-9")


class SplitKind(Kind[Split]):
    """Shares of the variants, in file order, as parts of 100, of 100% or of 1."""

    def read(self, node: Node, place: Place) -> Split | None:
        if not isinstance(node, MapNode):
            place.error(
                node,
                f"found {shown(node)}; allowed: a mapping of variants to shares",
                "write it like {control: 50, treatment: 50}",
            )
            return None
        if any(
            key.text == "policy" and isinstance(item, Scalar) and isinstance(item.value, str)
            for key, item in node.items
        ):
            message = "adaptive allocation (`policy`) is not available in this version; allowed: fixed shares"
            place.error(node, message, "write it like {control: 50, treatment: 50}")
            return None
        read = [(key, _share(item, place.child(key.text))) for key, item in node.items]
        shares = [(key.text, share) for key, share in read if share is not None]
        if len(shares) < len(read):
            return None
        return _checked(node, shares, place)

    def schema(self) -> JsonObject:
        return {
            "type": "object",
            "propertyNames": {"pattern": NAME_PATTERN},
            "additionalProperties": {
                "anyOf": [
                    {"type": "number", "exclusiveMinimum": 0, "maximum": 100},
                    {"type": "string", "pattern": SHARE_PATTERN},
                ]
            },
            "minProperties": 1,
        }

    def allowed(self) -> str:
        return "mapping of variants to shares that sum to 100, 100% or 1"


def _share(node: Node, place: Place) -> tuple[Decimal, bool] | None:
    """Share as written, and whether it is in percent; None if reported."""
    number = number_of(node)
    if number is not None and 0 < number <= 100:
        return Decimal(repr(number)), False
    if isinstance(node, Scalar) and isinstance(node.value, str):
        try:
            share = parse_share(node.value)
        except QuantityError as exc:
            place.error(node, exc.message, exc.fix)
            return None
        if share > 0:
            return Decimal(repr(share)) * 100, True
    place.error(
        node,
        f"found {shown(node)}; a share is more than 0 and at most 100",
        "leave the variant out of the split, or give it a share",
    )
    return None


def _checked(node: MapNode, shares: list[tuple[str, tuple[Decimal, bool]]], place: Place) -> Split | None:
    percent = {is_percent for _, (_, is_percent) in shares}
    if len(percent) > 1:
        place.error(node, "some shares have a % sign and some do not", "write all of them with %, or none")
        return None
    total = sum((share for _, (share, _) in shares), Decimal(0))
    sign = "%" if percent == {True} else ""
    # Below two, numbers without a sign must be meant as fractions of 1: no percentages sum to so little.
    whole = Decimal(1) if not sign and total < 2 else Decimal(100)
    off = total - whole
    if abs(off) > TOLERANCE * whole or not shares:
        change = f"add {plain(-off)}{sign} to a variant" if off < 0 else f"take {plain(off)}{sign} from a variant"
        if abs(off) > whole / 5 and total:
            # So far off, they are more likely weights than a slip.
            ratio = ", ".join(f"{name}: {plain(round(share * 100 / total, 2))}" for name, (share, _) in shares[:20])
            change += f", or write the same ratio as {{{ratio}}}"
        place.error(node, f"sums to {plain(total)}{sign}; must be {whole}{sign}", change)
        return None
    return tuple((name, float(share / whole)) for name, (share, _) in shares)
