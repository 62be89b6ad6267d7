"""Which requests an experiment may enrol, compiled from conditions on their attributes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from fairtrial.model.experiment import Condition

Audience = Callable[[Mapping[str, str | None]], bool]


def compile_audience(conditions: Sequence[Condition]) -> Audience:
    """A function of a request's attributes (absent: missing or None) that is true where every condition holds."""
    checks = tuple(_compiled(condition) for condition in conditions)
    if not checks:
        return _everyone
    if len(checks) == 1:
        return checks[0]

    def admits(attributes: Mapping[str, str | None]) -> bool:
        return all(check(attributes) for check in checks)

    return admits


def _everyone(_attributes: Mapping[str, str | None]) -> bool:
    return True


def _compiled(condition: Condition) -> Audience:
    name = condition.attribute
    allowed = frozenset(condition.one_of)
    forbidden = frozenset(condition.none_of)
    has_bounds = condition.at_least is not None or condition.at_most is not None
    low = -math.inf if condition.at_least is None else condition.at_least
    high = math.inf if condition.at_most is None else condition.at_most
    must_exist = condition.exists

    def admits(attributes: Mapping[str, str | None]) -> bool:
        value = attributes.get(name)
        if value is None:
            return not allowed and not has_bounds and must_exist is not True
        if must_exist is False or value in forbidden or (allowed and value not in allowed):
            return False
        return not has_bounds or _is_between(value, low, high)

    return admits


def _is_between(value: str, low: float, high: float) -> bool:
    """False also for text that is not a finite number. Longer numbers than any sensible one are not tried."""
    if len(value) > 64 or "_" in value:
        return False
    try:
        number = float(value)
    except ValueError:
        return False
    return math.isfinite(number) and low <= number <= high
