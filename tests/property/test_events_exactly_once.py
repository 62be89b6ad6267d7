"""However events are shuffled, repeated and cut into batches, each is counted once, and the first written wins."""

from __future__ import annotations

import random
from pathlib import Path

import duckdb
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairtrial.events.compact import Compactor
from fairtrial.events.log import SegmentLog
from fairtrial.model.records import OutcomeRecord

DAY = 86_400_000_000
NOON = 20_000 * DAY + DAY // 2
ENCODE = msgspec.json.Encoder().encode_lines


def event(number: int, *, arrival: int, value: float = 1.0) -> OutcomeRecord:
    return OutcomeRecord(
        id=f"e{number}", at=NOON + (number % 3) * DAY, received_at=arrival, name="n", value=value, unit=number
    )


def append(state: Path, records: list[OutcomeRecord]) -> None:
    log = SegmentLog.open(state / "log" / "outcomes", prefill=False)
    if records:
        log.append(ENCODE(records))
    log.close()


def counted(compactor: Compactor) -> dict[str, tuple[int, float]]:
    paths = [str(f.path) for f in compactor.manifest.files("outcomes")]
    if not paths:
        return {}
    query = "SELECT id, count(*), min(value) FROM read_parquet(?, hive_partitioning = false) GROUP BY id"
    return {row[0]: (row[1], row[2]) for row in duckdb.connect().execute(query, [paths]).fetchall()}


def test_ten_thousand_events_delivered_three_times_in_any_order_count_once(tmp_path: Path) -> None:
    generator = random.Random(3)
    numbers = [n for n in range(10_000) for _ in range(3)]
    generator.shuffle(numbers)
    compactor = Compactor(tmp_path)
    for start in range(0, len(numbers), 4_000):
        part = numbers[start : start + 4_000]
        append(tmp_path, [event(n, arrival=NOON + 3 * DAY + start + i) for i, n in enumerate(part)])
        compactor.run_once()
    compactor.merge_days(now_us=NOON + 30 * DAY)
    result = counted(compactor)
    tally = compactor.manifest.tally("outcomes")
    compactor.close()
    assert result == {f"e{n}": (1, 1.0) for n in range(10_000)}
    assert (tally.rows, tally.duplicates, tally.conflicts) == (10_000, 20_000, 0)


BATCHES = st.lists(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 1)), max_size=12), max_size=5)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(BATCHES, st.integers(200, 5_000))
def test_any_batches_equal_a_dictionary_that_keeps_the_first(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[int, int]]], slice_bytes: int
) -> None:
    state = tmp_path_factory.mktemp("state")
    expected: dict[str, tuple[int, float]] = {}
    duplicates = conflicts = 0
    compactor = Compactor(state, slice_bytes=slice_bytes, threads=1)
    for number, batch in enumerate(batches):
        append(state, [event(n, arrival=NOON + 9 * DAY + number, value=v) for n, v in batch])
        compactor.run_once()
        for n, value in batch:
            first = expected.setdefault(f"e{n}", (0, float(value)))
            if first[0]:
                duplicates += first[1] == value
                conflicts += first[1] != value
            expected[f"e{n}"] = (1, first[1])
    result, tally = counted(compactor), compactor.manifest.tally("outcomes")
    compactor.close()
    assert result == expected
    assert (tally.rows, tally.duplicates, tally.conflicts) == (len(expected), duplicates, conflicts)
