"""KServe's real Python server behind the real router, with the experiment file of docs/how-to/serve-with-kserve.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.e2e.peers.support_inference import held_out_rows, is_plausible, v1_body, v1_digits, v2_body, v2_digits
from tests.e2e.peers.support_servers import PeerServer, Trained, running_kserve
from tests.e2e.support_pages import files_of
from tests.e2e.support_router import asking, running_router

from fairtrial.model.parse import check_experiment

pytestmark = [pytest.mark.peer, pytest.mark.timeout(600)]  # the first test of a fresh clone installs the peer

V1_PATH = "/v1/models/digits:predict"
V2_PATH = "/v2/models/digits/infer"
NAMES = {"1": "digits", "2": "digits-2"}
DOCUMENTED = "http://127.0.0.1:8601"


def experiment(server: PeerServer) -> str:
    return files_of("serve-with-kserve")["experiment.yaml"].replace(DOCUMENTED, server.url)


@pytest.fixture(scope="module")
def router_url(kserve: PeerServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A router with the page's experiment, for tests that neither stop it nor read its records."""
    with running_router(experiment(kserve), tmp_path_factory.mktemp("router")) as router:
        yield router.url


def ask_v1(client: httpx.Client, unit: str, rows: list[list[float]]) -> httpx.Response:
    return client.post(V1_PATH, json=v1_body(rows), headers={"x-user-id": unit})


def ask_v2(client: httpx.Client, unit: str, rows: list[list[float]]) -> httpx.Response:
    return client.post(V2_PATH, json=v2_body(rows), headers={"x-user-id": unit})


def test_the_kserve_page_s_experiment_file_is_valid() -> None:
    """Its one warning, about the salt shared on purpose, is spoken of on the page."""
    file, problems = check_experiment(files_of("serve-with-kserve")["experiment.yaml"], name="experiment.yaml")
    assert file is not None
    assert ["salt" in str(problem) for problem in problems] == [True]


def test_v1_predictions_through_the_router_equal_those_asked_directly(kserve: PeerServer, router_url: str) -> None:
    """`:predict` is rewritten to the name of the variant's model: /v1/models/digits -> /v1/models/digits-2."""
    rows = held_out_rows(100)
    with asking(kserve.url) as direct, asking(router_url) as client:
        expected = {
            version: v1_digits(direct.post(f"/v1/models/{name}:predict", json=v1_body(rows)))
            for version, name in NAMES.items()
        }
        assert expected["1"] != expected["2"], "two models that always agree would prove nothing"
        answered = set()
        for number in range(12):
            answer = ask_v1(client, f"user-{number}", rows)
            assert v1_digits(answer) == expected[answer.headers["x-model-version"]]
            answered.add(answer.headers["x-model-version"])
        assert answered == {"1", "2"}


def test_v2_predictions_through_the_router_equal_those_asked_directly(kserve: PeerServer, router_url: str) -> None:
    """`/infer` is rewritten likewise; KServe names the model it asked."""
    rows = held_out_rows(100)
    with asking(kserve.url) as direct, asking(router_url) as client:
        expected = {
            version: v2_digits(direct.post(f"/v2/models/{name}/infer", json=v2_body(rows)))
            for version, name in NAMES.items()
        }
        answered = set()
        for number in range(12):
            answer = ask_v2(client, f"user-{number}", rows)
            version = answer.headers["x-model-version"]
            assert v2_digits(answer) == expected[version]
            assert answer.json()["model_name"] == NAMES[version]
            answered.add(version)
        assert answered == {"1", "2"}


def test_a_user_meets_one_model_on_both_protocols(router_url: str) -> None:
    """Two experiments with one salt agree on every user, request after request."""
    row = held_out_rows(1)
    with asking(router_url) as client:
        for unit in ("ada", "grace", "emmy", "sofia"):
            answers = [ask(client, unit, row) for ask in (ask_v1, ask_v2) for _ in range(10)]
            assert len({answer.headers["x-variant"] for answer in answers}) == 1
            assert len({answer.headers["x-model-version"] for answer in answers}) == 1
            names = {answer.json()["model_name"] for answer in answers if answer.url.path == V2_PATH}
            assert names == {NAMES[answers[0].headers["x-model-version"]]}


def test_users_are_split_evenly_between_two_kserve_models(router_url: str) -> None:
    """50/50 over 300 users, within five standard deviations."""
    row, users = held_out_rows(1), 300
    with asking(router_url) as client:
        answers = [ask_v1(client, f"user-{number}", row) for number in range(users)]
    in_treatment = sum(answer.headers["x-variant"] == "treatment" for answer in answers)
    assert is_plausible(in_treatment, users=users, share=0.5)
    assert {answer.headers["x-experiment-id"] for answer in answers} == {"digits-2-predict"}


def test_a_wrong_shape_is_kserve_s_own_500(kserve: PeerServer, tmp_path: Path) -> None:
    """KServe's JSON about the shape is relayed as it is, on both protocols, and is an error of the variant."""
    wrong = [(V1_PATH, v1_body([[0.0] * 3])), (V2_PATH, v2_body([[0.0] * 3]))]
    with running_router(experiment(kserve), tmp_path) as router:
        with asking(kserve.url) as direct, asking(router.url) as client:
            for path, body in wrong:
                expected = direct.post(path, json=body)
                answer = client.post(path, json=body, headers={"x-user-id": "ada"})
                assert "expecting 64 features" in expected.json()["error"]
                assert (answer.status_code, answer.json()) == (500, expected.json())
        router.stop()
        records = router.records()
    assert [(record.status, record.outcome, record.reason) for record in records] == [(500, "error", "")] * 2


def test_an_unknown_model_is_kserve_s_own_404(kserve: PeerServer, tmp_path: Path) -> None:
    """The users of a variant whose model is not there are told so by the server, not by us."""
    text = experiment(kserve).replace("/models/digits-2,", "/models/digits-9,")
    row = held_out_rows(1)
    with running_router(text, tmp_path) as router, asking(router.url) as client:
        answers = [ask_v2(client, f"user-{number}", row) for number in range(20)]
    statuses = {(answer.headers["x-variant"], answer.status_code) for answer in answers}
    assert statuses == {("control", 200), ("treatment", 404)}
    errors = {answer.json()["error"] for answer in answers if answer.status_code == 404}
    assert errors == {"Model with name digits-9 does not exist."}


def test_a_stopped_server_s_users_get_the_stable_model_and_stay_in_their_variant(
    mlserver: PeerServer, kserve_models: Trained, tmp_path: Path
) -> None:
    """MLServer is stable, KServe under test and then stopped: same assignment, fallback on record."""
    row, units = held_out_rows(1), [f"user-{number}" for number in range(12)]
    with running_kserve(kserve_models.environment, kserve_models.folder, ("digits-2",)) as kserve:
        text = MIXED.format(mlserver=mlserver.url, kserve=kserve.url)
        with running_router(text, tmp_path) as router:
            with asking(router.url) as client:
                before = {unit: ask_v2(client, unit, row) for unit in units}
                kserve.stop()
                after = {unit: ask_v2(client, unit, row) for unit in units}
            router.stop()
            records = {record.request_id: record for record in router.records()}
    treated = [unit for unit in units if before[unit].headers["x-variant"] == "treatment"]
    assert 0 < len(treated) < len(units)
    for unit in units:
        assert after[unit].headers["x-variant"] == before[unit].headers["x-variant"]
        assert after[unit].json()["model_version"] == "v1"
        assert after[unit].headers["x-model-version"] == "v1"
    for unit in treated:
        assert before[unit].json()["model_name"] == "digits-2"
        first, second = (records[answer.headers["x-request-id"]] for answer in (before[unit], after[unit]))
        assert (first.variant, first.served_model, first.outcome) == ("treatment", "challenger", "ok")
        assert (second.variant, second.assigned_model, second.served_model) == ("treatment", "challenger", "champion")
        assert (second.outcome, second.unit) == ("fallback", first.unit)
        assert second.reason


MIXED = """
models:
  champion: {{url: "{mlserver}/v2/models/digits/versions/v1", version: v1}}
  challenger: {{url: "{kserve}/v2/models/digits-2", version: "2"}}
endpoints:
  digits:
    match: {{path: /v2/models/digits}}
    model: champion
experiments:
  mlserver-or-kserve:
    endpoint: digits
    unit: {{header: x-user-id}}
    variants:
      control: {{model: champion}}
      treatment: {{model: challenger}}
    split: {{control: 50, treatment: 50}}
    metrics:
      errors: {{role: primary, kind: proportion, of: error, mde: 5pp}}
    analysis: {{method: anytime}}
"""
