"""The canonical JSON document of a file: what registries store, snapshots carry and digests are taken of.

Everything that the file left to a rule is written out (salts, layer slices, fractions of the split), so the document
means the same when the rules change. Values at their defaults are left out.
"""

from __future__ import annotations

from typing import TypeVar

from fairtrial.model.experiment import (
    SCHEMA_VERSION,
    AnalysisPlan,
    Condition,
    Covariate,
    Endpoint,
    EventSource,
    Experiment,
    ExperimentFile,
    FieldUnit,
    JsonValue,
    LayerSlice,
    Match,
    Metric,
    MetricKind,
    Model,
    OnClientEof,
    RequestField,
    RequestUnit,
    ResponseHeaders,
    Rollout,
    RouterOptions,
    Source,
    Timeouts,
    Unit,
    Variant,
)
from fairtrial.model.quantities import show_duration, show_margin

JsonObject = dict[str, JsonValue]
T = TypeVar("T")


def to_document(file: ExperimentFile) -> JsonObject:
    """Document that `parse_document` reads back as an equal ExperimentFile; json.dumps of it is valid JSON."""
    holdouts = {exp.holdout.name: exp.holdout.share for exp in file.experiments.values() if exp.holdout is not None}
    document: JsonObject = {
        "version": SCHEMA_VERSION,
        "models": {name: _model(model) for name, model in file.models.items()},
        "endpoints": {name: _endpoint(endpoint) for name, endpoint in file.endpoints.items()},
        "holdouts": dict(holdouts),
        "experiments": {name: _experiment(experiment) for name, experiment in file.experiments.items()},
        "router": _router(file.router),
        "keep_unit_ids": file.keep_unit_ids,
    }
    return _without(document, {"holdouts": {}, "router": {}, "keep_unit_ids": False})


def _without(document: JsonObject, defaults: JsonObject) -> JsonObject:
    """The document without keys that are at their default."""
    return {key: value for key, value in document.items() if key not in defaults or value != defaults[key]}


def _seconds(seconds: float | None) -> str | None:
    return None if seconds is None else show_duration(seconds)


def _changed(values: dict[str, tuple[JsonValue, JsonValue]]) -> JsonObject:
    """Keys whose first value differs from the second, their default."""
    return {key: value for key, (value, default) in values.items() if value != default}


def _model(model: Model) -> JsonObject:
    document: JsonObject = {
        "url": model.url,
        "version": model.version,
        "host": model.host,
        "headers": dict(model.headers),
    }
    return _without(document, {"version": "", "host": "", "headers": {}})


def _match(match: Match) -> JsonObject:
    document: JsonObject = {
        "path": match.path,
        "host": match.host,
        "headers": dict(match.headers),
        "model": match.model,
    }
    return _without(document, {"host": "", "headers": {}, "model": ""})


def _timeouts(timeouts: Timeouts) -> JsonObject:
    default = Timeouts()
    return _changed(
        {
            "connect": (_seconds(timeouts.connect_s), _seconds(default.connect_s)),
            "first_byte": (_seconds(timeouts.first_byte_s), _seconds(default.first_byte_s)),
            "idle": (_seconds(timeouts.idle_s), _seconds(default.idle_s)),
            "total": (_seconds(timeouts.total_s), _seconds(default.total_s)),
        }
    )


def _field(field: RequestField) -> JsonObject:
    return {field.source.value: field.name}


def _endpoint(endpoint: Endpoint) -> JsonObject:
    document: JsonObject = {
        "match": _match(endpoint.match),
        "model": endpoint.model,
        "attributes": {name: _field(field) for name, field in endpoint.attributes.items()},
        "repeatable": endpoint.is_repeatable,
        "timeouts": _timeouts(endpoint.timeouts),
        "on_client_eof": endpoint.on_client_eof.value,
        "max_body": endpoint.max_body_bytes,
    }
    defaults: JsonObject = {
        "attributes": {}, "repeatable": True, "timeouts": {}, "max_body": 64 << 20,
        "on_client_eof": OnClientEof.CANCEL.value,
    }  # fmt: skip
    return _without(document, defaults)


def _variant(variant: Variant) -> JsonObject:
    document: JsonObject = {
        "model": variant.model, "headers": dict(variant.headers), "body": variant.body, "shadow": variant.shadow,
    }  # fmt: skip
    return _without(document, {"headers": {}, "body": None, "shadow": 0.0})


def _unit(unit: Unit) -> JsonObject:
    match unit:
        case FieldUnit():
            return _field(unit.field)
        case RequestUnit():
            return {"request": True}
        case _:
            return _without({"slot": show_duration(unit.slot_s), "by": list(unit.by)}, {"by": []})


def _condition(condition: Condition) -> JsonObject:
    document: JsonObject = {
        "in": list(condition.one_of),
        "not": list(condition.none_of),
        "min": condition.at_least,
        "max": condition.at_most,
        "exists": condition.exists,
    }
    return _without(document, {"in": [], "not": [], "min": None, "max": None, "exists": None})


def _layer(layer: LayerSlice | None) -> JsonValue:
    return None if layer is None else {"name": layer.name, "from": layer.low, "to": layer.high}


def _source(source: Source) -> JsonObject:
    if isinstance(source, EventSource):
        return _without({"event": source.event, "value": source.value}, {"value": "value"})
    return {"of": source.of.value}


def _covariate(covariate: Covariate | None) -> JsonValue:
    return None if covariate is None else _source(covariate.source) | {"before": show_duration(covariate.before_s)}


def _metric(metric: Metric) -> JsonObject:
    source = _source(metric.source)
    document: JsonObject = {
        "role": metric.role.value,
        "kind": metric.kind.value,
        **({"numerator": source} if metric.kind is MetricKind.RATIO else source),
        "denominator": None if metric.denominator is None else _source(metric.denominator),
        "quantile": metric.quantile,
        "within": _seconds(metric.within_s),
        "after": _seconds(metric.after_s),
        "better": metric.better.value,
        "cap": metric.cap,
        "covariate": _covariate(metric.covariate),
        "mde": None if metric.mde is None else show_margin(metric.mde),
        "margin": None if metric.margin is None else show_margin(metric.margin),
        "limit": metric.limit,
    }
    defaults = dict.fromkeys(document, None) | {"after": "0s"}
    if metric.kind.value == "retention":
        del defaults["after"]
    return _without(document, {**defaults})


def _analysis(plan: AnalysisPlan) -> JsonObject:
    return {
        "method": plan.method.value,
        "alpha": plan.alpha,
        "power": plan.power,
        "min_runtime": _seconds(plan.min_runtime_s),
        **({} if plan.max_runtime_s is None else {"max_runtime": _seconds(plan.max_runtime_s)}),
        **({} if plan.planned_units is None else {"planned_units": plan.planned_units}),
        "spending": plan.spending.value,
    }


def _rollout(rollout: Rollout | None) -> JsonValue:
    if rollout is None:
        return None
    return {"stages": list(rollout.stages), "hold": show_duration(rollout.hold_s), "on_breach": rollout.on_breach.value}


def _experiment(experiment: Experiment) -> JsonObject:
    document: JsonObject = {
        "endpoint": experiment.endpoint,
        "hypothesis": experiment.hypothesis,
        "owner": experiment.owner,
        "unit": _unit(experiment.unit),
        "variants": {variant.name: _variant(variant) for variant in experiment.variants},
        "split": dict(experiment.split),
        "audience": {condition.attribute: _condition(condition) for condition in experiment.audience},
        "enrolment": experiment.enrolment,
        "layer": _layer(experiment.layer),
        "holdout": None if experiment.holdout is None else experiment.holdout.name,
        "salt": experiment.salt,
        "metrics": {metric.name: _metric(metric) for metric in experiment.metrics},
        "analysis": _analysis(experiment.analysis),
        "rollout": _rollout(experiment.rollout),
        "plane": experiment.plane,
    }
    defaults: JsonObject = {
        "hypothesis": "", "owner": "", "audience": {}, "enrolment": 1.0, "layer": None, "holdout": None, "metrics": {},
        "rollout": None,
    }  # fmt: skip
    return _without(document, defaults)


def _headers(names: ResponseHeaders) -> JsonObject:
    default = ResponseHeaders()
    return _changed(
        {
            "experiment": (names.experiment, default.experiment),
            "variant": (names.variant, default.variant),
            "model_version": (names.model_version, default.model_version),
            "request_id": (names.request_id, default.request_id),
        }
    )


def _router(options: RouterOptions) -> JsonObject:
    default = RouterOptions()
    return _changed(
        {
            "response_headers": (_headers(options.response_headers), {}),
            "max_head": (options.max_head_bytes, default.max_head_bytes),
            "max_fields": (options.max_fields, default.max_fields),
            "head_timeout": (_seconds(options.head_timeout_s), _seconds(default.head_timeout_s)),
            "keep_alive": (_seconds(options.keep_alive_s), _seconds(default.keep_alive_s)),
            "upstream_idle": (_seconds(options.upstream_idle_s), _seconds(default.upstream_idle_s)),
            "drain_delay": (_seconds(options.drain_delay_s), _seconds(default.drain_delay_s)),
            "drain_timeout": (_seconds(options.drain_timeout_s), _seconds(default.drain_timeout_s)),
            "max_connections": (options.max_connections, default.max_connections),
            "max_upstream_connections": (options.max_upstream_connections, default.max_upstream_connections),
            "breaker_failures": (options.breaker_failures, default.breaker_failures),
            "breaker_open": (_seconds(options.breaker_open_s), _seconds(default.breaker_open_s)),
        }
    )
