"""The intake over real sockets: answered when durable, in order, item by item; the rest goes to the framework."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import uvloop
from prometheus_client import CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from fairtrial.api.intake import Intake, IntakeRoute, is_broken
from fairtrial.api.intake_asgi import intake_routes
from fairtrial.api.intake_metrics import IntakeCollector
from fairtrial.api.intake_protocol import IntakeProtocol, IntakeServer
from fairtrial.api.server import ControlServer
from fairtrial.events.columns import stream_of_log
from fairtrial.events.log import read_frames
from fairtrial.events.manifest import Manifest
from fairtrial.model.errors import ConfigError

GOOD = {"unit": "u1", "name": "purchase", "value": 2.5, "id": "e1"}


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"hello {(await request.body()).decode()}")


class Served:
    """A running control port and raw connections to it."""

    def __init__(self, server: ControlServer, intake: Intake) -> None:
        self.server = server
        self.intake = intake
        self.writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> Connection:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        self.writers.append(writer)
        return Connection(reader, writer)

    async def post(
        self, body: object, path: str = "/api/v1/outcomes", fields: str = ""
    ) -> tuple[int, dict[str, str], dict[str, object]]:
        connection = await self.connect()
        connection.send(request(body, path, fields))
        return await connection.answer()


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, dict[str, str], dict[str, object]]:
        status, fields, body = await self.raw_answer()
        return status, fields, json.loads(body)

    async def raw_answer(self) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(20):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            fields = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
            body = await self.reader.readexactly(int(fields.get("content-length", "0")))
        return int(head[0].split()[1]), fields, body

    async def closed(self) -> bool:
        async with asyncio.timeout(20):
            return await self.reader.read() == b""


def request(body: object, path: str = "/api/v1/outcomes", fields: str = "", method: str = "POST") -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}Content-Length: {len(raw)}\r\n\r\n".encode() + raw


@contextlib.asynccontextmanager
async def serving(
    state: Path,
    *,
    max_body_bytes: int = 1 << 20,
    max_queue_bytes: int = 64 << 20,
    authorize: Callable[[bytes | None], bool] | None = None,
    on_poison: Callable[[BaseException], None] | None = None,
) -> AsyncIterator[Served]:
    loop = asyncio.get_running_loop()
    intake = Intake.open(
        state, loop=loop, max_body_bytes=max_body_bytes, max_queue_bytes=max_queue_bytes, on_poison=on_poison
    )
    routes = [Route("/hello", hello, methods=["GET", "POST"]), *intake_routes(intake, authorize=authorize)]
    server = ControlServer(Starlette(routes=routes), intake, authorize=authorize, graceful_s=2)
    await server.start()
    served = Served(server, intake)
    try:
        yield served
    finally:
        for writer in served.writers:
            writer.close()
        for writer in served.writers:
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        await server.stop()
        intake.close()


def run(state: Path, story: Callable[[Served], Awaitable[None]], **options: object) -> None:
    async def main() -> None:
        async with serving(state, **options) as served:  # type: ignore[arg-type]
            await story(served)

    uvloop.run(main())


def logged(state: Path, stream: str = "outcomes") -> list[dict[str, object]]:
    lines = b"".join(f.payload for f in read_frames(state / "log" / stream)).splitlines()
    return [json.loads(line) for line in lines]


def test_an_acknowledged_outcome_is_in_the_log(tmp_path: Path) -> None:
    async def story(served: Served) -> None:
        status, fields, body = await served.post({"outcomes": [GOOD, GOOD | {"id": "e2"}]})
        assert (status, body) == (200, {"accepted": 2, "rejected": 0, "errors": []})
        assert fields["content-type"] == "application/json"
        assert "date" in fields
        assert [r["id"] for r in logged(tmp_path)] == ["e1", "e2"]
        assert served.intake.counts.accepted[IntakeRoute.OUTCOMES] == {"purchase": 2}

    run(tmp_path, story)


def test_exposures_have_a_log_of_their_own(tmp_path: Path) -> None:
    async def story(served: Served) -> None:
        body = {"exposures": [{"unit": "u", "experiment": "x", "variant": "control"}]}
        status, _, answer = await served.post(body, "/api/v1/exposures")
        assert (status, answer["accepted"]) == (200, 1)
        assert logged(tmp_path, "exposures")[0]["variant"] == "control"

    run(tmp_path, story)


def test_bad_items_are_listed_and_the_good_ones_kept(tmp_path: Path) -> None:
    async def story(served: Served) -> None:
        raw = b'{"outcomes": [%s, {"unit": "u", "name": "n", "value": NaN}]}' % json.dumps(GOOD).encode()
        status, _, body = await served.post(raw)
        assert status == 200
        assert (body["accepted"], body["rejected"]) == (1, 1)
        assert body["errors"] == [{"index": 1, "field": "value", "message": "is nan; it must be a finite number"}]
        assert served.intake.counts.rejected[IntakeRoute.OUTCOMES] == 1

    run(tmp_path, story)


def test_a_batch_without_one_good_item_is_a_problem(tmp_path: Path) -> None:
    async def story(served: Served) -> None:
        status, fields, body = await served.post({"outcomes": [{"unit": "u"}, {"name": "n"}]})
        assert status == 400
        assert fields["content-type"] == "application/problem+json"
        assert [(e["index"], e["field"]) for e in body["errors"]] == [(0, "name"), (1, "unit")]  # type: ignore[attr-defined]
        assert "item 0: name is missing" in str(body["detail"])
        assert logged(tmp_path) == []

    run(tmp_path, story)


def test_malformed_json_is_told_with_its_place(tmp_path: Path) -> None:
    async def story(served: Served) -> None:
        connection = await served.connect()
        connection.send(request(b'{"outcomes": [{"unit": }]}'))
        status, _, body = await connection.answer()
        assert (status, body["status"]) == (400, 400)
        assert "line 1, column 24" in str(body["detail"])
        connection.send(request(GOOD))
        assert (await connection.answer())[0] == 200, "the connection stays usable"

    run(tmp_path, story)


def test_a_long_list_of_errors_is_cut(tmp_path: Path) -> None:
    async def story(served: Served) -> None:
        status, _, body = await served.post([{}] * 5000)
        assert (status, len(body["errors"]), body["errors_omitted"]) == (400, 1000, 4000)  # type: ignore[arg-type]

    run(tmp_path, story)


def test_an_empty_batch_is_fine(tmp_path: Path) -> None:
    async def story(served: Served) -> None:
        assert (await served.post({"outcomes": []}))[0] == 200

    run(tmp_path, story)


def test_ndjson_and_large_bodies_are_taken(tmp_path: Path) -> None:
    async def story(served: Served) -> None:
        lines = b"\n".join(json.dumps(GOOD | {"id": f"n{i}"}).encode() for i in range(4000))
        assert len(lines) > 128 << 10
        connection = await served.connect()
        connection.send(request(lines, fields="Content-Type: application/x-ndjson\r\n") + request(GOOD))
        assert (await connection.answer())[2]["accepted"] == 4000
        assert (await connection.answer())[2]["accepted"] == 1

    run(tmp_path, story)


def test_requests_arrive_in_any_slicing(tmp_path: Path) -> None:
    chunked = b"POST /api/v1/outcomes HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = json.dumps(GOOD).encode()
    chunked += b"5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (body[:5], len(body) - 5, body[5:])

    async def story(served: Served) -> None:
        for size in (1, 7, 1000):
            connection = await served.connect()
            data = request(GOOD, fields="Content-Type: application/json\r\n") + chunked + request(GOOD)
            for start in range(0, len(data), size):
                connection.send(data[start : start + size])
                await asyncio.sleep(0)
            for _ in range(3):
                assert (await connection.answer())[2]["accepted"] == 1

    run(tmp_path, story)


def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async def story(served: Served) -> None:
        connection = await served.connect()
        for i in range(200):
            body = [GOOD] * (i % 5 + 1) if i % 7 else b"nonsense"
            connection.send(request(body))
        for i in range(200):
            status, _, answer = await connection.answer()
            assert (status, answer.get("accepted")) == ((200, i % 5 + 1) if i % 7 else (400, None))

    run(tmp_path, story)


def test_a_request_that_expects_100_gets_it(tmp_path: Path) -> None:
    async def story(served: Served) -> None:
        connection = await served.connect()
        data = request(GOOD, fields="Expect: 100-continue\r\n")
        head, _, body = data.partition(b"\r\n\r\n")
        connection.send(head + b"\r\n\r\n")
        assert (await connection.raw_answer())[0] == 100
        connection.send(body)
        assert (await connection.answer())[0] == 200

    run(tmp_path, story)


def test_a_body_over_the_limit_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    async def story(served: Served) -> None:
        connection = await served.connect()
        connection.send(b"POST /api/v1/outcomes HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999\r\n\r\n")
        status, fields, body = await connection.answer()
        assert (status, fields["connection"]) == (413, "close")
        assert "1048576 bytes" in str(body["detail"])
        for _ in range(200):
            connection.send(b"x" * 10_000)  # a client that goes on sending still reads the answer, not a reset
            await asyncio.sleep(0)
        assert await connection.closed()
        chunked = await served.connect()
        head = b"POST /api/v1/outcomes HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunked.send(head + b"200000\r\n")
        assert (await chunked.answer())[0] == 413

    run(tmp_path, story)


def test_a_unit_of_ten_megabytes_is_refused(tmp_path: Path) -> None:
    async def story(served: Served) -> None:
        status, _, body = await served.post(GOOD | {"unit": "x" * 10_000_000})
        assert status == 400
        assert "unit has 10000000 bytes; at most 1024" in str(body["detail"])

    run(tmp_path, story, max_body_bytes=16 << 20)


def test_malformed_http_is_refused_and_the_connection_closed(tmp_path: Path) -> None:
    async def story(served: Served) -> None:
        for fields in ("Bad Field: x\r\n", "Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n"):
            connection = await served.connect()
            connection.send(request(GOOD, fields=fields))
            assert (await connection.answer())[0] == 400
            assert await connection.closed()

    run(tmp_path, story)


def test_compressed_bodies_are_refused(tmp_path: Path) -> None:
    async def story(served: Served) -> None:
        assert (await served.post(GOOD, fields="Content-Encoding: gzip\r\n"))[0] == 415

    run(tmp_path, story)


def test_a_token_is_asked_for_on_both_ways_in(tmp_path: Path) -> None:
    def authorize(value: bytes | None) -> bool:
        return value == b"Bearer secret"

    async def story(served: Served) -> None:
        assert (await served.post(GOOD))[0] == 401
        assert (await served.post(GOOD, fields="Authorization: Bearer secret\r\n"))[0] == 200
        connection = await served.connect()
        connection.send(request(b"", "/hello", method="GET"))
        assert (await connection.raw_answer())[0] == 200
        connection.send(request(GOOD))
        assert (await connection.answer())[0] == 401
        connection.send(request(GOOD, fields="Authorization: Bearer secret\r\n"))
        assert (await connection.answer())[0] == 200

    run(tmp_path, story, authorize=authorize)


def test_other_requests_go_to_the_framework_at_any_point_of_a_connection(tmp_path: Path) -> None:
    async def story(served: Served) -> None:
        first = await served.connect()
        first.send(request(b"you", "/hello"))
        assert (await first.raw_answer())[2] == b"hello you"
        first.send(request(GOOD))
        assert (await first.answer())[2] == {"accepted": 1, "rejected": 0, "errors": []}, "the same answer from there"
        later = await served.connect()
        later.send(request(GOOD) + request([GOOD, GOOD]) + request(b"", "/hello", method="GET"))
        assert (await later.answer())[2]["accepted"] == 1
        assert (await later.answer())[2]["accepted"] == 2
        assert (await later.raw_answer())[2] == b"hello "
        wrong = await served.connect()
        wrong.send(request(b"", method="GET"))
        assert (await wrong.raw_answer())[0] == 405
        sliced = await served.connect()
        for byte in request(b"", "/hello", method="POST"):
            sliced.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await sliced.raw_answer())[0] == 200

    run(tmp_path, story)


def test_the_framework_s_route_has_the_same_limits(tmp_path: Path) -> None:
    async def story(served: Served) -> None:
        connection = await served.connect()
        connection.send(request(b"", "/hello", method="GET"))
        await connection.raw_answer()
        connection.send(request(b"x" * (1 << 20) + b"y"))
        assert (await connection.answer())[0] == 413

    run(tmp_path, story)


class Gate:
    """Stands in for fdatasync."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: OSError | None = None) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()
        self._error = error
        monkeypatch.setattr(os, "fdatasync", self)

    def __call__(self, _fd: int) -> None:
        self.entered.set()
        assert self.open.wait(20)
        if self._error is not None:
            raise self._error


def test_nothing_is_answered_before_the_disk_confirmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(served: Served) -> None:
        gate = Gate(monkeypatch)
        connection = await served.connect()
        connection.send(request(GOOD))
        await asyncio.to_thread(gate.entered.wait, 20)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(reading := asyncio.ensure_future(connection.answer())), 0.1)
        gate.open.set()
        assert (await reading)[0] == 200

    run(tmp_path, story)


def test_a_full_queue_is_a_503_with_retry_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(served: Served) -> None:
        gate = Gate(monkeypatch)
        first = await served.connect()
        first.send(request(GOOD))
        await asyncio.to_thread(gate.entered.wait, 20)
        status, fields, body = await served.post([GOOD] * 5)
        assert (status, fields["retry-after"]) == (503, "1")
        assert "nothing of this request was taken" in str(body["detail"])
        gate.open.set()
        assert (await first.answer())[0] == 200
        assert served.intake.counts.refused == {"full": 5}
        assert (await served.post(GOOD))[0] == 200

    run(tmp_path, story, max_queue_bytes=400)


def test_a_failed_sync_is_a_503_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned: list[BaseException] = []

    async def story(served: Served) -> None:
        with monkeypatch.context() as patch:
            gate = Gate(patch, OSError(errno.EIO, "io"))
            gate.open.set()
            status, fields, _ = await served.post(GOOD)
            assert (status, fields["retry-after"]) == (503, "10")
        assert (await served.post(GOOD))[0] == 503
        assert is_broken(served.intake)
        assert served.intake.counts.refused == {"broken": 2}
        assert len(poisoned) == 1
        assert served.intake.counts.accepted[IntakeRoute.OUTCOMES] == {}

    run(tmp_path, story, on_poison=poisoned.append)


def test_shutdown_answers_what_was_received_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(served: Served) -> None:
        gate = Gate(monkeypatch)
        busy, idle, half = await served.connect(), await served.connect(), await served.connect()
        half.send(b"POST /api/v1/outcomes HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{")
        busy.send(request(GOOD))
        await asyncio.to_thread(gate.entered.wait, 20)
        stopping = asyncio.ensure_future(served.server.stop())
        assert await idle.closed()
        assert await half.closed()
        gate.open.set()
        assert (await busy.answer())[0] == 200
        assert await busy.closed()
        await stopping

    run(tmp_path, story)


def test_a_client_that_closes_its_side_still_gets_its_answer(tmp_path: Path) -> None:
    async def story(served: Served) -> None:
        connection = await served.connect()
        connection.send(request(GOOD))
        connection.writer.write_eof()
        assert (await connection.answer())[0] == 200
        assert await connection.closed()

    run(tmp_path, story)


def test_a_client_that_vanishes_loses_nothing_it_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(served: Served) -> None:
        gate = Gate(monkeypatch)
        connection = await served.connect()
        connection.send(request(GOOD))
        await asyncio.to_thread(gate.entered.wait, 20)
        connection.writer.transport.abort()
        await asyncio.sleep(0.05)
        gate.open.set()
        assert (await served.post(GOOD | {"id": "e2"}))[0] == 200
        assert [r["id"] for r in logged(tmp_path)] == ["e1", "e2"]

    run(tmp_path, story)


def test_slow_and_silent_connections_are_closed(tmp_path: Path) -> None:
    async def story(served: Served) -> None:
        slow, idle = await served.connect(), await served.connect()
        slow.send(b"POST /api/v1/outcomes HT")
        await asyncio.sleep(0.05)
        connections = [c for c in served.server._server.server_state.connections if isinstance(c, IntakeProtocol)]
        assert len(connections) == 2
        for connection in connections:
            connection.check_time(asyncio.get_running_loop().time() + 61)
        assert (await slow.answer())[0] == 408
        assert await slow.closed()
        for connection in connections:
            connection.check_time(asyncio.get_running_loop().time() + 76)
        assert await idle.closed()
        await asyncio.sleep(0.05)
        assert not served.server._server.server_state.connections

    run(tmp_path, story)


def test_bodies_under_way_are_bounded_over_all_connections(tmp_path: Path) -> None:
    async def story(served: Served) -> None:
        half = await served.connect()
        half.send(b"POST /api/v1/outcomes HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
        await asyncio.sleep(0.05)
        (connection,) = served.server._server.server_state.connections
        server = connection._server  # type: ignore[union-attr]
        assert isinstance(server, IntakeServer)
        assert server.arriving_bytes == 1000
        server.arriving_bytes += 256 << 20
        other = await served.connect()
        other.send(b"POST /api/v1/outcomes HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
        assert (await other.answer())[0] == 503
        half.writer.close()
        await asyncio.sleep(0.05)
        assert server.arriving_bytes == 256 << 20

    run(tmp_path, story)


def test_names_in_metrics_are_bounded(tmp_path: Path) -> None:
    async def story(served: Served) -> None:
        items = [{"unit": "u", "name": f"m{i}"} for i in range(1500)]
        assert (await served.post(items))[0] == 200
        registry = CollectorRegistry()
        manifest = Manifest(tmp_path)
        registry.register(IntakeCollector(served.intake, manifest))
        text = generate_latest(registry).decode()
        manifest.close()
        assert 'fairtrial_outcomes_total{metric="m7"} 1.0' in text
        assert 'fairtrial_outcomes_total{metric="other"} 500.0' in text
        assert 'fairtrial_log_queue_bytes{stream="outcomes"} 0.0' in text
        assert 'fairtrial_events_duplicate_total{stream="outcomes"} 0.0' in text

    run(tmp_path, story)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    async def story(served: Served) -> None:
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{served.server.port}"):
            ControlServer(Starlette(), served.intake, port=served.server.port)

    run(tmp_path, story)


def test_only_our_folders_are_logs() -> None:
    assert stream_of_log("requests-12") == "requests"
    assert stream_of_log("lost+found") is None
