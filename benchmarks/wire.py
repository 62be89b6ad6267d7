"""One HTTP head through our parsers, and through h11 and httptools (llhttp in C, callbacks in Python).

Ours gives more than theirs: the bytes to forward, without what is hop-by-hop, and the values that routing needs. The
column "general" is our strict parser without the fast path, which takes whatever the fast path leaves. CPU time,
medians of alternating rounds.

    python -m benchmarks.wire [--rounds 15]
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections.abc import Callable

import h11
import httptools

from fairtrial.wire.chunks import ChunkDecoder
from fairtrial.wire.limits import Limits
from fairtrial.wire.request import RequestParser
from fairtrial.wire.response import ResponseParser

CAPTURE = (b"via", b"x-user-id", b"content-type", b"traceparent")
REQUESTS = {
    4: b"POST /v1/models/churn:predict HTTP/1.1\r\nHost: models.internal:8080\r\nContent-Type: application/json\r\n"
    b"x-user-id: 6b1f6d1e-2f0c-4d5e-9d52-0a5f6f6c3f11\r\nContent-Length: 300\r\n\r\n",
}
REQUESTS[8] = REQUESTS[4][:-2] + (
    b"User-Agent: python-requests/2.32.3\r\nAccept-Encoding: gzip, deflate\r\nAccept: */*\r\n"
    b"Connection: keep-alive\r\n\r\n"
)
REQUESTS[13] = REQUESTS[8][:-2] + (
    b"Authorization: Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N\r\n"
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nX-Forwarded-For: 10.0.0.1\r\n"
    b"X-Request-Id: 0af7651916cd43dd8448eb211c80319c\r\nCookie: theme=dark; session=0af7651916cd43dd84\r\n\r\n"
)
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nServer: uvicorn\r\nContent-Length: 120\r\n"
    b"Content-Type: application/json\r\n\r\n"
)
CLOSING = RESPONSE[:-2] + b"Connection: close\r\n\r\n"
EVENT = b"aa\r\n" + b"x" * 170 + b"\r\n"
LARGE = b"4000\r\n" + b"x" * 16384 + b"\r\n"


class Collector:
    """What a proxy on httptools has to do at least: keep the fields."""

    def __init__(self) -> None:
        self.url = b""
        self.fields: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        pass


def by_httptools(data: bytes) -> list[tuple[bytes, bytes]]:
    collector = Collector()
    parser = httptools.HttpRequestParser(collector)
    parser.feed_data(data)
    parser.get_method()
    return collector.fields


def response_by_httptools(data: bytes) -> int:
    collector = Collector()
    parser = httptools.HttpResponseParser(collector)
    parser.feed_data(data)
    return parser.get_status_code()


def by_h11(data: bytes) -> h11.Event:
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(data)
    return reader.next_event()


class H11Response:
    """h11 must be told of the request first; only reading the response is timed."""

    def __init__(self, rounds: int) -> None:
        self.ready = []
        for _ in range(rounds):
            reader = h11.Connection(h11.CLIENT)
            reader.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
            reader.send(h11.EndOfMessage())
            self.ready.append(reader)

    def __call__(self, data: bytes) -> h11.Event:
        reader = self.ready.pop()
        reader.receive_data(data)
        return reader.next_event()


def chunks_by_httptools() -> Callable[[bytes], None]:
    parser = httptools.HttpResponseParser(Collector())
    parser.feed_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    return parser.feed_data


def chunks_by_h11() -> Callable[[bytes], None]:
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    reader.next_event()

    def feed(piece: bytes) -> None:
        reader.receive_data(piece)
        while reader.next_event() is not h11.NEED_DATA:
            pass

    return feed


def microseconds(call: Callable[[bytes], object], data: bytes, times: int) -> float:
    started = time.thread_time()
    for _ in range(times):
        call(data)
    return (time.thread_time() - started) / times * 1e6


def general(parser: RequestParser | ResponseParser) -> RequestParser | ResponseParser:
    parser._match = re.compile(b"(?!)").match
    return parser


def rows(rounds: int) -> list[tuple[str, list[float | None]]]:
    """Medians over alternating rounds: ours, ours without the fast path, httptools, h11."""
    limits = Limits()
    fast, slow = RequestParser(limits, CAPTURE), general(RequestParser(limits, CAPTURE))
    answers, slow_answers = ResponseParser(limits), general(ResponseParser(limits))

    def read(parser: ResponseParser) -> Callable[[bytes], object]:
        return lambda data: parser.parse(data, method=b"POST")

    cases = [
        (f"request head, {count} fields, {len(data)} B", data, [fast.parse, slow.parse, by_httptools, by_h11])
        for count, data in REQUESTS.items()
    ]
    for name, data in (("response head, 4 fields", RESPONSE), ("response head, `Connection: close`", CLOSING)):
        cases.append((name, data, [read(answers), read(slow_answers), response_by_httptools, None]))
    for name, data in (("chunk of 170 B", EVENT), ("chunk of 16 KiB", LARGE)):
        cases.append((name, data, [ChunkDecoder(limits).feed, None, chunks_by_httptools(), chunks_by_h11()]))
    table = []
    for name, data, calls in cases:
        taken: list[list[float]] = [[] for _ in calls]
        for _ in range(rounds):
            for index, call in enumerate(calls):
                times = 100 if index == 3 else 1000
                if call is not None:
                    taken[index].append(microseconds(call, data, times))
                elif index == 3:
                    taken[index].append(microseconds(H11Response(times), data, times))
        table.append((name, [statistics.median(each) if each else None for each in taken]))
    return table


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args(argv).rounds
    print("## HTTP parsers, microseconds\n")
    print(f"| | fairtrial | general | httptools {httptools.__version__} | h11 {h11.__version__} |")
    print("|---|---:|---:|---:|---:|")
    for name, figures in rows(rounds):
        print(f"| {name} | " + " | ".join("" if each is None else f"{each:.2f}" for each in figures) + " |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
