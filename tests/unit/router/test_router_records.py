"""Finished requests on their way to the log."""

from __future__ import annotations

import msgspec

from fairtrial.model.records import RequestRecord
from fairtrial.router.counters import WorkerCounters
from fairtrial.router.records import FLUSH_RECORDS, RecordBuffer, RecordContext


class Finished:
    def __init__(self, unit: str) -> None:
        self.unit = unit

    def to_record(self, context: RecordContext) -> RequestRecord:
        return RequestRecord(
            request_id="id",
            at=1,
            endpoint="e",
            experiment="x",
            variant="v",
            unit=context.key(self.unit),
            assigned_model="m",
            served_model="m",
            status=200,
            outcome="ok",
            latency_us=1,
            unit_id=context.unit_id(self.unit),
        )


class Log:
    def __init__(self, *, takes: bool = True) -> None:
        self.takes = takes
        self.batches: list[tuple[bytes, int]] = []

    def submit(self, payload: bytes, count: int) -> bool:
        self.batches.append((payload, count))
        return self.takes


def buffer(log: Log, *, keep_unit_ids: bool = False) -> tuple[RecordBuffer, WorkerCounters]:
    counters = WorkerCounters()
    context = RecordContext(key=len, keep_unit_ids=keep_unit_ids, epoch_offset_ns=0)
    return RecordBuffer(log.submit, context=context, counters=counters), counters


def test_a_batch_is_json_lines_in_order() -> None:
    log = Log()
    records, counters = buffer(log)
    for unit in ("a", "bb"):
        records.add(Finished(unit))
    records.flush()
    ((payload, count),) = log.batches
    assert payload.endswith(b"\n")
    assert [msgspec.json.decode(line)["unit"] for line in payload.splitlines()] == [1, 2]
    assert (count, counters.records_written) == (2, 2)


def test_a_full_batch_does_not_wait_for_the_next_tick() -> None:
    log = Log()
    records, _ = buffer(log)
    for _ in range(FLUSH_RECORDS + 1):
        records.add(Finished("u"))
    assert [count for _, count in log.batches] == [FLUSH_RECORDS]


def test_nothing_is_handed_on_when_there_is_nothing() -> None:
    log = Log()
    buffer(log)[0].flush()
    assert log.batches == []


def test_what_the_log_refuses_is_counted_as_dropped() -> None:
    log = Log(takes=False)
    records, counters = buffer(log)
    records.add(Finished("u"))
    records.flush()
    assert (counters.records_dropped, counters.records_written) == (1, 0)


def test_raw_units_are_written_only_where_the_file_says_so_and_are_always_text() -> None:
    for keep, expected in ((False, None), (True, "caf\ufffd")):
        log = Log()
        records, _ = buffer(log, keep_unit_ids=keep)
        records.add(Finished(b"caf\xe9".decode("utf-8", "surrogateescape")))
        records.flush()
        assert msgspec.json.decode(log.batches[0][0]).get("unit_id") == expected
