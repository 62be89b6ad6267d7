"""The view on a terminal and its exit code."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import yaml
from rich.console import Console

from fairtrial.analysis.view import view_from_json
from fairtrial.cli.analyze import analyze_table, exit_code, print_view
from fairtrial.cli.scorecard import show
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


def interval(estimate: float, lower: float | None, upper: float | None, level: float = 0.95) -> EffectInterval:
    return EffectInterval(estimate, 0.1, lower, upper, level, IntervalKind.REPEATED_CONFIDENCE_INTERVAL, 0.01)


def metric(name: str, role: str, state: str, kind: str = "mean") -> MetricView:
    values = (VariantValue("control", 100, 0.1525, 0.01), VariantValue("treatment", 100, 0.2, 0.01))
    comparison = Comparison("treatment", state, interval(0.0475, 0.031, 0.064), interval(0.31, 0.19, 0.44))
    return MetricView(name, role, kind, "higher", values, (comparison,))


VIEW = ExperimentView(
    name="churn-3-launch",
    status="running",
    verdict=Verdict(
        VerdictKind.KEEP_RUNNING,
        (Reason("no_difference_yet", "no difference found yet in revenue of treatment", "more matured units"),),
    ),
    health=(
        HealthCheck("fallback", CheckState.WARN, "2.1% of the requests of treatment were answered by the stable model"),
        HealthCheck("plan", CheckState.WAITING, "method group_sequential has no horizon yet"),
        HealthCheck("srm", CheckState.OK, "units arrive as split", {"p_value": 1.0}),
    ),
    metrics=(
        metric("a-secondary", "secondary", "no_difference_found"),
        metric("conversion", "primary", "better", "proportion"),
        replace(
            metric("errors", "guardrail", "worse", "proportion"),
            margin=0.01,
            margin_is_relative=False,
            limit=0.05,
            guardrail=CheckState.FAILED,
        ),
        replace(
            metric("latency", "guardrail", "waiting"),
            margin=0.2,
            margin_is_relative=True,
            guardrail=CheckState.WAITING,
            comparisons=(Comparison("treatment", "waiting", not_enough_data="400 rows are too few on one side"),),
        ),
    ),
    variants=(
        VariantView("control", "churn-2", 0.5, 1204, 5120, 5120, 12, 0),
        VariantView("treatment", "churn-3", 0.5, 1190, 5090, 5090, 20, 107),
    ),
    progress=Progress(2000, 394, 8000, 0.25, 90_000.0, 0.0, None),
    control="control",
    method="group_sequential",
    alpha=0.05,
    computed_at=1_760_000_000_000_000,
    data_through=1_760_000_000_000_000,
)


def printed(view: ExperimentView, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    show(view, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(len(line.rstrip()) for line in printed(VIEW, width).splitlines()) <= width


@pytest.mark.parametrize("width", [80, 120])
def test_every_state_is_a_shape_and_a_word(width: int) -> None:
    text = printed(VIEW, width)
    for words in (
        "◌ KEEP RUNNING",
        "▲ better",
        "✖ breached",
        "○ waiting",
        "● no difference",
        "⚠ fallback warning",
    ):
        assert words in text, text


def test_problems_come_before_the_verdict_and_the_scorecard_after() -> None:
    text = printed(VIEW, 80)
    places = [text.index(word) for word in ("fallback warning", "KEEP RUNNING", "conversion", "errors", "a-secondary")]
    assert places == sorted(places)


def test_method_level_and_promise_come_from_the_view() -> None:
    text = printed(VIEW, 120)
    assert "effect [95%]" in text
    assert "method group_sequential, alpha 0.05; repeated confidence intervals, right at every look" in text
    mixed = replace(VIEW.metrics[0].comparisons[0], effect=interval(0.1, 0.0, 0.2, 0.975))
    other = replace(VIEW, metrics=(replace(VIEW.metrics[0], comparisons=(mixed,)), *VIEW.metrics[1:]))
    assert "at 97.5%" in printed(other, 120)
    assert "effect [95%]" not in printed(other, 120)


def test_undecided_views_say_what_is_missing() -> None:
    assert "Needs: more matured units." in printed(VIEW, 120)


def test_numbers_have_as_many_digits_as_their_interval_gives_meaning_to() -> None:
    assert "+4.8 pp [+3.1, +6.4]" in printed(VIEW, 120)


def test_open_bounds_are_shown_as_open() -> None:
    comparison = replace(VIEW.metrics[1].comparisons[0], effect=interval(0.1, None, 0.2))
    view = replace(VIEW, metrics=(replace(VIEW.metrics[1], comparisons=(comparison,)),))
    assert "[-∞, +20]" in printed(view, 120)


def test_a_view_without_anything_is_printable() -> None:
    empty = replace(VIEW, metrics=(), health=(), variants=(), data_through=None)
    assert "churn-3-launch" in printed(empty, 80)


def test_markup_in_names_is_text() -> None:
    assert "[red]x[/red]" in printed(replace(VIEW, name="[red]x[/red]"), 80)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (VerdictKind.SHIP, 0),
        (VerdictKind.KEEP_RUNNING, 3),
        (VerdictKind.INCONCLUSIVE, 3),
        (VerdictKind.ROLL_BACK, 4),
        (VerdictKind.INVALID, 5),
    ],
)
def test_only_a_clear_win_exits_zero(kind: VerdictKind, code: int) -> None:
    assert exit_code(replace(VIEW, verdict=replace(VIEW.verdict, kind=kind))) == code


def test_json_and_yaml_are_the_same_object(capsys: pytest.CaptureFixture[str]) -> None:
    print_view(VIEW, output="json")
    text = capsys.readouterr().out
    assert view_from_json(text.encode()) == VIEW
    print_view(VIEW, output="yaml")
    assert msgspec.convert(yaml.safe_load(capsys.readouterr().out), ExperimentView, strict=False) == VIEW
    assert json.loads(text)["view_version"] == 1


def test_a_table_is_analysed_and_its_verdict_is_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{n},{'AB'[n % 2]},{int(n % 10 < 3 + 4 * (n % 2))}" for n in range(2000)]
    (tmp_path / "units.csv").write_text("\n".join(["user,arm,bought", *rows]) + "\n")
    path = str(tmp_path / "units.csv")
    assert analyze_table(path, "user", "arm", "A", ["conv=proportion(bought)"]) == 0
    assert "✔ SHIP B" in capsys.readouterr().out
    assert analyze_table(path, "user", "arm", "B", ["conv=proportion(bought)"], output="json") == 4
    assert view_from_json(capsys.readouterr().out.encode()).verdict.kind is VerdictKind.ROLL_BACK


def test_the_schema_page_is_up_to_date() -> None:
    script = Path(__file__).parents[3] / "scripts" / "view_schema.py"
    result = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
