"""What "on disk" means here: the few system calls whose order decides whether an acknowledged event survives.

A file's bytes are durable after `sync_data`; its *name* only after the directory that holds it was synced. Nothing here
retries: since Linux 4.13 a failed fsync is reported once and the next one succeeds although the pages were dropped, so
the caller must treat any failure as the end of that file (docs/decisions/0030-own-segment-log.md).
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from pathlib import Path

OUT_OF_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
ZEROS = bytes(1 << 20)


def sync_data(fd: int) -> None:
    """Return once the file's data, and the metadata needed to read it back, are on the device."""
    if sys.platform == "darwin":
        # macOS' fsync stops at the drive's volatile cache and there is no fdatasync.
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(fd)


def sync_directory(path: Path) -> None:
    """Return once names created, renamed or removed in `path` are on the device."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: Path) -> None:
    """Create `path` and its missing parents so that the names survive a power cut."""
    missing = [p for p in (path, *path.parents) if not p.exists()]
    for directory in reversed(missing):
        directory.mkdir(exist_ok=True)
        sync_directory(directory.parent)


def write_at(fd: int, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset`; a short write goes on where it stopped. Raises OSError."""
    written = os.pwrite(fd, data, offset)
    while written < len(data):
        written += os.pwrite(fd, data[written:], offset + written)


def write_durably(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Make `path` hold exactly `data`, durable, or leave it as it was: temporary file, sync, rename, sync folder."""
    temporary = path.with_name(path.name + ".tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        write_at(fd, data, 0)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.rename(path)
    sync_directory(path.parent)


def publish(temporary: Path, path: Path) -> None:
    """Give a finished file its real name, durably: sync its data, rename, sync the folder."""
    fd = os.open(temporary, os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.rename(path)
    sync_directory(path.parent)


def is_out_of_space(error: BaseException) -> bool:
    """True where the disk, quota or file size limit is exhausted: refusing is enough, the log itself is sound."""
    return isinstance(error, OSError) and error.errno in OUT_OF_SPACE
