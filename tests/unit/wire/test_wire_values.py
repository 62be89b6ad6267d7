"""Cookies, JSON paths, and the messages that we write ourselves."""

from __future__ import annotations

import json
from typing import Any

import h11
import pytest

from fairtrial.model.errors import ConfigError
from fairtrial.wire.chunks import ChunkDecoder
from fairtrial.wire.cookies import cookie_value
from fairtrial.wire.errors import WireError
from fairtrial.wire.jsonpath import json_text
from fairtrial.wire.limits import Limits
from fairtrial.wire.render import chunk, error_response, reason_phrase, response
from fairtrial.wire.request import RequestParser
from fairtrial.wire.response import ResponseParser
from fairtrial.wire.via import times_received_by

DOCUMENT: Any = {
    "user": {"id": "u-1", "n": 7, "vip": True, "score": 0.5, "none": None},
    "rows": [{"id": 12}, "b"],
    "": 1,
}


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (b"sid=a", b"a"),
        (b"x=1; sid=a; y=2", b"a"),
        (b"x=1;sid=a", b"a"),
        (b'sid="a b"', b"a b"),
        (b"sid=", b""),
        (b"sid=a=b", b"a=b"),
        (b" sid = a ", b"a"),
        (b"sid=first; sid=second", b"first"),
        (b"sid; sid=a", b"a"),
        (b'sid="', b'"'),
        (b"SID=a", None),
        (b"xsid=a", None),
        (b"x=sid", None),
        (b"x=1, sid=a", None),
        (b"", None),
    ],
)
def test_reads_one_cookie(header: bytes, value: bytes | None) -> None:
    assert cookie_value(header, b"sid") == value


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("user.id", "u-1"),
        ("user.n", "7"),
        ("user.vip", "true"),
        ("rows.0.id", "12"),
        ("rows.1", "b"),
        ("user.score", None),
        ("user.none", None),
        ("user", None),
        ("rows", None),
        ("rows.2", None),
        ("rows.-1", None),
        ("rows.²", None),
        ("rows.99999999999999999999", None),
        ("user.id.x", None),
        ("nobody", None),
        ("", "1"),
    ],
)
def test_reads_one_scalar_of_a_json_document(path: str, text: str | None) -> None:
    assert json_text(DOCUMENT, path) == text


def _read(answer: bytes, method: bytes = b"GET") -> tuple[h11.Response, bytes]:
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(answer)
    head = reader.next_event()
    assert isinstance(head, h11.Response)
    body = b""
    while isinstance(event := reader.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    return head, body


def test_an_error_is_a_problem_document_that_closes() -> None:
    head, body = _read(error_response(413, 'too "long"\x01', request_id=b"r-1", fields=b"Retry-After: 1\r\n"))
    fields = dict(head.headers)
    assert head.status_code == 413
    assert fields[b"content-type"] == b"application/problem+json"
    assert fields[b"connection"] == b"close"
    assert fields[b"retry-after"] == b"1"
    assert json.loads(body) == {
        "title": "Content Too Large",
        "status": 413,
        "detail": 'too "long"\x01',
        "request_id": "r-1",
    }


def test_an_error_without_request_id_has_none() -> None:
    assert "request_id" not in json.loads(_read(error_response(400, "x"))[1])


def test_405_says_what_is_allowed() -> None:
    assert b"POST" in dict(_read(error_response(405, "x"))[0].headers)[b"allow"]


def test_an_answer_to_head_has_no_body_but_its_length() -> None:
    head, body = _read(response(200, b"ok\n", is_head=True), b"HEAD")
    assert dict(head.headers)[b"content-length"] == b"3"
    assert body == b""


def test_an_unknown_status_still_has_a_phrase() -> None:
    assert reason_phrase(599) == "Unknown"
    assert reason_phrase(414) == "URI Too Long"


def test_an_empty_chunk_is_no_chunk() -> None:
    assert chunk(b"") == b""
    assert chunk(b"a" * 26) == b"1a\r\n" + b"a" * 26 + b"\r\n"


@pytest.mark.parametrize(
    ("via", "times"),
    [
        (b"1.1 us", 1),
        (b"1.0 a, 1.1 us", 1),
        (b"HTTP/1.1 US (comment), 1.1 b,1.1\tus", 2),
        (b"", 0),
        (b"1.1 usual", 0),
        (b"1.1 a (us)", 0),
        (b"us", 0),
        (b"1.1 a;us", 0),
        (b"1.1", 0),
    ],
)
def test_counts_how_often_via_names_us(via: bytes, times: int) -> None:
    assert times_received_by(via, b"us") == times


def test_limits_are_at_least_one() -> None:
    with pytest.raises(ConfigError, match="max_fields is 0"):
        Limits(max_fields=0)


@pytest.mark.parametrize("name", [b"X-User", b"a b", b"", b"a:"])
def test_a_parser_is_not_made_for_what_is_no_field_name(name: bytes) -> None:
    with pytest.raises(ConfigError):
        RequestParser(Limits(), (name,))
    with pytest.raises(ConfigError):
        ResponseParser(Limits(), drop=(name,))


def test_a_field_is_captured_once() -> None:
    with pytest.raises(ConfigError, match="twice"):
        RequestParser(Limits(), (b"a", b"a"))


def test_dropped_fields_are_not_passed_on() -> None:
    request = RequestParser(Limits(), (b"x-seen",), drop=(b"x-variant",)).parse(
        b"GET / HTTP/1.1\r\nHost: h\r\nX-Variant: b\r\nX-Seen: 1\r\n\r\n"
    )
    assert request is not None
    assert request.head == b"GET / HTTP/1.1\r\nHost: h\r\nX-Seen: 1\r\n"
    assert request.captured == (b"1",)
    answer = ResponseParser(Limits(), drop=(b"x-variant",)).parse(
        b"HTTP/1.1 200 OK\r\nx-variant: b\r\nContent-Length: 0\r\n\r\n", method=b"GET"
    )
    assert answer is not None
    assert answer.head == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"


@pytest.mark.parametrize("name", [b"host", b"content-length", b"connection", b"te", b"upgrade", b"expect"])
def test_any_field_can_be_captured(name: bytes) -> None:
    fields = {b"host": b"h", b"content-length": b"0", b"connection": b"te", b"te": b"x"}
    head = b"".join(b"%b: %b\r\n" % field for field in fields.items())
    found = RequestParser(Limits(), (name,)).parse(b"POST / HTTP/1.1\r\n" + head + b"\r\n")
    assert found is not None
    assert found.captured == (fields.get(name),)


def test_the_default_host_is_sent_for_http10_clients_that_name_none() -> None:
    found = RequestParser(Limits(), default_host=b"model:1").parse(b"GET / HTTP/1.0\r\n\r\n")
    assert found is not None
    assert (found.host, found.head) == (None, b"GET / HTTP/1.1\r\nHost: model:1\r\n")


def test_a_finished_decoder_is_not_fed_again() -> None:
    decoder = ChunkDecoder(Limits())
    assert decoder.feed(b"0\r\n\r\n") == ([b"0\r\n\r\n"], 5)
    with pytest.raises(WireError, match="over"):
        decoder.feed(b"0\r\n\r\n")


def test_a_chunk_too_long_for_its_endpoint_is_refused_before_it_comes() -> None:
    decoder = ChunkDecoder(Limits(), max_payload_bytes=10)
    assert decoder.feed(b"5\r\nhello\r\n5\r\nworld\r\n")[1] == -1
    with pytest.raises(WireError, match="longer than 10 bytes") as caught:
        decoder.feed(b"FFFF\r\n")
    assert caught.value.status == 413


def test_the_last_chunk_is_not_shown_before_the_end() -> None:
    decoder = ChunkDecoder(Limits())
    assert decoder.feed(b"1\r\na\r\n0\r\n") == ([b"1\r\na\r\n"], -1)
    assert decoder.feed(b"A: b\r\n\r") == ([], -1)
    assert decoder.feed(b"\nGET") == ([b"0\r\n\r\n"], 1)
    assert decoder.payload_bytes == 1


def test_an_error_names_status_and_reason() -> None:
    assert str(WireError(400, "no host field")) == "400: no host field"
