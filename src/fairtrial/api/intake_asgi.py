"""The intake as an ASGI endpoint, for connections that the framework serves already: same bodies, same answers."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from fairtrial.api.intake import Answer, Intake, IntakeRoute, problem
from fairtrial.api.intake_protocol import Authorize


def intake_routes(intake: Intake, *, authorize: Authorize | None = None) -> list[Route]:
    """Starlette routes for both paths; add them to the app's router."""
    return [
        Route(route.path, IntakeEndpoint(intake, route, authorize), methods=["POST"], name=f"post_{route.value}")
        for route in IntakeRoute
    ]


class IntakeEndpoint:
    """ASGI application of one route."""

    def __init__(self, intake: Intake, route: IntakeRoute, authorize: Authorize | None) -> None:
        self._intake = intake
        self._route = route
        self._authorize = authorize

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, take it, answer when it is durable."""
        request = Request(scope, receive)
        try:
            answer = self._objection(request) or await self._take(request)
        except ClientDisconnect:
            return
        headers = {} if answer.retry_after_s is None else {"retry-after": str(answer.retry_after_s)}
        response = Response(answer.body, answer.status, headers, answer.content_type)
        await response(scope, receive, send)

    def _objection(self, request: Request) -> Answer | None:
        if self._authorize is not None and not self._authorize(_header(request, "authorization")):
            return problem(401, "this port asks for a token: send `Authorization: Bearer ...`")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            return problem(415, "content-encoding is not taken; send the body as it is")
        return None

    async def _take(self, request: Request) -> Answer:
        limit = self._intake.max_body_bytes
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > limit:
                return problem(413, f"the body is longer than {limit} bytes")
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def respond(answer: Answer) -> None:
            if not answered.done():  # the client may be gone
                answered.set_result(answer)

        self._intake.take(self._route, bytes(body), _header(request, "content-type"), respond)
        return await answered


def _header(request: Request, name: str) -> bytes | None:
    value = request.headers.get(name)
    return None if value is None else value.encode("latin-1")
