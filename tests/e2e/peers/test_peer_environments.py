"""The set-up of the peers itself: what cannot be installed is skipped with its reason, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e.peers import support_environments as environments


def test_a_peer_that_cannot_be_installed_is_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No network and an empty cache: both attempts fail, uv's own words are the reason, no half environment stays."""
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(environments, "ENVIRONMENTS", tmp_path / "peers")
    with pytest.raises(pytest.skip.Exception, match=r"mlserver cannot be installed here: .+"):
        environments.peer_environment("mlserver")
    assert [path.name for path in (tmp_path / "peers").iterdir()] == ["mlserver.lock"]


def test_an_environment_is_used_again_until_its_pins_change(tmp_path: Path) -> None:
    """The name holds a hash of the pins: equal pins, equal folder; any change, another one."""
    pins = tmp_path / "pins.txt"
    pins.write_text("numpy==2.4.6\n")
    before = environments._fingerprint(pins)
    assert environments._fingerprint(pins) == before
    pins.write_text("numpy==2.4.7\n")
    assert environments._fingerprint(pins) != before
