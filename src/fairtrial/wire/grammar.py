"""The grammar of RFC 9110 and RFC 9112 as pieces of regular expressions over bytes.

The fast paths and the general parsers are built from the same pieces, so there is one dialect. Every repetition is
possessive (`*+`): matching is linear in the input whatever it holds. Letters are spelt out in both cases: IGNORECASE
costs the literal prefixes that make `re` fast, and on bytes it would not be safer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

# RFC 9110, 5.6.2: tchar, ready to stand inside [...].
TOKEN_CHARACTERS: Final = rb"!#$%&'*+\-.^_`|~0-9A-Za-z"
TOKEN: Final = b"[" + TOKEN_CHARACTERS + b"]"
# RFC 9110, 5.5: field-content; no control character but HTAB, and obs-text as it is.
VALUE: Final = rb"[\t\x20-\x7e\x80-\xff]*+"
SPACES: Final = rb"[ \t]*+"
# RFC 3986, 3.2.2: reg-name and IP-literal, not empty (RFC 9110, 4.2.1), and a port. No userinfo (RFC 9110, 4.2.4).
# A percent sign is left to HOST; IPvFuture and zone ids are refused.
PLAIN_HOST: Final = rb"(?:[A-Za-z0-9.\-_~!$&'()*+,;=]++|\[[0-9A-Fa-f:.]++\])(?::[0-9]{0,5}+)?"
HOST: Final = rb"(?:(?:[A-Za-z0-9.\-_~!$&'()*+,;=]|%[0-9A-Fa-f][0-9A-Fa-f])++|\[[0-9A-Fa-f:.]++\])(?::[0-9]{0,5}+)?"
# Visible ASCII without `#` (a fragment is never sent) and `\` (some servers read it as `/`). Wider than RFC 3986:
# browsers and model clients send `|`, `{` and `"` as they are, and everybody forwards them unchanged.
TARGET_CHARACTER: Final = rb"[\x21\x22\x24-\x5b\x5d-\x7e]"
REASON: Final = rb"[\t\x20-\x7e\x80-\xff]*+"
# Fifteen digits: an exact float64, and more than any body. No leading zero: octal to some.
LENGTH: Final = rb"(?:0|[1-9][0-9]{0,14}+)"
QUOTED_STRING: Final = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*+"'

# RFC 9110, 7.6.1 and what is connection-specific by its own definition: never forwarded.
HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# Connection may not name these away: it would change where the message ends or where it goes.
NEVER_NAMED_AWAY: Final = frozenset({b"content-length", b"host", b"transfer-encoding"})

_TOKEN_LIST = re.compile(TOKEN + b"++").fullmatch


def either_case(name: bytes) -> bytes:
    """A pattern that matches `name`, letters in either case."""
    spelt = []
    for code in name:
        letter = bytes([code])
        spelt.append(b"[" + letter.lower() + letter.upper() + b"]" if letter.isalpha() else re.escape(letter))
    return b"".join(spelt)


def any_of(names: Iterable[bytes]) -> bytes:
    """A pattern that matches one of `names`, letters in either case."""
    return b"(?:" + b"|".join(either_case(name) for name in sorted(names)) + b")"


def is_token(text: bytes) -> bool:
    """True where `text` is a token (RFC 9110, 5.6.2)."""
    return _TOKEN_LIST(text) is not None


def first_bytes_outside(names: Iterable[bytes]) -> bytes:
    """A class of the token characters that begin none of `names`, in either case; tried first, it skips look-aheads."""
    taken = {letter for name in names for letter in (name[:1].lower(), name[:1].upper())}
    every = (bytes([code]) for code in range(0x21, 0x7F))
    return b"[" + b"".join(re.escape(each) for each in every if is_token(each) and each not in taken) + b"]"


def list_elements(value: bytes) -> list[bytes]:
    """Elements of a comma-separated field value, lower case, without empty ones (RFC 9110, 5.6.1)."""
    # strip(b" \t"), not strip(): that one takes \v and \f too.
    elements = (element.strip(b" \t").lower() for element in value.split(b","))
    return [element for element in elements if element]
