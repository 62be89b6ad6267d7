"""What one worker counts: plain ints and lists on the request path, turned into text only when asked.

Counters outlive snapshots: a route table borrows them by label, so a swap never sets a counter back.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Final

_MS: Final = 1_000_000
# Nanoseconds. Model calls take from a millisecond (a tree) to half a minute (a long completion).
REQUEST_BOUNDS: Final = tuple(
    int(ms * _MS) for ms in (0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000)
)
OVERHEAD_BOUNDS: Final = tuple(int(ms * _MS) for ms in (0.025, 0.05, 0.1, 0.2, 0.5, 1, 2.5, 5, 10, 50))


class Histogram:
    """Counts of durations by upper bound. bounds: nanoseconds, rising; one more count holds the rest."""

    __slots__ = ("bounds", "counts", "sum_ns")

    def __init__(self, bounds: tuple[int, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum_ns = 0

    def observe(self, ns: int) -> None:
        """Count one duration of `ns` nanoseconds."""
        self.counts[bisect_left(self.bounds, ns)] += 1
        self.sum_ns += ns


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
        self.duration = Histogram(REQUEST_BOUNDS)


class ModelCounters:
    """One model as seen from this worker. duration: request sent to first byte of the answer."""

    __slots__ = ("connect_failures", "connects", "duration", "model", "rejected", "retries", "unsolicited", "version")

    def __init__(self, model: str, version: str) -> None:
        self.model = model
        self.version = version
        self.duration = Histogram(REQUEST_BOUNDS)
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
        self.overhead = Histogram(OVERHEAD_BOUNDS)
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
