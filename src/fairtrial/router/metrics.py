"""Prometheus text of one worker, and the sum of several workers' texts.

A scrape of the shared port reaches one worker of N; it asks its siblings (`fairtrial.router.admin`) and answers with
the merged text, so that a counter never jumps back because another worker answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from fairtrial.router.counters import Histogram, WorkerCounters

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
# Gauges are equal in every worker and merge to their maximum, except these, which count what each worker holds.
_SUMMED_GAUGES: Final = frozenset(
    {
        "fairtrial_router_workers",
        "fairtrial_router_connections",
        "fairtrial_upstream_connections",
        "fairtrial_upstream_waiting_requests",
        "fairtrial_router_requests_in_flight",
    }
)


@dataclass(frozen=True, slots=True)
class Gauge:
    """One measured value with its labels."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Readings:
    """Gauges that are not counters: measured by the worker when it is asked."""

    gauges: tuple[Gauge, ...] = ()
    helps: Mapping[str, str] = field(default_factory=dict)


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items()) + "}"


class _Page:
    """Lines of one exposition, one family after another."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def family(self, name: str, kind: str, text: str) -> None:
        self.lines += (f"# HELP {name} {text}", f"# TYPE {name} {kind}")

    def sample(self, name: str, labels: Mapping[str, str], value: float) -> None:
        self.lines.append(f"{name}{_labels(labels)} {value}")

    def histogram(self, name: str, labels: Mapping[str, str], histogram: Histogram) -> None:
        for bound, count in histogram.cumulative():
            self.sample(f"{name}_bucket", {**labels, "le": f"{bound:.9g}"}, count)
        total = histogram.count
        self.sample(f"{name}_bucket", {**labels, "le": "+Inf"}, total)
        self.sample(f"{name}_sum", labels, histogram.sum_ns / 1e9)
        self.sample(f"{name}_count", labels, total)


def render_metrics(counters: WorkerCounters, readings: Readings) -> str:
    """The whole page of one worker. Families are complete and samples of one family stand together."""
    page = _Page()
    _render_arms(page, counters)
    _render_models(page, counters)
    _render_worker(page, counters)
    by_name: dict[str, list[Gauge]] = {}
    for gauge in readings.gauges:
        by_name.setdefault(gauge.name, []).append(gauge)
    for name, gauges in by_name.items():
        page.family(name, "gauge", readings.helps.get(name, name))
        for gauge in gauges:
            page.sample(name, gauge.labels, gauge.value)
    return "\n".join(page.lines) + "\n"


def _render_arms(page: _Page, counters: WorkerCounters) -> None:
    page.family("fairtrial_requests_total", "counter", "Proxied requests by what became of them.")
    for arm in counters.arms.values():
        labels = {"experiment": arm.experiment, "variant": arm.variant, "model_version": arm.model_version}
        for outcome, value in (
            ("ok", arm.ok),
            ("error", arm.error),
            ("timeout", arm.timeout),
            ("fallback", arm.fallback),
        ):
            page.sample("fairtrial_requests_total", {**labels, "outcome": outcome}, value)
    page.family("fairtrial_exposures_total", "counter", "Requests of enrolled units, by assigned variant.")
    for arm in counters.arms.values():
        if arm.experiment:
            labels = {"experiment": arm.experiment, "variant": arm.variant, "model_version": arm.model_version}
            page.sample("fairtrial_exposures_total", labels, arm.exposures)
    name = "fairtrial_request_duration_seconds"
    page.family(name, "histogram", "Request head read to last byte handed to the client.")
    for arm in counters.arms.values():
        labels = {"experiment": arm.experiment, "variant": arm.variant, "model_version": arm.model_version}
        page.histogram(name, labels, arm.duration)


def _render_models(page: _Page, counters: WorkerCounters) -> None:
    name = "fairtrial_backend_duration_seconds"
    page.family(name, "histogram", "Request sent to a model to first byte of its answer.")
    for model in counters.models.values():
        page.histogram(name, {"model": model.model, "model_version": model.version}, model.duration)
    for name, text, attribute in (
        ("fairtrial_upstream_connects_total", "Connections opened to a model.", "connects"),
        ("fairtrial_upstream_connect_failures_total", "Connections that could not be opened.", "connect_failures"),
        ("fairtrial_upstream_retries_total", "Requests sent again after a lost kept-alive connection.", "retries"),
        ("fairtrial_upstream_rejected_total", "Requests turned away: connection cap and queue full.", "rejected"),
        ("fairtrial_upstream_unsolicited_total", "Connections dropped for bytes nobody asked for.", "unsolicited"),
    ):
        page.family(name, "counter", text)
        for model in counters.models.values():
            labels = {"model": model.model, "model_version": model.version}
            page.sample(name, labels, getattr(model, attribute))


def _render_worker(page: _Page, counters: WorkerCounters) -> None:
    name = "fairtrial_router_overhead_seconds"
    page.family(name, "histogram", "Time from head read to request sent plus answer read to answer handed on.")
    page.histogram(name, {}, counters.overhead)
    for name, text, value in (
        ("fairtrial_router_accepted_total", "Client connections accepted.", counters.accepted),
        ("fairtrial_router_unrouted_total", "Requests that no endpoint takes (404).", counters.unrouted),
        (
            "fairtrial_events_dropped_total",
            "Request records lost: queue full or disk failed.",
            counters.records_dropped + counters.records_lost,
        ),
        ("fairtrial_events_written_total", "Request records handed to the log.", counters.records_written),
        ("fairtrial_snapshot_errors_total", "Snapshots that could not be used.", counters.snapshot_errors),
    ):
        page.family(name, "counter", text)
        page.sample(name, {}, value)
    page.family("fairtrial_http_refusals_total", "counter", "Answers of the router itself, by status.")
    for status, value in sorted(counters.refused.items()):
        page.sample("fairtrial_http_refusals_total", {"status": str(status)}, value)
    page.family("fairtrial_not_enrolled_total", "counter", "Requests on the stable model for want of something.")
    for (experiment, reason), value in sorted(counters.not_enrolled.items()):
        page.sample("fairtrial_not_enrolled_total", {"experiment": experiment, "reason": reason}, value)
    page.family("fairtrial_fallbacks_total", "counter", "Requests of a variant sent to the stable model, by reason.")
    for (experiment, reason), value in sorted(counters.fallbacks.items()):
        page.sample("fairtrial_fallbacks_total", {"experiment": experiment, "reason": reason}, value)
    page.family("fairtrial_shadow_requests_total", "counter", "Copies to shadow variants, by how they compared.")
    for (experiment, variant, result), value in sorted(counters.shadows.items()):
        labels = {"experiment": experiment, "variant": variant, "result": result}
        page.sample("fairtrial_shadow_requests_total", labels, value)


@dataclass(slots=True)
class _Family:
    help: str = ""
    kind: str = "untyped"
    samples: dict[str, float] = field(default_factory=dict)


def _samples(text: str, families: dict[str, _Family]) -> Iterator[tuple[str, _Family, str, float]]:
    """Each sample of our own exposition as (family name, family, series, value)."""
    name = ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name, _, text_of_help = line[7:].partition(" ")
            families.setdefault(name, _Family()).help = text_of_help
        elif line.startswith("# TYPE "):
            name, _, kind = line[7:].partition(" ")
            families.setdefault(name, _Family()).kind = kind
        elif line:
            series, _, value = line.rpartition(" ")
            yield name, families[name], series, float(value)


def merge_metrics(texts: Iterable[str]) -> str:
    """One page for several workers: counters and histograms add up; gauges add up or take their maximum.

    texts: pages made by `render_metrics` (samples follow their family's TYPE line).
    """
    families: dict[str, _Family] = {}
    for text in texts:
        for name, family, series, value in _samples(text, families):
            known = family.samples.get(series)
            if known is None:
                family.samples[series] = value
            elif family.kind == "gauge" and name not in _SUMMED_GAUGES:
                family.samples[series] = max(known, value)
            else:
                family.samples[series] = known + value
    lines: list[str] = []
    for name, family in families.items():
        lines += (f"# HELP {name} {family.help}", f"# TYPE {name} {family.kind}")
        lines += (f"{series} {value:.17g}" for series, value in family.samples.items())
    return "\n".join(lines) + "\n"
