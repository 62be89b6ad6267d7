"""The peers' servers, started once per test process, serving the files of the how-to pages."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.peers.support_environments import peer_environment, peer_variables
from tests.e2e.peers.support_servers import PeerServer, Trained, running_kserve, running_mlserver
from tests.e2e.support_pages import write_files


def _trained(peer: str, page: str, folder: Path) -> Trained:
    environment = peer_environment(peer)
    write_files(page, folder)
    command = [str(environment / "bin" / "python"), "train.py"]
    subprocess.run(command, cwd=folder, env=peer_variables(), check=True, timeout=120)
    return Trained(environment, folder)


@pytest.fixture(scope="session")
def kserve_models(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return _trained("kserve", "serve-with-kserve", tmp_path_factory.mktemp("kserve"))


@pytest.fixture(scope="session")
def kserve(kserve_models: Trained) -> Iterator[PeerServer]:
    """KServe's Python server with the models `digits` and `digits-2`."""
    with running_kserve(kserve_models.environment, kserve_models.folder, ("digits", "digits-2")) as server:
        yield server


@pytest.fixture(scope="session")
def mlserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PeerServer]:
    """MLServer with the versions v1 and v2 of the model `digits`."""
    models = _trained("mlserver", "serve-with-mlserver", tmp_path_factory.mktemp("mlserver"))
    with running_mlserver(models.environment, models.folder) as server:
        yield server
