"""One value in a JSON document, by a dotted path: `user.id`, `instances.0.user`."""

from __future__ import annotations

from fairtrial.model.experiment import JsonValue


def json_text(document: JsonValue, path: str) -> str | None:
    """The scalar at `path` as text; None where there is none.

    path: member names and, inside lists, indexes in decimal digits, joined by dots; a name that has a dot in it cannot
    be reached. A string is itself, a whole number its decimal digits, true and false those words. Null, objects and
    lists are no scalar, and a fractional number is not one text but many (`1.0`, `1e0`): none of them names a unit.
    """
    value = document
    for name in path.split("."):
        if isinstance(value, dict):
            if name not in value:
                return None
            value = value[name]
        elif (
            isinstance(value, list) and name.isascii() and name.isdigit() and len(name) < 10 and int(name) < len(value)
        ):
            value = value[int(name)]
        else:
            return None
    return _text(value)


def _text(value: JsonValue) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else None
