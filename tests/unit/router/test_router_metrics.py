from prometheus_client.parser import text_string_to_metric_families

from fairtrial.router.counters import Histogram, WorkerCounters
from fairtrial.router.metrics import Gauge, Readings, merge_metrics, render_metrics


def page(requests: int, version: int, worker: str) -> str:
    counters = WorkerCounters()
    arm = counters.arm("launch", "treatment", 'v"2\\')
    arm.ok = requests
    arm.exposures = requests
    arm.duration.observe(3_000_000)
    counters.model("churn", "2").duration.observe(2_000_000)
    counters.refused[404] += 1
    counters.not_enrolled["launch", "no_unit"] += 2
    gauges = (
        Gauge("fairtrial_router_connections", {}, 4),
        Gauge("fairtrial_router_snapshot_version", {"worker": worker}, version),
        Gauge("fairtrial_traffic_weight_ratio", {"experiment": "launch", "variant": "treatment"}, 0.25),
    )
    return render_metrics(counters, Readings(gauges))


def values(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_page_is_read_by_the_reference_parser_with_its_labels_intact() -> None:
    found = values(page(7, 3, "0"))
    labels = {"experiment": "launch", "variant": "treatment", "model_version": 'v"2\\', "outcome": "ok"}
    assert found["fairtrial_requests_total", tuple(sorted(labels.items()))] == 7


def test_histogram_buckets_accumulate_and_end_in_inf() -> None:
    histogram = Histogram()
    for ns in (1_000, 16_383, 16_384, 10**12):
        histogram.observe(ns)
    assert histogram.cumulative()[:2] == [(16_384e-9, 2), (32_768e-9, 3)]
    assert histogram.cumulative()[-1] == ((1 << 35) / 1e9, 3)
    assert histogram.count == 4
    found = values(page(1, 1, "0"))
    buckets = [v for (name, _), v in found.items() if name == "fairtrial_request_duration_seconds_bucket"]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 1


def test_merging_adds_counters_and_histograms() -> None:
    one, two = values(page(7, 3, "0")), values(merge_metrics([page(7, 3, "0"), page(5, 4, "1")]))
    requests = [key for key in one if key[0] == "fairtrial_requests_total" and one[key] == 7]
    assert two[requests[0]] == 12
    assert two["fairtrial_backend_duration_seconds_count", (("model", "churn"), ("model_version", "2"))] == 2


def test_merging_takes_the_maximum_of_settings_and_adds_up_what_each_worker_holds() -> None:
    merged = values(merge_metrics([page(7, 3, "0"), page(5, 4, "1")]))
    assert merged["fairtrial_router_connections", ()] == 8
    weight = ("fairtrial_traffic_weight_ratio", (("experiment", "launch"), ("variant", "treatment")))
    assert merged[weight] == 0.25
    assert merged["fairtrial_router_snapshot_version", (("worker", "0"),)] == 3
    assert merged["fairtrial_router_snapshot_version", (("worker", "1"),)] == 4


def test_merging_one_page_changes_no_value() -> None:
    assert values(merge_metrics([page(7, 3, "0")])) == values(page(7, 3, "0"))
