"""The view on a terminal: verdict, problems, scorecard, traffic, and how it was judged - in that order.

Never colour alone: every state is a shape and a word. Method and level are read off the view, never assumed. Below
WIDE columns the relative effect goes under the absolute one.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fairtrial.model.view import (
    CheckState,
    Comparison,
    EffectInterval,
    ExperimentView,
    HealthCheck,
    IntervalKind,
    MetricView,
    VerdictKind,
)

WIDE: Final = 100
NEW_LINE: Final = "\n"

BLUE, VERMILION, GREY = "#56B4E9", "#D55E00", "bright_black"
VERDICTS: Final = {
    VerdictKind.SHIP: ("✔", "SHIP", f"bold {BLUE}"),
    VerdictKind.ROLL_BACK: ("✖", "ROLL BACK", f"bold {VERMILION}"),
    VerdictKind.KEEP_RUNNING: ("◌", "KEEP RUNNING", "bold"),
    VerdictKind.INCONCLUSIVE: ("●", "INCONCLUSIVE", "bold"),
    VerdictKind.INVALID: ("⚠", "INVALID", f"bold {VERMILION}"),
}
STATES: Final = {
    "better": ("▲", "better", BLUE),
    "worse": ("▼", "worse", VERMILION),
    "no_difference_found": ("●", "no difference found", ""),
    "not_worse": ("●", "not worse", BLUE),
    "waiting": ("○", "waiting", GREY),
    "locked": ("◌", "locked", GREY),
}
CHECKS: Final = {
    CheckState.FAILED: ("✖", "failed", VERMILION),
    CheckState.WARN: ("⚠", "warning", VERMILION),
    CheckState.WAITING: ("○", "waiting", GREY),
    CheckState.OK: ("✔", "ok", ""),
}
INTERVALS: Final = {
    IntervalKind.CONFIDENCE_INTERVAL: "confidence intervals, right for one look",
    IntervalKind.REPEATED_CONFIDENCE_INTERVAL: "repeated confidence intervals, right at every look",
    IntervalKind.CONFIDENCE_SEQUENCE: "confidence sequences, right at every look",
    IntervalKind.CREDIBLE_INTERVAL: "credible intervals, not safe to stop on",
}
ROLES: Final = ("primary", "guardrail", "secondary")
SHARES: Final = frozenset({"proportion", "retention"})


def show(view: ExperimentView, console: Console) -> None:
    """Print the whole view."""
    is_wide = console.width >= WIDE
    problems = [check for check in view.health if check.state in {CheckState.FAILED, CheckState.WARN}]
    waiting = [check for check in view.health if check.state is CheckState.WAITING]
    parts: list[RenderableType] = [_title(view)]
    if problems:
        parts += [_checks(problems), Text()]
    parts.append(_verdict(view))
    if waiting:
        parts += [Text(), _checks(waiting)]
    if view.metrics:
        parts += [Text(), _scorecard(view, is_wide=is_wide)]
    parts += [Text(), _variants(view), Text(), _method(view)]
    console.print(Group(*parts))


def _title(view: ExperimentView) -> Text:
    title = Text(view.name, style="bold")
    title.append(f"  {view.status}", style=GREY)
    progress = view.progress
    if view.status != "analysed":
        title.append(f"  {_span(progress.running_s)}", style=GREY)
        if progress.information is not None:
            title.append(f"  {progress.information:.0%} of {progress.planned_units:,} planned units", style=GREY)
        elif progress.matured_units:
            title.append(f"  {progress.matured_units:,} matured units", style=GREY)
    return title


def _verdict(view: ExperimentView) -> RenderableType:
    glyph, word, style = VERDICTS[view.verdict.kind]
    head = Text(f"{glyph} {word}", style=style)
    if view.verdict.variant:
        head.append(f" {view.verdict.variant}")
    lines = Table.grid(padding=(0, 1))
    for reason in view.verdict.reasons:
        text = Text(_sentence(reason.message))
        if reason.unblocks:
            text.append(f" Needs: {reason.unblocks}.", style=GREY)
        lines.add_row("-", text)
    return Group(head, _indented(lines))


def _checks(checks: list[HealthCheck]) -> Table:
    lines = Table.grid(padding=(0, 2))
    for check in checks:
        glyph, word, style = CHECKS[check.state]
        lines.add_row(Text(f"{glyph} {check.name} {word}", style=style), _sentence(check.message))
    return lines


def _scorecard(view: ExperimentView, *, is_wide: bool) -> Table:
    levels = {c.effect.level for metric in view.metrics for c in metric.comparisons if c.effect is not None}
    at = f" [{_percent(min(levels))}]" if len(levels) == 1 else ""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=GREY)
    table.add_column("metric", min_width=12)
    table.add_column(view.control, justify="right")
    treatments = [v.name for v in view.variants if v.name != view.control]
    table.add_column(treatments[0] if len(treatments) == 1 else "treatment", justify="right")
    table.add_column(f"effect{at}", justify="left", min_width=23)
    if is_wide:
        table.add_column(f"relative{at}", justify="left")
    table.add_column("state", min_width=22 if is_wide else 15)
    for role in ROLES:
        for metric in (m for m in view.metrics if m.role == role):
            _add_metric(table, metric, view, is_wide=is_wide, has_one_level=len(levels) == 1)
    return table


def _add_metric(table: Table, metric: MetricView, view: ExperimentView, *, is_wide: bool, has_one_level: bool) -> None:
    values = {value.variant: value for value in metric.values}
    is_share = metric.kind in SHARES
    for place, comparison in enumerate(metric.comparisons):
        name = _metric_name(metric, is_wide=is_wide) if place == 0 else Text()
        level, treated = values[view.control].value, values[comparison.variant].value
        shown = _level(treated, is_share=is_share)
        if len(metric.comparisons) > 1:
            shown = f"{comparison.variant} {shown}"
        effect = _effect(comparison, is_share=is_share, has_one_level=has_one_level)
        relative = _relative(comparison.relative_effect)
        cells = [effect, relative] if is_wide else [_stacked(effect, relative)]
        table.add_row(name, _level(level, is_share=is_share), shown, *cells, _state(metric, comparison))


def _metric_name(metric: MetricView, *, is_wide: bool) -> Text:
    text = Text(metric.name, style="bold" if metric.role == "primary" else "")
    limits = []
    if metric.margin is not None:
        is_points = metric.kind in SHARES and not metric.margin_is_relative
        limits.append(f"margin {_points(metric.margin) if is_points else _margin(metric)}")
    if metric.limit is not None:
        limits.append(f"limit {_percent(metric.limit) if metric.kind in SHARES else _level(metric.limit)}")
    text.append(f"{'  ' if is_wide else NEW_LINE}{metric.role}", style=GREY)
    return text.append(NEW_LINE + ", ".join(limits), style=GREY) if limits else text


def _stacked(upper: Text, lower: Text) -> Text:
    return Text("\n").join([upper, lower]) if lower.plain else upper


def _margin(metric: MetricView) -> str:
    assert metric.margin is not None
    return _percent(metric.margin) if metric.margin_is_relative else f"{metric.margin:.4g}"


def _state(metric: MetricView, comparison: Comparison) -> Text:
    if metric.guardrail is CheckState.FAILED and comparison.state == "worse":
        return Text("✖ breached", style=VERMILION)
    glyph, word, style = STATES.get(comparison.state, ("?", comparison.state, ""))
    return Text(f"{glyph} {word}", style=style)


def _effect(comparison: Comparison, *, is_share: bool, has_one_level: bool) -> Text:
    effect = comparison.effect
    if effect is None:
        return Text(comparison.not_enough_data or "", style=GREY)
    text = Text(_numbers(effect, 100.0, " pp", "") if is_share else _numbers(effect, 1.0, "", ""))
    return text if has_one_level else text.append(f" at {_percent(effect.level)}", style=GREY)


def _relative(effect: EffectInterval | None) -> Text:
    return Text() if effect is None else Text(_numbers(effect, 100.0, "%", "%"), style=GREY)


def _numbers(effect: EffectInterval, scale: float, unit: str, bound_unit: str) -> str:
    """Estimate and bounds with as many decimals as the interval's width gives meaning to."""
    digits = f"+,.{_decimals(effect, scale)}f"
    lower = "-∞" if effect.lower is None else f"{effect.lower * scale:{digits}}{bound_unit}"
    upper = "+∞" if effect.upper is None else f"{effect.upper * scale:{digits}}{bound_unit}"
    return f"{effect.estimate * scale:{digits}}{unit} [{lower}, {upper}]"


def _decimals(effect: EffectInterval, scale: float) -> int:
    """Two significant digits of the half-width."""
    bounds = [bound for bound in (effect.lower, effect.upper) if bound is not None]
    half = max((abs(bound - effect.estimate) for bound in bounds), default=0.0) * scale
    return min(9, max(0, 1 - math.floor(math.log10(half)))) if half > 0.0 else 4


def _variants(view: ExperimentView) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=GREY)
    has_models = any(variant.model for variant in view.variants)
    has_requests = any(variant.requests for variant in view.variants)
    table.add_column("variant")
    headings = ["units", "share", "planned", "exposures"]
    for heading in [*headings, *(["errors", "fallbacks"] if has_requests else [])]:
        table.add_column(heading, justify="right")
    if has_models:
        table.add_column("model")
    units = sum(variant.units for variant in view.variants)
    is_split_known = not any(check.name == "srm" and not check.details for check in view.health)
    for variant in view.variants:
        cells = [
            variant.name,
            f"{variant.units:,}",
            f"{variant.units / units:.2%}" if units else "-",
            _percent(variant.expected_share) if is_split_known else "-",
            f"{variant.exposures:,}",
        ]
        cells += [f"{variant.errors:,}", f"{variant.fallbacks:,}"] if has_requests else []
        table.add_row(*cells, *([variant.model] if has_models else []))
    return table


def _method(view: ExperimentView) -> Text:
    kinds = {c.effect.kind for metric in view.metrics for c in metric.comparisons if c.effect is not None}
    promise = "; ".join(INTERVALS[kind] for kind in IntervalKind if kind in kinds)
    text = f"method {view.method}, alpha {view.alpha:g}" + (f"; {promise}" if promise else "")
    if view.data_through is not None:
        through = datetime.fromtimestamp(view.data_through / 1e6, tz=UTC)
        text += f"; events through {through:%Y-%m-%d %H:%M:%S} UTC"
    return Text(text, style=GREY)


def _level(value: float | None, *, is_share: bool = False) -> str:
    if value is None:
        return "-"
    return f"{value:.2%}" if is_share else f"{value:.4g}"


def _points(value: float) -> str:
    return f"{value * 100:.3g} pp"


def _percent(share: float) -> str:
    return f"{share * 100:.4g}%"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _indented(content: RenderableType) -> Padding:
    return Padding(content, (0, 0, 0, 2))


def _span(seconds: float) -> str:
    for unit, length in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.0f} s"
