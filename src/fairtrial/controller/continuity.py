"""What may change in an experiment that already has units, and what may not.

A unit's arm follows from salt, unit, split and the order of its variants. Changing any of these under way moves units
between arms: their outcomes belong to both and to neither, and those who come back are the ones who are set apart.
"""

from __future__ import annotations

from fairtrial.model.errors import ConfigError, Problem
from fairtrial.model.experiment import Experiment, ExperimentFile


def refuse_moved_units(before: ExperimentFile, after: ExperimentFile, *, name: str) -> None:
    """Raises ConfigError naming every experiment of both files whose units would change arms. name: of the file."""
    problems = tuple(
        problem
        for experiment, old in before.experiments.items()
        if (new := after.experiments.get(experiment)) is not None
        for problem in _moves(old, new, name)
    )
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise ConfigError(f"{name} would move units of a running trial between variants:\n{lines}", problems)


def _moves(old: Experiment, new: Experiment, name: str) -> list[Problem]:
    changed = []
    if old.split != new.split:
        changed.append(("split", _shown(old), _shown(new)))
    if old.salt != new.salt:
        changed.append(("salt", old.salt, new.salt))
    if old.unit != new.unit:
        changed.append(("unit", str(old.unit), str(new.unit)))
    fix = "put it back, or give what is another trial another name; how many take part is set by `enrolment`"
    return [
        Problem(name, 0, 0, f"experiments.{new.name}.{key}", f"was {was}, is {now}: units would change variants", fix)
        for key, was, now in changed
    ]


def _shown(experiment: Experiment) -> str:
    return ", ".join(f"{variant} {share:.4g}" for variant, share in experiment.split)
