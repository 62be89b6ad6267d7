"""Gauges of one worker, read off when it is asked for its metrics."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Final

from fairtrial.model.allocation import Allocation, Status
from fairtrial.model.experiment import Experiment
from fairtrial.router.metrics import Gauge, Readings
from fairtrial.router.state import WorkerState

HELPS: Final = {
    "fairtrial_build_info": "Version of Fairtrial.",
    "fairtrial_router_workers": "Workers that answered this scrape.",
    "fairtrial_router_connections": "Client connections open now.",
    "fairtrial_router_requests_in_flight": "Requests being answered now.",
    "fairtrial_router_snapshot_version": "Version of the snapshot that a worker serves.",
    "fairtrial_router_draining": "1 while a worker drains.",
    "fairtrial_upstream_connections": "Connections open to a model.",
    "fairtrial_upstream_waiting_requests": "Requests that wait for a connection to a model.",
    "fairtrial_breaker_state": "Circuit breaker of a model: 0 closed, 1 half open, 2 open.",
    "fairtrial_traffic_weight_ratio": "Share of all traffic that a variant is set to get.",
    "fairtrial_experiment_info": "1; the labels describe the experiment.",
}


def read_gauges(worker: WorkerState, worker_id: int) -> Readings:
    """Everything that is measured rather than counted."""
    return Readings((*_of_worker(worker, worker_id), *_of_pools(worker), *_of_experiments(worker)), HELPS)


def _of_worker(worker: WorkerState, worker_id: int) -> Iterator[Gauge]:
    label = {"worker": str(worker_id)}
    yield Gauge("fairtrial_build_info", {"version": version("fairtrial")}, 1)
    yield Gauge("fairtrial_router_workers", {}, 1)
    yield Gauge("fairtrial_router_connections", {}, len(worker.connections))
    in_flight = sum(1 for connection in worker.connections if connection.exchange is not None)
    yield Gauge("fairtrial_router_requests_in_flight", {}, in_flight)
    yield Gauge("fairtrial_router_snapshot_version", label, worker.table.snapshot.version)
    yield Gauge("fairtrial_router_draining", label, int(worker.is_draining or not worker.is_ready))


def _of_pools(worker: WorkerState) -> Iterator[Gauge]:
    for (model, _), pool in worker.table.pools.items():
        label = {"model": model, "model_version": pool.counters.version}
        yield Gauge("fairtrial_upstream_connections", label, pool.open_count)
        yield Gauge("fairtrial_upstream_waiting_requests", label, pool.waiting_count)
        yield Gauge("fairtrial_breaker_state", label, pool.breaker.state(worker.wheel.now))


def _of_experiments(worker: WorkerState) -> Iterator[Gauge]:
    snapshot = worker.table.snapshot
    for experiment in snapshot.file.experiments.values():
        allocation = snapshot.allocations[experiment.name]
        enrolment = allocation.enrolment if allocation.status is Status.RUNNING else 0.0
        for variant, share in allocation.split:
            labels = {"experiment": experiment.name, "variant": variant}
            yield Gauge("fairtrial_traffic_weight_ratio", labels, enrolment * share)
        yield Gauge("fairtrial_experiment_info", _description(worker, experiment, allocation), 1)


def _description(worker: WorkerState, experiment: Experiment, allocation: Allocation) -> dict[str, str]:
    models = worker.table.snapshot.file.models
    versions = {variant.name: models[variant.model].version for variant in experiment.variants}
    treatments = [name for name, _ in allocation.split if name != experiment.control]
    return {
        "experiment": experiment.name,
        "status": str(allocation.status),
        "stage": "" if allocation.stage is None else f"{allocation.stage:g}",
        "control_version": versions.get(experiment.control, ""),
        "treatment_version": ",".join(versions[name] for name in treatments),
    }
