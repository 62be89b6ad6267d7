"""Metrics of a foreign table, written `NAME=kind(column[,column])[:lower]`, as on the command line.

conv=proportion(bought)        share of units with 1 in a 0/1 column
rev=mean(amount)               mean per unit
n=count(visits)                the same, of a count
ctr=ratio(clicks,views)        sum over sum; many rows per unit are fine; a number as denominator counts rows
p95=quantile(latency,0.95)     of all rows; many rows per unit are fine
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from typing import Final, TypeVar

from fairtrial.model.errors import ConfigError
from fairtrial.model.experiment import Better, EventSource, Metric, MetricKind, MetricRole

C = TypeVar("C", MetricKind, Better)

GRAMMAR: Final = "NAME=kind(column[,column]), such as 'conv=proportion(bought)' or 'p95=quantile(latency,0.95):lower'"
_PATTERN: Final = re.compile(
    r"\s*(?P<name>[A-Za-z0-9._-]{1,128})\s*=\s*(?P<kind>\w+)\s*\((?P<columns>.*)\)\s*(?::\s*(?P<better>\w+))?\s*"
)
KINDS: Final = (MetricKind.PROPORTION, MetricKind.MEAN, MetricKind.COUNT, MetricKind.RATIO, MetricKind.QUANTILE)
MANY_ROWS: Final = frozenset({MetricKind.RATIO, MetricKind.QUANTILE})
"""Kinds for which a unit may have many rows."""


@dataclass(frozen=True, slots=True)
class ForeignMetric:
    """One metric of a table. column: what is measured; of a ratio, the numerator.

    denominator: of a ratio, a column or a positive number that every row counts for. quantile: of a quantile: which
    one, in (0, 1).
    """

    name: str
    kind: MetricKind
    column: str
    denominator: str | float | None = None
    quantile: float | None = None
    better: Better = Better.HIGHER

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"metric '{self.name}': kind {self.kind} needs events; a table has {_listed(KINDS)}")
        if (self.denominator is None) == (self.kind is MetricKind.RATIO):
            raise ConfigError(f"metric '{self.name}': a ratio, and only a ratio, has a denominator")
        if isinstance(self.denominator, float) and not self.denominator > 0.0:
            raise ConfigError(f"metric '{self.name}': denominator {self.denominator:g} is not above 0")
        if (self.quantile is None) == (self.kind is MetricKind.QUANTILE):
            raise ConfigError(f"metric '{self.name}': a quantile, and only a quantile, says which one, like 0.95")
        if self.quantile is not None and not 0.0 < self.quantile < 1.0:
            raise ConfigError(f"metric '{self.name}': quantile {self.quantile:g} must lie between 0 and 1, like 0.95")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads."""
        return (self.column, self.denominator) if isinstance(self.denominator, str) else (self.column,)

    def as_metric(self, role: MetricRole) -> Metric:
        """The same metric as the engine knows it; its events are the table's columns."""
        return Metric(
            name=self.name,
            role=role,
            kind=self.kind,
            source=EventSource(self.column),
            denominator=None if self.denominator is None else EventSource(str(self.denominator)),
            better=self.better,
            quantile=self.quantile,
        )


def parse_metric(text: str) -> ForeignMetric:
    """Read one metric. Raises ConfigError that says what is allowed."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ConfigError(f"metric '{text}' is not written {GRAMMAR}")
    name, kind = match["name"], _choice(match["kind"], KINDS, f"kind of metric '{match['name']}'")
    better = _choice(match["better"] or Better.HIGHER, tuple(Better), f"direction of metric '{name}'")
    columns = next(csv.reader([match["columns"]], skipinitialspace=True), [])
    columns = [column.strip() for column in columns]
    wanted = 2 if kind in MANY_ROWS else 1
    if len(columns) != wanted or not all(columns):
        second = {MetricKind.RATIO: "(numerator,denominator)", MetricKind.QUANTILE: "(column,0.95)"}
        shape = second.get(kind, "(column)")
        raise ConfigError(f"metric '{name}' is {kind}({match['columns']}); it must be {kind}{shape}")
    if kind is MetricKind.QUANTILE:
        return ForeignMetric(name, kind, columns[0], quantile=_number(columns[1], name), better=better)
    if kind is MetricKind.RATIO:
        return ForeignMetric(name, kind, columns[0], denominator=_column_or_number(columns[1]), better=better)
    return ForeignMetric(name, kind, columns[0], better=better)


def _choice(text: str, allowed: tuple[C, ...], what: str) -> C:
    for choice in allowed:
        if choice.value == text:
            return choice
    raise ConfigError(f"{what} is '{text}'; allowed: {_listed(allowed)}")


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"metric '{name}': '{text}' is not a number between 0 and 1, like 0.95") from None


def _column_or_number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _listed(choices: tuple[MetricKind, ...] | tuple[Better, ...]) -> str:
    return ", ".join(choice.value for choice in choices)
