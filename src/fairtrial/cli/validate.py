"""`fairtrial validate`: every mistake of an experiment file, with its place and its fix."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Literal

from fairtrial.model.errors import Problem


def validate(files: list[Path], *, output: Literal["table", "json"] = "table", schema: bool = False) -> int:
    """Check experiment files, and say what is wrong with them, where, and what to type instead.

    Warnings do not make a file invalid. Exit code 0 if every file is valid, 1 if one is not, 2 if none is named.

    Parameters
    ----------
    files
        Experiment files, YAML or JSON.
    output
        `table` prints one line a problem, as compilers do; `json` prints {"valid": ..., "problems": [...]}.
    schema
        Print the JSON Schema of experiment files instead, for editors.
    """
    if schema:
        from fairtrial.model.schema import json_schema

        print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
        return 0
    if not files:
        print("no file is named; write: fairtrial validate FILE", file=sys.stderr)
        return 2
    from fairtrial.controller.inert import inert_parts
    from fairtrial.model.parse import check_path

    checked = []
    for path in files:
        file, found = check_path(path)
        checked.append((path, file, found + inert_parts(file, name=str(path)) if file is not None else found))
    is_valid = all(file is not None for _, file, _ in checked)
    if output == "json":
        problems = [_document(problem) for _, _, found in checked for problem in found]
        print(json.dumps({"valid": is_valid, "problems": problems}, indent=2, ensure_ascii=False))
        return 0 if is_valid else 1
    for path, file, found in checked:
        for problem in found:
            print(problem)
        print(f"{path}: {_summary(found)}" if file is None else f"{path}: valid, {_contents(len(file.experiments))}")
    return 0 if is_valid else 1


def _document(problem: Problem) -> dict[str, str | int | bool]:
    """Fields of a problem; `is_warning` says that the file loads all the same."""
    return dataclasses.asdict(problem)


def _summary(problems: tuple[Problem, ...]) -> str:
    count = sum(not problem.is_warning for problem in problems)
    return "1 mistake" if count == 1 else f"{count} mistakes"


def _contents(experiments: int) -> str:
    return "1 experiment" if experiments == 1 else f"{experiments} experiments"
