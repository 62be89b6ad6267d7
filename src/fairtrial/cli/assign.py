"""`fairtrial assign`: which variant units get, computed here exactly as routers compute it."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fairtrial.model.errors import ConfigError

if TYPE_CHECKING:
    from fairtrial.assign.assignment import Assigner, Assignment


def assign(
    experiment: str,
    file: Path,
    units: list[str],
    *,
    output: Literal["table", "json"] = "json",
    stage: str | None = None,
) -> int:
    """Print the variant of each unit, as if its request met the audience.

    The enrolment is that of the file: of the rollout's first stage, or `enrolment`. Exit code 6 if the file has no such
    experiment, 1 if it is not valid.

    Parameters
    ----------
    experiment
        Name of an experiment of the file.
    file
        Experiment file, YAML or JSON.
    units
        Unit ids; none, or `-`, reads them from standard input, one a line.
    output
        `json` prints one object a line: unit, experiment, variant, enrolled, bucket, propensity.
    stage
        Share of all traffic that meets the treatment (`5%`), instead of the first stage.
    """
    from fairtrial.model.quantities import QuantityError, parse_share

    try:
        share = None if stage is None else parse_share(stage)
    except QuantityError as exc:
        print(f"--stage: {exc}", file=sys.stderr)
        return 2
    try:
        assigner = _assigner(experiment, file, share)
        if assigner is None:
            return 6
        show = _print_json if output == "json" else _print_row
        if output == "table":
            print(f"{'UNIT':<32} {'VARIANT':<24} {'BUCKET':<18} PROPENSITY")
        for unit in _units(units):
            show(assigner.assign(unit))
    except ConfigError as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


def _assigner(name: str, path: Path, stage: float | None) -> Assigner | None:
    """Assigner of the experiment at its first allocation, or at `stage`; None, and a message, if there is none."""
    from fairtrial.assign.assignment import Assigner
    from fairtrial.model.parse import load_experiment
    from fairtrial.model.snapshot import first_allocations, stage_enrolment

    file = load_experiment(path)
    experiment = file.experiments.get(name)
    if experiment is None:
        known = ", ".join(file.experiments) or "none"
        print(f"experiment {json.dumps(name)} is not in {path}; it has: {known}", file=sys.stderr)
        return None
    allocation = first_allocations(file, started_at=0)[name]
    if stage is not None:
        allocation = dataclasses.replace(allocation, enrolment=stage_enrolment(experiment, stage), stage=stage)
    return Assigner(experiment, allocation)


def _units(units: list[str]) -> Iterator[str]:
    """The units named, with those of standard input in the place of `-`. Raises ConfigError if they are not UTF-8."""
    for unit in units or ["-"]:
        if unit != "-":
            yield unit
            continue
        for number, line in enumerate(sys.stdin.buffer, start=1):
            try:
                text = line.decode().removesuffix("\n").removesuffix("\r")
            except UnicodeDecodeError as exc:
                raise ConfigError(f"line {number} of standard input is not UTF-8; units are UTF-8 text") from exc
            if text:
                yield text


def _print_json(assignment: Assignment) -> None:
    document = {
        "unit": assignment.unit,
        "experiment": assignment.experiment,
        "variant": assignment.variant,
        "enrolled": assignment.is_enrolled,
        "bucket": assignment.bucket,
        "propensity": assignment.propensity,
    }
    print(json.dumps(document))


def _print_row(assignment: Assignment) -> None:
    bucket = "" if assignment.bucket is None else f"{assignment.bucket:.16f}"
    propensity = "" if assignment.propensity is None else f"{assignment.propensity:g}"
    variant = assignment.variant or f"({assignment.reason})"
    print(
        f"{json.dumps(assignment.unit, ensure_ascii=True)[1:-1]:<32} {variant:<24} {bucket:<18} {propensity}".rstrip()
    )
