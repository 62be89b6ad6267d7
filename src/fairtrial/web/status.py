"""The plain status page at `/`: every experiment's `ExperimentView`, readable without JavaScript.

Order follows what a reader must know first: problems that invalidate, the verdict and what is missing, guardrails and
scorecard, traffic. Nothing is computed here but positions of whiskers.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from fairtrial import __version__
from fairtrial.model.allocation import Snapshot
from fairtrial.model.view import CheckState, Comparison, EffectInterval, ExperimentView, MetricView, VerdictKind

GLYPHS = {
    VerdictKind.SHIP: "▲",
    VerdictKind.ROLL_BACK: "▼",
    VerdictKind.KEEP_RUNNING: "◌",
    VerdictKind.INCONCLUSIVE: "●",
    VerdictKind.INVALID: "✖",
}
STATE_WORDS = {
    "better": "▲ better",
    "worse": "▼ worse",
    "not_worse": "● not worse",
    "no_difference_found": "● no difference found",
    "waiting": "◌ waiting",
    "locked": "◌ locked until the horizon",
}
WHISKER_WIDTH = 160
NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Whisker:
    """One interval on a row's own scale, in pixels from the left; zero always on the scale."""

    zero: float
    low: float
    high: float
    estimate: float


def whisker(effect: EffectInterval) -> Whisker | None:
    """Positions for an interval with both bounds; None where one is open."""
    if effect.lower is None or effect.upper is None:
        return None
    low, high = min(effect.lower, 0.0), max(effect.upper, 0.0)
    span = (high - low) or 1.0
    margin = 8.0

    def position(value: float) -> float:
        return round(margin + (value - low) / span * (WHISKER_WIDTH - 2 * margin), 1)

    return Whisker(position(0.0), position(effect.lower), position(effect.upper), position(effect.estimate))


def number(value: float | None) -> str:
    """Four significant digits; a dash for nothing."""
    if value is None:
        return NOTHING
    return f"{value:,.4g}"


def signed(value: float | None) -> str:
    """As `number`, with its sign."""
    return NOTHING if value is None else f"{value:+,.4g}"


def percent(value: float | None) -> str:
    """0.1234 as 12.3 %."""
    return NOTHING if value is None else f"{value * 100:.1f} %"


def level(value: float | None, kind: str) -> str:
    """A metric's level: shares as percent, all else as a number."""
    return percent(value) if kind in {"proportion", "retention"} else number(value)


def instant(microseconds: int | None) -> str:
    """UTC, to the second."""
    if microseconds is None:
        return NOTHING
    return datetime.fromtimestamp(microseconds / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One line of the scorecard: a metric and one treatment."""

    metric: MetricView
    comparison: Comparison
    control_value: float | None
    treatment_value: float | None
    whisker: Whisker | None


def rows(view: ExperimentView) -> list[MetricRow]:
    """Scorecard lines, primary first, then guardrails, then secondaries."""
    order = {"primary": 0, "guardrail": 1, "secondary": 2}
    lines = []
    for metric in sorted(view.metrics, key=lambda m: order.get(m.role, 3)):
        values = {value.variant: value.value for value in metric.values}
        for comparison in metric.comparisons:
            drawn = whisker(comparison.effect) if comparison.effect else None
            lines.append(MetricRow(metric, comparison, values.get(view.control), values.get(comparison.variant), drawn))
    return lines


class StatusPage:
    """Renders the page; `content_security_policy` allows its one style sheet by hash and nothing else."""

    def __init__(self) -> None:
        environment = Environment(
            loader=PackageLoader("fairtrial.web"),
            autoescape=select_autoescape(),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters.update(number=number, signed=signed, percent=percent, level=level, instant=instant)
        environment.globals.update(
            glyphs=GLYPHS, state_words=STATE_WORDS, rows=rows, FAILED=CheckState.FAILED, WARN=CheckState.WARN
        )
        self._template = environment.get_template("status.html")
        style = environment.get_template("status.css").render()
        self._style = style
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        self.content_security_policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'"

    def render(self, snapshot: Snapshot, views: Mapping[str, ExperimentView], problems: list[str]) -> str:
        """HTML of the whole page."""
        return self._template.render(
            snapshot=snapshot, views=views, problems=problems, style=self._style, version=__version__
        )
