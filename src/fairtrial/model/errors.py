"""Errors, grouped by who must act: operator, caller, nobody (retry), or a human with the log in hand.

A message says what was found, what is allowed and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass


class FairtrialError(Exception):
    """Root of every error that Fairtrial raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in an experiment file.

    file: path as given. line, column: 1-based position of the offending value, 0 where the mistake has no place.
    path: dotted place in the file (`experiments.launch.split`). message: what was found and what is allowed.
    fix: what to type instead. is_warning: the file still loads.
    """

    file: str
    line: int
    column: int
    path: str
    message: str
    fix: str
    is_warning: bool = False

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        kind = "warning: " if self.is_warning else ""
        fix = f": {self.fix}" if self.fix else ""
        return f"{where}: {self.path}: {kind}{self.message}{fix}"


class ConfigError(FairtrialError):
    """The operator's input is wrong; `problems` holds every mistake found, in file order."""

    def __init__(self, message: str, problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


class RequestError(FairtrialError):
    """The caller's request is wrong: fixed by sending another one. `field` names the offending part."""

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class UpstreamError(FairtrialError):
    """Something we depend on did not answer as it should; trying again may help."""


class CorruptLogError(FairtrialError):
    """Acknowledged bytes of the event log do not check out: stop and call a human."""


class NotFoundError(FairtrialError):
    """The thing named does not exist."""
