"""What a request target says: its path, where a prefix of it ends, one query parameter.

Targets are taken as they came: nothing is normalised, since the model would not see it so.
"""

from __future__ import annotations

import re
from typing import Final

from fairtrial.wire.errors import WireError

# A prefix ends where a path segment, a verb (`/v1/models/churn:predict`) or the path does.
BOUNDARIES: Final = (b"", b"/", b":", b"?")
_ESCAPE: Final = re.compile(b"%([0-9A-Fa-f][0-9A-Fa-f])")
_DOT_SEGMENT: Final = re.compile(rb"(?:/|%2[fF]|\\|%5[cC])(?:\.|%2[eE]){1,2}(?=/|%2[fF]|\\|%5[cC]|;|\?|\Z)")


def path_of(target: bytes) -> bytes:
    """The target without its query."""
    return target.partition(b"?")[0]


def has_dot_segment(target: bytes) -> bool:
    """True where the path has a `.` or `..` segment, also an escaped one: its prefix does not say where it leads."""
    return _DOT_SEGMENT.search(path_of(target)) is not None


def matches_prefix(target: bytes, prefix: bytes) -> bool:
    """True where `prefix` is the target's path or a leading part of it that ends at `/`, `:`, `?` or the end."""
    if not target.startswith(prefix):
        return False
    return prefix.endswith(b"/") or target[len(prefix) : len(prefix) + 1] in BOUNDARIES


def replace_prefix(target: bytes, prefix: bytes, path: bytes) -> bytes:
    """`target` with `path` in the place of `prefix`, which matches it. A `/` at the end of either does not count."""
    rest = target[len(prefix.rstrip(b"/")) :]
    result = path.rstrip(b"/") + rest
    return result if result.startswith(b"/") else b"/" + result


def percent_decoded(text: bytes) -> bytes:
    """Query text as bytes: `+` is a space, `%41` is `A`, a `%` that begins no escape is itself."""
    text = text.replace(b"+", b" ")
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), text) if b"%" in text else text


def query_value(target: bytes, name: bytes) -> bytes | None:
    """The value of the query parameter `name`, decoded; None without one.

    name: decoded, case matters. `name` alone has an empty value. Raises WireError 400 for two different values: which
    one is the unit is a guess.
    """
    query = target.partition(b"?")[2]
    found: bytes | None = None
    for pair in query.split(b"&"):
        key, _, value = pair.partition(b"=")
        if not pair or percent_decoded(key) != name:
            continue
        decoded = percent_decoded(value)
        if found is not None and found != decoded:
            raise WireError(400, f"two values for query parameter {name.decode('utf-8', 'replace')}")
        found = decoded
    return found
