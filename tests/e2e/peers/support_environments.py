"""Each peer in an environment of its own, made once per clone: `.cache/peers/<peer>-<hash>/`.

A peer's pins do not go together with ours (MLServer wants an older FastAPI), so it never shares our environment. The
hash is of everything that decides what is installed: a changed pin makes a new environment, an unchanged one is used
again. A file lock lets one test process install while the others wait.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENTS = ROOT / ".cache" / "peers"
INSTALL_TIMEOUT_S = 180
ATTEMPTS = 2


def peer_environment(peer: str) -> Path:
    """Folder of the environment of `peer`, whose pins are in `<peer>.txt` here; skips the test where it cannot be."""
    requirements = Path(__file__).with_name(f"{peer}.txt")
    environment = ENVIRONMENTS / f"{peer}-{_fingerprint(requirements)}"
    ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    with _locked(ENVIRONMENTS / f"{peer}.lock"):
        problem = "" if _is_complete(environment) else _install(environment, requirements)
    if problem:
        pytest.skip(f"{peer} cannot be installed here: {problem}")
    return environment


def peer_variables() -> dict[str, str]:
    """Variables of a peer's processes: ours, but for the one that would have each start compile its modules anew."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _fingerprint(requirements: Path) -> str:
    made_of = f"{sys.implementation.cache_tag} {sys.platform}\n{requirements.read_text()}"
    return hashlib.sha256(made_of.encode()).hexdigest()[:12]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # freed with the file, also where the process is killed
        yield


def _is_complete(environment: Path) -> bool:
    return (environment / ".complete").exists()


def _install(environment: Path, requirements: Path) -> str:
    """Make the environment; the last attempt's last line of complaint, or nothing where it worked."""
    problem = ""
    for _ in range(ATTEMPTS):
        shutil.rmtree(environment, ignore_errors=True)
        problem = _uv("venv", "--python", sys.executable, str(environment)) or _uv(
            "pip", "install", "--python", str(environment), "--no-deps", "--requirements", str(requirements)
        )
        if not problem:
            (environment / ".complete").touch()
            return ""
    shutil.rmtree(environment, ignore_errors=True)
    return problem


def _uv(*arguments: str) -> str:
    command = [sys.executable, "-m", "uv", "--quiet", "--no-progress", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"`uv {arguments[0]}` took longer than {INSTALL_TIMEOUT_S} s"
    if done.returncode == 0:
        return ""
    return " ".join(done.stderr.split())[:300] or f"`uv {arguments[0]}` ended with code {done.returncode}"
