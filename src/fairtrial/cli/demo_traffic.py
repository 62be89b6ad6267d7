"""Users of the demo: each sends a few hand-written digits through the router; the true labels arrive seconds later.

Everything is seeded: who the users are, what they send and how late their labels are. The time on the wire is real.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_REQUESTS = 3
PAUSE_BETWEEN_REQUESTS_S = 0.6
LATEST_LABEL_S = 5.0
POST_EVERY_S = 0.5
CONCURRENT_REQUESTS = 64


@dataclass(slots=True)
class VariantTraffic:
    """What the driver itself saw of one variant, from response headers alone."""

    users: set[str] = field(default_factory=set)
    requests: int = 0
    errors: int = 0
    correct: int = 0
    labelled: int = 0
    latencies_s: list[float] = field(default_factory=list)

    @property
    def p95_s(self) -> float | None:
        """95th percentile of what clients waited; None before the first answer."""
        if not self.latencies_s:
            return None
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]


@dataclass(slots=True)
class Traffic:
    """Running totals of the demo."""

    variants: dict[str, VariantTraffic] = field(default_factory=dict)
    users_done: int = 0
    moved_users: int = 0
    posted: int = 0
    transport_errors: Counter[str] = field(default_factory=Counter)
    first_variant: dict[str, str] = field(default_factory=dict)

    def saw(self, user: str, variant: str) -> VariantTraffic:
        """Count one answer; a user who meets two variants is counted as moved (there must be none)."""
        if self.first_variant.setdefault(user, variant) != variant:
            self.moved_users += 1
        seen = self.variants.setdefault(variant, VariantTraffic())
        seen.users.add(user)
        seen.requests += 1
        return seen


@dataclass(frozen=True, slots=True)
class Row:
    """One held-out digit: 64 pixel values, and what it really is."""

    pixels: tuple[float, ...]
    label: int


@dataclass(frozen=True, slots=True)
class _Label:
    """A true label on its way back; due_at: loop time at which it becomes known."""

    due_at: float
    variant: VariantTraffic
    is_correct: bool
    outcome: dict[str, object]


class Driver:
    """Sends `users` users through `router`, spread evenly over `duration_s`, and their labels to `control`."""

    def __init__(
        self, rows: Sequence[Row], *, router: str, control: str, users: int, duration_s: float, seed: int
    ) -> None:
        self.traffic = Traffic()
        self._rows = rows
        self._router, self._control = router, control
        self._users, self._duration_s = users, duration_s
        self._random = random.Random(seed)  # noqa: S311 -- a demo must repeat itself
        self._due: list[_Label] = []
        self._is_done = False

    async def run(self) -> None:
        """Drive every user and post every label; returns when the last label is durable."""
        limits = httpx.Limits(max_connections=CONCURRENT_REQUESTS, max_keepalive_connections=CONCURRENT_REQUESTS)
        async with httpx.AsyncClient(limits=limits, timeout=30) as client, asyncio.TaskGroup() as group:
            labels = group.create_task(self._post_labels(client))
            await self._send_users(client)
            self._is_done = True
            await labels

    async def _send_users(self, client: httpx.AsyncClient) -> None:
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        async with asyncio.TaskGroup() as group:
            for number in range(self._users):
                await asyncio.sleep(max(0.0, started_at + number * self._duration_s / self._users - loop.time()))
                rows = self._random.choices(self._rows, k=self._random.randint(1, MOST_REQUESTS))
                delays = [self._random.uniform(0.5, LATEST_LABEL_S) for _ in rows]
                group.create_task(self._one_user(client, f"user-{number:06d}", rows, delays))

    async def _one_user(
        self, client: httpx.AsyncClient, user: str, rows: Sequence[Row], delays: Sequence[float]
    ) -> None:
        for row, delay_s in zip(rows, delays, strict=True):
            await self._one_request(client, user, row, delay_s)
            await asyncio.sleep(PAUSE_BETWEEN_REQUESTS_S)
        self.traffic.users_done += 1

    async def _one_request(self, client: httpx.AsyncClient, user: str, row: Row, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        sent_at = loop.time()
        try:
            answer = await client.post(
                f"{self._router}/v1/models/digits:predict",
                json={"instances": [row.pixels]},
                headers={"x-user-id": user},
            )
        except httpx.TransportError as error:
            self.traffic.transport_errors[type(error).__name__] += 1
            return
        seen = self.traffic.saw(user, answer.headers["x-variant"])
        seen.latencies_s.append(loop.time() - sent_at)
        is_correct = answer.is_success and answer.json()["predictions"] == [row.label]
        seen.errors += not answer.is_success
        outcome: dict[str, object] = {
            "request_id": answer.headers["x-request-id"],
            "name": "label",
            "value": {"correct": int(is_correct), "count": 1},
            "id": f"label-{answer.headers['x-request-id']}",
        }
        self._due.append(_Label(loop.time() + delay_s, seen, is_correct, outcome))

    async def _post_labels(self, client: httpx.AsyncClient) -> None:
        loop = asyncio.get_running_loop()
        while self._due or not self._is_done:
            await asyncio.sleep(POST_EVERY_S)
            now = loop.time()
            batch = [label for label in self._due if label.due_at <= now]
            self._due = [label for label in self._due if label.due_at > now]
            if not batch:
                continue
            body = {"outcomes": [label.outcome for label in batch]}
            answer = await client.post(f"{self._control}/api/v1/outcomes", json=body)
            answer.raise_for_status()
            self.traffic.posted += answer.json()["accepted"]
            for label in batch:
                label.variant.labelled += 1
                label.variant.correct += label.is_correct
