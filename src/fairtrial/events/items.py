"""One outcome or exposure as sent, and what makes it acceptable. A refusal names the field, what stood there, what may.

The structs serve the fast way in, where msgspec checks the types. `from_object` makes the same struct of a plain JSON
object, with messages for people, and with NaN and Infinity found: JSON has no such numbers, but Python senders write
them.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from typing import Final, TypeVar

import msgspec

from fairtrial.events.bodies import JsonObject, quote

MAX_UNIT_BYTES: Final = 1024
MAX_ID_CHARS: Final = 128
MAX_VALUES: Final = 64
MAX_AHEAD_US: Final = 300 * 1_000_000
EARLIEST_US: Final = 946_684_800 * 1_000_000  # 2000-01-01: before it, a mistake of units or an unset clock
LATEST_SECONDS: Final = 1e11  # the year 5138: a larger number is in milliseconds or microseconds
NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:/-]{0,127}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_PLACE = re.compile(r" - at `\$\.?([A-Za-z_]*)[^`]*`$")
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING_FIELD = re.compile(r"Object missing required field `(.*)`")


class OutcomeItem(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """One outcome as sent: `name`, exactly one of `unit` and `request_id`; the rest has defaults."""

    name: str
    value: float | bool | dict[str, float] = 1.0
    unit: str | int | None = None
    request_id: str | None = None
    at: str | float | None = None
    id: str | None = None


class ExposureItem(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """One exposure as sent."""

    unit: str | int
    experiment: str
    variant: str
    at: str | float | None = None
    id: str | None = None
    epoch: int = 0
    propensity: float = 1.0


Item = TypeVar("Item", OutcomeItem, ExposureItem)


class ItemProblem(Exception):  # noqa: N818 - control flow of the intake, always caught there
    """An item cannot be taken. field: its name, empty for the item as a whole. message: what it is, what it may be."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


def from_object(item: type[Item], fields: JsonObject) -> Item:
    """The struct of a plain JSON object. Raises ItemProblem on a wrong type, an unknown field, NaN or Infinity."""
    for field, value in fields.items():
        _check_numbers(field, value)
    try:
        return msgspec.convert(fields, item)
    except msgspec.ValidationError as exc:
        raise _explain(str(exc), item, fields) from exc


def _check_numbers(field: str, value: object) -> None:
    if isinstance(value, dict):
        for key, number in value.items():
            _check_numbers(f"{field}.{key}", number)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ItemProblem(field, f"is {value}; it must be a finite number")


def _explain(message: str, item: type[Item], fields: JsonObject) -> ItemProblem:
    """Say in our words what msgspec found."""
    allowed = item.__struct_fields__
    if unknown := _UNKNOWN_FIELD.match(message):
        near = get_close_matches(unknown[1], allowed, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"allowed are {', '.join(allowed)}"
        return ItemProblem(unknown[1][:MAX_ID_CHARS], f"is not a field of {_noun(item)}; {hint}")
    if missing := _MISSING_FIELD.match(message):
        return ItemProblem(missing[1], f"is missing; {_noun(item)} needs it")
    place = _PLACE.search(message)
    field = place[1] if place else ""
    wanted = {
        "value": "a finite number, true, false, or an object of finite numbers",
        "unit": "a string of at most 1024 bytes, or an integer",
        "at": "an ISO 8601 string with a zone, or a number of seconds since 1970",
        "epoch": "an integer, 0 or more",
        "propensity": "a number above 0 and at most 1",
    }.get(field, "a string")
    return ItemProblem(field, f"is {quote(fields.get(field))}; it must be {wanted}")


def _noun(item: type[Item]) -> str:
    return "an outcome" if item is OutcomeItem else "an exposure"


def check_name(field: str, name: str) -> None:
    """Raises ItemProblem unless `name` can name a metric's event, an experiment or a variant."""
    if NAME.fullmatch(name) is None:
        raise ItemProblem(
            field, f"is {quote(name)}; allowed are 1 to 128 of A-Z a-z 0-9 . _ : / - (not first: . : / -)"
        )


def check_unit(unit: str | int) -> str:
    """The unit's text: 1 to 1024 bytes of UTF-8; an integer means its decimal digits. Raises ItemProblem."""
    text = unit if isinstance(unit, str) else str(unit)
    if not text:
        raise ItemProblem("unit", "is empty; it must name the unit")
    # A character has at most four bytes: only long texts need the exact count.
    if len(text) > MAX_UNIT_BYTES // 4 and (size := len(text.encode("utf-8", "surrogatepass"))) > MAX_UNIT_BYTES:
        raise ItemProblem("unit", f"has {size} bytes; at most {MAX_UNIT_BYTES} are allowed")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as exc:
            raise ItemProblem("unit", "holds half of a surrogate pair; it must be valid Unicode") from exc
    return text


def check_id(field: str, value: str) -> str:
    """`value` if it has 1 to 128 characters. Raises ItemProblem."""
    if not 0 < len(value) <= MAX_ID_CHARS:
        raise ItemProblem(field, f"has {len(value)} characters; 1 to {MAX_ID_CHARS} are allowed")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as exc:
            raise ItemProblem(field, "holds half of a surrogate pair; it must be valid Unicode") from exc
    return value


def check_at(at: str | float, now_us: int) -> int:
    """Microseconds since 1970 of an instant as sent, from 2000 to five minutes after `now_us`. Raises ItemProblem."""
    if isinstance(at, str):
        at_us = _from_iso(at)
    elif abs(at) > LATEST_SECONDS:
        raise ItemProblem("at", f"is {at:.17g}, which is not seconds since 1970; divide milliseconds or microseconds")
    else:
        at_us = round(at * 1e6)
    if at_us < EARLIEST_US:
        raise ItemProblem("at", f"is {_show(at_us)}; events before 2000-01-01T00:00:00Z are refused")
    if at_us > now_us + MAX_AHEAD_US:
        raise ItemProblem("at", f"is {_show(at_us)}, over 5 minutes ahead of this server's clock ({_show(now_us)})")
    return at_us


def _from_iso(text: str) -> int:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as exc:
        raise ItemProblem("at", f"is {quote(text)}; it must be ISO 8601 with a zone: 2026-01-31T12:00:00Z") from exc
    if instant.tzinfo is None:
        raise ItemProblem("at", f"is {quote(text)}, which has no zone; append Z or +01:00")
    return (instant - _EPOCH) // _MICROSECOND


def _show(at_us: int) -> str:
    try:
        return (_EPOCH + timedelta(microseconds=at_us)).isoformat(timespec="seconds").replace("+00:00", "Z")
    except OverflowError:
        return f"{at_us / 1e6:.0f} seconds since 1970"


def check_values(values: dict[str, float]) -> dict[str, float]:
    """Named numbers: 1 to 64, names as metrics have. Raises ItemProblem."""
    if not 0 < len(values) <= MAX_VALUES:
        raise ItemProblem("value", f"has {len(values)} members; 1 to {MAX_VALUES} are allowed")
    for name in values:
        if NAME.fullmatch(name) is None:
            raise ItemProblem(
                "value", f"has a member named {quote(name)}; allowed are 1 to 128 of A-Z a-z 0-9 . _ : / -"
            )
    return values
