"""How many matured units the plan needs, where the file names the smallest effect worth finding instead of a number."""

from __future__ import annotations

import math
from typing import Final

from fairtrial.analysis.compare import contrast
from fairtrial.analysis.moments import ExperimentMoments, MetricMoments
from fairtrial.analysis.rules import Estimator
from fairtrial.decide.scorecard import comparison_alpha
from fairtrial.model.experiment import Better, Experiment, Margin, MetricRole
from fairtrial.stats.power import Design, PlannedUnits, planned_units_of_mean, planned_units_of_proportion
from fairtrial.stats.result import Effect

MIN_BASELINE_UNITS: Final = 200
"""Fewest matured units of both variants before a baseline is good enough to plan with."""

MIN_BASELINE_EVENTS: Final = 20.0
"""Fewest expected events (and non-events) of a proportion, in control."""


def has_derived_horizon(experiment: Experiment) -> bool:
    """True where the horizon is to come from the primary's mde."""
    primary = next((m for m in experiment.metrics if m.role is MetricRole.PRIMARY), None)
    return experiment.analysis.planned_units is None and primary is not None and primary.mde is not None


def derive_planned_units(experiment: Experiment, moments: ExperimentMoments) -> int | None:
    """Matured units of all variants at the horizon, from the primary's mde and the level observed in control.

    None without a primary that has an mde, or while too little is known of its level.
    """
    primary = next((m for m in moments.metrics if m.plan.metric.role is MetricRole.PRIMARY), None)
    if primary is None or primary.plan.metric.mde is None:
        return None
    arms = [name for name, _ in experiment.split]
    control = arms.index(experiment.control)
    plans = [
        _pair_units(experiment, primary, control, arm, primary.plan.metric.mde)
        for arm in range(len(arms))
        if arm != control
    ]
    known = [units for units in plans if units is not None]
    return max(known) if known and len(known) == len(plans) else None


def _pair_units(experiment: Experiment, metric: MetricMoments, control: int, treatment: int, mde: Margin) -> int | None:
    """Units of all variants so that this pair has enough."""
    found = contrast(metric, control, treatment)
    baseline = found.control
    if found.units < MIN_BASELINE_UNITS or not isinstance(baseline, Effect):
        return None
    shares = [share for _, share in experiment.split]
    pair_share = shares[control] + shares[treatment]
    design = Design(
        alpha=comparison_alpha(experiment.analysis.alpha, len(shares) - 1),
        power=experiment.analysis.power,
        treatment_share=shares[treatment] / pair_share,
        method=experiment.analysis.method,
        spending=experiment.analysis.spending,
    )
    distance = abs(mde.value * baseline.estimate) if mde.is_relative else mde.value
    planned = _planned(metric, baseline, distance, design)
    return None if planned is None else math.ceil(planned.total / pair_share)


def _planned(metric: MetricMoments, baseline: Effect, distance: float, design: Design) -> PlannedUnits | None:
    is_too_rare = baseline.smallest_count is not None and baseline.smallest_count < MIN_BASELINE_EVENTS
    if distance <= 0.0 or is_too_rare:
        return None
    if metric.plan.estimator is not Estimator.SHARE:
        # The spread of one unit's contribution, whatever the estimator: its standard error times the root of its units.
        return planned_units_of_mean(baseline.std_error * math.sqrt(baseline.units), distance, design)
    if baseline.smallest_count is None:
        return None
    wanted = distance if metric.plan.metric.better is Better.HIGHER else -distance
    for signed in (wanted, -wanted):
        if 0.0 < baseline.estimate + signed < 1.0:
            return planned_units_of_proportion(baseline.estimate, signed, design)
    return None
