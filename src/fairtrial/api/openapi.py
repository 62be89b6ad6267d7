"""The OpenAPI document: what the framework knows, plus the two intake routes that it never sees."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

_INSTANT = {
    "description": "ISO 8601 with a zone, or seconds since 1970; the time of arrival where absent",
    "oneOf": [{"type": "string", "format": "date-time"}, {"type": "number"}],
}
_UNIT = {"type": "string", "minLength": 1, "maxLength": 1024}
_ID = {
    "type": "string",
    "maxLength": 128,
    "description": "counts once, however often it is sent; made from the content",
}
_OUTCOME = {
    "type": "object",
    "required": ["name"],
    "oneOf": [{"required": ["unit"]}, {"required": ["request_id"]}],
    "properties": {
        "unit": _UNIT,
        "request_id": {"type": "string", "description": "x-request-id of the answer; its unit is looked up"},
        "name": {"type": "string", "maxLength": 128},
        "value": {
            "default": 1,
            "oneOf": [
                {"type": "number"},
                {"type": "boolean"},
                {"type": "object", "additionalProperties": {"type": "number"}},
            ],
        },
        "at": _INSTANT,
        "id": _ID,
    },
}
_EXPOSURE = {
    "type": "object",
    "required": ["unit", "experiment", "variant"],
    "properties": {
        "unit": _UNIT,
        "experiment": {"type": "string"},
        "variant": {"type": "string"},
        "epoch": {"type": "integer", "minimum": 0},
        "propensity": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "at": _INSTANT,
        "id": _ID,
    },
}
_ACCEPTED = {
    "type": "object",
    "properties": {
        "accepted": {"type": "integer"},
        "rejected": {"type": "integer"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "index": {"type": "integer"},
                    "field": {"type": "string"},
                    "message": {"type": "string"},
                },
            },
        },
    },
}


def _route(stream: str, item: dict[str, Any]) -> dict[str, Any]:
    batch = {"type": "object", "required": [stream], "properties": {stream: {"type": "array", "items": item}}}
    answers = {
        "200": ("Durable: the items accepted are on disk", _ACCEPTED, "application/json"),
        "400": ("Nothing was taken: not JSON, or every item is bad", {"type": "object"}, "application/problem+json"),
        "413": ("The body is too long", {"type": "object"}, "application/problem+json"),
        "503": ("Try again after Retry-After: the queue is full", {"type": "object"}, "application/problem+json"),
    }
    return {
        "post": {
            "summary": f"Report {stream}; answered when they are durable",
            "operationId": f"post_{stream}",
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": batch}, "application/x-ndjson": {"schema": item}},
            },
            "responses": {
                code: {"description": text, "content": {kind: {"schema": schema}}}
                for code, (text, schema, kind) in answers.items()
            },
        }
    }


def document_intake(app: FastAPI) -> None:
    """Add the intake's routes to what `/openapi.json` answers."""
    framework = app.openapi

    def openapi() -> dict[str, Any]:
        document = framework()
        document["paths"] |= {
            "/api/v1/outcomes": _route("outcomes", _OUTCOME),
            "/api/v1/exposures": _route("exposures", _EXPOSURE),
        }
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI documents this as the way to extend it
