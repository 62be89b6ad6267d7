"""Every case of tests/golden/wire_responses.json, at once, in every two parts and byte by byte."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.wire.support_wire import (
    Message,
    Outcome,
    Refused,
    Unfinished,
    load_cases,
    read_response,
    sent_bytes,
    splits,
)

from fairtrial.wire.limits import Limits
from fairtrial.wire.response import Framing, ResponseParser

CASES = load_cases("wire_responses.json")


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_response_has_one_outcome_however_it_is_split(case: dict[str, Any]) -> None:
    limits = Limits(**case.get("limits", {}))
    parser = ResponseParser(limits)
    for segments in splits(sent_bytes(case)):
        _check(case["expect"], read_response(segments, parser, limits, case["method"].encode()))


def _check(expect: dict[str, Any], outcome: Outcome) -> None:
    if "refuse" in expect:
        assert outcome == Refused(expect["refuse"])
    elif "more" in expect:
        assert outcome == Unfinished()
    else:
        assert isinstance(outcome, Message)
        head = outcome.head
        assert head["head"] == expect["head"].encode("latin-1")
        assert head["status"] == expect["status"]
        assert head["framing"] is Framing(expect["framing"])
        assert outcome.body == expect.get("body", "").encode("latin-1")
        assert outcome.rest == expect.get("rest", "").encode("latin-1")
        assert head["content_length"] == expect.get("length")
        assert head["is_chunked"] is expect.get("chunked", False)
        assert head["keep_alive"] is expect.get("keep_alive", True)
        assert head["is_informational"] is expect.get("informational", False)
