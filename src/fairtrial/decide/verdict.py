"""The verdict: what to do with an experiment now, why, and what would change that.

One pure function over one frozen value, checked in the order of what must never be overlooked: broken data, harm, too
early, win, loss, end of the plan. Everything else keeps running and says what is missing.
docs/decisions/0041-verdict-rule.md gives the reasons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fairtrial.decide.guardrail import GuardrailResult
from fairtrial.decide.scorecard import State, comparison_state
from fairtrial.model.experiment import Better
from fairtrial.model.view import CheckState, HealthCheck, Reason, Verdict, VerdictKind
from fairtrial.stats.result import Interval, NotEnoughData

INVALIDATING: Final = frozenset({"srm", "crossover"})
"""Health checks whose failure makes every number of the experiment meaningless. Others only hold a ship back."""


@dataclass(frozen=True, slots=True)
class PrimaryReading:
    """The primary metric of one treatment. interval: the plan's, of the absolute effect, at the shared alpha."""

    metric: str
    variant: str
    better: Better
    interval: Interval | NotEnoughData


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a verdict rests on.

    primary: one per treatment. guardrails: one per guardrail and treatment. running_s, min_runtime_s, max_runtime_s:
    seconds, >= 0. information: share of the planned matured units, None without a plan. is_locked: the method allows
    one look only, at the horizon. waiting_units: enrolled, their windows still open. settled: the verdict of the first
    look at or past the horizon; it stands, because the plan has no alpha left for another. is_unplanned_table: the data
    are a finished table for which nobody planned a size, so no plan is spoken of.
    """

    health: tuple[HealthCheck, ...]
    primary: tuple[PrimaryReading, ...]
    guardrails: tuple[GuardrailResult, ...]
    running_s: float
    min_runtime_s: float = 0.0
    max_runtime_s: float | None = None
    information: float | None = None
    is_locked: bool = False
    waiting_units: int = 0
    settled: Verdict | None = None
    is_unplanned_table: bool = False

    @property
    def is_at_horizon(self) -> bool:
        """The planned units have matured, or the time is up."""
        is_complete = self.information is not None and self.information >= 1.0
        return is_complete or (self.max_runtime_s is not None and self.running_s >= self.max_runtime_s)


def verdict(evidence: Evidence) -> Verdict:
    """What to do now. Always at least one reason; the first one decided."""
    breaches = tuple(result.reason for result in evidence.guardrails if result.state is CheckState.FAILED)
    if broken := _broken(evidence):
        return Verdict(VerdictKind.INVALID, broken + breaches)
    if breaches:
        return Verdict(VerdictKind.ROLL_BACK, breaches)
    if evidence.settled is not None:
        return _settled(evidence, evidence.settled)
    if early := _too_early(evidence):
        return Verdict(VerdictKind.KEEP_RUNNING, early)
    return _judge_primary(evidence)


def _broken(evidence: Evidence) -> tuple[Reason, ...]:
    return tuple(
        Reason(check.name, check.message, f"find the cause of the {check.name} failure and start the experiment anew")
        for check in evidence.health
        if check.state is CheckState.FAILED and check.name in INVALIDATING
    )


def _settled(evidence: Evidence, settled: Verdict) -> Verdict:
    """The verdict at the horizon; a ship waits while the split is in doubt."""
    doubts = _doubts(evidence)
    if settled.kind is not VerdictKind.SHIP or not doubts:
        return settled
    return Verdict(VerdictKind.INCONCLUSIVE, (*doubts, *settled.reasons))


def _doubts(evidence: Evidence) -> tuple[Reason, ...]:
    """A split that is suspected, not yet refuted: too little to invalidate, too much to ship on."""
    find = "find out whether units are lost or added in one variant"
    unblocks = find if evidence.is_unplanned_table else f"{find}; more units either clear the split or refute it"
    return tuple(
        Reason("srm_suspected", check.message, unblocks)
        for check in evidence.health
        if check.name == "srm" and check.state is CheckState.WARN
    )


def _too_early(evidence: Evidence) -> tuple[Reason, ...]:
    if evidence.running_s < evidence.min_runtime_s:
        missing = evidence.min_runtime_s - evidence.running_s
        message = f"the minimum runtime of {_span(evidence.min_runtime_s)} is not over"
        return (Reason("min_runtime", message, f"{_span(missing)} more"),)
    if evidence.is_locked and not evidence.is_at_horizon:
        share = "" if evidence.information is None else f" ({evidence.information:.0%} of the planned units matured)"
        message = f"this method allows one look, at the horizon{share}"
        return (Reason("locked", message, "reach the planned units or the maximum runtime"),)
    return ()


def _judge_primary(evidence: Evidence) -> Verdict:
    if not evidence.primary:
        reason = Reason("no_primary", "no primary metric decides this experiment", "name one metric primary")
        return Verdict(VerdictKind.INCONCLUSIVE if evidence.is_at_horizon else VerdictKind.KEEP_RUNNING, (reason,))
    states = {reading: comparison_state(reading.interval, better=reading.better) for reading in evidence.primary}
    winners = [reading for reading, state in states.items() if state is State.BETTER]
    held_back = _held_back(evidence, winners)
    if free := [reading for reading in winners if not held_back[reading.variant]]:
        return _ship(evidence, max(free, key=_gain))
    if all(state is State.WORSE for state in states.values()):
        return Verdict(VerdictKind.ROLL_BACK, tuple(_worse(reading) for reading in evidence.primary))
    blocks = tuple(reason for reading in winners for reason in (_better(reading), *held_back[reading.variant]))
    kind = VerdictKind.INCONCLUSIVE if evidence.is_at_horizon else VerdictKind.KEEP_RUNNING
    if evidence.is_unplanned_table:
        return Verdict(kind, (*blocks, *_undecided(evidence, states)))
    return Verdict(kind, (*blocks, *(_exhausted if evidence.is_at_horizon else _missing)(evidence, states)))


def _held_back(evidence: Evidence, winners: list[PrimaryReading]) -> dict[str, tuple[Reason, ...]]:
    """By winning variant: what forbids to ship it."""
    failed = tuple(
        Reason(f"health_{check.name}", check.message, f"resolve {check.name}")
        for check in evidence.health
        if check.state is CheckState.FAILED
    )
    return {
        reading.variant: failed
        + _doubts(evidence)
        + tuple(
            result.reason
            for result in evidence.guardrails
            if result.variant == reading.variant and result.state not in {CheckState.OK, CheckState.WARN}
        )
        for reading in winners
    }


def _ship(evidence: Evidence, winner: PrimaryReading) -> Verdict:
    passed = tuple(result.reason for result in evidence.guardrails if result.variant == winner.variant)
    crossovers = tuple(
        Reason("crossover_warning", check.message, "find out why units change variants")
        for check in evidence.health
        if check.name == "crossover" and check.state is CheckState.WARN
    )
    return Verdict(VerdictKind.SHIP, (_better(winner), *passed, *crossovers), variant=winner.variant)


def _undecided(evidence: Evidence, states: dict[PrimaryReading, State]) -> tuple[Reason, ...]:
    """What a table that nobody planned leaves open. Adding rows to one that allows a single look would be a second."""
    reasons = []
    for reading, state in states.items():
        if state is State.WORSE:
            reasons.append(_worse(reading))
        elif state is not State.BETTER:
            found = reading.interval
            why = found.reason if isinstance(found, NotEnoughData) else f"no difference found{_ruled_out(reading)}"
            message = f"this table does not decide {reading.metric} of {reading.variant}: {why}"
            fresh = "a new table, of a size chosen beforehand for the effect worth finding"
            reasons.append(Reason("table_undecided", message, fresh if evidence.is_locked else "a table of more units"))
    return tuple(reasons)


def _exhausted(evidence: Evidence, states: dict[PrimaryReading, State]) -> tuple[Reason, ...]:
    is_complete = evidence.information is not None and evidence.information >= 1.0
    code, end = ("planned_units", "planned sample reached") if is_complete else ("max_runtime", "time is up")
    undecided = [reading for reading, state in states.items() if state is not State.BETTER]
    reasons = []
    for reading in undecided:
        if states[reading] is State.WORSE:
            reasons.append(_worse(reading))
        elif isinstance(reading.interval, NotEnoughData):
            message = f"{end}, and {reading.metric} of {reading.variant} cannot be judged: {reading.interval.reason}"
            reasons.append(Reason(f"{code}_reached", message))
        else:
            message = f"{end} without a decision on {reading.metric} of {reading.variant}{_ruled_out(reading)}"
            reasons.append(Reason(f"{code}_reached", message, "a new experiment planned for a smaller effect"))
    return tuple(reasons) or (Reason(f"{code}_reached", f"{end}, and the winner is held back"),)


def _ruled_out(reading: PrimaryReading) -> str:
    """The gain that the interval makes unlikely."""
    if isinstance(reading.interval, NotEnoughData):
        return ""
    best = reading.interval.upper if reading.better is Better.HIGHER else reading.interval.lower
    direction = "above" if reading.better is Better.HIGHER else "below"
    return "" if best is None else f"; an effect {direction} {best:+.4g} is unlikely"


def _missing(evidence: Evidence, states: dict[PrimaryReading, State]) -> tuple[Reason, ...]:
    reasons = []
    for reading, state in states.items():
        if state is State.WORSE:
            reasons.append(_worse(reading))
        elif isinstance(reading.interval, NotEnoughData):
            message = f"{reading.metric} of {reading.variant}: {reading.interval.reason}"
            reasons.append(Reason("not_enough_data", message, _more_units(evidence)))
        elif state is State.NO_DIFFERENCE_FOUND:
            message = f"no difference found yet in {reading.metric} of {reading.variant}"
            reasons.append(Reason("no_difference_yet", message, _more_units(evidence)))
    return tuple(reasons)


def _more_units(evidence: Evidence) -> str:
    waiting = f"; {evidence.waiting_units} units wait for their windows" if evidence.waiting_units else ""
    if evidence.information is None:
        return f"more matured units{waiting}"
    return f"more matured units: {evidence.information:.0%} of the plan so far{waiting}"


def _better(reading: PrimaryReading) -> Reason:
    return Reason("primary_better", f"{reading.metric} of {reading.variant} is better than control{_range(reading)}")


def _worse(reading: PrimaryReading) -> Reason:
    return Reason("primary_worse", f"{reading.metric} of {reading.variant} is worse than control{_range(reading)}")


def _range(reading: PrimaryReading) -> str:
    interval = reading.interval
    if isinstance(interval, NotEnoughData) or interval.lower is None or interval.upper is None:
        return ""
    return f" ({interval.estimate:+.4g}, {interval.level:.3g} interval {interval.lower:+.4g} to {interval.upper:+.4g})"


def _gain(reading: PrimaryReading) -> float:
    if isinstance(reading.interval, NotEnoughData):
        return 0.0
    return reading.interval.estimate if reading.better is Better.HIGHER else -reading.interval.estimate


def _span(seconds: float) -> str:
    for unit, length in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"
