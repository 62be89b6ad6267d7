"""What scripts rely on: exit codes, where messages go, and that help is quick."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CHURN = ROOT / "examples" / "churn.yaml"


def fairtrial(*arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "fairtrial.cli.main", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)


def test_help_imports_no_heavy_library() -> None:
    code = (
        "import sys\nsys.argv = ['fairtrial', '--help']\nfrom fairtrial.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'scipy', 'duckdb', 'fastapi', 'sklearn', 'pandas'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stderr.strip().splitlines()[-1] == "[]"


def test_importing_fairtrial_imports_no_heavy_library() -> None:
    code = "import sys, fairtrial; print(sorted({'numpy', 'scipy', 'duckdb'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "[]"


def test_every_command_has_help() -> None:
    top = fairtrial("--help")
    for command in ("up", "demo", "validate", "assign", "analyze", "events"):
        assert command in top.stdout
        assert fairtrial(command, "--help").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("up", "--bogus"), 2, "--bogus"),
        (("nonsense",), 2, "nonsense"),
        (("assign", "churn-3-launch", "-f", str(CHURN), "--bogus"), 2, "--bogus"),
        (("validate",), 2, "name at least one experiment file"),
        (("analyze",), 2, "either an experiment's name, or --data"),
        (("analyze", "--data", "x.csv"), 2, "--unit"),
        (("demo", "--users", "3"), 2, "--users"),
        (("up", "-f", "missing.yaml"), 1, "missing.yaml"),
        (("validate", "missing.yaml"), 1, "missing.yaml"),
        (("assign", "nobody", "-f", str(CHURN), "u1"), 6, "nobody"),
        (("analyze", "x", "--server", "http://127.0.0.1:9"), 1, "fairtrial up"),
        (("up", "-f", str(CHURN), "--refresh", "soon"), 2, "soon"),
    ],
)
def test_mistakes_have_their_exit_code_and_name_the_culprit(
    arguments: tuple[str, ...], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = fairtrial(*arguments)
    assert run.returncode == code, run.stdout + run.stderr
    assert message in " ".join((run.stdout + run.stderr).split())
    assert "Traceback" not in run.stderr


def test_assign_prints_exactly_the_documented_keys() -> None:
    run = fairtrial("assign", "churn-3-launch", "-f", str(CHURN), "u1", "u2")
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert [list(line) for line in lines] == [["unit", "experiment", "variant", "enrolled", "bucket", "propensity"]] * 2


def test_assign_reads_units_from_standard_input() -> None:
    run = fairtrial("assign", "churn-3-launch", "-f", str(CHURN), "-", stdin="u1\nu2\nu3\n")
    assert [json.loads(line)["unit"] for line in run.stdout.splitlines()] == ["u1", "u2", "u3"]


def test_a_closed_pipe_is_no_crash() -> None:
    code = f"{sys.executable} -m fairtrial.cli.main validate --schema | head -1"
    run = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "Traceback" not in run.stderr
