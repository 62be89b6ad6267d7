"""One cookie of a Cookie field, read as RFC 6265 asks servers to: leniently."""

from __future__ import annotations


def cookie_value(header: bytes, name: bytes) -> bytes | None:
    """The value of the cookie `name` (case matters), without double quotes around it; None where there is none.

    header: the value of a Cookie field. Of several cookies of one name the first counts: it has the longest path (RFC
    6265, 5.4). What is not `name=value` is passed over.
    """
    if name not in header:
        return None
    for pair in header.split(b";"):
        key, equals, value = pair.partition(b"=")
        if equals and key.strip(b" \t") == name:
            value = value.strip(b" \t")
            is_quoted = len(value) >= 2 and value[:1] == b'"' == value[-1:]
            return value[1:-1] if is_quoted else value
    return None
