"""The experiment file: text to frozen types, with every mistake found at once.

`load_experiment` is the only way in. What the sections cannot see alone - layers, salts, endpoints that two
experiments share - is checked here.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fairtrial.model.document import to_document
from fairtrial.model.errors import ConfigError, Problem
from fairtrial.model.experiment import SCHEMA_VERSION, Experiment, ExperimentFile, Holdout, JsonValue, RouterOptions
from fairtrial.model.kinds import Flag, MapOf, WholeNumber, name_kind
from fairtrial.model.parse_endpoints import ENDPOINT, MODEL, ROUTER
from fairtrial.model.parse_experiment import EXPERIMENT, Draft
from fairtrial.model.parse_layers import settle
from fairtrial.model.parse_values import PART_SHARE
from fairtrial.model.read_json import JsonSyntaxError, read_json
from fairtrial.model.report import Place, Report
from fairtrial.model.sections import Fields, Key, Section
from fairtrial.model.tree import MAX_FILE_BYTES, MapNode, Mark, Node, Scalar, from_value

__all__ = ["check_experiment", "load_experiment", "parse_document", "parse_experiment", "to_document"]

# Models, endpoints and holdouts come before the experiments that refer to them, wherever they stand in the file.
VERSION = Key(
    "version", WholeNumber(SCHEMA_VERSION, SCHEMA_VERSION), "Version of this file format.", str(SCHEMA_VERSION)
)
MODELS = Key(
    "models",
    MapOf(name_kind("a model's name"), MODEL, group="models", at_least=1),
    "The model versions.",
    example="{churn-2: {url: http://127.0.0.1:8501}}",
    is_required=True,
)
ENDPOINTS = Key(
    "endpoints",
    MapOf(name_kind("an endpoint's name"), ENDPOINT, group="endpoints", at_least=1),
    "The addresses that clients call.",
    example="{churn: {model: churn-2}}",
    is_required=True,
)
HOLDOUTS = Key(
    "holdouts",
    MapOf(name_kind("a holdout's name"), PART_SHARE, group="holdouts"),
    "Shares of all units that no experiment naming the holdout enrols.",
    "none",
)
EXPERIMENTS = Key("experiments", MapOf(name_kind("an experiment's name"), EXPERIMENT), "The trials.", "none")
ROUTER_KEY = Key("router", ROUTER, "Settings of the built-in data plane.", "all at their defaults")
KEEP_UNIT_IDS = Key("keep_unit_ids", Flag(), "Raw unit ids may rest on disk; else only keyed hashes do.", "false")


def _build_file(fields: Fields) -> ExperimentFile:
    drafts = list(fields.get(EXPERIMENTS, {}).values())
    holdouts = fields.get(HOLDOUTS, {})
    if not drafts and isinstance(fields.value_node(EXPERIMENTS), MapNode):
        fields.warn(EXPERIMENTS, "the file has no experiments", "add one under `experiments`")
    experiments = _settled(drafts, holdouts)
    _check_salts(drafts)
    _check_shared_endpoints(drafts)
    endpoints = fields.get(ENDPOINTS, {})
    _check_matches(fields, {name: endpoint.match for name, endpoint in endpoints.items()})
    return ExperimentFile(
        models=fields.get(MODELS, {}),
        endpoints=endpoints,
        experiments={experiment.name: experiment for experiment in experiments},
        router=fields.get(ROUTER_KEY, RouterOptions()),
        keep_unit_ids=fields.get(KEEP_UNIT_IDS, False),
    )


FILE: Final = Section(
    "file",
    "The whole truth about some models, the endpoints in front of them, and the trials between them.",
    (VERSION, MODELS, ENDPOINTS, HOLDOUTS, EXPERIMENTS, ROUTER_KEY, KEEP_UNIT_IDS),
    _build_file,
)


def load_experiment(path: str | Path) -> ExperimentFile:
    """What the file at `path` says. Raises ConfigError, with every mistake in `.problems`, if it says nothing valid."""
    return _parsed(*_check_path(path), str(path))


def parse_experiment(text: str, *, name: str = "<string>") -> ExperimentFile:
    """What `text` (YAML or JSON) says. name: stands for the file in messages. Raises ConfigError with `.problems`."""
    return _parsed(*check_experiment(text, name=name), name)


def parse_document(document: JsonValue, *, name: str = "<document>") -> ExperimentFile:
    """What a decoded JSON document says: the inverse of `to_document`. Raises ConfigError with `.problems`."""
    report = Report(name)
    return _parsed(*_check_tree(from_value(document), report), name)


def check_path(path: str | Path) -> tuple[ExperimentFile | None, tuple[Problem, ...]]:
    """As check_experiment, of a file; one that cannot be read is a problem like any other."""
    return _check_path(path)


def check_experiment(text: str, *, name: str) -> tuple[ExperimentFile | None, tuple[Problem, ...]]:
    """The file, or None if any problem is an error, and every problem in file order, warnings included."""
    report = Report(name)
    if len(text.encode("utf-8", "surrogatepass")) > MAX_FILE_BYTES:
        report.add(Mark(), "", f"the file is larger than {MAX_FILE_BYTES} bytes", "make it smaller")
        return None, report.problems()
    root = _read(text.removeprefix("\ufeff"), report, is_json=name.endswith(".json"))
    return _check_tree(root, report) if root is not None else (None, report.problems())


def _check_path(path: str | Path) -> tuple[ExperimentFile | None, tuple[Problem, ...]]:
    report = Report(str(path))
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        return check_experiment(raw.decode("utf-8-sig"), name=str(path))
    except OSError as exc:
        report.add(Mark(), "", f"cannot be read: {exc.strerror or exc}", "name a file that exists and can be read")
    except UnicodeDecodeError as exc:
        before = raw[: exc.start]
        mark = Mark(before.count(b"\n") + 1, exc.start - (before.rfind(b"\n") + 1) + 1)
        report.add(mark, "", "the file is not UTF-8 text", "save it as UTF-8")
    return None, report.problems()


def _read(text: str, report: Report, *, is_json: bool) -> Node | None:
    """Tree of the text. What begins with `{` is tried as JSON, which YAML readers get wrong in small ways."""
    if is_json or text.lstrip(" \t\r\n").startswith("{"):
        attempt = Report(report.file)
        try:
            root = read_json(text, attempt)
        except JsonSyntaxError as exc:
            if is_json:
                before = text[: exc.position]
                mark = Mark(before.count("\n") + 1, exc.position - (before.rfind("\n") + 1) + 1)
                report.add(mark, "", exc.message, exc.fix)
                return None
        else:
            report.take(attempt)
            return root
    # Imported here: routers read JSON snapshots and never YAML.
    from fairtrial.model.read_yaml import read_yaml  # noqa: PLC0415

    return read_yaml(text, report)


def _check_tree(root: Node, report: Report) -> tuple[ExperimentFile | None, tuple[Problem, ...]]:
    if isinstance(root, Scalar) and root.value is None:
        report.add(root.mark, "", "the file is empty", "begin with `models:`; see examples/churn.yaml")
        return None, report.problems()
    file = FILE.read(root, Place(report))
    return (None if report.has_errors else file), report.problems()


def _parsed(file: ExperimentFile | None, problems: tuple[Problem, ...], name: str) -> ExperimentFile:
    if file is None:
        errors = [problem for problem in problems if not problem.is_warning]
        count = "1 mistake" if len(errors) == 1 else f"{len(errors)} mistakes"
        raise ConfigError("\n".join([f"{name} has {count}:", *(f"  {problem}" for problem in errors)]), problems)
    return file


def _settled(drafts: list[Draft], holdouts: dict[str, float]) -> list[Experiment]:
    """Experiments with their layer slices and holdouts."""
    return [
        dataclasses.replace(
            draft.experiment,
            layer=layer,
            holdout=Holdout(draft.holdout, holdouts[draft.holdout]) if draft.holdout in holdouts else None,
        )
        for draft, layer in zip(drafts, settle([draft.layer for draft in drafts]), strict=True)
    ]


def _pairs(drafts: list[Draft]) -> Iterator[tuple[Draft, Draft]]:
    return itertools.combinations(drafts, 2)


def _check_salts(drafts: list[Draft]) -> None:
    for first, second in _pairs(drafts):
        if first.experiment.salt == second.experiment.salt:
            first_name, salt = first.experiment.name, second.experiment.salt
            message = f"salt `{salt}` is also that of `{first_name}`: units meet the same arms in both"
            second.place.warn(second.salt_mark, message, "give each its own, unless that is meant")


def _check_shared_endpoints(drafts: list[Draft]) -> None:
    """The first experiment in file order that enrols a unit serves it; the next one then sees a biased rest."""
    for first, second in _pairs(drafts):
        one, two = first.experiment, second.experiment
        shares_layer = first.layer is not None and second.layer is not None and first.layer.name == second.layer.name
        if one.endpoint and one.endpoint == two.endpoint and not shares_layer:
            message = (
                f"`{one.name}` and `{two.name}` both take units of endpoint `{two.endpoint}` and share no layer: "
                "a unit that the first enrols never reaches the second"
            )
            second.place.warn(second.mark, message, f"give both `layer: {two.endpoint}`")


def _check_matches(fields: Fields, matches: dict[str, object]) -> None:
    node = fields.value_node(ENDPOINTS)
    marks = {key.text: key.mark for key, _ in node.items} if isinstance(node, MapNode) else {}
    for (first, one), (second, two) in itertools.combinations(matches.items(), 2):
        if one == two:
            place = fields.place.child(ENDPOINTS.name).child(second)
            place.error(
                marks[second], f"endpoint `{second}` matches the same requests as `{first}`", "give it another `match`"
            )
