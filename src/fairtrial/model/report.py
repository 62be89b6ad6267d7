"""Where mistakes of a file are gathered, so that all of them are told at once."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable
from typing import Final

from fairtrial.model.errors import Problem
from fairtrial.model.tree import Mark, Node, Scalar

# Bounds on the work that a file full of mistakes can cause.
MAX_PROBLEMS: Final = 200
MAX_COMPARED: Final = 200


class Report:
    """Problems of one file, and the names that references in it may use."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.known: dict[str, tuple[str, ...]] = {}
        self._problems: dict[Problem, None] = {}

    @property
    def has_errors(self) -> bool:
        """True where the file cannot be loaded."""
        return any(not problem.is_warning for problem in self._problems)

    def add(self, mark: Mark, path: str, message: str, fix: str, *, is_warning: bool = False) -> None:
        """Note one mistake; the same one is noted once, however many checks met it."""
        problem = Problem(self.file, mark.line, mark.column, path or "(top level)", message, fix, is_warning)
        if len(self._problems) < MAX_PROBLEMS:
            self._problems[problem] = None
        else:
            last = Problem(self.file, 0, 0, "(top level)", f"more than {MAX_PROBLEMS} mistakes", "correct these first")
            self._problems[last] = None

    def take(self, other: Report) -> None:
        """Note what another report of the same file holds."""
        self._problems.update(other._problems)

    def problems(self) -> tuple[Problem, ...]:
        """Everything found, in file order."""
        return tuple(sorted(self._problems, key=lambda problem: (problem.line, problem.column)))

    def nearest(self, word: str, known: Iterable[str]) -> str | None:
        """The known word most like `word`, if any is like it and the report still takes notes."""
        if len(self._problems) >= MAX_PROBLEMS:
            return None
        by_folded = {name.casefold(): name for name in itertools.islice(known, MAX_COMPARED)}
        found = difflib.get_close_matches(word.casefold()[:200], list(by_folded), n=1, cutoff=0.55)
        return by_folded[found[0]] if found else None


class Place:
    """A dotted path within one report."""

    __slots__ = ("path", "report")

    def __init__(self, report: Report, path: str = "") -> None:
        self.report = report
        self.path = path

    @property
    def name(self) -> str:
        """Last part of the path, as given."""
        return self.path.rsplit("/", 1)[-1]

    def child(self, key: str) -> Place:
        """The place of a key. Parts are kept apart by `/`, which no name has, until they are shown."""
        return Place(self.report, f"{self.path}/{key}" if self.path else key)

    def item(self, index: int) -> Place:
        """The place of a list's item."""
        return Place(self.report, f"{self.path}[{index}]")

    def error(self, at: Node | Mark, message: str, fix: str) -> None:
        """The file does not load."""
        self.report.add(_mark(at), self.path.replace("/", "."), message, fix)

    def warn(self, at: Node | Mark, message: str, fix: str) -> None:
        """The file loads, but probably does not mean this."""
        self.report.add(_mark(at), self.path.replace("/", "."), message, fix, is_warning=True)


def report_duplicate(report: Report, path: str, first: Mark, second: Scalar) -> None:
    """Note a key that stands twice in one mapping; both places are told."""
    message = f"key `{second.text}` stands twice: in line {first.line} and in line {second.mark.line}"
    report.add(second.mark, path, message, "remove one of them")


def _mark(at: Node | Mark) -> Mark:
    return at if isinstance(at, Mark) else at.mark
