"""What routing may look at in one request: captured headers, the target, cookies, the query, the JSON body."""

from __future__ import annotations

from typing import Final

import msgspec

from fairtrial.model.experiment import JsonValue

# A body longer than this is not read into memory to find a unit or a model name in it.
MAX_JSON_BYTES: Final = 1 << 20

NO_UNIT: Final = "no_unit"
BODY_TOO_LARGE: Final = "body_too_large"
BODY_NOT_JSON: Final = "body_not_json"


class RequestView:
    """captured: values of the table's captured headers. host: lower case, without port. document: the JSON body.

    has_document: the body was read and is JSON. why_missing: reason counted when a unit is not there.
    """

    __slots__ = ("at_us", "captured", "document", "has_document", "host", "request_id", "target", "why_missing")

    def __init__(
        self, captured: tuple[bytes | None, ...], target: bytes, *, host: bytes, request_id: bytes, at_us: int
    ) -> None:
        self.captured = captured
        self.host = host
        self.target = target
        self.request_id = request_id
        self.at_us = at_us
        self.document: JsonValue = None
        self.has_document = False
        self.why_missing = NO_UNIT

    def read_body(self, body: bytes) -> None:
        """Parse the whole JSON body; another kind of body leaves `has_document` False."""
        try:
            self.document = msgspec.json.decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            self.why_missing = BODY_NOT_JSON
        else:
            self.has_document = True


def header_text(value: bytes | None) -> str | None:
    """A header value as text: UTF-8, other bytes kept as surrogates so that they hash to what they were."""
    return value.decode("utf-8", "surrogateescape") if value is not None else None
