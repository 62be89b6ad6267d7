"""The state is a cache: wrong, old or broken ones are rebuilt; two processes never share one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.analysis.support_analysis import (
    CONVERSION,
    START,
    Log,
    experiment,
    exposure,
    moments_of,
    outcome,
)

from fairtrial.analysis.refresh import RefreshKind
from fairtrial.analysis.state import AnalysisState, StateLockedError
from fairtrial.model.errors import FairtrialError
from fairtrial.model.experiment import EventSource, Metric, MetricKind, MetricRole

TRIAL = experiment(CONVERSION)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    log = Log(tmp_path)
    log.append("exposures", [exposure(unit, "control") for unit in range(5)])
    log.append("outcomes", [outcome(1)])
    return log


def test_a_state_survives_closing(tmp_path: Path, log: Log) -> None:
    path = tmp_path / "it's a state.duckdb"
    with AnalysisState(path) as state:
        assert state.refresh(TRIAL, log.listing()).kind is RefreshKind.FULL
    with AnalysisState(path) as state:
        assert state.refresh(TRIAL, log.listing()).kind is RefreshKind.UNCHANGED
        assert sum(moments_of(state, TRIAL, START).units.values()) == 5


@pytest.mark.parametrize("damage", ["garbage", "short", "torn", "wal"])
def test_an_unreadable_state_is_put_aside_and_computed_anew(tmp_path: Path, log: Log, damage: str) -> None:
    path = tmp_path / "state.duckdb"
    with AnalysisState(path) as state:
        state.refresh(TRIAL, log.listing())
    content = path.read_bytes()
    broken = {"garbage": b"this is no database" * 500, "short": content[:100], "torn": content[:5000] + bytes(9000)}
    if damage == "wal":
        (tmp_path / "state.duckdb.wal").write_bytes(b"this is no log" * 100)
    else:
        path.write_bytes(broken[damage])
    with AnalysisState(path) as state:
        state.refresh(TRIAL, log.listing())
        assert sum(moments_of(state, TRIAL, START).units.values()) == 5


def test_a_state_that_is_open_here_is_not_opened_twice_and_not_harmed(tmp_path: Path, log: Log) -> None:
    path = tmp_path / "state.duckdb"
    with AnalysisState(path) as state:
        state.refresh(TRIAL, log.listing())
        with pytest.raises(StateLockedError, match="in use"):
            AnalysisState(path)
        assert sum(moments_of(state, TRIAL, START).units.values()) == 5
    assert [found.name for found in tmp_path.glob("state.duckdb*")] == ["state.duckdb"]


def test_a_state_that_may_not_be_opened_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "state.duckdb").mkdir()
    with pytest.raises(FairtrialError, match="cannot be opened"):
        AnalysisState(tmp_path / "state.duckdb")


def test_a_state_of_another_version_is_rebuilt(tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.duckdb"
    with AnalysisState(path) as state:
        state.refresh(TRIAL, log.listing())
    monkeypatch.setattr("fairtrial.analysis.state.STATE_VERSION", "a later one")
    with AnalysisState(path) as state:
        assert state.refresh(TRIAL, log.listing()).kind is RefreshKind.FULL


def test_changed_metrics_are_computed_anew(tmp_path: Path, log: Log) -> None:
    views = Metric("views", MetricRole.PRIMARY, MetricKind.COUNT, EventSource("view"))
    with AnalysisState(tmp_path / "state.duckdb") as state:
        state.refresh(TRIAL, log.listing())
        assert state.refresh(experiment(views), log.listing()).kind is RefreshKind.FULL
        assert moments_of(state, experiment(views), START).metrics[0].rows == 0


def test_experiments_do_not_disturb_each_other(tmp_path: Path, log: Log) -> None:
    other = experiment(CONVERSION, name="other")
    log.append("exposures", [{**exposure(77, "treatment"), "experiment": "other"}])
    with AnalysisState(tmp_path / "state.duckdb") as state:
        for trial in (TRIAL, other):
            state.refresh(trial, log.listing())
        assert sum(moments_of(state, TRIAL, START).units.values()) == 5
        assert sum(moments_of(state, other, START).units.values()) == 1


def test_a_refresh_that_fails_changes_nothing(tmp_path: Path, log: Log) -> None:
    with AnalysisState(tmp_path / "state.duckdb") as state:
        state.refresh(TRIAL, log.listing())
        log.append("exposures", [exposure(9, "control")])
        log.append("outcomes", [outcome(9)])
        broken = Path(log.files["outcomes"][-1].path)
        content = broken.read_bytes()
        broken.write_bytes(b"torn")
        with pytest.raises(Exception, match=r"(?i)parquet|magic|file"):
            state.refresh(TRIAL, log.listing())
        assert sum(moments_of(state, TRIAL, START).units.values()) == 5
        broken.write_bytes(content)
        assert state.refresh(TRIAL, log.listing()).new_units == 1


def test_a_block_that_turns_out_damaged_later_is_computed_anew(tmp_path: Path) -> None:
    path, log = tmp_path / "state.duckdb", Log(tmp_path)
    log.append("exposures", [exposure(unit, "control", START + unit * 7919 % 1_000_003) for unit in range(60_000)])
    with AnalysisState(path) as state:
        state.refresh(TRIAL, log.listing())
    content = bytearray(path.read_bytes())
    for place in range(3 * 4096 + 262_144, len(content) - 4096, 50_000):
        content[place : place + 64] = bytes(64)
    path.write_bytes(content)
    log.append("exposures", [exposure(-1, "control")])
    with AnalysisState(path) as state:
        assert state.refresh(TRIAL, log.listing()).kind is RefreshKind.FULL
        assert sum(moments_of(state, TRIAL, START).units.values()) == 60_001


def test_a_second_process_is_told_who_has_the_state(tmp_path: Path) -> None:
    path = tmp_path / "state.duckdb"
    program = (
        "import sys; from fairtrial.analysis.state import AnalysisState\n"
        f"state = AnalysisState({str(path)!r}); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(StateLockedError, match="in use"):
            AnalysisState(path)
        other.communicate("")
    AnalysisState(path).close()
