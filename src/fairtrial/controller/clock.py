"""The wall clock, in one place: everything below takes instants as arguments."""

from __future__ import annotations

import time


def now_us() -> int:
    """Microseconds since 1970-01-01T00:00:00Z."""
    return time.time_ns() // 1000
