"""The demo as a newcomer runs it, at a fraction of its size: real models, real router, real log, one verdict."""

import json
import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("scenario", "verdict", "code"), [("failing", "roll_back", "guardrail_limit")])
def test_a_failing_challenger_is_rolled_back(scenario: str, verdict: str, code: str) -> None:
    command = [
        sys.executable,
        "-m",
        "fairtrial.cli.main",
        "demo",
        "--scenario",
        scenario,
        "--users",
        "240",
        "-o",
        "json",
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False, env={**os.environ})
    assert run.returncode == 0, run.stderr
    view = json.loads(run.stdout)
    assert view["verdict"]["kind"] == verdict
    assert code in [reason["code"] for reason in view["verdict"]["reasons"]]
    units = {variant["name"]: variant["units"] for variant in view["variants"]}
    assert sum(units.values()) == 240, "every user is counted, in one variant only"
    assert view["progress"]["waiting_units"] == 0
