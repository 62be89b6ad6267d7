"""The real MLServer behind the real router, with the experiment file of docs/how-to/serve-with-mlserver.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.e2e.peers.support_inference import held_out_rows, is_plausible, v2_body, v2_digits
from tests.e2e.peers.support_servers import PeerServer
from tests.e2e.support_pages import files_of
from tests.e2e.support_router import asking, running_router

from fairtrial.model.parse import check_experiment

pytestmark = [pytest.mark.peer, pytest.mark.timeout(600)]  # the first test of a fresh clone installs the peer

PATH = "/v2/models/digits/infer"
DOCUMENTED = "http://127.0.0.1:8501"


def experiment(server: PeerServer) -> str:
    return files_of("serve-with-mlserver")["experiment.yaml"].replace(DOCUMENTED, server.url)


@pytest.fixture(scope="module")
def router_url(mlserver: PeerServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A router with the page's experiment, for tests that neither stop it nor read its records."""
    with running_router(experiment(mlserver), tmp_path_factory.mktemp("router")) as router:
        yield router.url


def ask(client: httpx.Client, unit: str, rows: list[list[float]]) -> httpx.Response:
    return client.post(PATH, json=v2_body(rows), headers={"x-user-id": unit})


def test_the_page_s_experiment_file_has_no_problem() -> None:
    """What readers copy must not be answered with warnings."""
    _, problems = check_experiment(files_of("serve-with-mlserver")["experiment.yaml"], name="experiment.yaml")
    assert problems == ()


def test_predictions_through_the_router_equal_those_asked_directly(mlserver: PeerServer, router_url: str) -> None:
    """V2: the variant's version answers, and nothing of its answer is changed on the way."""
    rows = held_out_rows(100)
    with asking(mlserver.url) as direct, asking(router_url) as client:
        expected = {
            version: v2_digits(direct.post(f"/v2/models/digits/versions/{version}/infer", json=v2_body(rows)))
            for version in ("v1", "v2")
        }
        assert expected["v1"] != expected["v2"], "two models that always agree would prove nothing"
        answered = set()
        for number in range(12):
            answer = ask(client, f"user-{number}", rows)
            version = answer.headers["x-model-version"]
            assert v2_digits(answer) == expected[version]
            assert answer.json()["model_version"] == version
            answered.add(version)
        assert answered == {"v1", "v2"}


def test_a_user_meets_one_version_over_many_requests(router_url: str) -> None:
    """Sticky by x-user-id: the headers and MLServer's own word for its version agree, request after request."""
    row = held_out_rows(1)
    with asking(router_url) as client:
        for unit in ("ada", "grace", "emmy", "sofia", "maryam", "katherine"):
            answers = [ask(client, unit, row) for _ in range(15)]
            assert len({answer.headers["x-variant"] for answer in answers}) == 1
            assert len({answer.json()["model_version"] for answer in answers}) == 1
            assert {a.headers["x-model-version"] for a in answers} == {a.json()["model_version"] for a in answers}


def test_users_are_split_as_the_file_says_and_every_request_is_recorded(mlserver: PeerServer, tmp_path: Path) -> None:
    """70/30 over 300 users, within five standard deviations."""
    row, users = held_out_rows(1), 300
    with running_router(experiment(mlserver), tmp_path) as router:
        with asking(router.url) as client:
            answers = [ask(client, f"user-{number}", row) for number in range(users)]
        router.stop()
        records = router.records()
    in_treatment = sum(answer.headers["x-variant"] == "treatment" for answer in answers)
    assert is_plausible(in_treatment, users=users, share=0.3)
    assert {answer.headers["x-experiment-id"] for answer in answers} == {"digits-more-data"}
    assert len({answer.headers["x-request-id"] for answer in answers}) == users
    recorded = {record.request_id: record.variant for record in records}
    assert recorded == {answer.headers["x-request-id"]: answer.headers["x-variant"] for answer in answers}


def test_a_request_without_its_unit_is_served_by_the_stable_model(router_url: str) -> None:
    """Nobody is enrolled without a unit; the answer still says which version gave it."""
    with asking(router_url) as client:
        answer = client.post(PATH, json=v2_body(held_out_rows(1)))
        assert answer.json()["model_version"] == answer.headers["x-model-version"] == "v1"
        assert "x-variant" not in answer.headers
        assert "x-experiment-id" not in answer.headers
        assert answer.headers["x-request-id"]


def test_other_paths_of_the_model_are_rewritten_too(mlserver: PeerServer, tmp_path: Path) -> None:
    """The prefix itself and what lies below it; a version that is not there shows that the rewrite took place."""
    text = experiment(mlserver).replace("/versions/v2,", "/versions/v9,")
    statuses = set()
    with running_router(text, tmp_path) as router, asking(router.url) as client:
        for number in range(20):
            unit = {"x-user-id": f"user-{number}"}
            metadata = client.get("/v2/models/digits", headers=unit)
            ready = client.get("/v2/models/digits/ready", headers=unit)
            statuses.add((metadata.headers["x-variant"], metadata.status_code, ready.status_code))
    assert statuses == {("control", 200, 200), ("treatment", 404, 404)}


def test_a_wrong_shape_is_the_model_s_own_500(mlserver: PeerServer, tmp_path: Path) -> None:
    """The model spoke: no fallback, no retry, and an error of the variant that gave it."""
    with running_router(experiment(mlserver), tmp_path) as router:
        with asking(mlserver.url) as direct, asking(router.url) as client:
            expected = direct.post("/v2/models/digits/versions/v1/infer", json=v2_body([[0.0] * 3]))
            answers = [ask(client, f"user-{number}", [[0.0] * 3]) for number in range(10)]
        router.stop()
        records = router.records()
    assert expected.status_code == 500
    for answer in answers:
        assert (answer.status_code, answer.text) == (500, expected.text)
        assert answer.headers["content-type"] == expected.headers["content-type"]
        assert answer.headers["x-variant"] in {"control", "treatment"}
    assert [(record.status, record.outcome) for record in records] == [(500, "error")] * 10
    assert all(record.assigned_model == record.served_model for record in records)


def test_an_unknown_version_is_the_server_s_own_404(mlserver: PeerServer, tmp_path: Path) -> None:
    """MLServer's JSON about a version it does not have reaches the users of that variant only."""
    text = experiment(mlserver).replace("/versions/v2,", "/versions/v9,")
    row = held_out_rows(1)
    with running_router(text, tmp_path) as router, asking(router.url) as client:
        answers = [ask(client, f"user-{number}", row) for number in range(20)]
    by_variant = {
        variant: [answer for answer in answers if answer.headers["x-variant"] == variant]
        for variant in ("control", "treatment")
    }
    assert {answer.status_code for answer in by_variant["control"]} == {200}
    assert {answer.status_code for answer in by_variant["treatment"]} == {404}
    assert {answer.json()["error"] for answer in by_variant["treatment"]} == {"Model digits with version v9 not found"}
