"""A request whose body must be read before it can be routed, or changed before it can be sent.

Only here is a body held whole, up to MAX_JSON_BYTES. A longer one is not an error: the request goes to the stable model
as it is, unenrolled where the unit stands in the body, and the rest of it is streamed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from fairtrial.model.experiment import JsonValue
from fairtrial.router.plan import Decision, EndpointPlan
from fairtrial.router.view import BODY_NOT_JSON, BODY_TOO_LARGE, MAX_JSON_BYTES, RequestView
from fairtrial.wire.mergepatch import merge_patch
from fairtrial.wire.render import chunk
from fairtrial.wire.request import RequestHead

if TYPE_CHECKING:
    from fairtrial.router.table import RouteTable

_FRAMING: Final = re.compile(rb"\r\n(?:content-length|transfer-encoding):[^\r\n]*", re.IGNORECASE)


def with_length(head: bytes, length: int) -> bytes:
    """The head, framed by Content-Length. head: lines that each end in CRLF."""
    return b"%bContent-Length: %d\r\n" % (_FRAMING.sub(b"", head), length)


def patched(head: bytes, body: bytes, patch: JsonValue) -> tuple[bytes, bytes]:
    """The request with the variant's merge patch (RFC 7396) applied to its JSON body. body: known to be JSON."""
    changed = msgspec.json.encode(merge_patch(msgspec.json.decode(body), patch))
    return with_length(head, len(changed)), changed


class Collector:
    """plans: endpoints that may take the request. decision: already made where only the variant's patch needs the body.

    started_ns: when the head was read. idle_ticks: longest silence.
    """

    __slots__ = ("_decision", "_pieces", "_size", "head", "idle_ticks", "plans", "started_ns", "view")

    def __init__(
        self,
        head: RequestHead,
        plans: tuple[EndpointPlan, ...],
        view: RequestView,
        decision: Decision | None,
        started_ns: int,
    ) -> None:
        self.head = head
        self.plans = plans
        self.view = view
        self.started_ns = started_ns
        self.idle_ticks = 1
        self._decision = decision
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> bool:
        """Keep `data`; True where the body is now too long to be read."""
        self._pieces.append(data)
        self._size += len(data)
        return self._size > MAX_JSON_BYTES

    def decide(self, table: RouteTable, *, is_whole: bool) -> tuple[EndpointPlan, Decision]:
        """Route by what was collected; called once. Raises WireError."""
        view = self.view
        payload = b"".join(self._pieces)
        self._pieces = [payload]
        if is_whole and self._size <= MAX_JSON_BYTES:
            view.read_body(payload)
        else:
            view.why_missing = BODY_TOO_LARGE
        if self._decision is not None:
            endpoint, decision = self.plans[0], self._decision
        else:
            endpoint, decision = table.decide(self.plans, view)
        if decision.arm.patch is not None and not view.has_document:
            reason = BODY_NOT_JSON if is_whole else BODY_TOO_LARGE
            decision = msgspec.structs.replace(decision, unfit=reason)
        return endpoint, decision

    def framed_head(self, *, is_whole: bool) -> bytes:
        """The head to forward: a whole body has a length; one that goes on keeps its framing."""
        if is_whole and self.head.is_chunked:
            return with_length(self.head.head, self._size)
        return self.head.head

    def framed_body(self, *, is_whole: bool) -> bytes:
        """What was collected, framed as `framed_head` says."""
        payload = self._pieces[0]
        return chunk(payload) if self.head.is_chunked and not is_whole else payload
