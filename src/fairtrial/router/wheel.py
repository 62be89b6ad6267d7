"""Coarse clock and deadlines of one worker.

A busy worker would arm and cancel a timer per request: 0.6 us each with `call_later`. Here each connection has one
entry in a wheel of slots. Arming stores the new deadline; only a deadline earlier than the entry's slot adds an entry,
and an entry that comes up too early moves on. So a request costs one store, and a closed connection is forgotten by the
wheel within `MAX_HOP` ticks.
"""

from __future__ import annotations

from typing import Final, Protocol

TICK_S: Final = 0.05
SLOTS: Final = 256
MAX_HOP: Final = 200
NEVER: Final = 1 << 62


class Timed(Protocol):
    """Something with a deadline. deadline, scheduled: ticks; both NEVER at first and only set by the wheel."""

    deadline: int
    scheduled: int

    def on_deadline(self) -> None:
        """The deadline has passed; it is not armed any more."""


def ticks(seconds: float) -> int:
    """Seconds as whole ticks, rounded up, at least one."""
    return max(1, -int(-seconds // TICK_S))


class Wheel:
    """Deadlines by tick. now: ticks since the wheel was made, the worker's coarse clock."""

    __slots__ = ("_slots", "now")

    def __init__(self) -> None:
        self.now = 0
        self._slots: list[list[Timed]] = [[] for _ in range(SLOTS)]

    def arm(self, timed: Timed, after: int) -> None:
        """Call `timed.on_deadline()` in `after` ticks unless it is armed anew before."""
        timed.deadline = deadline = self.now + after
        if deadline < timed.scheduled:
            self._schedule(timed, deadline)

    @staticmethod
    def disarm(timed: Timed) -> None:
        """Forget the deadline; the entry leaves the wheel when it comes up."""
        timed.deadline = NEVER

    def advance(self) -> list[Timed]:
        """Move on by one tick; return what is due now (the caller calls `on_deadline` of each)."""
        self.now = now = self.now + 1
        index = now % SLOTS
        entries = self._slots[index]
        if not entries:
            return entries
        self._slots[index] = []
        due: list[Timed] = []
        for timed in entries:
            if timed.scheduled != now:
                continue  # armed for an earlier tick since, so it has another entry
            timed.scheduled = NEVER
            if timed.deadline <= now:
                timed.deadline = NEVER
                due.append(timed)
            elif timed.deadline != NEVER:
                self._schedule(timed, timed.deadline)
        return due

    def _schedule(self, timed: Timed, deadline: int) -> None:
        timed.scheduled = at = min(deadline, self.now + MAX_HOP)
        self._slots[at % SLOTS].append(timed)
