"""What the demo shows while it runs: one table that fills up, one line that says what is known so far.

On a terminal it redraws in place; elsewhere it prints a line every few seconds, so that logs stay readable.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from fairtrial.cli.demo_traffic import Traffic
    from fairtrial.model.view import ExperimentView

LINE_EVERY = 5


class Screen:
    """Progress goes to stderr, so that stdout holds the result alone."""

    def __init__(self, *, is_quiet: bool) -> None:
        self._console = Console(stderr=True, quiet=is_quiet, highlight=False)
        self._progress = Progress(
            TextColumn("[bold]users"), BarColumn(bar_width=40), MofNCompleteColumn(), console=self._console
        )
        self._task = self._progress.add_task("users", total=None)
        self._live: Live | None = None
        self._lines = 0

    def say(self, text: str) -> None:
        """One line above the table."""
        self._console.print(text)

    @contextlib.contextmanager
    def live(self, users: int) -> Iterator[None]:
        """Redraw in place for the duration, where there is a terminal."""
        self._progress.update(self._task, total=users)
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, refresh_per_second=4, transient=True) as self._live:
            yield

    def show(self, traffic: Traffic, view: ExperimentView | None, *, waiting_s: int | None = None) -> None:
        """Show the present state. waiting_s: seconds until the last units have had their whole outcome window."""
        self._progress.update(self._task, completed=traffic.users_done)
        known = _known(view)
        if waiting_s is not None:
            known = f"All users are through; waiting {waiting_s} s until every outcome window has closed. {known}"
        if self._live is not None:
            self._live.update(Group(self._progress, _table(traffic), Text(known)))
            return
        self._lines += 1
        if self._lines % LINE_EVERY == 1:
            counts = ", ".join(f"{name} {v.requests} requests" for name, v in sorted(traffic.variants.items()))
            self._console.print(f"{traffic.users_done} users; {counts}. {known}")

    def closing(self, scenario: str, view: ExperimentView) -> None:
        """What to try next."""
        others = [name for name in ("better", "same", "slower", "failing") if name != scenario]
        self._console.print(f"\nTry the others: fairtrial demo --scenario {'|'.join(others)}")
        self._console.print(f"The whole result as JSON: fairtrial demo -o json  (view version {view.view_version})")


def _table(traffic: Traffic) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("variant")
    for heading in ("users", "requests", "errors", "p95 wait", "labels back", "read correctly"):
        table.add_column(heading, justify="right")
    for name, seen in sorted(traffic.variants.items()):
        p95 = seen.p95_s
        table.add_row(
            name,
            str(len(seen.users)),
            str(seen.requests),
            str(seen.errors),
            "-" if p95 is None else f"{p95 * 1000:.0f} ms",
            str(seen.labelled),
            f"{seen.correct / seen.labelled:.1%}" if seen.labelled else "-",
        )
    return table


def _known(view: ExperimentView | None) -> str:
    if view is None or not view.verdict.reasons:
        return "No view yet."
    return f"So far: {view.verdict.kind.value.replace('_', ' ')} - {view.verdict.reasons[0].message}"
