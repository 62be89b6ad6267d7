"""The intake's counters for Prometheus: read when asked, so that a request pays for none of it."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fairtrial.api.intake import Intake, IntakeRoute
from fairtrial.events.manifest import Manifest


class IntakeCollector(Collector):
    """Register it in the control port's registry. manifest: for duplicates and conflicts, which compaction finds."""

    def __init__(self, intake: Intake, manifest: Manifest | None = None) -> None:
        self._intake = intake
        self._manifest = manifest

    def collect(self) -> Iterator[Metric]:
        """The families, with at most 1,001 label values each."""
        counts = self._intake.counts
        outcomes = CounterMetricFamily("fairtrial_outcomes", "Outcomes acknowledged after fdatasync", labels=["metric"])
        exposures = CounterMetricFamily(
            "fairtrial_reported_exposures", "Exposures acknowledged after fdatasync", labels=["experiment"]
        )
        rejected = CounterMetricFamily("fairtrial_intake_rejected", "Bad items left out", labels=["stream"])
        refused = CounterMetricFamily("fairtrial_intake_refused", "Good items turned away", labels=["reason"])
        queued = GaugeMetricFamily("fairtrial_log_queue_bytes", "Records waiting for the disk", labels=["stream"])
        for name, count in counts.accepted[IntakeRoute.OUTCOMES].items():
            outcomes.add_metric([name], count)
        for name, count in counts.accepted[IntakeRoute.EXPOSURES].items():
            exposures.add_metric([name], count)
        for route in IntakeRoute:
            rejected.add_metric([route.value], counts.rejected[route])
            queued.add_metric([route.value], self._intake.stores[route].queued_bytes)
        for reason in ("full", "broken"):
            refused.add_metric([reason], counts.refused[reason])
        yield from (outcomes, exposures, rejected, refused, queued)
        yield from self._repeated()

    def _repeated(self) -> Iterator[Metric]:
        if self._manifest is None:
            return
        duplicates = CounterMetricFamily("fairtrial_events_duplicate", "Repeated ids, counted once", labels=["stream"])
        conflicts = CounterMetricFamily(
            "fairtrial_events_conflict", "Repeated ids with other content, set apart", labels=["stream"]
        )
        unreadable = CounterMetricFamily("fairtrial_events_unreadable", "Lines that are no record", labels=["stream"])
        for stream in ("requests", "exposures", "outcomes"):
            tally = self._manifest.tally(stream)
            duplicates.add_metric([stream], tally.duplicates)
            conflicts.add_metric([stream], tally.conflicts)
            unreadable.add_metric([stream], tally.unreadable)
        yield from (duplicates, conflicts, unreadable)
