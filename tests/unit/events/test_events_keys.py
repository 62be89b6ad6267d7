"""The secret of the unit hashes: made once, readable by its owner only."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairtrial.events.keys import load_unit_key
from fairtrial.model.errors import ConfigError


def test_the_key_is_made_once_and_stays(tmp_path: Path) -> None:
    state = tmp_path / "deep" / "state"
    key = load_unit_key(state)
    assert len(key) == 32
    assert load_unit_key(state) == key
    assert (state / "unit.key").stat().st_mode & 0o777 == 0o600
    assert [p.name for p in state.iterdir()] == ["unit.key"]


def test_two_states_have_two_keys(tmp_path: Path) -> None:
    assert load_unit_key(tmp_path / "a") != load_unit_key(tmp_path / "b")


def test_a_cut_off_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "unit.key").write_bytes(b"short")
    with pytest.raises(ConfigError, match="has 5 bytes; a unit key has 32"):
        load_unit_key(tmp_path)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    load_unit_key(tmp_path)
    (tmp_path / "unit.key").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_unit_key(tmp_path)
