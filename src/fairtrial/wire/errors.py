"""The one error of this room: bytes that are not one unambiguous HTTP/1.1 message."""

from __future__ import annotations

from fairtrial.model.errors import FairtrialError


class WireError(FairtrialError):
    """A message is refused. The connection it came on must be closed: where its end would be is not known.

    status: what to answer (400, 405, 413, 414, 417, 431, 501 or 505 for a request; 502 for a response). reason: one
    short sentence that names the part at fault; it never holds bytes of the message other than field names and tokens.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}"
