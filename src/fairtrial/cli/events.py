"""`fairtrial events`: read what the log holds, and check that all of it can be read.

Both work on the files of a state directory, also while a process writes them, and change nothing.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TextIO

from fairtrial.events.columns import stream_of_log
from fairtrial.events.frames import START, Frame, Position, segment_name
from fairtrial.events.log import read_frames
from fairtrial.events.reading import SegmentEnd, list_segments, scan_segment
from fairtrial.model.errors import CorruptLogError, NotFoundError

Output = Literal["table", "json"]
_POLL_S = 0.2
_ALWAYS_FIRST = ("at", "received_at", "experiment", "variant", "name", "value", "outcome", "unit", "id", "request_id")


@dataclass(frozen=True, slots=True)
class LogReport:
    """What `verify` found in one log. torn_bytes: behind the last commit, never acknowledged. damage: "" if sound."""

    log: str
    segments: int = 0
    frames: int = 0
    records: int = 0
    payload_bytes: int = 0
    torn_bytes: int = 0
    damage: str = ""


def read_events(
    state: Path,
    stream: str,
    *,
    limit: int | None = None,
    start: str = "",
    follow: bool = False,
    output: Output = "table",
    to: TextIO | None = None,
) -> int:
    """Print the records of a stream (`outcomes`, `exposures`, `requests`) or of one log (`requests-0`), oldest first.

    limit: most records to print; with `follow`, to print before waiting. start: a position printed earlier (only with
    one log). output: `json` prints `{"log", "position", "record"}` a line, `table` aligned text. Returns the exit code.
    Raises NotFoundError, CorruptLogError, ValueError.
    """
    to = to or sys.stdout
    cursors = dict.fromkeys(_logs_of(state, stream), Position.parse(start.partition("#")[0]) if start else START)
    if start and len(cursors) > 1:
        raise ValueError(f"{stream} has {len(cursors)} logs; name one of {', '.join(cursors)} to start at {start}")
    left = limit
    while True:
        for log in cursors:
            for frame in read_frames(state / "log" / log, cursors[log]):
                for position, line in _lines(frame):
                    if left == 0:
                        return 0
                    print(_render(log, position, line, output), file=to, flush=follow)
                    left = None if left is None else left - 1
                cursors[log] = frame.next_position
        if not follow:
            return 0
        time.sleep(_POLL_S)


def verify(state: Path, *, output: Output = "table", to: TextIO | None = None) -> int:
    """Check every frame of every log below `state` and print what was found. Returns 0, or 1 where a log is damaged."""
    to = to or sys.stdout
    reports = [_check(state, log) for log in _logs_of(state, "")]
    if output == "json":
        for report in reports:
            fields = {name: getattr(report, name) for name in LogReport.__slots__}
            print(json.dumps(fields | {"is_sound": not report.damage}), file=to)
    else:
        _print_table(reports, to)
    return 1 if any(report.damage for report in reports) else 0


def _logs_of(state: Path, stream: str) -> list[str]:
    """Names of the logs that hold `stream`; all of them for an empty one."""
    directory = state / "log"
    names = sorted(p.name for p in directory.iterdir() if p.is_dir()) if directory.is_dir() else []
    logs = [n for n in names if stream_of_log(n) is not None]
    chosen = [n for n in logs if not stream or n == stream or stream_of_log(n) == stream]
    if not chosen:
        has = f"there are {', '.join(logs)}" if logs else "there are none"
        raise NotFoundError(f"no log of {stream or 'any stream'} below {directory}: {has}")
    return chosen


def _lines(frame: Frame) -> Iterator[tuple[str, bytes]]:
    """Each record of a frame with its position: the frame's, and its place in the frame."""
    for number, line in enumerate(frame.payload.splitlines()):
        yield f"{frame.position}#{number}", line


def _render(log: str, position: str, line: bytes, output: Output) -> str:
    record = json.loads(line)
    if output == "json":
        return json.dumps({"log": log, "position": position, "record": record}, ensure_ascii=False)
    names = [n for n in _ALWAYS_FIRST if n in record] + [n for n in record if n not in _ALWAYS_FIRST]
    cells = [f"{name}={_show(name, record[name])}" for name in names if name != "received_at"]
    return f"{position:<16}  {'  '.join(cells)}"


def _show(name: str, value: object) -> str:
    if name == "at" and isinstance(value, int):
        return datetime.fromtimestamp(value / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return (
        json.dumps(value, ensure_ascii=False) if isinstance(value, dict | str) and value != str(value) else str(value)
    )


def _check(state: Path, log: str) -> LogReport:
    directory = state / "log" / log
    frames = records = payload_bytes = torn_bytes = 0
    segments: list[int] = []
    damage = ""
    try:
        segments = list_segments(directory)
        for seq in segments:
            scan = scan_segment(directory / segment_name(seq), seq=seq, is_last=seq == segments[-1])
            while isinstance(step := _next(scan), Frame):
                frames += 1
                records += step.payload.count(b"\n")
                payload_bytes += len(step.payload)
            torn_bytes += step.torn_bytes
    except CorruptLogError as exc:
        damage = str(exc)
    return LogReport(log, len(segments), frames, records, payload_bytes, torn_bytes, damage)


def _next(scan: Iterator[Frame]) -> Frame | SegmentEnd:
    """The scan's next frame, or at its end how the segment ends."""
    try:
        return next(scan)
    except StopIteration as stop:
        end: SegmentEnd = stop.value
        return end


def _print_table(reports: list[LogReport], to: TextIO) -> None:
    print(f"{'LOG':<16}{'SEGMENTS':>9}{'FRAMES':>10}{'RECORDS':>12}{'BYTES':>14}{'TORN':>8}  STATE", file=to)
    for r in reports:
        state = "damaged" if r.damage else "sound"
        counts = f"{r.segments:>9}{r.frames:>10}{r.records:>12}{r.payload_bytes:>14}{r.torn_bytes:>8}"
        print(f"{r.log:<16}{counts}  {state}", file=to)
    for r in reports:
        if r.damage:
            print(f"\n{r.log}: {r.damage}", file=to)
