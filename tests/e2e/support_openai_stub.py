"""A backend in the shape of OpenAI's API whose answers follow a schedule set by the test.

Real HTTP on a real socket (uvicorn in a thread), so a proxy in front of it meets what it would meet in production.
A `Schedule` per model says which pieces an answer has, how long to wait before each, and from which piece on the stub
waits for `open_gate`. What happens is written to one `Timeline` that the client side writes to as well: tests compare
the order of events and never look at a clock.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

WAIT_S = 20.0

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Schedule:
    """One model's answer.

    delays_s: before each piece, 0 where missing. gated_from: first piece that waits for the gate. breaks_at: piece of a
    stream in whose place the connection is lost.
    """

    pieces: tuple[str, ...] = ("All", " models", " are", " wrong.")
    delays_s: tuple[float, ...] = ()
    gated_from: int | None = None
    breaks_at: int | None = None
    finish_reason: str = "stop"

    def delay_s(self, piece: int) -> float:
        return self.delays_s[piece] if piece < len(self.delays_s) else 0.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it arrived at the backend."""

    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]


class Timeline:
    """Events in the order in which they happened, whichever thread they happened in."""

    def __init__(self) -> None:
        self._events: list[str] = []
        self._changed = threading.Condition()

    def note(self, event: str) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def wait_for(self, event: str) -> None:
        """Returns once `event` has happened; fails the test where it does not within WAIT_S."""
        with self._changed:
            has_happened = self._changed.wait_for(lambda: event in self._events, timeout=WAIT_S)
        assert has_happened, f"{event!r} did not happen; what did: {self.events}"

    @property
    def events(self) -> list[str]:
        with self._changed:
            return list(self._events)


class OpenAIStub:
    """The ASGI application and what the test sees of it. Unknown models are answered 404, as OpenAI does."""

    def __init__(self, schedules: Mapping[str, Schedule]) -> None:
        self.timeline = Timeline()
        self.seen: list[Seen] = []
        self.url = ""
        self._schedules = schedules
        self._gate = threading.Event()  # opened from the test's thread, looked at from the server's

    def reset(self) -> None:
        """Forget what was seen and close the gate, for the next test."""
        self.seen.clear()
        self.timeline = Timeline()
        self._gate.clear()

    def open_gate(self) -> None:
        self._gate.set()

    def last_seen(self) -> Seen:
        assert self.seen, "the backend has seen no request"
        return self.seen[-1]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        body = json.loads(await _whole_body(receive) or b"{}")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.seen.append(Seen(scope["path"], headers, body))
        schedule = self._schedules.get(body.get("model", ""))
        if schedule is None:
            await _answer(send, 404, _unknown_model(body.get("model")))
        elif scope["path"] == "/v1/responses":
            await _answer(send, 200, _response_object(body, schedule))
        elif scope["path"] != "/v1/chat/completions":
            await _answer(
                send, 404, {"error": {"message": f"no route {scope['path']}", "type": "invalid_request_error"}}
            )
        else:
            send_answer = self._send_stream if body.get("stream") else self._send_completion
            await self._until_hung_up(send_answer(body, schedule, send), receive)

    async def _until_hung_up(self, answering: Coroutine[Any, Any, None], receive: Receive) -> None:
        """Answer until the schedule ends or the other side hangs up, whichever is first."""
        sending = asyncio.create_task(answering)
        hanging_up = asyncio.create_task(_disconnected(receive))
        done, pending = await asyncio.wait({sending, hanging_up}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        if sending in done:
            sending.result()
        else:
            self.timeline.note("backend: cancelled")

    async def _send_completion(self, body: Mapping[str, Any], schedule: Schedule, send: Send) -> None:
        self.timeline.note("backend: asked")
        await self._wait(schedule, 0, len(schedule.pieces))
        await _answer(send, 200, _completion(body, schedule))
        self.timeline.note("backend: finished")

    async def _send_stream(self, body: Mapping[str, Any], schedule: Schedule, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number, piece in enumerate(schedule.pieces):
            await self._wait(schedule, number, number + 1)
            if number == schedule.breaks_at:
                return  # without an end: uvicorn cuts the connection
            role = {"role": "assistant"} if number == 0 else {}
            await _send_event(send, _chunk(body, [_choice({**role, "content": piece}, None)]))
            self.timeline.note(f"backend: sent {number}")
        await _send_event(send, _chunk(body, [_choice({}, schedule.finish_reason)]))
        if (body.get("stream_options") or {}).get("include_usage"):
            await _send_event(send, {**_chunk(body, []), "usage": _usage(schedule)})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
        self.timeline.note("backend: finished")

    async def _wait(self, schedule: Schedule, first: int, end: int) -> None:
        """Wait as long as the schedule says before the pieces [first, end)."""
        for piece in range(first, end):
            await asyncio.sleep(schedule.delay_s(piece))
            is_gated = schedule.gated_from is not None and piece >= schedule.gated_from
            while is_gated and not self._gate.is_set():  # noqa: ASYNC110 - an asyncio.Event is not thread-safe
                await asyncio.sleep(0.005)


@contextmanager
def running_openai_stub(schedules: Mapping[str, Schedule]) -> Iterator[OpenAIStub]:
    """Serve on a free loopback port for the duration; `.url` has no path."""
    stub = OpenAIStub(schedules)
    # The protocol named: asyncio turns Nagle's delay off only for sockets that say they are TCP (40 ms an answer).
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    stub.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = uvicorn.Config(
        stub, loop="asyncio", ws="none", lifespan="off", log_level="warning", timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="openai-stub")
    thread.start()
    try:
        yield stub
    finally:
        stub.open_gate()
        server.should_exit = True
        thread.join(timeout=WAIT_S)
        listener.close()
        assert not thread.is_alive()


async def _whole_body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer(send: Send, status: int, content: Mapping[str, Any]) -> None:
    payload = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(payload)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": payload})


async def _send_event(send: Send, content: Mapping[str, Any]) -> None:
    event = b"data: " + json.dumps(content).encode() + b"\n\n"
    await send({"type": "http.response.body", "body": event, "more_body": True})


def _unknown_model(model: object) -> Mapping[str, Any]:
    message = f"The model `{model}` does not exist or you do not have access to it."
    return {"error": {"message": message, "type": "invalid_request_error", "param": "model", "code": "model_not_found"}}


def _choice(delta: Mapping[str, str], finish_reason: str | None) -> Mapping[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _chunk(body: Mapping[str, Any], choices: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_790_000_000, "model": body["model"]}
    return {**head, "choices": choices}


def _completion(body: Mapping[str, Any], schedule: Schedule) -> Mapping[str, Any]:
    message = {"role": "assistant", "content": "".join(schedule.pieces), "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": schedule.finish_reason}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1_790_000_000, "model": body["model"]}
    return {**head, "choices": [choice], "usage": _usage(schedule)}


def _usage(schedule: Schedule) -> Mapping[str, int]:
    tokens = len(schedule.pieces)
    return {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}


def _response_object(body: Mapping[str, Any], schedule: Schedule) -> Mapping[str, Any]:
    """The newer Responses API, whose system prompt is a field of its own: `instructions`."""
    text = {"type": "output_text", "text": "".join(schedule.pieces), "annotations": []}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [text]}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_790_000_000,
        "status": "completed",
        "model": body["model"],
        "instructions": body.get("instructions"),
        "output": [message],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }
