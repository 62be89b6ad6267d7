"""Publishing a file: epochs continue while nothing changes, and open when enrolment or split does."""

from pathlib import Path

import pytest

from fairtrial.controller.history import read_history
from fairtrial.controller.publish import publish, read_snapshot
from fairtrial.controller.statedir import StateDir, StateDirBusyError
from fairtrial.model.errors import ConfigError, FairtrialError
from fairtrial.model.parse import parse_experiment

FILE = """
models:
  a: {{url: http://127.0.0.1:1}}
  b: {{url: http://127.0.0.1:2}}
endpoints:
  e: {{match: {{path: /x}}, model: a}}
experiments:
  launch:
    endpoint: e
    hypothesis: {hypothesis}
    unit: {{header: x-user-id}}
    variants: {{control: {{model: a}}, treatment: {{model: b}}}}
    split: {{control: 50, treatment: 50}}
    enrolment: {enrolment}
    metrics: {{conversion: {{role: primary, kind: proportion, event: buy}}}}
"""


def text(enrolment: str = "10%", hypothesis: str = "it helps") -> str:
    return FILE.format(enrolment=enrolment, hypothesis=hypothesis)


def test_the_same_file_publishes_nothing_new(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    first, is_new = publish(parse_experiment(text()), state, at=1_000)
    again, is_new_again = publish(parse_experiment(text()), state, at=2_000)
    assert is_new
    assert not is_new_again
    assert again == first


def test_a_ramp_opens_the_next_epoch(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    publish(parse_experiment(text("10%")), state, at=1_000)
    ramped, _ = publish(parse_experiment(text("50%")), state, at=2_000)
    assert ramped.version == 2
    assert ramped.allocations["launch"].epoch == 1
    assert ramped.allocations["launch"].started_at == 2_000
    assert ramped.allocations["launch"].enrolment == pytest.approx(0.5)


def test_every_epoch_stays_known(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    for at, enrolment in enumerate(("10%", "50%", "100%")):
        publish(parse_experiment(text(enrolment)), state, at=at)
    assert [epoch.enrolment for epoch in read_history(state.epochs)["launch"]] == [0.1, 0.5, 1.0]


def test_a_damaged_history_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "epochs.json"
    path.write_bytes(b"{")
    with pytest.raises(FairtrialError, match="damaged"):
        read_history(path)


def test_a_change_of_words_keeps_the_epoch(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    publish(parse_experiment(text()), state, at=1_000)
    reworded, is_new = publish(parse_experiment(text(hypothesis="other words")), state, at=2_000)
    assert is_new
    assert reworded.allocations["launch"].epoch == 0
    assert reworded.allocations["launch"].started_at == 1_000


def test_a_broken_snapshot_is_made_again(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    state.snapshot.write_bytes(b'{"version": 3')
    snapshot, is_new = publish(parse_experiment(text()), state, at=1_000)
    assert is_new
    assert read_snapshot(state.snapshot) == snapshot


def test_a_second_owner_of_a_state_directory_is_refused(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    with state.locked(), pytest.raises(StateDirBusyError, match="in use by another"), state.locked():
        pass


def test_left_over_ports_of_a_dead_process_are_not_believed(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    state.running_file.write_text(
        '{"pid":1,"host":"127.0.0.1","port":1,"router_host":"127.0.0.1","router_port":2,"file":"x"}'
    )
    assert state.read_running() is None
    with state.locked():
        running = state.read_running()
    assert running is not None
    assert running.port == 1


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("{control: 50, treatment: 50}", "{control: 80, treatment: 20}", "experiments.launch.split"),
        ("{control: 50, treatment: 50}", "{treatment: 50, control: 50}", "experiments.launch.split"),
        ("hypothesis: it helps", "salt: other", "experiments.launch.salt"),
        ("{header: x-user-id}", "{header: x-session-id}", "experiments.launch.unit"),
    ],
)
def test_an_edit_that_would_move_units_between_arms_is_refused(old: str, new: str, place: str, tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    first, _ = publish(parse_experiment(text()), state, at=1_000)
    assert old in text()
    with pytest.raises(ConfigError) as caught:
        publish(parse_experiment(text().replace(old, new)), state, at=2_000)
    assert [problem.path for problem in caught.value.problems] == [place]
    assert read_snapshot(state.snapshot) == first
