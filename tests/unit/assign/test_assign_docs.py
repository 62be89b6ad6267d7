"""Code on docs/explanation/assignment.md does what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pytest

from fairtrial.assign.bucket import buckets

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "explanation" / "assignment.md").read_text()
BLOCKS = {name: code for name, code in re.findall(r"```((?:sql )?\w+)\n(.*?)```", PAGE, re.DOTALL)}  # noqa: C416 - keeps pairs


def test_duckdb_computes_the_same_numbers_as_the_library() -> None:
    units = [f"user-{number}" for number in range(500)] + ["ünï", "用户", "🙂", "a:b", " "]
    connection = duckdb.connect()
    connection.execute("CREATE TABLE units AS SELECT unnest($units) AS unit", {"units": units})
    rows = connection.execute(BLOCKS["sql duckdb"]).fetchall()
    assert {unit: (whether, bucket) for unit, whether, bucket in rows} == {
        unit: buckets("churn-3-launch", unit) for unit in units
    }


def test_python_on_the_page_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    exec(compile(BLOCKS["python"], "assignment.md", "exec"), {})
    assert "[" in capsys.readouterr().out


def test_every_reason_is_on_the_page() -> None:
    from fairtrial.assign.assignment import Reason

    for reason in Reason:
        assert reason is Reason.ENROLLED or f"| `{reason}` |" in PAGE
