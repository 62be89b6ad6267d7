"""What clients see when models fail: fallback, retry, breaker, caps - and when each of them must not happen."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.e2e.support_models import Gate, ModelServer, Script, Seen, answer, answering, model_server, replying
from tests.e2e.support_workers import Answer, Workers, document, experiment, wait_until, workers

from fairtrial.assign.assignment import Assigner
from fairtrial.model.parse import parse_experiment
from fairtrial.model.snapshot import first_allocations


def text(a: ModelServer, b: ModelServer, *, first_byte: str = "500ms", **router: str | int) -> str:
    timeouts = {"connect": "500ms", "first_byte": first_byte}
    endpoints = {
        "e": {"match": {"path": "/"}, "model": "a", "timeouts": timeouts},
        "once": {"match": {"path": "/once"}, "model": "a", "repeatable": False, "timeouts": timeouts},
    }
    experiments = {
        "x": experiment({"control": "a", "treatment": "b"}),
        "y": experiment({"control": "a", "treatment": "b"}, endpoint="once", salt="x"),
    }
    options = {"breaker_failures": 3, "breaker_open": "1s", **router}
    return document({"a": a.url, "b": b.url}, endpoints=endpoints, experiments=experiments, router=options)


def unit_of(variant: str) -> str:
    with_ports = document(
        {"a": "http://h:1", "b": "http://h:2"}, experiments={"x": experiment({"control": "a", "treatment": "b"})}
    )
    file = parse_experiment(with_ports)
    assigner = Assigner(file.experiments["x"], first_allocations(file, started_at=0)["x"])
    return next(unit for unit in map(str, range(1000)) if assigner.assign(unit).variant == variant)


TREATED = unit_of("treatment")
CONTROL = unit_of("control")


class Bench:
    def __init__(self, a: ModelServer, b: ModelServer, running: Workers) -> None:
        self.a, self.b, self.running = a, b, running

    def treated(self, target: str = "/", body: bytes | None = b"payload") -> Answer:
        return self.running.ask(target, body=body, x_user_id=TREATED)


@contextmanager
def bench_of(folder: Path, *, first_byte: str = "500ms", **router: str | int) -> Iterator[Bench]:
    with model_server("a", answering(b"from a")) as a, model_server("b", answering(b"from b")) as b:
        with workers(text(a, b, first_byte=first_byte, **router), folder) as running:
            yield Bench(a, b, running)
        assert a.faults == b.faults == []


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with bench_of(tmp_path) as bench:
        yield bench


def hang_up(_seen: Seen, _sock: socket.socket) -> bool:
    return False


def test_a_dead_model_falls_back_to_the_stable_one_and_both_are_recorded(bench: Bench) -> None:
    bench.b.stop()
    for _ in range(6):
        found = bench.treated()
        assert (found.status, found.body) == (200, b"from a")
        assert (found.field("x-variant"), found.field("x-model-version")) == ("treatment", "a")
    assert bench.a.seen[-1].body == b"payload"
    bench.running.stop()
    records = bench.running.records()
    assert {(r.variant, r.assigned_model, r.served_model, r.outcome, r.status) for r in records} == {
        ("treatment", "b", "a", "fallback", 200)
    }
    assert [r.reason for r in records] == ["connect_failed"] * 3 + ["breaker_open"] * 3


def test_the_breaker_closes_again_once_a_probe_is_answered(bench: Bench) -> None:
    bench.b.stop()
    for _ in range(3):
        assert bench.treated().body == b"from a"
    assert bench.running.metric("fairtrial_breaker_state", model="b") == 2
    bench.b.start()
    wait_until(lambda: bench.treated().body == b"from b")
    assert bench.running.metric("fairtrial_breaker_state", model="b") == 0


def test_a_model_killed_under_load_costs_no_request(bench: Bench) -> None:
    statuses: list[int] = []
    stop = threading.Event()

    def load() -> None:
        with bench.running.client() as client:
            while not stop.is_set():
                statuses.append(client.ask("/", body=b"payload", x_user_id=TREATED).status)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        time.sleep(0.15)
        bench.b.stop()
        time.sleep(0.15)
        bench.b.start()
    stop.set()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200}
    assert bench.running.metric("fairtrial_fallbacks_total") > 0


@pytest.mark.parametrize(
    ("script", "reason"), [(hang_up, "connection_lost"), (answering(b"", status="200\nOK"), "bad_answer")]
)
def test_a_model_that_saw_the_request_and_failed_is_replaced_where_the_endpoint_is_repeatable(
    bench: Bench, script: Script, reason: str
) -> None:
    bench.b.script = script
    assert bench.treated("/").body == b"from a"
    assert bench.treated("/once").status == 502
    bench.running.stop()
    first, second = bench.running.records()
    assert (first.outcome, first.served_model, first.reason) == ("fallback", "a", reason)
    assert (second.outcome, second.served_model, second.status, second.reason) == ("error", "b", 502, reason)


def test_a_silent_model_times_out_and_falls_back_where_repeatable(bench: Bench) -> None:
    done = Gate()

    def silent(_seen: Seen, _sock: socket.socket) -> bool:
        done.wait()
        return False

    bench.b.script = silent
    assert bench.treated("/").body == b"from a"
    assert bench.treated("/once").status == 504
    done.open()
    bench.running.stop()
    first, second = bench.running.records()
    assert (first.outcome, first.reason) == ("fallback", "first_byte_timeout")
    assert (second.outcome, second.status) == ("timeout", 504)


def test_an_unreachable_model_is_replaced_even_where_nothing_may_be_repeated(bench: Bench) -> None:
    bench.b.stop()
    assert bench.treated("/once").body == b"from a"


def test_an_error_answer_is_an_answer(bench: Bench) -> None:
    bench.b.script = answering(b"broken", status="503 Service Unavailable")
    for _ in range(5):
        found = bench.treated()
        assert (found.status, found.body) == (503, b"broken")
    assert bench.running.metric("fairtrial_breaker_state", model="b") == 0
    assert bench.running.metric("fairtrial_requests_total", variant="treatment", outcome="error") == 5


def test_a_dead_stable_model_is_a_502_and_is_tried_every_time(bench: Bench) -> None:
    bench.a.stop()
    for _ in range(5):
        found = bench.running.ask("/")
        assert found.status == 502
        assert found.field("content-type") == "application/problem+json"
    assert bench.treated().body == b"from b"
    bench.a.start()
    assert bench.running.ask("/").body == b"from a"


def stale_connection(bench: Bench, server: ModelServer) -> None:
    """Leave one kept-alive connection in the pool whose next request will be lost: no answer, then a FIN."""
    closed = Gate()

    def once(seen: Seen, sock: socket.socket) -> bool:
        if seen.target == "/warm":
            sock.sendall(answer(b"warm"))
            return True
        if not closed._event.is_set():
            closed.open()
            return False
        sock.sendall(answer(b"second time"))
        return True

    server.script = once
    assert bench.running.ask("/warm", x_user_id=CONTROL).body == b"warm"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_lost_keep_alive_race_is_retried_once_on_a_fresh_connection(bench: Bench, method: str) -> None:
    stale_connection(bench, bench.a)
    found = bench.running.ask("/x", method=method, body=b"once more", x_user_id=CONTROL)
    assert (found.status, found.body) == (200, b"second time")
    assert [seen.body for seen in bench.a.seen[-2:]] == [b"once more"] * 2
    assert bench.running.metric("fairtrial_upstream_retries_total", model="a") == 1
    bench.running.stop()
    assert bench.running.records()[-1].retries == 1


def test_a_lost_race_is_not_repeated_for_a_request_with_side_effects(bench: Bench) -> None:
    stale_connection(bench, bench.a)
    before = len(bench.a.seen)
    assert bench.running.ask("/once", body=b"pay", x_user_id=CONTROL).status == 502
    assert len(bench.a.seen) == before + 1


def test_a_fresh_connection_that_is_lost_is_not_retried(bench: Bench) -> None:
    bench.a.script = hang_up
    assert bench.running.ask("/x", x_user_id=CONTROL).status == 502
    assert len(bench.a.seen) == 1


@pytest.mark.parametrize("extra", [b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", b"x"])
def test_bytes_nobody_asked_for_spoil_a_connection_and_nothing_else(bench: Bench, extra: bytes) -> None:
    bench.a.script = replying(lambda seen: answer(seen.target.encode()) + extra)
    for number in range(5):
        with bench.running.client() as client:
            for step in range(3):
                target = f"/{number}-{step}"
                assert client.ask(target, x_user_id=CONTROL).body == target.encode()


def test_late_bytes_on_an_idle_connection_never_answer_the_next_request(bench: Bench) -> None:
    def late(seen: Seen, sock: socket.socket) -> bool:
        sock.sendall(answer(seen.target.encode()))
        time.sleep(0.05)
        sock.sendall(answer(b"poison"))
        return True

    bench.a.script = late
    for number in range(5):
        assert bench.running.ask(f"/{number}", x_user_id=CONTROL).body == f"/{number}".encode()
        time.sleep(0.1)
    bench.running.wait_for_metric("fairtrial_upstream_unsolicited_total", 1, model="a")


def test_more_requests_than_connections_wait_their_turn_and_beyond_the_queue_get_503(tmp_path: Path) -> None:
    with bench_of(tmp_path, first_byte="30s", max_upstream_connections=2) as bench:
        gate = Gate()

        def gated(_seen: Seen, sock: socket.socket) -> bool:
            gate.wait()
            sock.sendall(answer(b"at last"))
            return True

        bench.a.script = gated
        clients = [bench.running.client() for _ in range(6)]
        for client in clients:
            client.send("/x", x_user_id=CONTROL)
            time.sleep(0.02)
        turned_away = [clients[4].answer(), clients[5].answer()]
        assert [each.status for each in turned_away] == [503, 503]
        assert turned_away[0].field("retry-after") == "1"
        assert len(bench.a.connections) == 2
        gate.open()
        assert [client.answer().body for client in clients[:4]] == [b"at last"] * 4
        for client in clients:
            client.sock.close()


def test_too_many_clients_are_turned_away_and_the_others_served(tmp_path: Path) -> None:
    with bench_of(tmp_path, max_connections=3) as bench:
        clients = [bench.running.client() for _ in range(3)]
        for client in clients:
            assert client.ask("/x").status == 200
        with bench.running.client() as fourth:
            assert fourth.answer().status == 503
        for client in clients:
            assert client.ask("/x").status == 200
            client.sock.close()
