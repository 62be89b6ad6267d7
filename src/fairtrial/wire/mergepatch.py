"""JSON Merge Patch (RFC 7396)."""

from __future__ import annotations

from fairtrial.model.experiment import JsonValue


def merge_patch(target: JsonValue, patch: JsonValue) -> JsonValue:
    """`target` changed as `patch` says; neither is altered, and the result shares what did not change.

    Members of an object are set, those given as null are removed, anything but an object replaces the whole. Recursion
    is as deep as `patch`, which is the operator's, not the client's. Source: RFC 7396, section 2.
    """
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged
