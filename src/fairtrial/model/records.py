"""Records of what happened, as they lie in the event log: one JSON object a line.

Instants are integer microseconds since 1970-01-01T00:00:00Z. Units are keyed 64-bit hashes (signed, so that every SQL
engine has the type); `unit_id` holds the raw text only where the file says `keep_unit_ids: true`. Fields at their
default are left out of the line. New fields are only ever added, with a default.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Outcome = Literal["ok", "error", "timeout", "fallback"]


class RequestRecord(msgspec.Struct, omit_defaults=True, gc=False):
    """What one proxied request of an enrolled unit did; the unit met `variant`, whoever served.

    outcome: `fallback` where the stable model answered for an assigned one, `timeout` where we gave up waiting, `error`
    for a 5xx answer or none at all. reason: why it fell back or failed. latency_us: request head read to last byte
    handed to the client; upstream_us: request sent to first byte of the answer. kind `shadow` marks a copy's record.
    """

    request_id: str
    at: int
    endpoint: str
    experiment: str
    variant: str
    unit: int
    assigned_model: str
    served_model: str
    status: int
    outcome: Outcome
    latency_us: int
    epoch: int = 0
    propensity: float = 1.0
    upstream_us: int = 0
    retries: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    reason: str = ""
    kind: Literal["primary", "shadow"] = "primary"
    unit_id: str = ""


class ExposureRecord(msgspec.Struct, omit_defaults=True, gc=False):
    """The logged fact that a unit met a variant, reported from outside the router."""

    id: str
    at: int
    received_at: int
    experiment: str
    variant: str
    unit: int
    epoch: int = 0
    propensity: float = 1.0
    unit_id: str = ""


class OutcomeRecord(msgspec.Struct, omit_defaults=True, gc=False):
    """A later measured event of a unit, or of a request (`request_id`) whose unit is looked up.

    value: the plain number; values: named numbers, where the sender gave an object. derived_id: the id was made from
    the content because the sender gave none.
    """

    id: str
    at: int
    received_at: int
    name: str
    value: float = 1.0
    values: dict[str, float] | None = None
    unit: int | None = None
    request_id: str = ""
    derived_id: bool = False
    unit_id: str = ""
