"""Bodies on their way: unbuffered both ways, bounded in memory, cut where they cannot be whole, and never mixed up."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.e2e.support_models import Gate, ModelServer, Script, Seen, answer, answering, model_server, replying
from tests.e2e.support_workers import Workers, document, wait_until, workers

OPTIONS = {"head_timeout": "600ms", "keep_alive": "2s"}


class Bench:
    """One model behind endpoints that differ in what they allow."""

    def __init__(self, model: ModelServer, running: Workers) -> None:
        self.model, self.running = model, running

    def play(self, script: Script) -> None:
        self.model.script = script

    @contextmanager
    def taken_over(self, on_connect: Callable[[socket.socket], None]) -> Iterator[None]:
        """Every connection to the model is a fresh one, and `on_connect` has it."""
        self.model.stop()
        self.model.on_connect = on_connect
        self.model.start()
        try:
            yield
        finally:
            self.model.on_connect = None


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with model_server() as model:
        endpoints = {
            "finish": {"match": {"path": "/finish"}, "model": "m", "on_client_eof": "finish"},
            "hasty": {
                "match": {"path": "/hasty"},
                "model": "m",
                "timeouts": {"first_byte": "400ms", "idle": "400ms", "total": "1s"},
            },
            "small": {"match": {"path": "/small"}, "model": "m", "max_body": "1KiB"},
            "rest": {"match": {"path": "/"}, "model": "m"},
        }
        text = document({"m": model.url}, endpoints=endpoints, router=OPTIONS)
        with workers(text, tmp_path_factory.mktemp("streams")) as running:
            yield Bench(model, running)


@pytest.fixture(autouse=True)
def _nothing_is_poisoned(bench: Bench) -> Iterator[None]:
    """After every test, requests on fresh connections get their own answers, and the model saw only whole requests."""
    yield
    bench.play(replying(lambda seen: answer(f"probe {seen.target}".encode())))
    for number in range(3):
        assert bench.running.ask(f"/probe{number}").body == f"probe /probe{number}".encode()
    assert bench.model.faults == []


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_the_first_event_passes_before_the_second_is_sent(bench: Bench) -> None:
    gate = Gate()

    def events(_seen: Seen, sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        sock.sendall(b"9\r\ndata: 1\n\n\r\n")
        gate.wait()
        sock.sendall(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")
        return True

    bench.play(events)
    with bench.running.client() as client:
        client.send("/events")
        assert dict(client.head()[1])["content-type"] == "text/event-stream"
        chunks = client.reader.chunks()
        assert next(chunks) == b"data: 1\n\n"
        gate.open()
        assert list(chunks) == [b"data: 2\n\n"]
        assert client.ask("/again").status == 200, "the connection goes on"


def test_pipelined_requests_are_answered_in_order(bench: Bench) -> None:
    def slower_first(seen: Seen, sock: socket.socket) -> bool:
        time.sleep(0.15 if seen.target == "/0" else 0)
        sock.sendall(answer(seen.target.encode() + seen.body))
        return True

    bench.play(slower_first)
    with bench.running.client() as client:
        bodies = [b"", b"four", b""]
        client.raw(
            b"".join(
                b"POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (number, len(body), body)
                for number, body in enumerate(bodies)
            )
            + b"POST /3 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
            + b"GET /4 HTTP/1.1\r\nHost: h\r\n\r\n"
        )
        assert [client.answer().body for _ in range(5)] == [b"/0", b"/1four", b"/2", b"/3hi", b"/4"]


def test_a_long_pipeline_is_answered_whole(bench: Bench) -> None:
    bench.play(replying(lambda seen: answer(seen.target.encode())))
    with bench.running.client() as client:
        client.raw(b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % number for number in range(3000)))
        assert [client.answer().body for _ in range(3000)] == [b"/%d" % number for number in range(3000)]


def test_a_request_cut_into_single_bytes_is_understood(bench: Bench) -> None:
    bench.play(replying(lambda seen: answer(seen.body)))
    with bench.running.client() as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        message = b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        message += b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: x\r\n\r\n"
        for position in range(len(message)):
            client.raw(message[position : position + 1])
        assert client.answer().body == b"abcde"


def test_continue_is_sent_once_the_request_is_routed(bench: Bench) -> None:
    bench.play(replying(lambda seen: answer(seen.body)))
    with bench.running.client() as client:
        client.raw(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        assert client.head() == (100, ())
        client.raw(b"body")
        assert client.answer().body == b"body"
    assert bench.model.seen[-1].all("expect") == []


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (b"POST /small/x HTTP/1.1\r\nHost: h\r\nContent-Length: 2000\r\nExpect: 100-continue\r\n\r\n", 413),
        (b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nExpect: tea\r\n\r\n", 417),
        (b"GET /x HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 501),
        (b"POST /small/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n800\r\n", 413),
        (b"GET /x HTTP/1.1\r\nHost: h\r\nX: " + b"y" * 40_000, 431),
        (b"GET /" + b"y" * 9_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414),
    ],
)
def test_what_is_not_wanted_is_refused_without_a_100_and_the_connection_closed(
    bench: Bench, message: bytes, status: int
) -> None:
    with bench.running.client() as client:
        client.raw(message)
        found, fields = client.head()
        assert found == status
        assert dict(fields)["connection"] == "close"
        client.reader.exactly(int(dict(fields)["content-length"]))
        assert client.is_closed()


def test_an_early_answer_is_relayed_while_the_client_still_sends(bench: Bench) -> None:
    def listener(sock: socket.socket) -> None:
        sock.recv(1000)
        sock.sendall(answer(b"no thanks", status="413 Content Too Large"))
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass

    with bench.taken_over(listener), bench.running.client() as client:
        client.raw(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n" + b"z" * 2000)
        early = client.answer("POST")
        assert (early.status, early.body) == (413, b"no thanks")
        assert early.field("connection") == "close"
        client.raw(b"z" * 10_000)
        assert client.is_closed()


@pytest.mark.parametrize(
    "begun",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
    ],
)
def test_an_answer_that_is_cut_is_seen_to_be_cut(bench: Bench, begun: bytes) -> None:
    def cut(_seen: Seen, sock: socket.socket) -> bool:
        sock.sendall(begun)
        return False

    bench.play(cut)
    with bench.running.client() as client:
        client.send("/cut")
        assert not client.answer().is_whole


def test_a_body_that_ends_with_its_connection_becomes_chunked(bench: Bench) -> None:
    def until_close(_seen: Seen, sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        return False

    bench.play(until_close)
    with bench.running.client() as client:
        found = client.ask("/x")
        assert (found.body, found.field("transfer-encoding")) == (b"all of it", "chunked")
        assert client.ask("/x").body == b"all of it"


def test_http_1_0_clients_get_neither_chunks_nor_a_kept_connection_unasked(bench: Bench) -> None:
    bench.play(replying(lambda _seen: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"))
    with bench.running.client() as client:
        client.raw(b"GET /x HTTP/1.0\r\n\r\n")
        head, _, body = client.rest().partition(b"\r\n\r\n")
        assert body == b"ok"
        assert b"transfer-encoding" not in head.lower()
    bench.play(answering(b"ok"))
    with bench.running.client() as client:
        for _ in range(2):
            client.raw(b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert client.answer().field("connection") == "keep-alive"


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_answers_without_body_by_rule_end_at_their_head(bench: Bench, status: str) -> None:
    bench.play(replying(lambda _seen: f"HTTP/1.1 {status}\r\nETag: x\r\n\r\n".encode()))
    with bench.running.client() as client:
        assert client.ask("/x").status == int(status[:3])
        assert client.ask("/x").status == int(status[:3])


def test_head_answers_keep_their_length_and_have_no_body(bench: Bench) -> None:
    bench.play(replying(lambda _seen: b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"))
    with bench.running.client() as client:
        for _ in range(2):
            assert client.ask("/x", method="HEAD").field("content-length") == "1234"


def test_informational_answers_are_relayed_except_100(bench: Bench) -> None:
    bench.play(
        replying(
            lambda _seen: b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + answer(b"ok")
        )
    )
    with bench.running.client() as client:
        client.send("/x")
        assert client.head() == (103, (("link", "x"),))
        assert client.answer().body == b"ok"


def test_a_half_closed_client_is_answered_where_the_endpoint_finishes(bench: Bench) -> None:
    bench.play(replying(lambda seen: answer(seen.body), after_s=0.2))
    with bench.running.client() as client:
        client.send("/finish", body=b"one", method="POST")
        client.send("/finish", body=b"two", method="POST")
        client.sock.shutdown(socket.SHUT_WR)
        assert [client.answer().body, client.answer().body] == [b"one", b"two"]
        assert client.is_closed()


def test_a_client_that_leaves_stops_the_models_work(bench: Bench) -> None:
    noticed = Gate()

    def working(_seen: Seen, sock: socket.socket) -> bool:
        assert sock.recv(1) == b"", "the router hangs up"
        noticed.open()
        return False

    bench.play(working)
    with bench.running.client() as client:
        client.send("/x")
        wait_until(lambda: bench.model.seen[-1].target == "/x")
    noticed.wait()


def test_a_client_that_leaves_a_stream_stops_it(bench: Bench) -> None:
    stopped = Gate()

    def endless(_seen: Seen, sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                sock.sendall(b"5\r\nhello\r\n")
                time.sleep(0.01)
        except OSError:
            stopped.open()
        return False

    bench.play(endless)
    client = bench.running.client()
    client.send("/x")
    client.head()
    reset(client.sock)
    stopped.wait()


def test_a_head_in_drips_is_refused_at_an_absolute_deadline(bench: Bench) -> None:
    with bench.running.client() as client:
        client.sock.settimeout(0.05)
        began = time.monotonic()
        received = b""
        client.raw(b"GET / HTTP/1.1\r\nHost: h\r\n")
        while not received and time.monotonic() - began < 15:
            try:
                client.raw(b"X: y\r\n")
                received = client.sock.recv(100)
            except TimeoutError:
                continue
        assert received.startswith(b"HTTP/1.1 408 ")


def test_an_idle_connection_is_closed_without_a_word(bench: Bench) -> None:
    with bench.running.client() as client:
        assert client.is_closed()
    with bench.running.client() as client:
        bench.play(answering())
        assert client.ask("/x").status == 200
        assert client.is_closed()


def test_a_body_that_does_not_arrive_is_a_408_and_the_model_is_let_go(bench: Bench) -> None:
    with bench.running.client() as client:
        client.raw(b"POST /hasty HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhalf")
        assert client.answer().status == 408


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-"])
def test_a_silent_model_is_a_504(bench: Bench, sent: bytes) -> None:
    done = Gate()

    def silent(_seen: Seen, sock: socket.socket) -> bool:
        sock.sendall(sent)
        done.wait()
        return False

    bench.play(silent)
    assert bench.running.ask("/hasty").status == 504
    done.open()


def test_a_cut_answer_to_an_old_client_ends_in_a_reset(bench: Bench) -> None:
    # HTTP/1.0 has no chunks: only a reset tells a cut answer from a whole one.
    def cut(_seen: Seen, sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        return False

    bench.play(cut)
    with socket.create_connection(("127.0.0.1", bench.running.port), timeout=20) as client:
        client.sendall(b"GET /cut HTTP/1.0\r\nHost: x\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            _read_to_the_end(client)


def _read_to_the_end(client: socket.socket) -> None:
    while client.recv(4096):
        pass


def test_a_stream_that_stalls_is_cut(bench: Bench) -> None:
    done = Gate()

    def stalling(_seen: Seen, sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        done.wait()
        return False

    bench.play(stalling)
    assert not bench.running.ask("/hasty").is_whole
    done.open()


def test_the_total_timeout_ends_a_stream_that_goes_on(bench: Bench) -> None:
    def endless(_seen: Seen, sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            sock.sendall(b"5\r\nhello\r\n")
            time.sleep(0.02)

    bench.play(endless)
    assert not bench.running.ask("/hasty").is_whole


def rss_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:  # noqa: PTH123 - not a file of the repository's
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_a_slow_reader_holds_the_model_back_instead_of_filling_memory(bench: Bench) -> None:
    size = 64 << 20
    taken = [0]

    def torrent(_seen: Seen, sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        block = b"x" * 65536
        for _ in range(size // len(block)):
            sock.sendall(block)
            taken[0] += len(block)
        return True

    bench.play(torrent)
    pid = bench.running.processes[0].pid
    before = rss_bytes(pid)
    with bench.running.client() as client:
        client.send("/torrent")
        client.head()
        last = -1
        while taken[0] != last:  # until the model stands still
            last = taken[0]
            time.sleep(0.2)
        assert taken[0] < size / 2
        assert rss_bytes(pid) - before < 8 << 20
        left = size - len(client.reader.buffer)
        while left:
            left -= len(client.sock.recv(1 << 20))
    assert rss_bytes(pid) - before < 8 << 20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_a_model_that_does_not_read_holds_the_client_back(bench: Bench) -> None:
    done = Gate()

    def deaf(sock: socket.socket) -> None:
        done.wait()
        sock.close()

    pid = bench.running.processes[0].pid
    before = rss_bytes(pid)
    with bench.taken_over(deaf), bench.running.client() as client:
        client.sock.settimeout(0.5)
        client.raw(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (64 << 20))
        sent = 0
        with suppress(TimeoutError):
            while sent < 64 << 20:
                sent += client.sock.send(b"x" * 65536)
        assert sent < 32 << 20
        assert rss_bytes(pid) - before < 8 << 20
        done.open()


def test_large_bodies_pass_both_ways_unchanged(bench: Bench) -> None:
    body = os.urandom(3 << 20)
    bench.play(replying(lambda seen: answer(seen.body)))
    assert bench.running.ask("/x", body=body).body == body


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_a_client_that_pipelines_and_never_reads_is_held_back(bench: Bench) -> None:
    bench.play(replying(lambda seen: answer(seen.target.encode() * 50)))
    pid = bench.running.processes[0].pid
    before = rss_bytes(pid)
    with bench.running.client() as client:
        client.sock.settimeout(0.5)
        requests = b"GET /pipelined HTTP/1.1\r\nHost: h\r\n\r\n" * 2000
        sent = 0
        with suppress(TimeoutError):
            while sent < 64 << 20:
                sent += client.sock.send(requests)  # cut anywhere: only the amount matters here
        assert sent < 48 << 20
        assert rss_bytes(pid) - before < 8 << 20
    bench.model.faults.clear()
