"""Which model a request meets, and what is changed on its way, through a real worker."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.support_models import ModelServer, model_server
from tests.e2e.support_workers import Answer, Workers, document, experiment, workers

from fairtrial.assign.assignment import Assigner
from fairtrial.model.parse import parse_experiment
from fairtrial.model.snapshot import first_allocations

V1 = "/v1/models/churn:predict"
USERS = [f"user-{number}" for number in range(40)]


def endpoint(path: str, model: str = "a", **more: object) -> dict[str, object]:
    return {"match": {"path": path}, "model": model, **more}


class Bench:
    """Two models, one worker, an endpoint per thing to be tried."""

    def __init__(self, a: ModelServer, b: ModelServer, running: Workers) -> None:
        self.a, self.b, self.running = a, b, running

    def ask(self, target: str, *, body: bytes | None = None, method: str = "", **fields: str) -> Answer:
        return self.running.ask(target, body=body, method=method, **fields)

    def last(self, answer: Answer) -> tuple[str, ...]:
        """Fields of the answer that say who served it."""
        return tuple(answer.field(name) or "" for name in ("x-experiment-id", "x-variant", "x-model-version"))


def split(endpoint_name: str, **changes: object) -> dict[str, object]:
    return experiment({"control": "a", "treatment": "b"}, endpoint=endpoint_name, **changes)


FILE: dict[str, dict[str, object]] = {
    "endpoints": {
        "v1": endpoint("/v1/models/churn"),
        "v2": endpoint("/v2/models/churn"),
        "chat": {"match": {"path": "/v1/chat/completions", "model": "house-chat"}, "model": "a"},
        "chat-other": {"match": {"path": "/v1/chat/completions", "model": "other"}, "model": "b"},
        "cookie": endpoint("/cookie"),
        "query": endpoint("/query"),
        "json": endpoint("/json", attributes={"tier": {"json": "user.tier"}, "country": {"header": "x-country"}}),
        "audience": endpoint("/audience", attributes={"country": {"header": "x-country"}}),
        "patch": endpoint("/patch"),
        "moved": endpoint("/moved", model="a-moved"),
        "host": {"match": {"path": "/by", "host": "special.test"}, "model": "b"},
        "header": {"match": {"path": "/by", "headers": {"x-team": "red"}}, "model": "b"},
        "plain": endpoint("/by"),
        "every-request": endpoint("/every-request"),
    },
    "experiments": {
        "v1-launch": split("v1"),
        "v2-launch": split("v2"),
        "chat-launch": split("chat"),
        "cookie-launch": split("cookie", unit={"cookie": "session"}),
        "query-launch": split("query", unit={"query": "user"}),
        "json-launch": split("json", unit={"json": "user.id"}),
        "audience-launch": split("audience", audience={"country": ["DE", "FR"]}),
        "request-launch": split("every-request", unit={"request": True}),
        "patch-launch": split(
            "patch",
            variants={
                "control": {"model": "a"},
                "treatment": {
                    "model": "b",
                    "body": {"parameters": {"temperature": 0.2, "top_k": None}},
                    "headers": {"x-prompt": "b"},
                },
            },
        ),
    },
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with model_server("a") as a, model_server("b") as b:
        text = document({"a": a.url, "b": b.url, "a-moved": f"{a.url}/served/here"}, **FILE)
        with workers(text, tmp_path_factory.mktemp("assignment")) as running:
            yield Bench(a, b, running)
        assert a.faults == b.faults == []


def expected_variant(name: str, unit: str) -> str:
    text = document({"a": "http://h:1", "b": "http://h:2", "a-moved": "http://h:3"}, **FILE)
    file = parse_experiment(text)
    allocation = first_allocations(file, started_at=0)[name]
    variant = Assigner(file.experiments[name], allocation).assign(unit).variant
    assert variant is not None
    return variant


def test_units_get_the_variant_that_assignment_says_every_time(bench: Bench) -> None:
    for user in USERS:
        variant = expected_variant("v1-launch", user)
        for _ in range(2):
            answer = bench.ask(V1, body=b"{}", x_user_id=user)
            model = "a" if variant == "control" else "b"
            assert bench.last(answer) == ("v1-launch", variant, model)
            assert answer.body == f"{model} {V1}".encode()


@pytest.mark.parametrize(
    ("target", "body"),
    [
        (V1, b'{"instances": [[1, 2]]}'),
        ("/v1/models/churn", None),
        ("/v2/models/churn/infer", b'{"inputs": []}'),
        ("/v2/models/churn/versions/1/ready?verbose=1", None),
        ("/v1/chat/completions", b'{"model": "house-chat", "messages": []}'),
    ],
)
def test_serving_protocols_pass_through_unchanged(bench: Bench, target: str, body: bytes | None) -> None:
    answer = bench.ask(target, body=body, x_user_id="user-1", content_type="application/json")
    server = bench.a if answer.field("x-variant") == "control" else bench.b
    assert answer.status == 200
    assert (server.seen[-1].target, server.seen[-1].body) == (target, body or b"")
    assert server.seen[-1].all("content-type") == ["application/json"]


def test_the_model_named_in_the_body_chooses_the_endpoint(bench: Bench) -> None:
    answer = bench.ask("/v1/chat/completions", body=b'{"model": "other"}', x_user_id="user-1")
    assert bench.last(answer) == ("", "", "b")
    refused = bench.ask("/v1/chat/completions", body=b'{"model": "unheard-of"}', x_user_id="user-1")
    assert refused.status == 404
    assert bench.ask("/v1/chat/completions", body=b"not json").status == 404


def test_host_and_headers_choose_before_the_bare_path(bench: Bench) -> None:
    with bench.running.client() as client:
        client.raw(b"GET /by HTTP/1.1\r\nHost: Special.TEST:8080\r\n\r\n")
        assert client.answer().body == b"b /by"
    assert bench.ask("/by", x_team="red").body == b"b /by"
    assert bench.ask("/by", x_team="blue").body == b"a /by"


@pytest.mark.parametrize("user", USERS[:8])
def test_cookie_query_and_json_units_are_read(bench: Bench, user: str) -> None:
    cookie = bench.ask("/cookie", cookie=f"theme=dark; session={user}")
    assert cookie.field("x-variant") == expected_variant("cookie-launch", user)
    query = bench.ask(f"/query?a=1&user={user}")
    assert query.field("x-variant") == expected_variant("query-launch", user)
    body = json.dumps({"user": {"id": user}}).encode()
    sent = bench.ask("/json", body=body)
    assert sent.field("x-variant") == expected_variant("json-launch", user)
    server = bench.a if sent.field("x-variant") == "control" else bench.b
    assert server.seen[-1].body == body


def test_a_json_unit_is_found_in_a_chunked_body_that_comes_in_drips(bench: Bench) -> None:
    with bench.running.client() as client:
        client.raw(b"POST /json HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (b'{"us', b'er": {"id": "u', b'ser-3"}}'):
            client.raw(b"%x\r\n%b\r\n" % (len(piece), piece))
        client.raw(b"0\r\n\r\n")
        answer = client.answer("POST")
    assert answer.field("x-variant") == expected_variant("json-launch", "user-3")
    server = bench.a if answer.field("x-variant") == "control" else bench.b
    assert server.seen[-1].body == b'{"user": {"id": "user-3"}}'
    assert server.seen[-1].all("content-length") == ["26"]


@pytest.mark.parametrize(
    ("target", "body", "reason"),
    [
        ("/json", b"not json", "body_not_json"),
        ("/json", b'{"user": {}}', "no_unit"),
        ("/json", None, "no_unit"),
        ("/json", b'{"user": {"id": "' + b"x" * (1 << 20) + b'"}}', "body_too_large"),
        ("/cookie", None, "no_unit"),
        ("/query?other=1", None, "no_unit"),
        (V1, b"{}", "no_unit"),
    ],
)
def test_a_request_without_its_unit_goes_to_the_stable_model_and_is_counted(
    bench: Bench, target: str, body: bytes | None, reason: str
) -> None:
    before = bench.running.metric("fairtrial_not_enrolled_total", reason=reason)
    answer = bench.ask(target, body=body)
    assert bench.last(answer) == ("", "", "a")
    assert bench.a.seen[-1].body == (body or b"")
    assert bench.running.metric("fairtrial_not_enrolled_total", reason=reason) == before + 1


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_too_large_to_be_read_is_streamed_whole(bench: Bench, framing: str) -> None:
    body = bytes(range(256)) * (3 << 12)
    with bench.running.client() as client:
        if framing == "length":
            client.send("/json", body=body, method="POST")
        else:
            client.raw(b"POST /json HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
            for start in range(0, len(body), 100_000):
                piece = body[start : start + 100_000]
                client.raw(b"%x\r\n%b\r\n" % (len(piece), piece))
            client.raw(b"0\r\n\r\n")
        assert client.answer("POST").status == 200
    assert bench.a.seen[-1].body == body


@pytest.mark.parametrize(
    ("target", "fields", "status"),
    [
        (V1, "X-User-Id: one\r\nx-user-id: two\r\n", 400),
        (V1, "X-User-Id: one\r\nx-user-id: one\r\n", 400),
        (V1, f"X-User-Id: {'u' * 1025}\r\n", 400),
        ("/query?user=one&user=two", "", 400),
        (f"/query?user={'u' * 1025}", "", 400),
        ("/nowhere", "", 404),
        ("/v1/models/churning", "", 404),
        ("/v1/models/churn/../../admin", "", 400),
        ("/v1/models/churn/%2e%2E/admin", "", 400),
    ],
)
def test_ambiguous_units_and_foreign_paths_are_refused_by_name(
    bench: Bench, target: str, fields: str, status: int
) -> None:
    seen = len(bench.a.seen) + len(bench.b.seen)
    with bench.running.client() as client:
        client.raw(f"GET {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n".encode())
        answer = client.answer()
        assert client.is_closed()
    assert answer.status == status
    assert answer.field("content-type") == "application/problem+json"
    assert len(bench.a.seen) + len(bench.b.seen) == seen


def test_a_client_cannot_force_a_variant(bench: Bench) -> None:
    for forced in ("control", "treatment"):
        answer = bench.ask(V1, body=b"{}", x_user_id="user-5", x_variant=forced, x_experiment_id="v1-launch")
        assert answer.field("x-variant") == expected_variant("v1-launch", "user-5")


def test_only_the_router_speaks_for_itself_in_answers(bench: Bench) -> None:
    def script(_seen: object, sock: socket.socket) -> bool:
        sock.sendall(
            b"HTTP/1.1 200 OK\r\nX-Variant: no\r\nx-REQUEST-id: forged\r\nX-Other: kept\r\nContent-Length: 0\r\n\r\n"
        )
        return True

    kept, bench.a.script = bench.a.script, script
    try:
        answer = bench.ask("/by")
    finally:
        bench.a.script = kept
    assert answer.field("x-variant") is None
    assert answer.field("x-request-id") != "forged"
    assert answer.field("x-other") == "kept"


def test_request_ids_rise(bench: Bench) -> None:
    ids = [bench.ask("/by").field("x-request-id") or "" for _ in range(5)]
    assert ids == sorted(set(ids))
    assert {len(each) for each in ids} == {26}


def test_the_audience_lets_only_its_members_in(bench: Bench) -> None:
    inside = bench.ask("/audience", x_user_id="user-1", x_country="DE")
    outside = bench.ask("/audience", x_user_id="user-1", x_country="US")
    unknown = bench.ask("/audience", x_user_id="user-1")
    assert inside.field("x-experiment-id") == "audience-launch"
    assert outside.field("x-experiment-id") is None
    assert unknown.field("x-experiment-id") is None


def test_request_units_split_requests_and_are_recorded_by_their_id(bench: Bench) -> None:
    variants = {bench.ask("/every-request").field("x-variant") for _ in range(40)}
    assert variants == {"control", "treatment"}


def test_a_variant_changes_headers_and_body(bench: Bench) -> None:
    treated = next(user for user in USERS if expected_variant("patch-launch", user) == "treatment")
    body = b'{"parameters": {"temperature": 1, "top_k": 5, "top_p": 0.9}, "prompt": "hi"}'
    answer = bench.ask("/patch", body=body, x_user_id=treated, x_prompt="own", content_type="application/json")
    seen = bench.b.seen[-1]
    assert answer.field("x-variant") == "treatment"
    assert json.loads(seen.body) == {"parameters": {"temperature": 0.2, "top_p": 0.9}, "prompt": "hi"}
    assert seen.all("x-prompt") == ["b"]
    assert seen.all("content-type") == ["application/json"]


def test_a_patch_that_cannot_be_applied_falls_back_to_the_stable_model(bench: Bench) -> None:
    treated = next(user for user in USERS if expected_variant("patch-launch", user) == "treatment")
    answer = bench.ask("/patch", body=b"not json", x_user_id=treated)
    assert bench.last(answer) == ("patch-launch", "treatment", "a")
    assert bench.a.seen[-1].body == b"not json"
    assert bench.a.seen[-1].all("x-prompt") == []
    assert bench.running.metric("fairtrial_fallbacks_total", experiment="patch-launch", reason="body_not_json") == 1


def test_a_models_own_path_takes_the_place_of_the_matched_prefix(bench: Bench) -> None:
    bench.ask("/moved/infer?x=1")
    assert bench.a.seen[-1].target == "/served/here/infer?x=1"
    bench.ask("/moved:predict")
    assert bench.a.seen[-1].target == "/served/here:predict"


def test_a_loop_through_this_router_is_broken(bench: Bench) -> None:
    bench.ask("/by")
    (via,) = bench.a.seen[-1].all("via")
    bench.ask("/by", via=via)
    assert bench.a.seen[-1].all("via") == [via, via]
    assert bench.ask("/by", via=f"{via}, {via}").status == 508


def test_the_same_unit_meets_the_same_variant_whichever_worker_it_reaches(tmp_path: Path) -> None:
    with model_server("a") as a, model_server("b") as b:
        text = document({"a": a.url, "b": b.url}, experiments={"x": experiment({"control": "a", "treatment": "b"})})
        with workers(text, tmp_path, count=2) as running:
            answers = {user: {running.ask("/", x_user_id=user).field("x-variant") for _ in range(6)} for user in USERS}
            assert all(len(variants) == 1 for variants in answers.values())
            assert {variant for variants in answers.values() for variant in variants} == {"control", "treatment"}
            assert running.metric("fairtrial_router_workers") == 2
            assert running.metric("fairtrial_exposures_total") == 6 * len(USERS)
            running.stop()
            records = running.records()
            assert len(records) == 6 * len(USERS)
            assert len({(record.unit, record.variant) for record in records}) == len(USERS)
            assert all(len(list((running.state_dir / "log" / f"requests-{i}").iterdir())) > 0 for i in (0, 1))
