"""`fairtrial analyze`: tables that Fairtrial did not collect; how any view is printed and becomes an exit code."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Final, Literal, assert_never

import msgspec

from fairtrial.model.view import ExperimentView, VerdictKind

EXIT_OK, EXIT_UNDECIDED, EXIT_BREACHED, EXIT_INVALID = 0, 3, 4, 5

Output = Literal["table", "json", "yaml"]
MICROSECONDS: Final = 1_000_000


def analyze_table(
    data: str,
    unit: str,
    variant: str,
    control: str,
    metric: Sequence[str],
    *,
    split: str | None = None,
    method: str = "fixed",
    alpha: float = 0.05,
    planned_units: int | None = None,
    output: Output = "table",
) -> int:
    """Analyse a CSV or Parquet file and print the view; the exit code follows its verdict (`exit_code`)."""
    from fairtrial.analysis.foreign import analyze

    view = analyze(
        data,
        unit=unit,
        variant=variant,
        control=control,
        metrics=metric,
        split=split,
        method=method,
        alpha=alpha,
        planned_units=planned_units,
        now=int(time.time() * MICROSECONDS),
    )
    print_view(view, output=output)
    return exit_code(view)


def exit_code(view: ExperimentView) -> int:
    """0 ship, 3 undecided, 4 worse or breached, 5 invalid: a script may go on only after 0."""
    match view.verdict.kind:
        case VerdictKind.SHIP:
            return EXIT_OK
        case VerdictKind.KEEP_RUNNING | VerdictKind.INCONCLUSIVE:
            return EXIT_UNDECIDED
        case VerdictKind.ROLL_BACK:
            return EXIT_BREACHED
        case VerdictKind.INVALID:
            return EXIT_INVALID
        case _:
            assert_never(view.verdict.kind)


def print_view(view: ExperimentView, *, output: Output = "table") -> None:
    """Print a view to stdout. json and yaml: the object of docs/reference/experiment-view.md."""
    match output:
        case "json":
            sys.stdout.write(msgspec.json.format(msgspec.json.encode(view), indent=2).decode() + "\n")
        case "yaml":
            import yaml

            yaml.safe_dump(msgspec.to_builtins(view), sys.stdout, sort_keys=False, allow_unicode=True)
        case "table":
            from rich.console import Console

            from fairtrial.cli.scorecard import show

            show(view, Console(highlight=False))
        case _:
            assert_never(output)
