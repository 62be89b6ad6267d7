"""The control port's application: experiments, views, health, metrics, and the page at `/`.

Outcomes and exposures normally never come here: `api.intake` serves them on the raw connection and acknowledges after
one fdatasync per group.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Protocol

import msgspec
from fastapi import FastAPI, Query
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from fairtrial import __version__
from fairtrial.api.browsers import OwnPagesOnly
from fairtrial.api.openapi import document_intake
from fairtrial.api.problems import ProblemError, on_http_exception, on_problem
from fairtrial.model.allocation import Snapshot
from fairtrial.model.experiment import Experiment
from fairtrial.model.view import ExperimentView

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Control(Protocol):
    """What the faces may ask of the control process."""

    @property
    def snapshot(self) -> Snapshot:
        """The allocation that is being served."""

    @property
    def views(self) -> Mapping[str, ExperimentView]:
        """The latest view of each experiment."""

    def problems(self) -> list[str]:
        """Why the process is not ready, in sentences; empty where it is."""

    def warnings(self) -> list[str]:
        """What a person should look at although everything is being served, in sentences."""

    async def refresh(self) -> None:
        """Read the log to its end and publish fresh views."""

    async def metrics(self) -> str:
        """Everything measured here, in Prometheus' text format."""


class Page(Protocol):
    """Renders the page at `/`."""

    @property
    def content_security_policy(self) -> str:
        """What a browser may load for it."""

    def render(self, snapshot: Snapshot, views: Mapping[str, ExperimentView], problems: list[str]) -> str:
        """HTML of the whole page."""


def build_app(control: Control, *, page: Page) -> FastAPI:
    """The application over one control process."""
    app = FastAPI(title="Fairtrial", version=__version__, docs_url=None, redoc_url=None)
    app.add_middleware(OwnPagesOnly)
    app.add_exception_handler(ProblemError, on_problem)
    app.add_exception_handler(HTTPException, on_http_exception)
    _add_health(app, control)
    _add_experiments(app, control)
    document_intake(app)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def status_page() -> HTMLResponse:
        html = page.render(control.snapshot, control.views, [*control.problems(), *control.warnings()])
        headers = {"content-security-policy": page.content_security_policy, "cache-control": "no-store"}
        return HTMLResponse(html, headers=headers)

    return app


def _add_health(app: FastAPI, control: Control) -> None:
    @app.get("/healthz", response_class=PlainTextResponse, summary="The process answers")
    async def healthz() -> str:
        return "ok\n"

    @app.get("/readyz", summary="Routers run, the log takes writes, views are fresh")
    async def readyz() -> Response:
        problems = control.problems()
        answer = {"ready": not problems, "problems": problems, "warnings": control.warnings()}
        return JSONResponse(answer, status_code=503 if problems else 200)

    @app.get("/metrics", summary="Prometheus metrics of the control process")
    async def metrics() -> Response:
        return Response(await control.metrics(), media_type=METRICS_TYPE)


def _add_experiments(app: FastAPI, control: Control) -> None:
    @app.get("/api/v1/experiments", summary="Every experiment, one line each")
    async def list_experiments() -> JSONResponse:
        names = control.snapshot.file.experiments
        return JSONResponse({"experiments": [_summary(control, name) for name in names]})

    @app.get("/api/v1/experiments/{name}", summary="One experiment: plan, allocation, verdict")
    async def get_experiment(name: str) -> JSONResponse:
        experiment = _known(control, name)
        return JSONResponse({**_summary(control, name), "plan": msgspec.to_builtins(experiment)})

    @app.get("/api/v1/experiments/{name}/view", summary="The ExperimentView: everything any screen shows")
    async def get_view(
        name: str,
        fresh: Annotated[bool, Query(description="read the log to its end first")] = False,  # noqa: FBT002
    ) -> Response:
        _known(control, name)
        if fresh:
            await control.refresh()
        view = control.views.get(name)
        if view is None:
            raise ProblemError(503, f"no view of '{name}' yet: the first one follows within seconds of the start")
        return Response(msgspec.json.encode(view), media_type="application/json")


def _known(control: Control, name: str) -> Experiment:
    experiments = control.snapshot.file.experiments
    if name not in experiments:
        known = ", ".join(sorted(experiments)) or "none"
        raise ProblemError(404, f"no experiment is called '{name}'; running: {known}")
    return experiments[name]


def _summary(control: Control, name: str) -> dict[str, object]:
    experiment, allocation = control.snapshot.file.experiments[name], control.snapshot.allocations[name]
    view = control.views.get(name)
    return {
        "name": name,
        "endpoint": experiment.endpoint,
        "owner": experiment.owner,
        "hypothesis": experiment.hypothesis,
        "status": allocation.status,
        "epoch": allocation.epoch,
        "enrolment": allocation.enrolment,
        "stage": allocation.stage,
        "split": dict(allocation.split),
        "verdict": view.verdict.kind if view else None,
        "reasons": [reason.code for reason in view.verdict.reasons] if view else [],
    }
