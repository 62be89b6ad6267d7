"""The `fairtrial` command.

Results go to stdout, messages to stderr. Exit codes: 0 ok, 1 error, 2 usage, 3 undecided, 4 breached or rolled back,
5 invalid, 6 not found, 7 conflict, 124 timed out, 130 interrupted. Heavy rooms are imported by the command that needs
them, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from fairtrial import __version__
from fairtrial.model.errors import ConfigError, FairtrialError, NotFoundError

EXIT_ERROR, EXIT_USAGE, EXIT_NOT_FOUND, EXIT_INTERRUPTED = 1, 2, 6, 130

Output = Annotated[Literal["table", "json", "yaml"], Parameter(name=["--output", "-o"])]
FileOption = Annotated[Path, Parameter(name=["--file", "-f"], help="Experiment file (YAML or JSON).")]
StateOption = Annotated[Path, Parameter(help="State directory.", env_var="FAIRTRIAL_STATE")]

DEFAULT_STATE = Path(".fairtrial")

app = App(
    name="fairtrial",
    version=__version__,
    help="Fair trials between machine-learning models in production.",
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
)


@app.command
def up(
    file: FileOption,
    *,
    state: StateOption = DEFAULT_STATE,
    router_host: str = "127.0.0.1",
    router_port: int = 8080,
    host: str = "127.0.0.1",
    port: int = 8081,
    workers: Annotated[int | None, Parameter(help="Router processes; default: one per core, at most 4.")] = None,
    refresh: Annotated[str, Parameter(help="Time between refreshes of the analysis, such as 10s or 1m.")] = "10s",
    output: Annotated[Literal["table", "json"], Parameter(name=["--output", "-o"])] = "table",
) -> int:
    """Run every experiment of a file on this machine: router workers, control port, event log, analysis.

    Stops cleanly on SIGTERM or Ctrl-C: requests under way are finished, records are on disk. Edit the file, or send
    SIGHUP, and the new one is served without dropping a request; a file with mistakes is reported and left alone.
    """
    from fairtrial.cli.up import UpOptions, run_up
    from fairtrial.model.quantities import parse_duration

    options = UpOptions(
        file=file,
        state=state,
        router_host=router_host,
        router_port=router_port,
        host=host,
        port=port,
        workers=workers or min(4, os.cpu_count() or 1),
        refresh_s=parse_duration(refresh),
        output=output,
    )
    return run_up(options)


@app.command
def demo(
    *,
    scenario: Annotated[
        Literal["better", "same", "slower", "failing"], Parameter(help="What the challenger is like.")
    ] = "better",
    users: Annotated[int, Parameter(help="Users to send; more users, longer run.")] = 1_200,
    seed: int = 7,
    state: Annotated[Path | None, Parameter(help="Keep everything here; default: a temporary directory.")] = None,
    output: Annotated[Literal["table", "json"], Parameter(name=["--output", "-o"])] = "table",
) -> int:
    """Let two real models compete for about a minute, and print the verdict."""
    from fairtrial.cli.demo import MOST_USERS, Scenario
    from fairtrial.cli.demo import demo as run_demo

    if not 20 <= users <= MOST_USERS:
        raise ConfigError(f"--users is {users}; must be from 20 to {MOST_USERS}")
    return run_demo(Scenario(scenario), users=users, seed=seed, state=state, output=output)


@app.command
def validate(
    files: Annotated[list[Path] | None, Parameter(help="Experiment files.")] = None,
    *,
    file: Annotated[list[Path] | None, Parameter(name=["--file", "-f"], help="The same, as an option.")] = None,
    schema: Annotated[bool, Parameter(help="Print the JSON Schema of the file and stop.")] = False,
    output: Annotated[Literal["table", "json"], Parameter(name=["--output", "-o"])] = "table",
) -> int:
    """Explain every mistake in experiment files: place, what is allowed, the fix."""
    from fairtrial.cli.validate import validate as run_validate

    paths = [*(files or []), *(file or [])]
    if not paths and not schema:
        raise ConfigError("name at least one experiment file: fairtrial validate experiment.yaml")
    return run_validate(paths, output=output, schema=schema)


@app.command
def assign(
    experiment: str,
    units: Annotated[
        list[str] | None, Parameter(help="Unit ids; none, or `-`: one a line on stdin.", allow_leading_hyphen=True)
    ] = None,
    *,
    file: FileOption,
    stage: Annotated[str | None, Parameter(help="Share of all traffic that meets the treatment, such as 20%.")] = None,
) -> int:
    """Print the assignment of units, one JSON object a line. Computed here: no server is asked."""
    from fairtrial.cli.assign import assign as run_assign

    options = [unit for unit in units or [] if unit.startswith("-") and unit != "-"]
    if options:
        raise ConfigError(f"unknown option {options[0]}; a unit that begins with a hyphen goes through standard input")
    return run_assign(experiment, file, units or [], stage=stage)


@app.command
def analyze(
    name: Annotated[str | None, Parameter(help="Experiment of a running or stopped `fairtrial up`.")] = None,
    *,
    state: StateOption = DEFAULT_STATE,
    server: Annotated[str | None, Parameter(help="Control port, such as http://127.0.0.1:8081.")] = None,
    data: Annotated[str | None, Parameter(help="A CSV or Parquet file that Fairtrial did not collect.")] = None,
    unit: Annotated[str | None, Parameter(help="Column of the randomised unit.")] = None,
    variant: Annotated[str | None, Parameter(help="Column of the variant.")] = None,
    control: Annotated[str | None, Parameter(help="Value of that column that is control.")] = None,
    metric: Annotated[list[str] | None, Parameter(help="NAME=kind(col[,col]); repeat for more.")] = None,
    split: Annotated[str | None, Parameter(help="Intended shares, such as control=50,treatment=50.")] = None,
    method: Literal["fixed", "anytime", "bayesian"] = "fixed",
    alpha: float = 0.05,
    output: Output = "table",
) -> int:
    """Show an experiment's verdict and scorecard, or analyse a table with --data.

    Exits by the verdict: 0 ship, 3 undecided, 4 roll back, 5 invalid; 6 where there is no such experiment.
    """
    if (name is None) == (data is None):
        raise ConfigError("give either an experiment's name, or --data FILE")
    if name is not None:
        from fairtrial.cli.views import show_experiment

        return show_experiment(name, state=state, server=server, output=output)
    from fairtrial.cli.analyze import analyze_table

    missing = [f"--{n}" for n, v in (("unit", unit), ("variant", variant), ("control", control)) if v is None]
    missing += [] if metric else ["--metric"]
    if missing:
        raise ConfigError(f"--data needs {', '.join(missing)} too")
    assert data is not None
    assert unit is not None
    assert variant is not None
    assert control is not None
    return analyze_table(
        data, unit, variant, control, metric or [], split=split, method=method, alpha=alpha, output=output
    )


@app.command
def events(
    stream: Annotated[str, Parameter(help="requests, exposures or outcomes; all of them without.")] = "",
    *,
    state: StateOption = DEFAULT_STATE,
    limit: Annotated[int | None, Parameter(help="Stop after so many records.")] = None,
    start: Annotated[str, Parameter(help="Position to begin at, as printed (segment:offset).")] = "",
    follow: Annotated[bool, Parameter(name=["--watch", "-w"], help="Wait for more.")] = False,
    verify: Annotated[bool, Parameter(help="Check every frame of every log instead of printing.")] = False,
    output: Annotated[Literal["table", "json"], Parameter(name=["--output", "-o"])] = "table",
) -> int:
    """Read the event log, or verify it (exit 1 where acknowledged bytes do not check out)."""
    from fairtrial.cli.events import read_events
    from fairtrial.cli.events import verify as verify_logs

    if verify:
        return verify_logs(state, output=output)
    return read_events(state, stream, limit=limit, start=start, follow=follow, output=output)


def main() -> None:
    """Run the command line; turns errors into one message and an exit code."""
    messages = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        code = app(result_action="return_value", exit_on_error=False, print_error=True)
    except CycloptsError:  # printed by cyclopts, with the nearest known option
        sys.exit(EXIT_USAGE)
    except ConfigError as error:
        for problem in error.problems:
            messages.print(str(problem), markup=False)
        if not error.problems:
            messages.print(f"error: {error}", markup=False)
        sys.exit(EXIT_ERROR if error.problems else EXIT_USAGE)
    except NotFoundError as error:
        messages.print(f"error: {error}", markup=False)
        sys.exit(EXIT_NOT_FOUND)
    except FairtrialError as error:
        messages.print(f"error: {error}", markup=False)
        sys.exit(EXIT_ERROR)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_ERROR)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
