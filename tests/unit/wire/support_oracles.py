"""What h11 and httptools (llhttp) make of the same bytes, and what has to be true of ours and theirs together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import h11
import httptools
from tests.unit.wire.support_wire import CAPTURE, Message, Outcome, general_parser, read_request, read_response

from fairtrial.wire.limits import Limits
from fairtrial.wire.request import RequestParser
from fairtrial.wire.response import Framing, ResponseParser

LIMITS = Limits(max_head_bytes=4096, max_body_bytes=1 << 20)
FAST = RequestParser(LIMITS, CAPTURE)
GENERAL = general_parser(LIMITS)
RESPONSES = ResponseParser(LIMITS)
NEXT_TARGET = b"/the-next-request"
NEXT = b"GET " + NEXT_TARGET + b" HTTP/1.1\r\nHost: next\r\n\r\n"
MEANING = ("method", "target", "host", "content_length", "is_chunked")


@dataclass(frozen=True)
class Read:
    """One request as somebody understood it. body: payload. targets: of all requests read."""

    method: bytes
    body: bytes
    targets: tuple[bytes, ...]


def read_by_h11(data: bytes) -> Read | None:
    """None where h11 refuses, or waits for more."""
    reader = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    method = b""
    body = b""
    targets: list[bytes] = []
    finished = 0
    try:
        reader.receive_data(data)
        while True:
            event = reader.next_event()
            if isinstance(event, h11.Request):
                targets.append(event.target)
                method = method or event.method
            elif isinstance(event, h11.Data):
                body += event.data if len(targets) == 1 else b""
            elif isinstance(event, h11.EndOfMessage):
                finished += 1
                reader.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                reader.send(h11.EndOfMessage())
                if reader.states[h11.CLIENT] is not h11.DONE or reader.states[h11.SERVER] is not h11.DONE:
                    break
                reader.start_next_cycle()
            else:
                break
    except h11.ProtocolError:
        return None
    return Read(method, body, tuple(targets)) if targets and finished == len(targets) else None


class _Collector:
    def __init__(self) -> None:
        self.body = b""
        self.targets: list[bytes] = []
        self.finished = 0
        self.method = b""

    def on_url(self, url: bytes) -> None:
        if len(self.targets) == self.finished:
            self.targets.append(url)
        else:
            self.targets[-1] += url

    def on_body(self, body: bytes) -> None:
        if self.finished == 0:
            self.body += body

    def on_headers_complete(self) -> None:
        self.method = self.method or self.parser.get_method()

    def on_message_complete(self) -> None:
        self.finished += 1

    parser: httptools.HttpRequestParser


def read_by_llhttp(data: bytes) -> Read | None:
    """None where llhttp refuses, or waits for more."""
    collector = _Collector()
    collector.parser = httptools.HttpRequestParser(collector)
    try:
        collector.parser.feed_data(data)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    if not collector.finished or collector.finished != len(collector.targets):
        return None
    return Read(collector.method, collector.body, tuple(collector.targets))


def request_faults(data: bytes, segments: Sequence[bytes]) -> list[str]:
    """What is wrong with our reading of `data`: empty where it has one meaning, to us and to both others.

    segments: `data` in other pieces.
    """
    ours = read_request((data,), FAST, LIMITS)
    faults = []
    if read_request(segments, FAST, LIMITS) != ours:
        faults.append("another outcome in other pieces")
    general = read_request((data,), GENERAL, LIMITS)
    if not _same_meaning(ours, general):
        faults.append(f"the fast path says {ours}, the general parser {general}")
    if isinstance(ours, Message):
        faults += _forwarding_faults(data, ours)
        # Without the empty lines before it (RFC 9112, 2.2), which h11 refuses.
        taken = data[: len(data) - len(ours.rest)].lstrip(b"\r\n")
        if not is_lenient_on_purpose(taken) and read_by_h11(taken) is None and read_by_llhttp(taken) is None:
            faults.append("taken by us alone")
    return faults


def _same_meaning(one: Outcome, other: Outcome) -> bool:
    if not isinstance(one, Message) or not isinstance(other, Message):
        return one == other
    names = (*MEANING, "size", "keep_alive", "expects_continue", "is_http10")
    return (one.body, one.rest) == (other.body, other.rest) and all(
        one.head[name] == other.head[name] for name in names
    )


def _forwarding_faults(data: bytes, ours: Message) -> list[str]:
    """Read what we forward again: everybody must see the one request we saw, and then the next one."""
    forwarded = ours.head["head"] + b"\r\n" + ours.body
    faults = []
    again = read_request((forwarded + NEXT,), FAST, LIMITS)
    names = [name for name in MEANING if not (name == "host" and ours.head["host"] is None)]
    if (
        not isinstance(again, Message)
        or any(again.head[name] != ours.head[name] for name in names)
        or (again.body, again.rest) != (ours.body, NEXT)
        or not again.head["keep_alive"]
    ):
        faults.append(f"we read {forwarded!r} as {again}")
    payload = read_request((data,), FAST, LIMITS, raw=False)
    assert isinstance(payload, Message)
    wanted = Read(ours.head["method"], payload.body, (ours.head["target"], NEXT_TARGET))
    if (theirs := read_by_h11(forwarded + NEXT)) != wanted:
        faults.append(f"h11 reads {forwarded!r} as {theirs}")
    theirs = read_by_llhttp(forwarded + NEXT)
    # llhttp knows a fixed list of methods, and takes no other body or target than we do.
    if theirs != wanted and not (theirs is None and is_strange_to_llhttp(ours.head)):
        faults.append(f"llhttp reads {forwarded!r} as {theirs}")
    return faults


LLHTTP_METHODS: frozenset[bytes] = frozenset(
    b"DELETE GET HEAD POST PUT OPTIONS COPY LOCK MKCOL MOVE PROPFIND PROPPATCH SEARCH UNLOCK BIND REBIND UNBIND ACL "
    b"REPORT MKACTIVITY CHECKOUT MERGE M-SEARCH NOTIFY SUBSCRIBE UNSUBSCRIBE PATCH PURGE MKCALENDAR LINK UNLINK "
    b"QUERY".split()
)


def is_strange_to_llhttp(head: dict[str, object]) -> bool:
    """True where llhttp refuses the method for not being on its list."""
    return head["method"] not in LLHTTP_METHODS


# All that we take and both others may refuse, and why it is safe to.
_LENIENT = (
    # White space around `;` and `=` of a chunk extension (BWS, RFC 9112, 7.1.1): the extension is dropped.
    re.compile(rb"\r\n[0-9A-Fa-f]+[ \t]*;"),
    # A framing field in the trailer section (RFC 9110, 6.5.1): the trailers are dropped.
    re.compile(rb"\r\n0+\r(?s:.*)(?i:\n(?:transfer-encoding|content-length|host):)"),
)


def is_lenient_on_purpose(data: bytes) -> bool:
    """True where `data` holds something that we normalise although both others may refuse it."""
    return any(pattern.search(data) for pattern in _LENIENT)


def response_faults(data: bytes, segments: Sequence[bytes], method: bytes) -> list[str]:
    """The same for an answer: what we relay must read the same way again, also for h11."""
    ours = read_response((data,), RESPONSES, LIMITS, method)
    faults = []
    if read_response(segments, RESPONSES, LIMITS, method) != ours:
        faults.append("another outcome in other pieces")
    if not isinstance(ours, Message) or ours.head["is_informational"]:
        return faults
    head = ours.head["head"] + (b"Connection: close\r\n" if ours.head["framing"] is Framing.UNTIL_CLOSE else b"")
    relayed = head + b"\r\n" + ours.body
    again = read_response((relayed,), RESPONSES, LIMITS, method)
    if (
        not isinstance(again, Message)
        or again.head["status"] != ours.head["status"]
        or again.head["framing"] is not ours.head["framing"]
        or (again.body, again.rest) != (ours.body, b"")
    ):
        faults.append(f"we read {relayed!r} as {again}")
    if not _h11_takes_answer(relayed, method):
        faults.append(f"h11 does not read {relayed!r}")
    return faults


def _h11_takes_answer(data: bytes, method: bytes) -> bool:
    reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    reader.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
    reader.send(h11.EndOfMessage())
    try:
        reader.receive_data(data)
        reader.receive_data(b"")
        while not isinstance(event := reader.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.ConnectionClosed):
                return False
    except h11.ProtocolError:
        return False
    return not reader.trailing_data[0]
