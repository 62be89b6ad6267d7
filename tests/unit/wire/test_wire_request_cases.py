"""Every case of tests/golden/wire_requests.json, at once, in every two parts and byte by byte.

A case: the bytes sent and what becomes of them, from RFC 9110 and RFC 9112 (`rfc` names the section): a status, one
message to forward (head, body, bytes left for the next request), or the need for more bytes.
"""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.wire.support_wire import (
    CAPTURE,
    Message,
    Outcome,
    Refused,
    Unfinished,
    general_parser,
    load_cases,
    read_request,
    sent_bytes,
    splits,
)

from fairtrial.wire.limits import Limits
from fairtrial.wire.request import RequestParser

CASES = load_cases("wire_requests.json")


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_request_has_one_outcome_however_it_is_split(case: dict[str, Any]) -> None:
    limits = Limits(**case.get("limits", {}))
    parser = RequestParser(limits, CAPTURE)
    for segments in splits(sent_bytes(case)):
        _check(case["expect"], read_request(segments, parser, limits))


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_the_general_parser_agrees_with_the_fast_path(case: dict[str, Any]) -> None:
    limits = Limits(**case.get("limits", {}))
    general = general_parser(limits)
    fast = RequestParser(limits, CAPTURE)
    data = (sent_bytes(case),)
    ours, theirs = read_request(data, fast, limits), read_request(data, general, limits)
    if not isinstance(ours, Message):
        assert ours == theirs
        return
    assert isinstance(theirs, Message)
    assert (ours.body, ours.rest) == (theirs.body, theirs.rest)
    same = set(ours.head) - {"head", "captured"}
    assert {name: ours.head[name] for name in same} == {name: theirs.head[name] for name in same}
    assert _lines(ours.head["head"]) == _lines(theirs.head["head"])


def _lines(head: object) -> list[tuple[bytes, bytes]]:
    """Request line and fields, without regard to their order, spelling and the white space around values."""
    assert isinstance(head, bytes)
    line, *fields = head.split(b"\r\n")[:-1]
    parted = [field.partition(b":")[::2] for field in fields]
    return [(line, b""), *sorted((name.lower(), value.strip(b" \t").lower()) for name, value in parted)]


def _check(expect: dict[str, Any], outcome: Outcome) -> None:
    if "refuse" in expect:
        assert outcome == Refused(expect["refuse"])
    elif "more" in expect:
        assert outcome == Unfinished()
    else:
        assert isinstance(outcome, Message)
        head = outcome.head
        assert head["head"] == expect["head"].encode("latin-1")
        assert outcome.body == expect.get("body", "").encode("latin-1")
        assert outcome.rest == expect.get("rest", "").encode("latin-1")
        assert head["content_length"] == expect.get("length")
        assert head["is_chunked"] is expect.get("chunked", False)
        assert head["keep_alive"] is expect.get("keep_alive", True)
        assert head["expects_continue"] is expect.get("continue", False)
        assert head["is_http10"] is expect.get("http10", False)
        host = expect.get("host", "h")
        assert head["host"] == (host if host is None else host.encode("latin-1"))
        if "captured" in expect:
            wanted = tuple(value if value is None else value.encode("latin-1") for value in expect["captured"])
            assert head["captured"] == wanted
        start = head["head"].split(b" ", 2)
        assert [head["method"], head["target"]] == start[:2]
