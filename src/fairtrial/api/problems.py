"""Errors over HTTP: `application/problem+json` (RFC 9457), one shape for every route."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException


class ProblemError(Exception):
    """Raised by a route to answer with a problem document. detail: what was found, what is allowed, what to do."""

    def __init__(self, status: int, detail: str, **members: object) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.members = members


def problem(status: int, detail: str, members: Mapping[str, object] | None = None) -> JSONResponse:
    """An answer in the shape of RFC 9457, section 3."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return JSONResponse({**body, **(members or {})}, status_code=status, media_type="application/problem+json")


async def on_problem(_: Request, error: Exception) -> JSONResponse:
    """Handler for `ProblemError`."""
    assert isinstance(error, ProblemError)
    return problem(error.status, error.detail, error.members)


async def on_http_exception(_: Request, error: Exception) -> JSONResponse:
    """Handler for the framework's own 404 and 405."""
    assert isinstance(error, HTTPException)
    answer = problem(error.status_code, str(error.detail))
    answer.headers.update(error.headers or {})
    return answer
