"""Circuit breaker of one model in one worker.

It opens after so many failures in a row to reach the model or to get a first byte from it; a 5xx is an answer and does
not count. After a pause one probe request at a time is let through: an answer closes the breaker, a failure opens it
for another pause.
"""

from __future__ import annotations

from enum import IntEnum


class BreakerState(IntEnum):
    """Value of the metric `fairtrial_breaker_state`."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """failures: in a row, that open it, >= 1. pause: ticks it stays open.

    is_tripped: not closed. has_failures: since the last answer. Both are plain attributes, read for every request.
    """

    __slots__ = ("_failures_in_row", "_limit", "_next_probe", "_pause", "has_failures", "is_tripped", "times_opened")

    def __init__(self, *, failures: int, pause: int) -> None:
        self._limit = failures
        self._pause = pause
        self._failures_in_row = 0
        self._next_probe = 0
        self.has_failures = False
        self.is_tripped = False
        self.times_opened = 0

    def admits(self, now: int) -> bool:
        """True where a request may go to the model now. A tripped breaker admits one probe per pause."""
        if not self.is_tripped:
            return True
        if now < self._next_probe:
            return False
        # A probe that never comes back (its client left) must not keep the breaker shut for ever.
        self._next_probe = now + self._pause
        return True

    def record_answer(self) -> None:
        """The model answered, whatever the status."""
        self._failures_in_row = 0
        self.has_failures = False
        self.is_tripped = False

    def record_failure(self, now: int) -> None:
        """The model could not be reached, hung up, or was silent for too long."""
        self._failures_in_row += 1
        self.has_failures = True
        if self._failures_in_row >= self._limit or self.is_tripped:
            if not self.is_tripped:
                self.times_opened += 1
            self.is_tripped = True
            self._next_probe = now + self._pause

    def state(self, now: int) -> BreakerState:
        """For display."""
        if not self.is_tripped:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self._next_probe else BreakerState.HALF_OPEN
