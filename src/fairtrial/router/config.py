"""What a worker process is told when it is started: one JSON object as its only argument."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fairtrial.model.errors import ConfigError


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """worker_id: 0.. of one state directory. port: 0 takes a free one. reuse_port: several workers share the port.

    control_fd: a pipe's read end; its end of file means that the parent is gone. via: this router's name in the Via
    field, the same in all its workers; empty makes one from the address.
    """

    worker_id: int
    host: str
    port: int
    state_dir: Path
    snapshot_path: Path
    reuse_port: bool = False
    control_fd: int | None = None
    via: str = ""


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    worker_id: int
    host: str
    port: int
    state_dir: str
    snapshot_path: str
    reuse_port: bool = False
    control_fd: int | None = None
    via: str = ""


def encode_config(config: WorkerConfig, *, control_fd: int | None = None) -> str:
    """The argument of `python -m fairtrial.router.worker`. control_fd: replaces the config's own where given."""
    document = _Document(
        worker_id=config.worker_id,
        host=config.host,
        port=config.port,
        state_dir=str(config.state_dir),
        snapshot_path=str(config.snapshot_path),
        reuse_port=config.reuse_port,
        control_fd=config.control_fd if control_fd is None else control_fd,
        via=config.via,
    )
    return msgspec.json.encode(document).decode()


def decode_config(arguments: Sequence[str], stdin: str) -> WorkerConfig:
    """The config from the command line, or from standard input without one. Raises ConfigError."""
    text = arguments[0] if arguments else stdin
    try:
        document = msgspec.json.decode(text, type=_Document)
    except msgspec.DecodeError as exc:
        raise ConfigError(f"the worker's config is not valid: {exc}") from exc
    return WorkerConfig(
        worker_id=document.worker_id,
        host=document.host,
        port=document.port,
        state_dir=Path(document.state_dir),
        snapshot_path=Path(document.snapshot_path),
        reuse_port=document.reuse_port,
        control_fd=document.control_fd,
        via=document.via,
    )
