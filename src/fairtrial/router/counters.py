"""What one worker counts: plain ints and lists on the request path, turned into text only when asked.

Counters outlive snapshots: a route table borrows them by label, so a swap never sets a counter back.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

# Durations fall into buckets by powers of two of a nanosecond: `int.bit_length` finds one in 0.05 us, where bisecting
# round bounds takes twice that. Rendered bounds go from 16 us to 34 s; the ends collect what lies beyond.
FIRST_BIT: Final = 14
LAST_BIT: Final = 35
_BITS: Final = 64


class Histogram:
    """Counts of durations by bit length of their nanoseconds, and their sum."""

    __slots__ = ("counts", "sum_ns")

    def __init__(self) -> None:
        self.counts = [0] * _BITS
        self.sum_ns = 0

    def observe(self, ns: int) -> None:
        """Count one duration of `ns` nanoseconds, at least 0."""
        self.counts[ns.bit_length()] += 1
        self.sum_ns += ns

    def cumulative(self) -> list[tuple[float, int]]:
        """(upper bound in seconds, durations up to it), rising; without the infinite one."""
        total = sum(self.counts[:FIRST_BIT])
        rows = []
        for bit in range(FIRST_BIT, LAST_BIT + 1):
            total += self.counts[bit]
            rows.append(((1 << bit) / 1e9, total))
        return rows

    @property
    def count(self) -> int:
        """Durations counted."""
        return sum(self.counts)


class ArmCounters:
    """Requests of one (experiment, variant, model version); experiment and variant are empty for unenrolled ones."""

    __slots__ = (
        "duration",
        "error",
        "experiment",
        "exposures",
        "fallback",
        "model_version",
        "ok",
        "timeout",
        "variant",
    )

    def __init__(self, experiment: str, variant: str, model_version: str) -> None:
        self.experiment = experiment
        self.variant = variant
        self.model_version = model_version
        self.ok = 0
        self.error = 0
        self.timeout = 0
        self.fallback = 0
        self.exposures = 0
        self.duration = Histogram()


class ModelCounters:
    """One model as seen from this worker. duration: request sent to first byte of the answer."""

    __slots__ = ("connect_failures", "connects", "duration", "model", "rejected", "retries", "unsolicited", "version")

    def __init__(self, model: str, version: str) -> None:
        self.model = model
        self.version = version
        self.duration = Histogram()
        self.connects = 0
        self.connect_failures = 0
        self.retries = 0
        self.rejected = 0
        self.unsolicited = 0


class WorkerCounters:
    """Everything one worker counts. refused: by status. The keys of the others are (experiment or endpoint, what)."""

    __slots__ = (
        "accepted",
        "arms",
        "fallbacks",
        "models",
        "not_enrolled",
        "overhead",
        "records_dropped",
        "records_lost",
        "records_written",
        "refused",
        "shadows",
        "snapshot_errors",
        "unrouted",
    )

    def __init__(self) -> None:
        self.arms: dict[tuple[str, str, str], ArmCounters] = {}
        self.models: dict[tuple[str, str], ModelCounters] = {}
        self.overhead = Histogram()
        self.accepted = 0
        self.unrouted = 0
        self.snapshot_errors = 0
        self.records_dropped = 0  # refused by the log's queue
        self.records_lost = 0  # taken by the log and lost by the disk
        self.records_written = 0
        self.refused: Counter[int] = Counter()
        self.not_enrolled: Counter[tuple[str, str]] = Counter()
        self.fallbacks: Counter[tuple[str, str]] = Counter()
        self.shadows: Counter[tuple[str, str, str]] = Counter()

    def arm(self, experiment: str, variant: str, model_version: str) -> ArmCounters:
        """Get or create the counters of these labels."""
        key = (experiment, variant, model_version)
        if key not in self.arms:
            self.arms[key] = ArmCounters(*key)
        return self.arms[key]

    def model(self, name: str, version: str) -> ModelCounters:
        """Get or create the counters of one model version."""
        key = (name, version)
        if key not in self.models:
            self.models[key] = ModelCounters(*key)
        return self.models[key]
