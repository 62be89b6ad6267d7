"""The tutorial's commands run exactly as printed, in one shell, and say what the text promises."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def commands(page: Path) -> str:
    return "\n".join(re.findall(r"```sh\n(.*?)```", page.read_text(), flags=re.DOTALL))


def test_the_first_trial_ends_with_ship_and_an_intact_log(tmp_path: Path) -> None:
    work = tmp_path / "first-trial"
    shutil.copytree(ROOT / "examples" / "first-trial", work)
    script = "set -m\n" + commands(ROOT / "docs" / "tutorial" / "first-trial.md")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "NO_COLOR": "1"}
    run = subprocess.run(
        ["bash", "-c", script], cwd=work, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "2000 users, 2000 outcomes accepted" in run.stdout
    assert "SHIP" in run.stdout, run.stdout
