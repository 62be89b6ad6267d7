"""The secret that turns unit ids into the numbers that rest on disk: `<state>/unit.key`, 32 bytes, owner only.

Lose it and new events of known units look like new units; leak it and ids can be tried against the hashes. It is made
once, durably, before the first event: an event hashed with a key that a power cut takes away would be an orphan.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from fairtrial.events.disk import make_directory, sync_directory, write_durably
from fairtrial.model.errors import ConfigError
from fairtrial.model.units import SECRET_BYTES

KEY_NAME = "unit.key"


def load_unit_key(state: Path) -> bytes:
    """The 32 secret bytes of `state`, made on first use. Raises ConfigError where the file is not what we wrote."""
    path = state / KEY_NAME
    if not path.exists():
        make_directory(state)
        _create(path)
    secret = path.read_bytes()
    if len(secret) != SECRET_BYTES:
        raise ConfigError(f"{path} has {len(secret)} bytes; a unit key has {SECRET_BYTES}: restore it from a backup")
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{path} can be read by others (mode {path.stat().st_mode & 0o777:o}): chmod 600 it")
    return secret


def _create(path: Path) -> None:
    """Write a new key; where another process was faster, its key stays."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    write_durably(fresh, secrets.token_bytes(SECRET_BYTES), mode=0o600)
    try:
        os.link(fresh, path)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
    sync_directory(path.parent)
