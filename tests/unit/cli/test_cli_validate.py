"""`fairtrial validate` and `fairtrial assign` as functions: output and exit codes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from fairtrial.assign.bucket import buckets
from fairtrial.cli.assign import assign
from fairtrial.cli.validate import validate

CHURN = Path(__file__).parents[3] / "examples" / "churn.yaml"
NAME = "churn-3-launch"


def test_a_valid_file_is_named_valid(capsys: pytest.CaptureFixture[str]) -> None:
    assert validate([CHURN]) == 0
    warning, verdict = capsys.readouterr().out.splitlines()
    assert verdict == f"{CHURN}: valid, 1 experiment"
    assert f"experiments.{NAME}.rollout: warning: stages do not advance" in warning


def test_a_broken_file_prints_one_line_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(
        CHURN.read_text().replace("treatment: 50}", "treatment: 47}").replace("endpoint: churn\n", "endpoint: x\n")
    )
    assert validate([CHURN, path]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("valid, 1 experiment")
    assert lines[3] == f"{path}:19:12: experiments.{NAME}.split: sums to 97; must be 100: add 3 to a variant"
    assert lines[4] == f"{path}: 2 mistakes"


def test_json_output_is_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert validate([CHURN], output="json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["valid"] is True
    assert [problem["is_warning"] for problem in document["problems"]] == [True]
    assert validate([tmp_path / "none.yaml"], output="json") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["valid"] is False
    assert document["problems"][0].keys() == {"file", "line", "column", "path", "message", "fix", "is_warning"}


def test_no_file_is_a_usage_error_and_schema_needs_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert validate([]) == 2
    assert validate([], schema=True) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Fairtrial experiment file"


def test_assign_prints_exactly_the_documented_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert assign(NAME, CHURN, ["user-1", "ü"], stage="50%") == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    bucket = buckets(NAME, "user-1")[1]
    variant = "control" if bucket < 0.5 else "treatment"
    assert first == {
        "unit": "user-1", "experiment": NAME, "variant": variant, "enrolled": True, "bucket": bucket, "propensity": 0.5,
    }  # fmt: skip
    assert second["unit"] == "ü"


def test_assign_uses_the_first_stage_of_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    units = [f"user-{number}" for number in range(2000)]
    assert assign(NAME, CHURN, units) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["enrolled"] for row in rows] == [buckets(NAME, unit)[0] < 0.02 for unit in units]
    unenrolled = next(row for row in rows if not row["enrolled"])
    assert (unenrolled["variant"], unenrolled["propensity"]) == (None, None)


@pytest.mark.parametrize("units", [[], ["-"]])
def test_assign_reads_units_from_standard_input(
    units: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("a\r\n\nü b\n".encode())))
    assert assign(NAME, CHURN, units) == 0
    assert [json.loads(line)["unit"] for line in capsys.readouterr().out.splitlines()] == ["a", "ü b"]


def test_units_that_are_not_utf8_are_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\n\xff\n")))
    assert assign(NAME, CHURN, []) == 1
    assert "line 2 of standard input is not UTF-8" in capsys.readouterr().err


def test_an_unknown_experiment_exits_with_6(capsys: pytest.CaptureFixture[str]) -> None:
    assert assign("nope", CHURN, ["u"]) == 6
    assert f"it has: {NAME}" in capsys.readouterr().err


def test_a_broken_file_exits_with_1_and_a_broken_stage_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert assign(NAME, tmp_path / "none.yaml", ["u"]) == 1
    assert assign(NAME, CHURN, ["u"], stage="500%") == 2
    assert "--stage" in capsys.readouterr().err


def test_a_table_has_one_row_a_unit(capsys: pytest.CaptureFixture[str]) -> None:
    assert assign(NAME, CHURN, ["user-1", ""], output="table", stage="50%") == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].split() == ["UNIT", "VARIANT", "BUCKET", "PROPENSITY"]
    assert rows[1].split()[0] == "user-1"
    assert rows[2].strip() == "(no_unit)"
