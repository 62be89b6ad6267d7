"""The HTTP corpus against the real router: what reaches a model, what is refused, and nothing poisons what comes next.

The model side is h11, strict and recording, or a socket that sends the bytes of a case. After each case another request
is asked on a fresh connection: its answer must be its own.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import h11
import pytest
from tests.e2e.support_router import running_router
from tests.unit.wire.support_wire import load_cases, sent_bytes

from fairtrial.wire.chunks import ChunkDecoder
from fairtrial.wire.limits import Limits

EXPERIMENT = """
models:
  a: {{url: "http://127.0.0.1:{port}", version: "1"}}
  b: {{url: "http://127.0.0.1:{port}", version: "2"}}
endpoints:
  e: {{match: {{path: /}}, model: a}}
experiments:
  x:
    endpoint: e
    hypothesis: None of this matters here.
    owner: wire
    unit: {{header: x-user-id}}
    variants: {{control: {{model: a}}, treatment: {{model: b}}}}
    split: {{control: 50, treatment: 50}}
    metrics: {{errors: {{role: primary, kind: proportion, of: error, mde: 10%}}}}
"""
TIMEOUT_S = 10.0
# The router has nowhere to send a request about the server as a whole.
UNROUTED = "OPTIONS *"


@dataclass
class Model:
    """seen: method, target and payload of what came. faults: bytes that were not HTTP. answer: sent instead of ours."""

    seen: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    answer: bytes = b""
    closes: bool = False

    def serve(self, connection: socket.socket) -> None:
        with closing(connection):
            try:
                while self._answer_one(connection):
                    pass
            except h11.RemoteProtocolError as error:
                if "peer" not in str(error):  # a cut request is what a refused body leaves behind
                    self.faults.append(str(error))
            except OSError:
                pass

    def _answer_one(self, connection: socket.socket) -> bool:
        reader = h11.Connection(h11.SERVER)
        payload = b""
        request: h11.Request | None = None
        while not isinstance(event := reader.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                reader.receive_data(connection.recv(65536))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                payload += event.data
            else:
                return False
        assert request is not None
        if reader.trailing_data[0]:
            self.faults.append(f"bytes behind the request: {reader.trailing_data[0]!r}")
        self.seen.append((request.method, request.target, payload))
        if self.answer and not request.target.startswith(b"/probe"):
            connection.sendall(self.answer)
            return not self.closes
        text = request.target
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text))
        if request.method != b"HEAD":
            connection.sendall(text)
        return True


@dataclass(frozen=True)
class Pair:
    model: Model
    port: int
    probes: Iterator[int]

    def probe(self) -> None:
        """The next request gets its own answer."""
        target = b"/probe%d" % next(self.probes)
        answer = self.exchange(b"GET %b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % target, lambda _: False)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\n" + target)

    def exchange(self, data: bytes, is_whole: Callable[[bytes], bool]) -> bytes:
        """Send, and read until the router closes or `is_whole`."""
        answer = b""
        with socket.create_connection(("127.0.0.1", self.port), TIMEOUT_S) as client:
            try:
                client.sendall(data)
                while not is_whole(answer) and (piece := client.recv(65536)):
                    answer += piece
            except (BrokenPipeError, ConnectionResetError):
                pass  # the router has said what it had to say, or cut its answer
        return answer


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    model = Model()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=model.serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        experiment = EXPERIMENT.format(port=listener.getsockname()[1])
        with running_router(experiment, tmp_path_factory.mktemp("router")) as router:
            yield Pair(model, int(router.url.rpartition(":")[2]), iter(range(10**6)))


def _whole_cases(name: str) -> list[dict[str, Any]]:
    """Cases under the default limits that end by themselves."""
    return [case for case in load_cases(name) if "limits" not in case and "more" not in case["expect"]]


def _payload(body: str, *, is_chunked: bool) -> bytes:
    raw = body.encode("latin-1")
    return b"".join(ChunkDecoder(Limits(), raw=False).feed(raw)[0]) if is_chunked and raw else raw


def _answered(data: bytes, method: bytes, *, is_closed: bool = False) -> tuple[int, bytes, bool]:
    """Status (0 before there is one), body, and whether the answer is whole, as h11 reads it."""
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
    reader.send(h11.EndOfMessage())
    status, body = 0, b""
    try:
        reader.receive_data(data)
        if is_closed:
            reader.receive_data(b"")
        while True:
            event = reader.next_event()
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif not isinstance(event, h11.InformationalResponse):
                return status, body, isinstance(event, h11.EndOfMessage)
    except h11.RemoteProtocolError:
        return status, body, False


REQUESTS = _whole_cases("wire_requests.json")
RESPONSES = [case for case in _whole_cases("wire_responses.json") if "informational" not in case["expect"]]


@pytest.mark.parametrize("case", REQUESTS, ids=[case["name"] for case in REQUESTS])
def test_a_request_is_refused_or_reaches_the_model_with_one_meaning(pair: Pair, case: dict[str, Any]) -> None:
    model, expect, data = pair.model, case["expect"], sent_bytes(case)
    model.seen.clear()
    if "refuse" in expect:
        answer = pair.exchange(data, lambda _: False)
        assert answer.startswith(b"HTTP/1.1 %d " % expect["refuse"])
        assert model.seen == []
    else:
        method, target, _ = expect["head"].encode("latin-1").split(b" ", 2)
        answer = pair.exchange(data, lambda answer: _answered(answer, method)[2])
        if expect["head"].startswith(UNROUTED):
            assert answer.startswith(b"HTTP/1.1 404 ")
        else:
            assert _answered(answer, method, is_closed=True)[0] == 200
            payload = _payload(expect.get("body", ""), is_chunked=expect.get("chunked", False))
            assert model.seen[0] == (method, target, payload)
    assert model.faults == []
    pair.probe()


@pytest.mark.parametrize("case", RESPONSES, ids=[case["name"] for case in RESPONSES])
def test_an_answer_is_relayed_whole_or_seen_to_be_bad(pair: Pair, case: dict[str, Any]) -> None:
    model, expect, method = pair.model, case["expect"], case["method"].encode()
    model.answer = sent_bytes(case)
    model.closes = "refuse" in expect or expect["framing"] == "until_close"
    request = method + b" /case HTTP/1.1\r\nHost: h\r\n\r\n"
    try:
        answer = pair.exchange(request, lambda answer: _answered(answer, method)[2])
    finally:
        model.answer, model.closes = b"", False
    status, body, is_whole = _answered(answer, method, is_closed=True)
    if "refuse" in expect:
        # A head that was good has been relayed by the time its body turns out bad: then the answer is cut.
        assert (status, is_whole) in {(502, True), (200, False)}
    else:
        payload = _payload(expect.get("body", ""), is_chunked=expect.get("chunked", False))
        assert (status, body, is_whole) == (expect["status"], payload, True)
    pair.probe()
