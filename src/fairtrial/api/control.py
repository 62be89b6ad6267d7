"""What the control port shows of the control process: one object that the routes and the page read from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fairtrial import __version__
from fairtrial.api.intake import Intake, is_broken
from fairtrial.api.intake_metrics import IntakeCollector
from fairtrial.controller.service import ControlService
from fairtrial.events.manifest import Manifest
from fairtrial.model.allocation import Snapshot
from fairtrial.model.view import ExperimentView


class ControlPort:
    """The faces' view of one running `fairtrial up`. manifest: of the same state directory, for the counters."""

    def __init__(self, service: ControlService, intake: Intake, manifest: Manifest) -> None:
        self._service, self._intake = service, intake
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(IntakeCollector(intake, manifest))
        self._registry.register(_ServiceCollector(service))

    @property
    def snapshot(self) -> Snapshot:
        """The allocation that is being served."""
        return self._service.snapshot

    @property
    def views(self) -> Mapping[str, ExperimentView]:
        """The latest view of each experiment."""
        return self._service.views

    def problems(self) -> list[str]:
        """Why the process is not ready, in sentences."""
        broken = ["the event log refuses to write after a failed sync: restart, and look at the disk"]
        return self._service.problems() + (broken if is_broken(self._intake) else [])

    def warnings(self) -> list[str]:
        """What a person should look at although everything is being served, in sentences."""
        return self._service.warnings()

    async def refresh(self) -> None:
        """Read the log to its end and publish fresh views."""
        await self._service.refresh()

    async def metrics(self) -> str:
        """Everything measured here, in Prometheus' text format."""
        return generate_latest(self._registry).decode()


class _ServiceCollector(Collector):
    """Reads the control process when asked."""

    def __init__(self, service: ControlService) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """One family per fact."""
        service = self._service
        workers = service.workers
        yield GaugeMetricFamily("fairtrial_router_workers", "Router workers alive", workers.alive if workers else 0)
        yield CounterMetricFamily(
            "fairtrial_router_restarts", "Router workers that died", workers.restarts if workers else 0
        )
        yield CounterMetricFamily("fairtrial_refreshes", "Refreshes of all views", service.refreshes)
        yield CounterMetricFamily("fairtrial_refreshes_failed", "Refreshes that failed", service.failed_refreshes)
        yield GaugeMetricFamily("fairtrial_snapshot_version", "Version being served", service.snapshot.version)
        build = GaugeMetricFamily("fairtrial_build_info", "Version of this process", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
