"""`fairtrial events`: what is in the log, and whether all of it can be read."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from fairtrial.cli.events import read_events, verify
from fairtrial.events.log import SegmentLog
from fairtrial.model.errors import NotFoundError


def write(state: Path, log: str, *payloads: bytes, close: bool = True) -> None:
    segments = SegmentLog.open(state / "log" / log, prefill=False)
    for payload in payloads:
        segments.append(payload)
    segments.sync()
    if close:
        segments.close()
    else:
        segments.abandon()


def outcome(name: str) -> bytes:
    return b'{"id":"%b","at":1728043200000000,"received_at":1728043200000100,"name":"buy"}\n' % name.encode()


def test_records_are_printed_with_their_positions(tmp_path: Path) -> None:
    write(tmp_path, "outcomes", outcome("a") + outcome("b"), outcome("c"))
    out = io.StringIO()
    assert read_events(tmp_path, "outcomes", output="json", to=out) == 0
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(line["position"], line["record"]["id"]) for line in lines][:2] == [("1:32#0", "a"), ("1:32#1", "b")]
    assert lines[2]["record"]["id"] == "c"
    again = io.StringIO()
    read_events(tmp_path, "outcomes", output="json", start=lines[2]["position"], to=again)
    assert [json.loads(line) for line in again.getvalue().splitlines()] == lines[2:]


def test_a_table_shows_the_instant_for_people(tmp_path: Path) -> None:
    write(tmp_path, "outcomes", outcome("a"))
    out = io.StringIO()
    read_events(tmp_path, "outcomes", to=out)
    assert out.getvalue() == "1:32#0            at=2024-10-04T12:00:00.000Z  name=buy  id=a\n"


def test_a_limit_stops_and_all_workers_are_read(tmp_path: Path) -> None:
    write(tmp_path, "requests-0", outcome("a"))
    write(tmp_path, "requests-1", outcome("b"))
    out = io.StringIO()
    read_events(tmp_path, "requests", output="json", to=out)
    assert [json.loads(line)["log"] for line in out.getvalue().splitlines()] == ["requests-0", "requests-1"]
    out = io.StringIO()
    read_events(tmp_path, "requests", limit=1, to=out)
    assert len(out.getvalue().splitlines()) == 1
    with pytest.raises(ValueError, match="name one of requests-0, requests-1"):
        read_events(tmp_path, "requests", start="1:32")


def test_an_unknown_stream_names_those_that_exist(tmp_path: Path) -> None:
    write(tmp_path, "outcomes", outcome("a"))
    with pytest.raises(NotFoundError, match="there are outcomes"):
        read_events(tmp_path, "exposures")
    with pytest.raises(NotFoundError, match="there are none"):
        read_events(tmp_path / "empty", "exposures")


def test_a_sound_log_verifies(tmp_path: Path) -> None:
    write(tmp_path, "outcomes", outcome("a") + outcome("b"))
    write(tmp_path, "exposures", outcome("a"), close=False)
    with (tmp_path / "log" / "exposures" / "0000000001.seg").open("ab") as file:
        file.write(b"torn")
    out = io.StringIO()
    assert verify(tmp_path, output="json", to=out) == 0
    exposures, outcomes = (json.loads(line) for line in out.getvalue().splitlines())
    assert (exposures["torn_bytes"], exposures["is_sound"]) == (4, True)
    assert (outcomes["records"], outcomes["segments"], outcomes["frames"]) == (2, 1, 1)


def test_a_damaged_log_is_named_and_exits_with_one(tmp_path: Path) -> None:
    write(tmp_path, "outcomes", outcome("a"))
    write(tmp_path, "exposures", outcome("a"))
    path = tmp_path / "log" / "outcomes" / "0000000001.seg"
    data = bytearray(path.read_bytes())
    data[60] ^= 4
    path.write_bytes(data)
    out = io.StringIO()
    assert verify(tmp_path, to=out) == 1
    assert "damaged" in out.getvalue()
    assert "0000000001.seg: no valid frame at offset 32" in out.getvalue()
    assert "sound" in out.getvalue()
