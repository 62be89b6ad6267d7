"""From the log to Parquet: counted once, in its day, whatever is repeated, late, in conflict or interrupted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import duckdb
import msgspec
import pytest

from fairtrial.events import compact as compact_module
from fairtrial.events.batch import Batch
from fairtrial.events.compact import CompactionError, Compactor
from fairtrial.events.log import LogLockedError, SegmentLog
from fairtrial.events.manifest import Manifest, ManifestGapError, Tally
from fairtrial.events.merge import trailing_run
from fairtrial.model.errors import CorruptLogError
from fairtrial.model.records import ExposureRecord, OutcomeRecord, RequestRecord

DAY = 86_400_000_000
NOON = 20_000 * DAY + DAY // 2  # 2024-10-04
ENCODE = msgspec.json.Encoder().encode_lines
Row = tuple[object, ...]


def outcome(
    name: str, at: int = NOON, *, value: float = 1.0, received_at: int | None = None, unit: int = 7
) -> OutcomeRecord:
    return OutcomeRecord(
        id=name, at=at, received_at=at + 1000 if received_at is None else received_at, name="n", value=value, unit=unit
    )


def write(state: Path, *records: msgspec.Struct, log: str = "outcomes", per_frame: int = 1000) -> None:
    segments = SegmentLog.open(state / "log" / log, prefill=False)
    for start in range(0, len(records), per_frame):
        segments.append(ENCODE(records[start : start + per_frame]))
    segments.sync()
    segments.close()


def rows(state: Path, stream: str = "outcomes", columns: str = "*", after: int = 0) -> list[Row]:
    manifest = Manifest(state)
    paths = [str(f.path) for f in manifest.files(stream, after=after)]
    manifest.close()
    if not paths:
        return []
    return (
        duckdb.connect()
        .execute(f"SELECT {columns} FROM read_parquet(?, hive_partitioning = false)", [paths])
        .fetchall()
    )


@pytest.fixture
def compactor(tmp_path: Path) -> Iterator[Compactor]:
    compactor = Compactor(tmp_path, threads=1)
    yield compactor
    compactor.close()


def test_records_become_rows_with_every_field(tmp_path: Path, compactor: Compactor) -> None:
    full = OutcomeRecord(
        id="a",
        at=NOON,
        received_at=NOON + 5,
        name="buy",
        values={"amount": 9.5, "items": 2.0},
        request_id="r",
        derived_id=True,
        unit_id="u",
    )
    write(tmp_path, full, outcome("b", value=2.5, unit=-(2**63)))
    result = compactor.run_once()
    assert (result.rows, result.files) == (2, 1)
    assert rows(tmp_path) == [
        ("a", NOON, NOON + 5, "buy", 1.0, '{"amount":9.5,"items":2.0}', None, "r", True, "u"),
        ("b", NOON, NOON + 1000, "n", 2.5, None, -(2**63), "", False, ""),
    ]
    (file,) = compactor.manifest.files("outcomes")
    assert (file.day, file.rows, file.min_at, file.max_at) == ("2024-10-04", 2, NOON, NOON)
    assert file.path.parent.name == "day=2024-10-04"


def test_other_readers_of_parquet_read_the_files(tmp_path: Path, compactor: Compactor) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write(tmp_path, *[outcome(f"e{i}", NOON + i * 7, value=i / 3, unit=i - 500) for i in range(1000)])
    compactor.run_once()
    (file,) = compactor.manifest.files("outcomes")
    table = parquet.ParquetFile(file.path).read()
    assert table.column("id").to_pylist() == [f"e{i}" for i in range(1000)]
    assert table.column("at").to_pylist() == [NOON + i * 7 for i in range(1000)]
    assert table.column("unit").to_pylist() == [i - 500 for i in range(1000)]


def test_request_records_of_all_workers_are_one_stream_and_never_deduplicated(
    tmp_path: Path, compactor: Compactor
) -> None:
    record = RequestRecord("r1", NOON, "e", "x", "control", 5, "m", "m", 200, "ok", 1200)
    write(tmp_path, record, record, log="requests-0")
    write(tmp_path, record, log="requests-1")
    assert compactor.run_once().rows == 3
    assert (
        rows(tmp_path, "requests", "request_id, status, outcome, epoch, propensity, kind")
        == [("r1", 200, "ok", 0, 1.0, "primary")] * 3
    )


def test_exposures_are_compacted(tmp_path: Path, compactor: Compactor) -> None:
    write(tmp_path, ExposureRecord("e", NOON, NOON, "x", "treatment", 4, 1, 0.5), log="exposures")
    compactor.run_once()
    assert rows(tmp_path, "exposures") == [("e", NOON, NOON, "x", "treatment", 4, 1, 0.5, "")]


def test_nothing_new_makes_nothing(tmp_path: Path, compactor: Compactor) -> None:
    write(tmp_path, outcome("a"))
    assert compactor.run_once().rows == 1
    assert compactor.run_once().files == 0
    assert len(rows(tmp_path)) == 1


def test_a_duplicate_counts_once_in_a_batch_and_across_batches(tmp_path: Path, compactor: Compactor) -> None:
    write(tmp_path, outcome("a"), outcome("b"), outcome("a", received_at=NOON + 9_000_000))
    assert compactor.run_once().duplicates == 1
    write(tmp_path, outcome("b", received_at=NOON + 9_000_000), outcome("c"))
    assert compactor.run_once().duplicates == 1
    assert [r[0] for r in rows(tmp_path)] == ["a", "b", "c"]
    assert compactor.manifest.tally("outcomes") == Tally(rows=3, duplicates=2)
    assert rows(tmp_path, "rejected") == []


def test_the_first_written_wins_and_a_conflict_is_set_apart(tmp_path: Path, compactor: Compactor) -> None:
    write(tmp_path, outcome("a", value=1.5), outcome("a", value=9.0), outcome("a", value=1.5))
    write(tmp_path, outcome("b", value=2.0))
    result = compactor.run_once()
    assert (result.rows, result.duplicates, result.conflicts) == (2, 1, 1)
    write(tmp_path, outcome("b", value=3.0))
    assert compactor.run_once().conflicts == 1
    assert rows(tmp_path, columns="id, value") == [("a", 1.5), ("b", 2.0)]
    rejected = rows(tmp_path, "rejected", "id, stream, reason, record")
    assert [(r[0], r[1]) for r in rejected] == [("a", "outcomes"), ("b", "outcomes")]
    assert json.loads(str(rejected[0][3]))["value"] == 9.0
    assert "different content" in str(rejected[0][2])


def test_repeats_in_a_batch_are_compared_with_what_was_kept_before(tmp_path: Path, compactor: Compactor) -> None:
    write(tmp_path, outcome("a", value=1.0))
    compactor.run_once()
    write(tmp_path, outcome("a", value=2.0), outcome("a", value=2.0), outcome("a", value=1.0))
    result = compactor.run_once()
    assert (result.rows, result.duplicates, result.conflicts) == (0, 1, 2)


def test_an_id_on_another_day_is_another_event(tmp_path: Path, compactor: Compactor) -> None:
    write(tmp_path, outcome("a"), outcome("a", NOON + DAY))
    compactor.run_once()
    assert len(rows(tmp_path)) == 2


@pytest.mark.parametrize("together", [True, False])
def test_a_retry_without_an_instant_is_known_across_midnight(
    tmp_path: Path, compactor: Compactor, *, together: bool
) -> None:
    midnight = 20_001 * DAY
    first = outcome("a", midnight - 10, received_at=midnight - 10)
    retry = outcome("a", midnight + 10, received_at=midnight + 10)
    if together:
        write(tmp_path, first, retry)
        compactor.run_once()
    else:
        write(tmp_path, first)
        compactor.run_once()
        write(tmp_path, retry)
        compactor.run_once()
    assert rows(tmp_path, columns='id, "at"') == [("a", midnight - 10)]
    assert compactor.manifest.tally("outcomes").duplicates == 1


def test_a_late_event_goes_to_the_day_it_happened(tmp_path: Path, compactor: Compactor) -> None:
    write(tmp_path, outcome("a"))
    compactor.run_once()
    write(tmp_path, outcome("late", NOON - 40 * DAY, received_at=NOON), outcome("b"))
    compactor.run_once()
    assert [f.day for f in compactor.manifest.files("outcomes", after=1)] == ["2024-08-25", "2024-10-04"]


def test_an_unreadable_line_costs_only_itself(tmp_path: Path, compactor: Compactor) -> None:
    segments = SegmentLog.open(tmp_path / "log" / "outcomes")
    segments.append(
        ENCODE([outcome("a")]) + b'{"id": "x"\nnonsense\n{"id":"y","at":"soon"}\n[]\n' + ENCODE([outcome("b")])
    )
    segments.close()
    result = compactor.run_once()
    assert (result.rows, result.unreadable) == (2, 4)
    assert [r[0] for r in rows(tmp_path)] == ["a", "b"]


def test_rows_keep_the_order_of_the_log(tmp_path: Path) -> None:
    write(tmp_path, *[outcome(f"{i:06d}", NOON + (i * 7919) % 1000) for i in range(30_000)])
    compactor = Compactor(tmp_path, slice_bytes=400_000, threads=2)
    assert compactor.run_once().files > 3
    compactor.close()
    assert [r[0] for r in rows(tmp_path)] == [f"{i:06d}" for i in range(30_000)]


def test_only_one_compactor_works_on_a_state(tmp_path: Path, compactor: Compactor) -> None:
    assert compactor.manifest is not None
    with pytest.raises(LogLockedError, match="being compacted"):
        Compactor(tmp_path)


def test_damage_in_one_log_does_not_stop_the_others(tmp_path: Path, compactor: Compactor) -> None:
    write(tmp_path, ExposureRecord("e", NOON, NOON, "x", "t", 4), log="exposures")
    write(tmp_path, outcome("a"))
    path = tmp_path / "log" / "exposures" / "0000000001.seg"
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptLogError, match=r"0000000001\.seg"):
        compactor.run_once()
    assert len(rows(tmp_path)) == 1


def test_a_full_disk_is_one_kind_of_error_and_the_next_run_catches_up(
    tmp_path: Path, compactor: Compactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, outcome("a"))

    def full(*_: object) -> None:
        raise duckdb.IOException("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Batch, "write_day", full)
        with pytest.raises(CompactionError, match=r"compacting outcomes failed.*No space left"):
            compactor.run_once()
    assert compactor.run_once().rows == 1


def test_a_log_begun_anew_under_an_old_manifest_is_noticed(tmp_path: Path, compactor: Compactor) -> None:
    write(tmp_path, outcome("a"))
    compactor.run_once()
    (tmp_path / "log" / "outcomes" / "0000000001.seg").unlink()
    write(tmp_path, outcome("b"))
    with pytest.raises(CorruptLogError, match="deleted or replaced"):
        compactor.run_once()


STEPS = ["read_frames", "Batch", "write_day", "publish", "record", "after record"]


def crash_at(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the compactor die just before `step`; 'after record': just behind the transaction."""

    class PowerCutError(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise PowerCutError

    if step == "after record":
        record = Manifest.record

        def record_and_die(self: Manifest, *args: object) -> None:
            record(self, *args)  # type: ignore[arg-type]
            raise PowerCutError

        monkeypatch.setattr(Manifest, "record", record_and_die)
    elif step == "record":
        monkeypatch.setattr(Manifest, "record", die)
    elif step == "write_day":
        monkeypatch.setattr(Batch, "write_conflicts", die)
    else:
        monkeypatch.setattr(compact_module, step, die)


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_any_step_still_counts_each_event_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    write(tmp_path, outcome("a"), outcome("b", NOON + DAY), outcome("a", value=3.0))
    with monkeypatch.context() as patch:
        crash_at(step, patch)
        compactor = Compactor(tmp_path, threads=1)
        with pytest.raises(BaseException, match=r"^$"):
            compactor.run_once()
        compactor.close()
    write(tmp_path, outcome("c"), outcome("b", NOON + DAY, received_at=NOON + 2 * DAY))
    compactor = Compactor(tmp_path, threads=1)
    compactor.run_once()
    assert sorted(str(r[0]) for r in rows(tmp_path)) == ["a", "b", "c"]
    assert compactor.manifest.tally("outcomes") == Tally(rows=3, duplicates=1, conflicts=1)
    on_disk = set((tmp_path / "parquet").glob("*/day=*/*"))
    assert on_disk == compactor.manifest.known_paths()
    compactor.close()


def many_files(state: Path, compactor: Compactor, count: int) -> None:
    for i in range(count):
        write(state, outcome(f"{i:03d}"))
        compactor.run_once()


def test_a_settled_day_becomes_one_file_with_the_same_rows(tmp_path: Path, compactor: Compactor) -> None:
    many_files(tmp_path, compactor, 5)
    before = rows(tmp_path)
    assert compactor.merge_days(now_us=NOON) == 0
    assert compactor.merge_days(now_us=NOON + 3 * DAY) == 1
    (file,) = compactor.manifest.files("outcomes")
    assert (file.first_id, file.id, file.rows) == (1, 5, 5)
    assert rows(tmp_path) == before, "no column more than before either"
    assert compactor.merge_days(now_us=NOON + 3 * DAY) == 0


def test_a_busy_day_is_merged_when_it_has_many_files(tmp_path: Path, compactor: Compactor) -> None:
    many_files(tmp_path, compactor, 25)
    assert compactor.merge_days(now_us=NOON) == 1
    assert len(compactor.manifest.files("outcomes")) == 1
    assert len(rows(tmp_path)) == 25


def test_an_incremental_reader_sees_every_row_once_whatever_was_merged(tmp_path: Path, compactor: Compactor) -> None:
    many_files(tmp_path, compactor, 5)
    compactor.merge_days(now_us=NOON + 3 * DAY)
    write(tmp_path, outcome("late"))
    compactor.run_once()
    compactor.merge_days(now_us=NOON + 3 * DAY)
    for cursor in range(7):
        seen = [str(r[0]) for r in rows(tmp_path, after=cursor)]
        assert seen == ["000", "001", "002", "003", "004", "late"][cursor:]
    assert rows(tmp_path, after=6) == []


def test_a_reader_that_comes_back_after_the_originals_went_is_told(tmp_path: Path, compactor: Compactor) -> None:
    many_files(tmp_path, compactor, 4)
    originals = [f.path for f in compactor.manifest.files("outcomes")]
    compactor.merge_days(now_us=NOON + 3 * DAY)
    assert all(p.exists() for p in originals)
    compactor.merge_days(now_us=NOON + 5 * DAY)
    assert not any(p.exists() for p in originals)
    with pytest.raises(ManifestGapError, match="read from the start"):
        compactor.manifest.files("outcomes", after=2)
    assert len(rows(tmp_path)) == 4
    assert compactor.manifest.files("outcomes", after=4) == []


def test_duplicates_are_known_in_merged_files_too(tmp_path: Path, compactor: Compactor) -> None:
    many_files(tmp_path, compactor, 3)
    compactor.merge_days(now_us=NOON + 3 * DAY)
    write(tmp_path, outcome("001"))
    assert compactor.run_once().duplicates == 1


def test_a_crash_in_a_merge_leaves_the_originals(
    tmp_path: Path, compactor: Compactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    many_files(tmp_path, compactor, 3)

    def die(*_: object, **__: object) -> None:
        raise OSError("power")

    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "replace", die)
        with pytest.raises(CompactionError, match="merging files failed and will be tried again: power"):
            compactor.merge_days(now_us=NOON + 3 * DAY)
    assert len(rows(tmp_path)) == 3
    assert compactor.merge_days(now_us=NOON + 3 * DAY) == 1
    assert len(rows(tmp_path)) == 3


def test_the_state_directory_can_be_moved(tmp_path: Path) -> None:
    write(tmp_path / "a", outcome("x"))
    compactor = Compactor(tmp_path / "a")
    compactor.run_once()
    compactor.close()
    (tmp_path / "a").rename(tmp_path / "b")
    assert len(rows(tmp_path / "b")) == 1


def test_compacted_segments_can_go_but_never_the_last(tmp_path: Path, compactor: Compactor) -> None:
    for i in range(4):
        write(tmp_path, outcome(f"{i}"))
    future = 4_000_000_000_000_000
    assert compactor.trim_log(older_than_us=future) == 0
    compactor.run_once()
    assert compactor.trim_log(older_than_us=NOON) == 0
    assert compactor.trim_log(older_than_us=future) == 3
    write(tmp_path, outcome("new"))
    assert compactor.run_once().rows == 1
    assert len(rows(tmp_path)) == 5


def test_a_merge_leaves_large_old_files_alone() -> None:
    files = [type("F", (), {"rows": n})() for n in (1_000_000, 40, 30, 20, 10)]
    assert [f.rows for f in trailing_run(files)] == [40, 30, 20, 10]
    assert len(trailing_run(files[:1] + files[-1:])) == 2
