"""Is the trial itself sound? Named checks, each with a state and a sentence; asked before any effect is believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from fairtrial.analysis.horizon import MIN_BASELINE_UNITS, has_derived_horizon
from fairtrial.analysis.moments import ExperimentMoments, MetricMoments
from fairtrial.model.experiment import Experiment, Method, MetricRole
from fairtrial.model.view import CheckState, HealthCheck
from fairtrial.stats.srm import EpochCounts, srm_test

SRM_FAILS_BELOW: Final = 0.001
SRM_WARNS_BELOW: Final = 0.01
MIN_EXPECTED_UNITS: Final = 5.0
"""Fewest expected units of a variant for a chi-squared test: Cochran's rule."""
CROSSOVER_WARNS_ABOVE: Final = 0.001
CROSSOVER_FAILS_ABOVE: Final = 0.05
FALLBACK_WARNS_ABOVE: Final = 0.01
FALLBACK_FAILS_ABOVE: Final = 0.10
MIN_REQUESTS: Final = 100
"""Fewest requests of a variant before its share of fallbacks says anything."""

Splits = Mapping[int, Sequence[float]]
UNKNOWN_SPLIT: Final = (
    "no intended split was given, so units cannot be held against it: name one, like control=50,treatment=50"
)


def check_health(
    experiment: Experiment,
    moments: ExperimentMoments,
    *,
    splits: Splits | None,
    planned_units: int | None,
    is_table: bool = False,
) -> tuple[HealthCheck, ...]:
    """All checks, problems first. splits: by epoch, the intended share of each arm; absent epochs have the file's.

    None where nobody said how units were meant to be split. is_table: nothing is added while somebody watches.
    """
    has_one_look = is_table and experiment.analysis.method is Method.FIXED
    checks = [
        check_exposures(moments),
        check_srm(experiment, moments, splits, has_one_look=has_one_look),
        check_crossover(moments),
        check_outcomes(moments.metrics),
        *_optional(experiment, moments, planned_units),
    ]
    return problems_first(checks)


def problems_first(checks: Sequence[HealthCheck]) -> tuple[HealthCheck, ...]:
    """Failed, warning, waiting, ok; otherwise in order."""
    order = [CheckState.FAILED, CheckState.WARN, CheckState.WAITING, CheckState.OK]
    return tuple(sorted(checks, key=lambda check: order.index(check.state)))


def check_exposures(moments: ExperimentMoments) -> HealthCheck:
    """Does anyone meet the trial at all?"""
    units = sum(moments.units.values()) + moments.crossovers
    if units:
        return HealthCheck("exposures", CheckState.OK, f"{units:,} units have met the trial", {"units": units})
    message = "no unit has met the trial yet: send traffic, or check that requests carry the unit"
    return HealthCheck("exposures", CheckState.WAITING, message, {"units": 0})


def check_srm(
    experiment: Experiment, moments: ExperimentMoments, splits: Splits | None, *, has_one_look: bool = False
) -> HealthCheck:
    """Do units arrive in the proportions of the split? Valid at any look: `stats.srm`.

    has_one_look: the data are looked at once, so the chi-squared test is right, and finds more; it needs
    MIN_EXPECTED_UNITS in every variant.
    """
    if splits is None:
        return HealthCheck("srm", CheckState.WAITING, UNKNOWN_SPLIT)
    arms = len(experiment.split)
    default = [share for _, share in experiment.split]
    epochs: dict[int, list[int]] = {}
    for cell, n in moments.units.items():
        epochs.setdefault(cell.epoch, [0] * arms)[cell.arm] = n
    counts = [EpochCounts(tuple(n), tuple(splits.get(epoch, default))) for epoch, n in sorted(epochs.items())]
    result = srm_test(counts)
    expected = min((sum(c.counts) * min(c.shares) for c in counts), default=0.0)
    is_chi2 = has_one_look and expected >= MIN_EXPECTED_UNITS
    p_value = result.chi2_p_value if is_chi2 else result.p_value
    details: dict[str, float | int | str | None] = {
        "p_value": p_value,
        "test": "chi_squared" if is_chi2 else "sequential",
        "threshold": SRM_FAILS_BELOW,
        "largest_deviation": result.largest_deviation,
        "units": result.units,
    }
    if result.units == 0:
        return HealthCheck("srm", CheckState.WAITING, "no units to compare with the split yet", details)
    seen = ", ".join(f"{name} {_count(moments, arm):,}" for arm, (name, _) in enumerate(experiment.split))
    if p_value < SRM_FAILS_BELOW:
        message = (
            f"units do not arrive as split ({seen}; off by {result.largest_deviation:.2%} of units, "
            f"p = {p_value:.1g}): some are lost or added in one variant, so no effect can be trusted"
        )
        return HealthCheck("srm", CheckState.FAILED, message, details)
    if p_value < SRM_WARNS_BELOW:
        message = f"units may not arrive as split ({seen}; p = {p_value:.2g})"
        return HealthCheck("srm", CheckState.WARN, message, details)
    return HealthCheck("srm", CheckState.OK, f"units arrive as split ({seen})", details)


def check_crossover(moments: ExperimentMoments) -> HealthCheck:
    """Did units meet two variants? They are set apart; many of them mean that assignment is broken."""
    units = sum(moments.units.values()) + moments.crossovers
    share = moments.crossovers / units if units else 0.0
    details: dict[str, float | int | str | None] = {"units": moments.crossovers, "share": share}
    if not moments.crossovers:
        state = CheckState.OK if units else CheckState.WAITING
        return HealthCheck("crossover", state, "no unit has met two variants", details)
    message = f"{moments.crossovers:,} units ({share:.2%}) met two variants; they are set apart"
    if share > CROSSOVER_FAILS_ABOVE:
        message += ": assignment is not sticky, or the unit is not what was randomised"
        return HealthCheck("crossover", CheckState.FAILED, message, details)
    state = CheckState.WARN if share > CROSSOVER_WARNS_ABOVE else CheckState.OK
    return HealthCheck("crossover", state, message, details)


def check_outcomes(metrics: Sequence[MetricMoments]) -> HealthCheck:
    """Has every metric something to count?"""
    matured = {m.plan.metric.name: sum(m.units.values()) for m in metrics}
    silent = [m.plan.metric.name for m in metrics if m.rows == 0 and matured[m.plan.metric.name]]
    details: dict[str, float | int | str | None] = {m.plan.metric.name: m.rows for m in metrics}
    if silent:
        message = f"no event counts for {', '.join(silent)} yet: check the name and value of what is sent"
        return HealthCheck("outcomes", CheckState.WARN, message, details)
    if not any(matured.values()):
        return HealthCheck("outcomes", CheckState.WAITING, "no unit has had its whole outcome window yet", details)
    return HealthCheck("outcomes", CheckState.OK, "every metric has events", details)


def _optional(experiment: Experiment, moments: ExperimentMoments, planned_units: int | None) -> list[HealthCheck]:
    """Checks that are shown only where they have something to say."""
    checks = []
    if any(traffic.requests for traffic in moments.traffic.values()):
        checks.append(check_fallback(experiment, moments))
    if moments.unknown_exposures:
        message = (
            f"{moments.unknown_exposures:,} exposures name variants that the split does not have; they are left out"
        )
        details: dict[str, float | int | str | None] = {"exposures": moments.unknown_exposures}
        checks.append(HealthCheck("unknown_variants", CheckState.WARN, message, details))
    plan = experiment.analysis
    if plan.method in {Method.GROUP_SEQUENTIAL, Method.FIXED} and planned_units is None and plan.max_runtime_s is None:
        message = f"method {plan.method} has no horizon: name planned_units, the primary's mde, or max_runtime"
        if has_derived_horizon(experiment):
            message = _horizon_to_come(experiment, moments)
        elif plan.method is Method.GROUP_SEQUENTIAL:
            message += "; without one, intervals are confidence sequences, which are wider"
        checks.append(HealthCheck("plan", CheckState.WAITING, message))
    return checks


def _horizon_to_come(experiment: Experiment, moments: ExperimentMoments) -> str:
    """Every treatment's comparison needs its first units, control's among them."""
    arms = [name for name, _ in experiment.split]
    control = arms.index(experiment.control)
    primary = next(m for m in moments.metrics if m.plan.metric.role is MetricRole.PRIMARY)
    matured = [sum(n for cell, n in primary.units.items() if cell.arm == arm) for arm in range(len(arms))]
    seen = min(matured[control] + n for arm, n in enumerate(matured) if arm != control)
    each = " of each comparison" if len(arms) > 2 else ""
    message = f"the horizon is computed from the first {MIN_BASELINE_UNITS} units{each}; {seen:,} so far"
    if seen < MIN_BASELINE_UNITS:
        return message
    return f"{message}, which do not tell control's level of {primary.plan.metric.name} well enough yet"


def check_fallback(experiment: Experiment, moments: ExperimentMoments) -> HealthCheck:
    """Did the assigned model answer? Units that the stable model served count for the assigned variant all the same."""
    shares = {
        name: traffic.fallbacks / traffic.requests
        for arm, (name, _) in enumerate(experiment.split)
        if (traffic := moments.traffic.get(arm)) is not None and traffic.requests >= MIN_REQUESTS
    }
    details: dict[str, float | int | str | None] = dict(shares)
    if not shares:
        return HealthCheck("fallback", CheckState.WAITING, "too few requests to judge fallbacks", details)
    name, worst = max(shares.items(), key=lambda item: item[1])
    if worst <= FALLBACK_WARNS_ABOVE:
        return HealthCheck(
            "fallback", CheckState.OK, f"assigned models answer (at most {worst:.2%} fall back)", details
        )
    message = f"{worst:.1%} of the requests of {name} were answered by the stable model instead"
    state = CheckState.FAILED if worst > FALLBACK_FAILS_ABOVE else CheckState.WARN
    return HealthCheck("fallback", state, message, details)


def _count(moments: ExperimentMoments, arm: int) -> int:
    return sum(n for cell, n in moments.units.items() if cell.arm == arm)
