"""One message, one meaning: in any pieces, on both of our paths, and to the parsers of others.

The examples are the same in every run; scripts/fuzz_wire.py looks for new ones.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.wire.support_mutations import cut, mutated
from tests.unit.wire.support_oracles import FAST, GENERAL, RESPONSES, request_faults, response_faults
from tests.unit.wire.support_wire import load_cases, sent_bytes

from fairtrial.wire.chunks import ChunkDecoder
from fairtrial.wire.errors import WireError
from fairtrial.wire.limits import Limits
from fairtrial.wire.render import LAST_CHUNK, chunk
from fairtrial.wire.request import RequestHead
from fairtrial.wire.response import ResponseHead

_SHORT = 2000
REQUESTS = [data for case in load_cases("wire_requests.json") if 0 < len(data := sent_bytes(case)) < _SHORT]
RESPONSE_CASES = [data for case in load_cases("wire_responses.json") if 0 < len(data := sent_bytes(case)) < _SHORT]
randoms = st.integers(min_value=0, max_value=2**64 - 1).map(Random)


@settings(max_examples=600, deadline=None, derandomize=True)
@given(random=randoms, base=st.sampled_from(REQUESTS))
def test_a_mutated_request_never_has_two_meanings(random: Random, base: bytes) -> None:
    data = mutated(random, base, REQUESTS)
    assert request_faults(data, cut(random, data)) == [], data


@settings(max_examples=300, deadline=None, derandomize=True)
@given(random=randoms, base=st.sampled_from(RESPONSE_CASES), method=st.sampled_from([b"GET", b"HEAD", b"POST"]))
def test_a_mutated_response_never_has_two_meanings(random: Random, base: bytes, method: bytes) -> None:
    data = mutated(random, base, RESPONSE_CASES)
    assert response_faults(data, cut(random, data), method) == [], data


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.binary(max_size=300))
@example(b"")
def test_any_bytes_are_a_head_or_refused_or_unfinished(data: bytes) -> None:
    for read, statuses in (
        (FAST.parse, {400, 405, 413, 414, 417, 431, 501, 505}),
        (GENERAL.parse, {400, 405, 413, 414, 417, 431, 501, 505}),
        (partial(RESPONSES.parse, method=b"GET"), {502}),
    ):
        assert _status_of(read, data) in {0, *statuses}


def _status_of(read: Callable[[bytes], RequestHead | ResponseHead | None], data: bytes) -> int:
    try:
        head = read(data)
    except WireError as error:
        return error.status
    return 0 if head is None or head.size <= len(data) else -1


@settings(max_examples=300, deadline=None, derandomize=True)
@given(payloads=st.lists(st.binary(min_size=1, max_size=300), max_size=5), random=randoms, raw=st.booleans())
def test_a_chunked_body_comes_through_any_pieces(payloads: list[bytes], random: Random, *, raw: bool) -> None:
    body = b"".join(map(chunk, payloads)) + LAST_CHUNK
    decoder = ChunkDecoder(Limits(), raw=raw)
    passed = b""
    end = -1
    pieces = cut(random, body + b"next")
    while end < 0:
        piece = pieces.pop(0)
        out, end = decoder.feed(piece)
        passed += b"".join(out)
    assert piece[end:] + b"".join(pieces) == b"next"
    assert passed == (body if raw else b"".join(payloads))
    assert decoder.payload_bytes == sum(map(len, payloads))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.binary(max_size=200), random=randoms)
def test_any_bytes_are_a_chunked_body_or_refused_or_unfinished(data: bytes, random: Random) -> None:
    whole = _fed([data])
    assert _fed(cut(random, data)) == whole


def _fed(pieces: list[bytes]) -> tuple[int, bytes, bool]:
    """Status of the refusal or 0, what was passed on where there was none, and whether the body ended."""
    decoder = ChunkDecoder(Limits())
    passed = b""
    for piece in pieces:
        try:
            out, end = decoder.feed(piece)
        except WireError as error:
            return error.status, b"", False
        passed += b"".join(out)
        if end >= 0:
            return 0, passed, True
    return 0, passed, False
