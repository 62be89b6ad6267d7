"""Shadow variants: copied, compared, recorded - and never felt by the client."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.support_models import Gate, ModelServer, Seen, answer, answering, model_server, replying
from tests.e2e.support_workers import Workers, document, experiment, wait_until, workers


class Bench:
    def __init__(self, primary: ModelServer, shadow: ModelServer, running: Workers) -> None:
        self.primary, self.shadow, self.running = primary, shadow, running

    def result(self) -> tuple[str, str, int]:
        """(outcome, reason, status) of the one shadow record."""
        wait_until(lambda: self.running.metric("fairtrial_shadow_requests_total") >= 1)
        self.running.stop()
        (record,) = [record for record in self.running.records() if record.kind == "shadow"]
        assert record.variant == "dark"
        assert record.served_model == "s"
        return record.outcome, record.reason, record.status


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with model_server("a", answering(b"same")) as a, model_server("s", answering(b"same")) as s:
        variants = {
            "control": {"model": "a"},
            "treatment": {"model": "a"},
            "dark": {"model": "s", "shadow": 1, "headers": {"x-dark": "yes"}},
        }
        trial = experiment({"control": "a", "treatment": "a"}, variants=variants)
        endpoints = {"e": {"match": {"path": "/"}, "model": "a", "timeouts": {"first_byte": "600ms"}}}
        text = document({"a": a.url, "s": s.url}, endpoints=endpoints, experiments={"x": trial})
        with workers(text, tmp_path) as running:
            yield Bench(a, s, running)
        assert a.faults == s.faults == []


def test_a_copy_of_every_enrolled_request_reaches_the_shadow(bench: Bench) -> None:
    found = bench.running.ask("/p", body=b"payload", x_user_id="u")
    assert found.body == b"same"
    assert found.field("x-variant") in {"control", "treatment"}
    assert bench.result() == ("ok", "match", 200)
    (copy,) = bench.shadow.seen
    assert (copy.target, copy.body, copy.all("x-dark")) == ("/p", b"payload", ["yes"])


def test_an_unenrolled_request_is_not_copied(bench: Bench) -> None:
    bench.running.ask("/p", body=b"payload")
    bench.running.ask("/p", body=b"payload", x_user_id="u")
    bench.result()
    assert len(bench.shadow.seen) == 1


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [(b"other", "200 OK", ("ok", "differs", 200)), (b"same", "500 Oops", ("error", "differs", 500))],
)
def test_other_answers_are_told_apart(bench: Bench, body: bytes, status: str, expected: tuple[str, str, int]) -> None:
    bench.shadow.script = answering(body, status=status)
    assert bench.running.ask("/p", body=b"x", x_user_id="u").body == b"same"
    assert bench.result() == expected


def test_the_same_payload_in_other_chunks_is_a_match(bench: Bench) -> None:
    def chunked(_seen: Seen, sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nsa\r\n2\r\nme\r\n0\r\n\r\n")
        return True

    bench.primary.script = chunked
    assert bench.running.ask("/p", body=b"x", x_user_id="u").body == b"same"
    assert bench.result() == ("ok", "match", 200)


def test_a_hanging_shadow_delays_nobody_and_times_out(bench: Bench) -> None:
    done = Gate()

    def hanging(_seen: Seen, _sock: socket.socket) -> bool:
        done.wait()
        return False

    bench.shadow.script = hanging
    with bench.running.client() as client:
        for _ in range(100):  # more than may be in flight: the rest is skipped and counted
            assert client.ask("/p", body=b"x", x_user_id="u").body == b"same"
    skipped = bench.running.metric("fairtrial_shadow_requests_total", result="skipped_busy")
    assert skipped == 36
    wait_until(lambda: bench.running.metric("fairtrial_shadow_requests_total", result="failed") == 64)
    done.open()


def test_a_dead_shadow_fails_nobody(bench: Bench) -> None:
    bench.shadow.stop()
    assert bench.running.ask("/p", body=b"x", x_user_id="u").body == b"same"
    outcome, reason, status = bench.result()
    assert (outcome, reason, status) == ("error", "connect_failed", 0)


def test_a_body_too_long_to_keep_is_not_copied_but_served(bench: Bench) -> None:
    body = b"z" * (1 << 20)
    assert bench.running.ask("/p", body=body, x_user_id="u").body == b"same"
    bench.running.wait_for_metric("fairtrial_shadow_requests_total", 1, result="skipped_size")
    assert bench.primary.seen[-1].body == body
    assert bench.shadow.seen == []


def test_answers_too_long_to_compare_are_said_not_to_be_compared(bench: Bench) -> None:
    bench.primary.script = bench.shadow.script = answering(b"y" * 100_000)
    assert len(bench.running.ask("/p", body=b"x", x_user_id="u").body) == 100_000
    assert bench.result() == ("ok", "not_compared", 200)


def test_a_shadow_slower_than_its_primary_is_compared_all_the_same(bench: Bench) -> None:
    bench.shadow.script = replying(lambda _seen: answer(b"same"), after_s=0.2)
    assert bench.running.ask("/p", body=b"x", x_user_id="u").body == b"same"
    assert bench.result() == ("ok", "match", 200)
