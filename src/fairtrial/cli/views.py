"""`fairtrial analyze NAME`: the view of an experiment, from the running control process or from its state directory."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import httpx
import msgspec

from fairtrial.controller.statedir import StateDir, StateDirBusyError
from fairtrial.model.errors import FairtrialError, NotFoundError, UpstreamError
from fairtrial.model.view import ExperimentView

TIMEOUT_S = 120.0


def fetch_view(server: str, name: str) -> ExperimentView:
    """Ask a control port for a fresh view. Raises NotFoundError, or UpstreamError where nobody answers as expected."""
    try:
        answer = httpx.get(f"{server}/api/v1/experiments/{name}/view", params={"fresh": "true"}, timeout=TIMEOUT_S)
    except httpx.TransportError as error:
        raise UpstreamError(f"no answer from {server}: {error}; is `fairtrial up` running there?") from error
    if answer.status_code == httpx.codes.NOT_FOUND:
        raise NotFoundError(answer.json().get("detail", f"no experiment is called '{name}'"))
    if not answer.is_success:
        raise UpstreamError(f"{server} answered {answer.status_code}: {answer.text[:300]}")
    return msgspec.json.decode(answer.content, type=ExperimentView)


def offline_view(state: StateDir, name: str) -> ExperimentView:
    """Read the log of a stopped system to its end and compute the view here."""
    from fairtrial.controller.publish import read_snapshot
    from fairtrial.controller.refresh import Refresher

    snapshot = read_snapshot(state.snapshot)
    if snapshot is None:
        raise FairtrialError(f"{state.root} holds no trial; start one with `fairtrial up -f FILE --state {state.root}`")
    if name not in snapshot.file.experiments:
        known = ", ".join(sorted(snapshot.file.experiments))
        raise NotFoundError(f"no experiment is called '{name}' in {state.root}; there are: {known}")
    try:
        with state.locked(), Refresher(state) as refresher:
            return refresher.refresh(snapshot)[name]
    except StateDirBusyError as error:
        raise UpstreamError(f"the process that owns {state.root} is starting or stopping: try again") from error


def show_experiment(
    name: str, *, state: Path, server: str | None, output: Literal["table", "json", "yaml"] = "table"
) -> int:
    """Print the view of one experiment; the exit code follows its verdict."""
    from fairtrial.cli.analyze import exit_code, print_view

    directory = StateDir(state)
    running = directory.read_running() if server is None else None
    if running is not None:
        server = f"http://{running.host}:{running.port}"
    view = fetch_view(server.rstrip("/"), name) if server is not None else offline_view(directory, name)
    print_view(view, output=output)
    return exit_code(view)
