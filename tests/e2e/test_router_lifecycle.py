"""Starting, changing and ending workers without a client noticing."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest
from tests.e2e.support_models import Gate, ModelServer, answer, answering, model_server, replying
from tests.e2e.support_workers import WAIT_S, Workers, document, experiment, wait_until, workers

from fairtrial.model.allocation import Allocation, Status
from fairtrial.router.worker import WorkerConfig, encode_config


def text(*servers: ModelServer, **router: str | int) -> str:
    names = [server.name for server in servers]
    trial = experiment({"control": names[0], "treatment": names[-1]})
    return document({each.name: each.url for each in servers}, experiments={"x": trial}, router=router)


class Load:
    """Clients that ask without pause, on kept connections that they open anew when told to."""

    def __init__(self, running: Workers, clients: int) -> None:
        self.running = running
        self.served: list[tuple[str | None, float]] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def _run(self, number: int) -> None:
        count = 0
        client = self.running.client()
        while not self._stop.is_set():
            count += 1
            try:
                found = client.ask("/p", body=b"x", x_user_id=f"{number}-{count}")
            except (OSError, AssertionError, EOFError) as error:
                self.failures.append(repr(error))
                client.sock.close()
                client = self.running.client()
                continue
            if found.status != 200:
                self.failures.append(str(found.status))
            self.served.append((found.field("x-model-version"), time.monotonic()))
            if found.field("connection") == "close":
                client.sock.close()
                client = self.running.client()
        client.sock.close()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT_S)


@contextmanager
def three_models() -> Iterator[tuple[ModelServer, ModelServer, ModelServer]]:
    with (
        model_server("a", answering(b"ok")) as a,
        model_server("b", answering(b"ok")) as b,
        model_server("c", answering(b"ok")) as c,
    ):
        yield a, b, c


def stopped(allocation: Allocation) -> Allocation:
    return dataclasses.replace(allocation, status=Status.PAUSED, epoch=allocation.epoch + 1)


def test_snapshots_are_swapped_under_load_without_one_failed_request(tmp_path: Path) -> None:
    with three_models() as (a, b, c), workers(text(a, b), tmp_path, count=2) as running, Load(running, 4) as load:
        for round_ in range(4):
            time.sleep(0.3)
            running.publish(text(a, b) if round_ % 2 else text(a, c))
        running.publish(text(a, c), change=stopped)
        wait_until(lambda: running.metric("fairtrial_router_snapshot_version", worker="0") == 6)
        wait_until(lambda: running.metric("fairtrial_router_snapshot_version", worker="1") == 6)
        swapped_at = time.monotonic()
        time.sleep(0.3)
    assert load.failures == []
    assert {version for version, _ in load.served} == {"a", "b", "c"}
    assert {version for version, at in load.served if at > swapped_at + 0.2} == {"a"}, "paused: all on the stable model"
    assert a.faults == b.faults == c.faults == []


def test_a_swap_reaches_kept_connections_at_their_next_request(tmp_path: Path) -> None:
    with three_models() as (a, b, _c), workers(text(a, b), tmp_path) as running, running.client() as client:
        treated = next(
            user for user in map(str, range(99)) if client.ask("/p", x_user_id=user).field("x-variant") == "treatment"
        )
        running.publish(text(a, b), change=stopped)
        running.wait_for_metric("fairtrial_router_snapshot_version", 2)
        assert client.ask("/p", x_user_id=treated).field("x-model-version") == "a"


def test_a_request_in_flight_finishes_on_the_snapshot_it_began_with(tmp_path: Path) -> None:
    gate = Gate()
    with three_models() as (a, b, c), workers(text(a), tmp_path) as running, running.client() as client:
        a.script = replying(lambda _seen: answer(b"late"), gate=gate)
        client.send("/p", x_user_id="u")
        wait_until(lambda: len(a.seen) == 1)
        running.publish(text(b, c))
        running.wait_for_metric("fairtrial_router_snapshot_version", 2)
        gate.open()
        found = client.answer()
        assert (found.body, found.field("x-model-version")) == (b"late", "a")
        assert client.ask("/p").field("x-model-version") == "b"


def test_a_snapshot_that_cannot_be_read_is_ignored_and_counted(tmp_path: Path) -> None:
    with three_models() as (a, b, _c), workers(text(a, b), tmp_path) as running:
        good = running.snapshot_path.read_bytes()
        for bad in (b"", b"{", good.replace(b"127.0.0.1", b"127.0.0.2")):
            before = running.metric("fairtrial_snapshot_errors_total")
            running.snapshot_path.write_bytes(bad)
            running.wait_for_metric("fairtrial_snapshot_errors_total", before + 1)
            assert running.ask("/p").status == 200
        running.publish(text(b))
        running.wait_for_metric("fairtrial_router_snapshot_version", 2)
        assert running.ask("/p").field("x-model-version") == "b"


def test_a_worker_starts_from_the_last_good_snapshot_when_the_present_one_is_broken(tmp_path: Path) -> None:
    with three_models() as (a, b, _c), workers(text(a, b), tmp_path) as running:
        running.processes[0].kill()
        running.processes[0].wait(WAIT_S)
        running.snapshot_path.write_bytes(b"power cut")
        running.start()
        assert running.ask("/p").status == 200
        assert running.metric("fairtrial_snapshot_errors_total") == 1


def test_a_worker_that_leaves_under_load_costs_no_request(tmp_path: Path) -> None:
    with three_models() as (a, b, _c), workers(text(a, b, drain_timeout="10s"), tmp_path, count=3) as running:
        with Load(running, 6) as load:
            for process in running.processes[:2]:
                time.sleep(0.4)
                process.send_signal(signal.SIGTERM)
                assert process.wait(WAIT_S) == 0
            time.sleep(0.3)
        assert load.failures == []
        running.stop()
        assert len(running.records()) == len(load.served) > 100


def test_a_stream_runs_to_its_end_while_the_worker_drains(tmp_path: Path) -> None:
    gate = Gate()
    with three_models() as (a, b, _c), workers(text(a, b), tmp_path) as running, running.client() as client:

        def stream(_seen: object, sock: socket.socket) -> bool:
            sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
            gate.wait()
            sock.sendall(b"4\r\nlast\r\n0\r\n\r\n")
            return True

        a.script = b.script = stream
        client.send("/p", x_user_id="u")
        client.head()
        chunks = client.reader.chunks()
        assert next(chunks) == b"first"
        running.processes[0].send_signal(signal.SIGTERM)
        wait_until(lambda: not accepts(running.port))
        gate.open()
        assert list(chunks) == [b"last"]
        assert client.is_closed()
        assert running.processes[0].wait(WAIT_S) == 0
        assert len(running.records()) == 1


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("how", ["drain_timeout", "second signal"])
def test_a_stream_that_does_not_end_is_cut_after_the_drain_timeout_or_at_a_second_signal(
    tmp_path: Path, how: str
) -> None:
    done = Gate()
    timeout = "300ms" if how == "drain_timeout" else "10m"
    with three_models() as (a, b, _c), workers(text(a, b, drain_timeout=timeout), tmp_path) as running:

        def hanging(_seen: object, sock: socket.socket) -> bool:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            done.wait()
            return False

        a.script = b.script = hanging
        with running.client() as client:
            client.send("/p", x_user_id="u")
            client.head()
            process = running.processes[0]
            process.send_signal(signal.SIGTERM)
            if how == "second signal":
                wait_until(lambda: not accepts(running.port))
                process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_S) == 0
            with pytest.raises((ConnectionResetError, EOFError)):
                client.reader.exactly(100)
        assert running.records()[0].reason == "client_gone"
        done.open()


def test_readiness_fails_first_while_requests_are_still_taken(tmp_path: Path) -> None:
    with three_models() as (a, b, _c), workers(text(a, b, drain_delay="800ms"), tmp_path) as running:
        for path in ("/-/healthz", "/-/readyz"):
            found = running.ask(path)
            assert (found.status, json.loads(found.body)["status"]) == (200, "serving")
        running.processes[0].send_signal(signal.SIGTERM)
        wait_until(lambda: running.ask("/-/readyz").status == 503)
        assert running.ask("/-/healthz").status == 503
        assert running.ask("/p").status == 200
        assert running.processes[0].wait(WAIT_S) == 0


def test_a_worker_ends_when_its_parent_does(tmp_path: Path) -> None:
    with three_models() as (a, b, _c), workers(text(a, b), tmp_path) as running:
        os.close(running.pipes[0])
        assert running.processes[0].wait(WAIT_S) == 0
        running.pipes.clear()


def test_a_scrape_of_any_worker_answers_for_all_and_leaves_out_the_dead(tmp_path: Path) -> None:
    with three_models() as (a, b, _c), workers(text(a, b), tmp_path, count=3) as running:
        for user in range(30):
            assert running.ask("/p", x_user_id=str(user)).status == 200
        assert {running.metric("fairtrial_exposures_total") for _ in range(6)} == {30}
        assert running.metric("fairtrial_router_workers") == 3
        running.processes[0].kill()
        running.processes[0].wait(WAIT_S)
        assert running.metric("fairtrial_router_workers") == 2


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/-/metrics", 405), ("HEAD", "/-/metrics", 200), ("HEAD", "/-/healthz", 200), ("GET", "/-/other", 200)],
)
def test_the_routers_own_paths_are_three_and_read_only(tmp_path: Path, method: str, path: str, status: int) -> None:
    with three_models() as (a, b, _c), workers(text(a, b), tmp_path) as running, running.client() as client:
        assert client.ask(path, method=method).status == status
        assert client.ask("/p").status == 200, "the connection goes on"


@pytest.mark.parametrize(
    ("argument", "message"),
    [("not json", "config is not valid"), ('{"worker_id": 0}', "config is not valid"), (None, "cannot be read")],
)
def test_a_worker_that_cannot_start_says_why(tmp_path: Path, argument: str | None, message: str) -> None:
    config = encode_config(WorkerConfig(0, "127.0.0.1", 0, tmp_path, tmp_path / "missing.json"))
    command = [sys.executable, "-m", "fairtrial.router.worker", argument or config]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=WAIT_S)
    assert ended.returncode == 1
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
