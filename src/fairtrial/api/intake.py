"""Taking outcomes and exposures: one body in, one answer out, and a 200 only after the disk has confirmed it.

`Intake` knows nothing of sockets: `intake_protocol` serves it on the raw connection, `intake_asgi` behind the ASGI app
for connections that were handed over before. Both answer alike, because both only carry bytes.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import Final, Protocol

import msgspec

from fairtrial.events.intake import IntakeBatch, IntakeDecoder, ItemError
from fairtrial.events.keys import load_unit_key
from fairtrial.events.log import Position
from fairtrial.events.writer import Deliver, LogClosedError, LogFullError, LogPoisonedError, LogWriter, OnDurable
from fairtrial.model.errors import RequestError
from fairtrial.model.units import UnitKeyer

MAX_BODY_BYTES: Final = 8 << 20
MAX_NAMES: Final = 1000
MAX_ERRORS_LISTED: Final = 1000
# A larger body takes over a millisecond to decode: that long the loop would serve nobody else.
_OFF_LOOP_BYTES: Final = 128 << 10
_RETRY_WHEN_FULL_S: Final = 1
_RETRY_WHEN_BROKEN_S: Final = 10
_ENCODE = msgspec.json.Encoder().encode


class IntakeRoute(StrEnum):
    """The two paths, by their streams."""

    OUTCOMES = "outcomes"
    EXPOSURES = "exposures"

    @property
    def path(self) -> str:
        """Path on the control port."""
        return f"/api/v1/{self.value}"


class Store(Protocol):
    """Where records go; LogWriter is one, benchmarks bring others."""

    @property
    def queued_bytes(self) -> int:
        """Bytes taken and not yet durable."""

    def submit(self, payload: bytes, count: int, on_durable: OnDurable) -> None:
        """As LogWriter.submit."""

    def close(self) -> None:
        """Finish what was taken."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What to say to one request. retry_after_s: seconds for Retry-After, None for no such header."""

    status: int
    body: bytes
    retry_after_s: int | None = None

    @property
    def content_type(self) -> str:
        """Of the body."""
        return "application/json" if self.status == HTTPStatus.OK else "application/problem+json"


Respond = Callable[[Answer], None]


@dataclass(slots=True)
class IntakeCounts:
    """Items since start. accepted: durable ones by stream and name; at most 1,000 names a stream, the rest is `other`.

    rejected: bad items by stream. refused: good items turned away by reason (`full`, `broken`).
    """

    accepted: dict[IntakeRoute, Counter[str]] = field(default_factory=lambda: {r: Counter() for r in IntakeRoute})
    rejected: Counter[IntakeRoute] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    def accept(self, route: IntakeRoute, batch: IntakeBatch) -> None:
        """Count a durable batch."""
        names = self.accepted[route]
        for name, count in batch.names.items():
            names[name if name in names or len(names) < MAX_NAMES else "other"] += count


class Intake:
    """The intake of one state directory. Lives on one event loop; only the stores have threads of their own.

    executor: where large bodies are decoded; None for the loop's default one.
    """

    def __init__(
        self,
        decoder: IntakeDecoder,
        stores: dict[IntakeRoute, Store],
        *,
        max_body_bytes: int = MAX_BODY_BYTES,
        executor: Executor | None = None,
    ) -> None:
        self.counts = IntakeCounts()
        self.max_body_bytes = max_body_bytes
        self.stores = stores
        self._executor = executor
        self._decode = {IntakeRoute.OUTCOMES: decoder.outcomes, IntakeRoute.EXPOSURES: decoder.exposures}
        self._last_us = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: list[tuple[IntakeRoute, IntakeBatch, OnDurable]] = []

    @classmethod
    def open(
        cls,
        state: Path,
        *,
        loop: asyncio.AbstractEventLoop,
        keep_unit_ids: bool = False,
        max_body_bytes: int = MAX_BODY_BYTES,
        max_queue_bytes: int = 64 << 20,
        on_poison: Callable[[BaseException], None] | None = None,
    ) -> Intake:
        """Open the logs below `state`, made if missing, for requests served by `loop`.

        max_queue_bytes: records of one stream that may wait for the disk before senders get a 503. on_poison: called
        in the writer's thread when the disk failed. Raises LogLockedError, CorruptLogError, ConfigError, OSError.
        """
        decoder = IntakeDecoder(UnitKeyer(load_unit_key(state)), keep_unit_ids=keep_unit_ids)
        stores: dict[IntakeRoute, Store] = {}
        for route in IntakeRoute:
            stores[route] = LogWriter(
                state / "log" / route.value,
                max_queue_bytes=max_queue_bytes,
                deliver=deliver_on(loop),
                on_poison=on_poison,
            )
        return cls(decoder, stores, max_body_bytes=max_body_bytes)

    def close(self) -> None:
        """Write what was taken and seal the logs. Blocks for a commit; answers are no longer sent."""
        self._hand_on()
        for store in self.stores.values():
            store.close()

    def take(self, route: IntakeRoute, body: bytes, content_type: bytes | None, respond: Respond) -> None:
        """Take one request's body; `respond` is called once, on the loop, perhaps before this returns."""
        # Strictly rising: an item that says neither which event it is nor when is told apart by its arrival.
        now_us = self._last_us = max(time.time_ns() // 1000, self._last_us + 1)
        if len(body) > _OFF_LOOP_BYTES:
            task = asyncio.get_running_loop().create_task(self._take_large(route, body, content_type, now_us, respond))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        try:
            batch = self._decode[route](body, content_type, now_us=now_us)
        except RequestError as exc:
            respond(bad_body(exc))
            return
        self._submit(route, batch, respond)

    async def _take_large(
        self, route: IntakeRoute, body: bytes, content_type: bytes | None, now_us: int, respond: Respond
    ) -> None:
        def decode() -> IntakeBatch:
            return self._decode[route](body, content_type, now_us=now_us)

        try:
            batch = await asyncio.get_running_loop().run_in_executor(self._executor, decode)
        except RequestError as exc:
            respond(bad_body(exc))
            return
        self._submit(route, batch, respond)

    def _submit(self, route: IntakeRoute, batch: IntakeBatch, respond: Respond) -> None:
        if batch.errors:
            self.counts.rejected[route] += len(batch.errors)
        if not batch.accepted:
            respond(all_rejected(batch.errors) if batch.errors else accepted(batch))
            return

        def on_durable(_position: Position | None, error: BaseException | None) -> None:
            if error is None:
                self.counts.accept(route, batch)
                respond(accepted(batch))
            else:
                respond(self._refuse(batch, error))

        # Handed on when the loop has read every socket that was ready. Handed on at once, the writer's thread wakes for
        # the first request and commits it alone: measured 4 requests a commit instead of 30, at half the speed.
        self._waiting.append((route, batch, on_durable))
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._hand_on)

    def _hand_on(self) -> None:
        waiting, self._waiting = self._waiting, []
        for route, batch, on_durable in waiting:
            try:
                self.stores[route].submit(batch.payload, batch.accepted, on_durable)
            except (LogFullError, LogPoisonedError, LogClosedError) as exc:
                on_durable(None, exc)

    def _refuse(self, batch: IntakeBatch, error: BaseException) -> Answer:
        is_full = isinstance(error, LogFullError)
        self.counts.refused["full" if is_full else "broken"] += batch.accepted
        if is_full:
            detail = f"nothing of this request was taken: {error}; send it again later"
        else:
            detail = "nothing of this request was confirmed: the log cannot be written; send it again after a restart"
        retry = _RETRY_WHEN_FULL_S if is_full else _RETRY_WHEN_BROKEN_S
        return problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, retry_after_s=retry)


def deliver_on(loop: asyncio.AbstractEventLoop) -> Deliver:
    """Run a commit group's callbacks on `loop`: one wake-up per group, however many requests share it."""

    def deliver(callbacks: Sequence[OnDurable], position: Position | None, error: BaseException | None) -> None:
        loop.call_soon_threadsafe(run_all, callbacks, position, error)

    def run_all(callbacks: Sequence[OnDurable], position: Position | None, error: BaseException | None) -> None:
        for on_durable in callbacks:
            on_durable(position, error)

    return deliver


def accepted(batch: IntakeBatch) -> Answer:
    """200: what was kept is on disk, and what was not is listed."""
    if not batch.errors:
        return Answer(HTTPStatus.OK, b'{"accepted":%d,"rejected":0,"errors":[]}' % batch.accepted)
    body = {"accepted": batch.accepted, "rejected": len(batch.errors), **_listed(batch.errors)}
    return Answer(HTTPStatus.OK, _ENCODE(body))


def all_rejected(errors: Sequence[ItemError]) -> Answer:
    """400: there were items, and not one could be taken."""
    first = errors[0]
    detail = f"no item could be taken; item {first.index}: {first.field} {first.message}".replace(":  ", ": ")
    members = {"accepted": 0, "rejected": len(errors), **_listed(errors)}
    return problem(HTTPStatus.BAD_REQUEST, detail, members=members)


def bad_body(error: RequestError) -> Answer:
    """400: the body as a whole makes no sense."""
    return problem(HTTPStatus.BAD_REQUEST, str(error), members={"field": error.field} if error.field else {})


def problem(
    status: int, detail: str, *, members: dict[str, object] | None = None, retry_after_s: int | None = None
) -> Answer:
    """An RFC 9457 document."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": int(status), "detail": detail}
    return Answer(int(status), _ENCODE({**body, **(members or {})}), retry_after_s)


def _listed(errors: Sequence[ItemError]) -> dict[str, object]:
    """At most 1,000 errors: an answer must not grow to the size of a hostile request."""
    listed: dict[str, object] = {"errors": errors[:MAX_ERRORS_LISTED]}
    if len(errors) > MAX_ERRORS_LISTED:
        listed["errors_omitted"] = len(errors) - MAX_ERRORS_LISTED
    return listed


def is_broken(intake: Intake) -> bool:
    """True where a log refuses to write until a restart; `/readyz` says so."""
    return any(isinstance(s, LogWriter) and s.is_poisoned for s in intake.stores.values())
