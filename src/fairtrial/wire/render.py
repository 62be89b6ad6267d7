"""Messages that we write ourselves: errors as problem documents, chunks, 100 Continue."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import msgspec

LAST_CHUNK: Final = b"0\r\n\r\n"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
ALLOWED_METHODS: Final = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_TITLES: Final = {
    **{status.value: status.phrase for status in HTTPStatus},
    413: "Content Too Large",  # RFC 9110; older Pythons say it as RFC 2616 did
    414: "URI Too Long",
    422: "Unprocessable Content",
}


class Problem(msgspec.Struct, omit_defaults=True):
    """RFC 9457. The type is always `about:blank`, which is what leaving it out means."""

    title: str
    status: int
    detail: str
    request_id: str = ""


def reason_phrase(status: int) -> str:
    """What RFC 9110 calls the status; `Unknown` for one it does not know."""
    return _TITLES.get(status, "Unknown")


def chunk(data: bytes) -> bytes:
    """`data` as one chunk (RFC 9112, 7.1). An empty one would end the body, so nothing becomes nothing."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def response(
    status: int,
    body: bytes,
    *,
    content_type: str = "text/plain; charset=utf-8",
    fields: bytes = b"",
    is_head: bool = False,
    keep_alive: bool = True,
) -> bytes:
    """A whole response. fields: more header lines, each with its CRLF. is_head: leave the body out, as HEAD asks."""
    head = (
        f"HTTP/1.1 {status} {reason_phrase(status)}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    )
    connection = b"" if keep_alive else b"Connection: close\r\n"
    return b"%b%b%b\r\n%b" % (head.encode("latin-1"), fields, connection, b"" if is_head else body)


def error_response(
    status: int, reason: str, *, request_id: bytes = b"", fields: bytes = b"", is_head: bool = False
) -> bytes:
    """An error as `application/problem+json` (RFC 9457) that closes the connection.

    status: 400 to 599. reason: one sentence for the caller. request_id: echoed in the document. fields: more header
    lines, each with its CRLF. A 405 carries Allow, as RFC 9110, 15.5.6 asks.
    """
    problem = Problem(reason_phrase(status), status, reason, request_id.decode("ascii", "replace"))
    if status == 405:
        fields += b"Allow: " + ALLOWED_METHODS + b"\r\n"
    return response(
        status,
        msgspec.json.encode(problem),
        content_type="application/problem+json",
        fields=fields,
        is_head=is_head,
        keep_alive=False,
    )
