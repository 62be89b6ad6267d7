"""Snapshots compiled into route tables: which endpoint takes a target, what is rendered ahead, what is taken over."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from fairtrial.model.allocation import Snapshot, Status
from fairtrial.model.parse import parse_experiment
from fairtrial.model.snapshot import first_allocations, make_snapshot
from fairtrial.router.compile import Surroundings, compile_table
from fairtrial.router.counters import WorkerCounters
from fairtrial.router.plan import RECENT_UNITS
from fairtrial.router.table import RouteTable
from fairtrial.router.wheel import Wheel
from fairtrial.wire.errors import WireError
from fairtrial.wire.request import RequestHead

AROUND = Surroundings(Wheel(), WorkerCounters(), "fairtrial-test")


def snapshot(*, b_url: str = "http://127.0.0.1:2", headers: dict[str, str] | None = None, version: int = 1) -> Snapshot:
    document = {
        "models": {"a": {"url": "http://127.0.0.1:1", "version": "1"}, "b": {"url": b_url, "version": "2"}},
        "endpoints": {
            "root": {"match": {"path": "/"}, "model": "a"},
            "v1": {"match": {"path": "/v1"}, "model": "a"},
            "churn": {"match": {"path": "/v1/models/churn"}, "model": "a"},
            "hosted": {"match": {"path": "/v1/models/churn", "host": "h.test"}, "model": "b"},
        },
        "experiments": {
            "x": {
                "endpoint": "v1",
                "hypothesis": "None of this matters here.",
                "owner": "router",
                "unit": {"header": "x-user-id"},
                "variants": {"control": {"model": "a"}, "treatment": {"model": "b", "headers": {"x-prompt": "two"}}},
                "split": {"control": 50, "treatment": 50},
                "metrics": {"errors": {"role": "primary", "kind": "proportion", "of": "error", "mde": "10%"}},
            }
        },
        "router": {"response_headers": headers or {}},
    }
    file = parse_experiment(yaml.safe_dump(document))
    return make_snapshot(file, first_allocations(file, started_at=0), version=version)


def table(given: Snapshot | None = None, previous: RouteTable | None = None) -> RouteTable:
    return compile_table(given or snapshot(), AROUND, previous=previous)


def head(found: RouteTable, target: bytes = b"/v1", fields: bytes = b"") -> RequestHead:
    parsed = found.parser.parse(b"POST " + target + b" HTTP/1.1\r\nHost: any\r\n" + fields + b"\r\n")
    assert parsed is not None
    return parsed


@pytest.mark.parametrize(
    ("target", "names"),
    [
        (b"/", ["root"]),
        (b"/other", ["root"]),
        (b"/v1", ["v1", "root"]),
        (b"/v1?x=/v1/models/churn", ["v1", "root"]),
        (b"/v12", ["root"]),
        (b"/v1/models/churn:predict", ["hosted", "churn", "v1", "root"]),
        (b"/v1/models/churn/infer", ["hosted", "churn", "v1", "root"]),
        (b"/v1/models/churner", ["v1", "root"]),
    ],
)
def test_longer_prefixes_and_more_conditions_come_first(target: bytes, names: list[str]) -> None:
    found = table()
    for _ in range(2):  # the second time from the cache
        plans = found.find(head(found, target))
        assert plans is not None
        assert [plan.name for plan in plans] == names


@pytest.mark.parametrize("target", [b"/v1/../admin", b"/v1/%2E%2e", b"/./v1", b"/v1/.."])
def test_dot_segments_are_refused(target: bytes) -> None:
    found = table()
    with pytest.raises(WireError, match="segment"):
        found.find(head(found, target))


def test_only_the_routers_own_three_paths_are_answered_by_itself() -> None:
    found = table()
    for target in (b"/-/healthz", b"/-/readyz", b"/-/metrics", b"/-/metrics?x=1"):
        assert found.find(head(found, target)) is None
    assert found.find(head(found, b"/-/other")) is not None


def test_the_cache_of_targets_is_bounded() -> None:
    found = table()
    for number in range(10_000):
        found.find(head(found, b"/v1?q=%d" % number))
    assert len(found._by_target) <= 4096


def test_recent_units_are_remembered_up_to_a_bound_and_decided_alike() -> None:
    found = table()
    plans = found.find(head(found))
    assert plans is not None
    endpoint = plans[0]
    first = {unit: found.decide_by_header(endpoint, unit).arm.variant for unit in (b"u%d" % n for n in range(50))}
    for number in range(RECENT_UNITS + 10):
        found.decide_by_header(endpoint, b"v%d" % number)
    assert len(endpoint.recent) <= RECENT_UNITS
    assert first == {unit: found.decide_by_header(endpoint, unit).arm.variant for unit in first}


def test_a_unit_of_bytes_that_are_not_utf_8_is_assigned_by_its_bytes() -> None:
    found = table()
    plans = found.find(head(found))
    assert plans is not None
    decision = found.decide_by_header(plans[0], b"caf\xe9")
    assert decision.unit.encode("utf-8", "surrogateescape") == b"caf\xe9"
    assert decision.arm.variant in {"control", "treatment"}


def test_a_variants_headers_take_the_place_of_the_clients() -> None:
    found = table()
    plans = found.find(head(found))
    assert plans is not None
    treatment = plans[0].experiments[0].arms[1]
    sent = treatment.request_head(b"POST /v1 HTTP/1.1\r\nHost: h\r\nX-PROMPT: own\r\nX-Other: kept\r\n")
    assert sent == (
        b"POST /v1 HTTP/1.1\r\nHost: h\r\nX-Other: kept\r\nx-prompt: two\r\nVia: 1.1 fairtrial-test\r\n\r\n"
    )


def test_answer_fields_name_the_assigned_variant_and_the_model_that_served() -> None:
    found = table()
    plans = found.find(head(found))
    assert plans is not None
    treatment = plans[0].experiments[0].arms[1]
    start = b"x-experiment-id: x\r\nx-variant: treatment\r\nx-model-version: "
    assert treatment.answer_fields == start + b"2\r\nx-request-id: "
    assert treatment.fallback_fields == start + b"1\r\nx-request-id: "


def test_an_empty_name_leaves_a_field_out() -> None:
    quiet = {"experiment": "", "variant": "", "model_version": "", "request_id": ""}
    found = table(snapshot(headers=quiet))
    plans = found.find(head(found))
    assert plans is not None
    assert plans[0].stable.answer_fields == b"Via: 1.1 fairtrial-test"
    assert not found.shows_request_id


def test_pools_of_unchanged_models_are_taken_over_by_the_next_table() -> None:
    first = table()
    second = table(snapshot(b_url="http://127.0.0.1:3", version=2), previous=first)
    assert second.pools["a", "http://127.0.0.1:1"] is first.pools["a", "http://127.0.0.1:1"]
    assert ("b", "http://127.0.0.1:2") not in second.pools


@pytest.mark.parametrize("status", [Status.PAUSED, Status.STOPPED])
def test_an_experiment_that_does_not_run_enrols_nobody(status: Status) -> None:
    given = snapshot()
    allocations = {name: dataclasses.replace(each, status=status) for name, each in given.allocations.items()}
    found = table(make_snapshot(given.file, allocations, version=2))
    plans = found.find(head(found))
    assert plans is not None
    assert plans[0].experiments == ()
    assert plans[0].fast == -1
