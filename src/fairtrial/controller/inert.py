"""Parts of a valid file that this version leaves to people: said wherever somebody might rely on them."""

from __future__ import annotations

from fairtrial.model.errors import Problem
from fairtrial.model.experiment import ExperimentFile

_MESSAGE = "stages do not advance and breaches do not roll back by themselves yet: traffic stays at {stage:g} %"
_FIX = "to ramp, put the next stage first; to end the treatment, put `enrolment: 0%` in place of the rollout"


def inert_parts(file: ExperimentFile, *, name: str) -> tuple[Problem, ...]:
    """A warning for every rollout, which is read, checked and shown but not acted on. name: of the file."""
    return tuple(
        Problem(
            name,
            0,
            0,
            f"experiments.{experiment.name}.rollout",
            _MESSAGE.format(stage=experiment.rollout.stages[0] * 100),
            _FIX,
            is_warning=True,
        )
        for experiment in file.experiments.values()
        if experiment.rollout is not None
    )
