# ruff: noqa: D102 - `Kind` says what read, schema, allowed and inner are
"""Section `experiments`: variants, unit, split, rollout, and what must agree between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fairtrial.model.experiment import (
    AnalysisPlan,
    Condition,
    Experiment,
    Method,
    Metric,
    MetricRole,
    RequestUnit,
    SlotUnit,
    Unit,
    Variant,
)
from fairtrial.model.kinds import (
    JsonObject,
    Kind,
    MapOf,
    Reference,
    Text,
    name_kind,
    report_unknown,
)
from fairtrial.model.parse_audience import AUDIENCE
from fairtrial.model.parse_endpoints import attributes_group
from fairtrial.model.parse_layers import LAYER, SALT_ENDINGS, LayerWish
from fairtrial.model.parse_metrics import ANALYSIS, METRIC
from fairtrial.model.parse_split import Split, SplitKind
from fairtrial.model.parse_values import (
    SHARE,
)
from fairtrial.model.parse_variants import BY, ROLLOUT, UNIT, VARIANT
from fairtrial.model.report import Place
from fairtrial.model.sections import Fields, Key, Section
from fairtrial.model.tree import MapNode, Mark, Node, Scalar, shown


class Plane(Kind[str]):
    """Where traffic is split: only the built-in router so far."""

    def read(self, node: Node, place: Place) -> str | None:
        if isinstance(node, Scalar) and node.value == "router":
            return "router"
        place.error(node, f"plane {shown(node)} is not available in this version; allowed: router", "write router")
        return None

    def schema(self) -> JsonObject:
        return {"enum": ["router"]}

    def allowed(self) -> str:
        return "`router`"


ENDPOINT = Key(
    "endpoint",
    Reference("endpoints", "endpoint"),
    "The endpoint whose requests take part.",
    example="churn",
    is_required=True,
)
HYPOTHESIS = Key("hypothesis", Text(), "What is believed, in a sentence, before the trial.")
OWNER = Key("owner", Text(), "Who answers for it.")
UNIT_KEY: Key[Unit] = Key("unit", UNIT, "What is randomised.", example="{header: x-user-id}", is_required=True)
VARIANTS = Key(
    "variants",
    MapOf(name_kind("a variant's name"), VARIANT, at_least=1),
    "What is compared. The one called `control`, or else the first of the split, is the one to beat.",
    example="{control: {model: churn-2}}",
    is_required=True,
)
SPLIT = Key(
    "split",
    SplitKind(),
    "How variants divide the enrolled units.",
    example="{control: 50, treatment: 50}",
    is_required=True,
)
AUDIENCE_KEY = Key(
    "audience", AUDIENCE, "Which requests may be enrolled: conditions on the endpoint's attributes.", "all"
)
ENROLMENT = Key("enrolment", SHARE, "Share of units in the experiment at all; a rollout sets it instead.", "100%")
LAYER_KEY = Key("layer", LAYER, "Experiments of one layer never share a unit.", "none")
HOLDOUT = Key("holdout", Reference("holdouts", "holdout"), "Units of this holdout are never enrolled.", "none")
SALT = Key("salt", name_kind("a salt"), "What units are hashed with; change it to draw anew.", "the experiment's name")
METRICS = Key(
    "metrics",
    MapOf(name_kind("a metric's name"), METRIC),
    "What the trial is judged by; exactly one is primary.",
    "none",
)
ANALYSIS_KEY = Key("analysis", ANALYSIS, "How it is judged.", "all at their defaults")
ROLLOUT_KEY = Key("rollout", ROLLOUT, "How the treatment's share grows.", "none: `enrolment` at once")
PLANE = Key("plane", Plane(), "Where traffic is split.", "router")


@dataclass(frozen=True, slots=True)
class Draft:
    """An experiment whose layer slice is not yet settled, and the places that checks across experiments point at."""

    experiment: Experiment
    layer: LayerWish | None
    holdout: str | None
    place: Place
    mark: Mark
    salt_mark: Mark


def _build_experiment(fields: Fields) -> Draft:
    variants = tuple(fields.get(VARIANTS, {}).values())
    split = fields.get(SPLIT, ())
    metrics = tuple(fields.get(METRICS, {}).values())
    plan = fields.get(ANALYSIS_KEY, AnalysisPlan())
    rollout = fields.find(ROLLOUT_KEY)
    audience = tuple(fields.get(AUDIENCE_KEY, {}).values())
    unit = fields.get(UNIT_KEY, RequestUnit())
    _check_split(fields, variants, split)
    _check_attributes(fields, audience, unit)
    _check_metrics(fields, metrics)
    _check_plan(fields, plan, metrics)
    _check_salt(fields)
    if rollout is not None and fields.has(ENROLMENT):
        fields.warn(ENROLMENT, "the rollout's stages set the enrolment; this one is not used", "remove it")
    experiment = Experiment(
        name=fields.name,
        endpoint=fields.get(ENDPOINT, ""),
        unit=unit,
        variants=variants,
        split=split,
        control=_control(variants, split),
        salt=fields.get(SALT, fields.name),
        hypothesis=fields.get(HYPOTHESIS, ""),
        owner=fields.get(OWNER, ""),
        audience=audience,
        enrolment=fields.get(ENROLMENT, 1.0),
        metrics=metrics,
        analysis=plan,
        rollout=rollout,
        plane=fields.get(PLANE, "router"),
    )
    salt_mark = fields.value_node(SALT).mark
    return Draft(experiment, fields.find(LAYER_KEY), fields.find(HOLDOUT), fields.place, fields.node.mark, salt_mark)


def _control(variants: tuple[Variant, ...], split: Split) -> str:
    names = [name for name, _ in split] or [variant.name for variant in variants] or [""]
    return "control" if "control" in names else names[0]


def _check_split(fields: Fields, variants: tuple[Variant, ...], split: Split) -> None:
    """The split names every variant that is not a shadow, and no other."""
    node = fields.value_node(SPLIT)
    if not isinstance(node, MapNode) or not fields.has(SPLIT) or not isinstance(fields.value_node(VARIANTS), MapNode):
        return
    declared = fields.value_node(VARIANTS)
    names = (
        tuple(key.text for key, _ in declared.items) if isinstance(declared, MapNode) and fields.has(VARIANTS) else ()
    )
    shadows = {variant.name for variant in variants if variant.shadow > 0}
    if not names or any(key.text == "policy" and key.text not in names for key, _ in node.items):
        return
    place = fields.place.child(SPLIT.name)
    for key, _ in node.items:
        if key.text in shadows:
            place.child(key.text).error(
                key, f"variant `{key.text}` is a shadow and cannot be in the split", "remove it here, or its `shadow`"
            )
        elif key.text not in names:
            report_unknown(key, place.child(key.text), "variant", names, "variants")
    written = {key.text for key, _ in node.items}
    for name in names:
        if name not in written and name not in shadows:
            place.error(
                node, f"variant `{name}` has no share", f"add `{name}: ...` to the split, or make it `shadow: true`"
            )
    if split and len(split) == 1:
        fields.warn(SPLIT, "only one variant is in the split; nothing is compared", "add a second variant")


def _check_attributes(fields: Fields, audience: tuple[Condition, ...], unit: Unit) -> None:
    """Audience and slots use attributes that the endpoint declares."""
    known = fields.place.report.known.get(attributes_group(fields.get(ENDPOINT, "")))
    if known is None:
        return
    group = attributes_group(fields.get(ENDPOINT, ""))
    node = fields.value_node(AUDIENCE_KEY)
    if audience and isinstance(node, MapNode):
        for key, _ in node.items:
            if key.text not in known:
                report_unknown(key, fields.place.child(AUDIENCE_KEY.name).child(key.text), "attribute", known, group)
    if isinstance(unit, SlotUnit):
        for name in unit.by:
            if name not in known:
                at = fields.value_node(UNIT_KEY)
                report_unknown(
                    Scalar(at.mark, name, name),
                    fields.place.child(UNIT_KEY.name).child(BY.name),
                    "attribute",
                    known,
                    group,
                )


def _check_metrics(fields: Fields, metrics: tuple[Metric, ...]) -> None:
    node = fields.value_node(METRICS)
    if not fields.has(METRICS) or (isinstance(node, MapNode) and not node.items):
        fields.warn(
            METRICS, "the experiment has no metrics: traffic is split, and nothing is judged", "add a primary metric"
        )
        return
    if not isinstance(node, MapNode):
        return
    marks = {key.text: key.mark for key, _ in node.items}
    primaries = [metric.name for metric in metrics if metric.role is MetricRole.PRIMARY]
    if not primaries and len(metrics) == len(node.items):
        fields.error(METRICS, "no metric is primary; exactly one must be", "give one of them `role: primary`")
    for name in primaries[1:]:
        place = fields.place.child(METRICS.name).child(name)
        message = (
            f"a second primary metric: `{primaries[0]}` in line {marks[primaries[0]].line} is one; exactly one must be"
        )
        place.error(marks[name], message, "make one of them secondary")


def _check_plan(fields: Fields, plan: AnalysisPlan, metrics: tuple[Metric, ...]) -> None:
    """A planned horizon needs something to plan it from."""
    if plan.method not in {Method.FIXED, Method.GROUP_SEQUENTIAL} or plan.planned_units or plan.max_runtime_s:
        return
    primary = next((metric for metric in metrics if metric.role is MetricRole.PRIMARY), None)
    if primary is not None and primary.mde is None:
        message = (
            f"method {plan.method} plans from the primary's `mde`, `planned_units` or `max_runtime`; none is given"
        )
        fields.warn(ANALYSIS_KEY, message, f"add `mde: 2%` to `{primary.name}`, or use method anytime")


def _check_salt(fields: Fields) -> None:
    """Salts of layers and holdouts are their own: sharing one would tie the experiment to who is in the layer."""
    salt = fields.get(SALT, fields.name)
    if salt.endswith(SALT_ENDINGS):
        fields.error(
            SALT,
            f"salt `{salt}` ends like that of a layer or holdout ({', '.join(SALT_ENDINGS)})",
            "add `salt: ...` of your own",
        )


EXPERIMENT: Final = Section(
    "experiment",
    "One trial.",
    (
        ENDPOINT,
        HYPOTHESIS,
        OWNER,
        UNIT_KEY,
        VARIANTS,
        SPLIT,
        AUDIENCE_KEY,
        ENROLMENT,
        LAYER_KEY,
        HOLDOUT,
        SALT,
        METRICS,
        ANALYSIS_KEY,
        ROLLOUT_KEY,
        PLANE,
    ),
    _build_experiment,
)
