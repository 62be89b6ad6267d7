"""The status page shows the view as it is: problems first, the verdict, the scorecard, set against actual traffic."""

import re
from dataclasses import replace

import pytest

from fairtrial.model.allocation import Snapshot
from fairtrial.model.parse import parse_experiment
from fairtrial.model.snapshot import first_allocations, make_snapshot
from fairtrial.model.view import (
    CheckState,
    Comparison,
    EffectInterval,
    ExperimentView,
    HealthCheck,
    IntervalKind,
    MetricView,
    Progress,
    Reason,
    VariantValue,
    VariantView,
    Verdict,
    VerdictKind,
)
from fairtrial.web.status import StatusPage, whisker

FILE = """
models:
  a: {url: http://127.0.0.1:1}
  b: {url: http://127.0.0.1:2}
endpoints:
  e: {match: {path: /x}, model: a}
experiments:
  launch:
    endpoint: e
    hypothesis: "<b>bold</b> & better"
    unit: {header: x-user-id}
    variants: {control: {model: a}, treatment: {model: b}}
    split: {control: 50, treatment: 50}
    metrics: {conversion: {role: primary, kind: proportion, event: buy}}
"""


@pytest.fixture
def snapshot() -> Snapshot:
    file = parse_experiment(FILE)
    return make_snapshot(file, first_allocations(file, started_at=0), version=3)


def effect(lower: float | None, upper: float | None) -> EffectInterval:
    return EffectInterval(0.02, 0.01, lower, upper, 0.9, IntervalKind.CONFIDENCE_SEQUENCE, 0.04)


@pytest.fixture
def view() -> ExperimentView:
    comparison = Comparison("treatment", "better", effect(0.001, 0.039))
    values = (VariantValue("control", 500, 0.10), VariantValue("treatment", 500, 0.12))
    return ExperimentView(
        name="launch",
        status="running",
        verdict=Verdict(VerdictKind.SHIP, (Reason("primary_better", "Conversion is better."),), "treatment"),
        health=(HealthCheck("srm", CheckState.OK, "the split is as intended"),),
        metrics=(MetricView("conversion", "primary", "proportion", "higher", values, (comparison,)),),
        variants=(VariantView("control", "a", 0.5, 400, 400), VariantView("treatment", "b", 0.5, 600, 600)),
        progress=Progress(1000, 20, 2000, 0.5, 60.0, 0.0, None),
        control="control",
        method="anytime",
        alpha=0.1,
        computed_at=1_700_000_000_000_000,
        data_through=None,
    )


def text_of(html: str) -> str:
    body = re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def test_shows_the_verdict_and_its_reason(snapshot: Snapshot, view: ExperimentView) -> None:
    text = text_of(StatusPage().render(snapshot, {"launch": view}, []))
    assert "▲ ship treatment" in text
    assert "Conversion is better." in text


def test_names_the_interval_level_of_the_view_and_not_another(snapshot: Snapshot, view: ExperimentView) -> None:
    html = StatusPage().render(snapshot, {"launch": view}, [])
    assert "90 % interval" in text_of(html)
    assert "95 %" not in text_of(html)


def test_shows_set_and_actual_split_beside_each_other(snapshot: Snapshot, view: ExperimentView) -> None:
    text = text_of(StatusPage().render(snapshot, {"launch": view}, []))
    assert "treatment b 50.0 % 60.0 % 600" in text


def test_puts_a_failed_health_check_above_the_verdict(snapshot: Snapshot, view: ExperimentView) -> None:
    broken = replace(view, health=(HealthCheck("srm", CheckState.FAILED, "50.0 % wanted, 40.0 % seen"),))
    text = text_of(StatusPage().render(snapshot, {"launch": broken}, []))
    assert text.index("40.0 % seen") < text.index("ship treatment")


def test_escapes_what_people_wrote(snapshot: Snapshot, view: ExperimentView) -> None:
    html = StatusPage().render(snapshot, {"launch": view}, ["<script>alert(1)</script>"])
    assert "<script>" not in html
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; better" in html


def test_says_why_there_is_no_number(snapshot: Snapshot, view: ExperimentView) -> None:
    waiting = Comparison("treatment", "waiting", not_enough_data="12 events of 20 needed")
    without = replace(view, metrics=(replace(view.metrics[0], comparisons=(waiting,)),))
    assert "12 events of 20 needed" in text_of(StatusPage().render(snapshot, {"launch": without}, []))


def test_renders_before_the_first_view(snapshot: Snapshot) -> None:
    assert "The first view follows" in text_of(StatusPage().render(snapshot, {}, []))


def test_loads_nothing_from_elsewhere_and_allows_its_style_by_hash(snapshot: Snapshot, view: ExperimentView) -> None:
    page = StatusPage()
    html = page.render(snapshot, {"launch": view}, [])
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", html)
    assert "unsafe" not in page.content_security_policy
    assert " style=" not in html


def test_whisker_keeps_zero_on_its_scale() -> None:
    drawn = whisker(effect(0.01, 0.03))
    assert drawn is not None
    assert drawn.zero < drawn.low < drawn.estimate < drawn.high


def test_whisker_is_left_out_for_an_open_interval() -> None:
    assert whisker(effect(None, 0.03)) is None
