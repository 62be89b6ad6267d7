"""`fairtrial up` as one process tree: ready, reloading, restarting, refusing, and leaving nothing behind."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

FILE = """
models:
  a: {{url: http://127.0.0.1:{port}, version: "1"}}
  b: {{url: http://127.0.0.1:{port}, version: "2"}}
endpoints:
  e: {{match: {{path: /v1/models/m}}, model: a}}
experiments:
  launch:
    endpoint: e
    unit: {{header: x-user-id}}
    variants: {{control: {{model: a}}, treatment: {{model: b}}}}
    split: {{control: 50, treatment: 50}}
    enrolment: {enrolment}
    metrics: {{good: {{role: primary, kind: proportion, event: good}}}}
    analysis: {{method: anytime}}
"""


class Model(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture
def model_port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Model) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()


class Up:
    """One running `fairtrial up`."""

    def __init__(self, work: Path, port: int) -> None:
        self.work, self.model_port = work, port
        self.file = work / "experiment.yaml"
        self.write(enrolment="100%")
        self.process = self.start()
        assert self.process.stdout is not None
        self.ready = json.loads(self.process.stdout.readline())
        self.router, self.control = self.ready["router"], self.ready["control"]

    def write(self, *, enrolment: str) -> None:
        self.file.write_text(FILE.format(port=self.model_port, enrolment=enrolment))

    def start(self, *extra: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "fairtrial.cli.main", "up", "-f", str(self.file)]
        command += ["--state", str(self.work / "state"), "--router-port", "0", "--port", "0", "--workers", "2"]
        return subprocess.Popen(
            [*command, "-o", "json", "--refresh", "1s", *extra],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, unit: str) -> tuple[int, str | None, str | None]:
        status, headers, _ = call(f"{self.router}/v1/models/m:predict", b"{}", {"x-user-id": unit})
        return status, headers.get("x-variant"), headers.get("x-request-id")

    def get(self, path: str) -> object:
        status, _, body = call(f"{self.control}{path}", None, {})
        return json.loads(body) if status in {200, 503} else status

    def workers(self) -> list[int]:
        files = (self.work / "state" / "run").glob("router-*.json")
        return [int(json.loads(path.read_text())["pid"]) for path in files]


def call(url: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET" if body is None else "POST", parts.path, body, headers)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()


def eventually(condition: Callable[[], bool], *, within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.1)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if Path("/proc").exists() else True


@pytest.fixture
def up(tmp_path: Path, model_port: int) -> Iterator[Up]:
    running = Up(tmp_path, model_port)
    yield running
    if running.process.poll() is None:
        running.process.send_signal(signal.SIGTERM)
    running.process.communicate(timeout=30)


def test_a_request_an_outcome_and_a_view_go_all_the_way(up: Up) -> None:
    assert up.get("/readyz") == {"ready": True, "problems": [], "warnings": []}
    seen = {}
    for number in range(40):
        status, variant, _ = up.ask(f"user-{number}")
        assert status == 200
        seen[f"user-{number}"] = variant
    assert set(seen.values()) == {"control", "treatment"}
    outcomes = [{"unit": unit, "name": "good", "value": 1, "id": f"o-{unit}"} for unit in seen]
    for _ in range(2):  # sent twice, counted once
        status, _, answer = call(f"{up.control}/api/v1/outcomes", json.dumps({"outcomes": outcomes}).encode(), {})
        assert (status, json.loads(answer)["accepted"]) == (200, 40)

    def everything_is_counted() -> bool:
        view = up.get("/api/v1/experiments/launch/view")
        assert isinstance(view, dict)
        units = {v["name"]: v["units"] for v in view["variants"]}
        values = {v["variant"]: v["value"] for v in view["metrics"][0]["values"]}
        return sum(units.values()) == 40 and set(values.values()) == {1.0}

    eventually(everything_is_counted)
    shown = subprocess.run(
        [sys.executable, "-m", "fairtrial.cli.main", "analyze", "launch", "--state", str(up.work / "state")],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    assert shown.returncode == 3, shown.stderr
    assert "KEEP RUNNING" in shown.stdout


def test_an_edited_file_is_served_without_a_failed_request_and_a_broken_one_is_not(up: Up) -> None:
    before = {f"user-{n}": up.ask(f"user-{n}")[1] for n in range(60)}
    up.write(enrolment="30%")
    statuses: list[int] = []

    def fewer_are_enrolled() -> bool:
        answers = {unit: up.ask(unit) for unit in before}
        statuses.extend(status for status, _, _ in answers.values())
        variants = {unit: variant for unit, (_, variant, _) in answers.items()}
        assert all(variants[unit] in {before[unit], None} for unit in before), "nobody changes arms"
        return 0 < sum(variant is not None for variant in variants.values()) < 40

    eventually(fewer_are_enrolled)
    assert set(statuses) == {200}
    up.file.write_text("experiments: {launch: {endpont: e}}")

    def is_reported() -> bool:
        ready = up.get("/readyz")
        assert isinstance(ready, dict)
        return ready["ready"] is True and any("endpont" in warning for warning in ready["warnings"])

    eventually(is_reported)
    assert up.ask("user-1")[0] == 200


def test_an_edit_that_would_move_users_is_refused(up: Up) -> None:
    before = {f"user-{n}": up.ask(f"user-{n}")[1] for n in range(40)}
    text = up.file.read_text()
    up.file.write_text(text.replace("{control: 50, treatment: 50}", "{treatment: 50, control: 50}"))

    def is_reported() -> bool:
        ready = up.get("/readyz")
        assert isinstance(ready, dict)
        return any("units would change variants" in warning for warning in ready["warnings"])

    eventually(is_reported)
    assert {unit: up.ask(unit)[1] for unit in before} == before


@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"origin": "http://evil.example"}, {"origin": "null"}])
@pytest.mark.parametrize("path", ["/api/v1/outcomes", "/api/v1/experiments"])
def test_pages_of_other_sites_are_kept_out(up: Up, path: str, headers: dict[str, str]) -> None:
    body = b'{"unit": "u", "name": "good"}' if path.endswith("outcomes") else None
    status, _, answer = call(f"{up.control}{path}", body, headers)
    assert status == 403, answer


def test_a_killed_worker_is_started_again(up: Up) -> None:
    eventually(lambda: len(up.workers()) == 2)
    victims = up.workers()
    os.kill(victims[0], signal.SIGKILL)
    eventually(lambda: len(up.workers()) == 2 and victims[0] not in up.workers() and all(map(is_alive, up.workers())))
    assert up.ask("user-1")[0] == 200


def test_workers_leave_when_their_parent_is_killed(up: Up) -> None:
    eventually(lambda: len(up.workers()) == 2)
    workers = up.workers()
    up.process.kill()
    up.process.wait(timeout=10)
    eventually(lambda: not any(map(is_alive, workers)))


def test_a_second_owner_of_the_state_is_refused_with_the_reason(up: Up) -> None:
    second = up.start()
    _, messages = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "in use by another fairtrial process" in messages


def test_a_public_control_address_is_refused(up: Up) -> None:
    second = up.start("--host", "0.0.0.0")
    _, messages = second.communicate(timeout=60)
    assert second.returncode == 2
    assert "binds to loopback only" in messages


def test_sigterm_ends_everything_and_what_was_recorded_can_be_read(up: Up) -> None:
    for number in range(20):
        up.ask(f"user-{number}")
    workers = up.workers()
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(timeout=30) == 0
    assert not any(map(is_alive, workers))
    read = subprocess.run(
        [sys.executable, "-m", "fairtrial.cli.main", "events", "requests", "--state", f"{up.work}/state", "-o", "json"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    records = [json.loads(line)["record"] for line in read.stdout.splitlines()]
    assert len(records) == 20
    assert all(isinstance(record["unit"], int) and "unit_id" not in record for record in records)
