"""No acknowledged outcome is lost and none is counted twice: killed processes, and power cuts of a real file system.

`kill -9` alone proves little, since the page cache survives it. The power cut runs the intake on ext4 on a loop device
with direct I/O, so that the image file holds exactly what reached the "disk"; the server is frozen under load, the
image copied, and the copy mounted, which replays its journal. A control without fsync shows that the harness sees.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from fairtrial.cli.events import verify
from fairtrial.events.compact import Compactor
from fairtrial.events.log import read_frames
from fairtrial.events.writer import LogWriter

PROGRAM = Path(__file__).with_name("intake_process.py")
BATCH = 20


def start(state: Path, *options: str) -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, str(PROGRAM), str(state), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


class Load:
    """Connections that post batches as fast as they are acknowledged, and resend what was not."""

    def __init__(self) -> None:
        self.acked: set[str] = set()
        self.unacked: list[list[str]] = []
        self._next = 0

    async def run(self, port: int, *, seconds: float, then: signal.Signals, process: subprocess.Popen[str]) -> None:
        """Load the server, then send it the signal in the middle of it."""
        tasks = [asyncio.create_task(self._post(port)) for _ in range(16)]
        await asyncio.sleep(seconds)
        process.send_signal(then)
        await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _post(self, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.closing(writer):
            while True:
                ids = self.unacked.pop() if self.unacked else self._new_ids()
                try:
                    await self._send(reader, writer, ids)
                except BaseException:
                    self.unacked.append(ids)
                    raise
                self.acked.update(ids)

    async def _send(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ids: list[str]) -> None:
        items = [{"id": i, "unit": i, "name": "n", "value": 1, "at": 1_760_000_000} for i in ids]
        body = json.dumps({"outcomes": items}).encode()
        head = b"POST /api/v1/outcomes HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
        writer.write(head + body)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        assert json.loads(await reader.readexactly(length))["accepted"] == len(ids)

    def _new_ids(self) -> list[str]:
        self._next += BATCH
        return [f"id-{i}" for i in range(self._next - BATCH, self._next)]


def logged_ids(state: Path) -> list[str]:
    lines = b"".join(f.payload for f in read_frames(state / "log" / "outcomes")).splitlines()
    return [json.loads(line)["id"] for line in lines]


def test_killed_processes_lose_nothing_and_count_nothing_twice(tmp_path: Path) -> None:
    load = Load()
    for _ in range(3):
        process, port = start(tmp_path)
        asyncio.run(load.run(port, seconds=0.5, then=signal.SIGKILL, process=process))
        process.wait(20)
        assert process.stdout is not None
        process.stdout.close()
        assert load.acked <= set(logged_ids(tmp_path))
        compactor = Compactor(tmp_path)
        compactor.run_once()
        compactor.close()
    LogWriter(tmp_path / "log" / "outcomes").close()
    assert verify(tmp_path) == 0
    compactor = Compactor(tmp_path)
    compactor.run_once()
    paths = [str(f.path) for f in compactor.manifest.files("outcomes")]
    query = "SELECT id, count(*) FROM read_parquet(?) GROUP BY id"
    counts = dict(duckdb.connect().execute(query, [paths]).fetchall())
    compactor.close()
    assert len(load.acked) > 500
    assert set(counts) == set(logged_ids(tmp_path)) >= load.acked
    assert set(counts.values()) == {1}


class Disk:
    """An ext4 file system in an image file, mounted through a direct-I/O loop device."""

    def __init__(self, folder: Path) -> None:
        self.image = folder / "disk.img"
        self.mount = folder / "mnt"
        self.mount.mkdir()
        self._device = ""

    def make(self) -> None:
        run("truncate", "-s", "128M", str(self.image))
        run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(self.image))

    def attach(self) -> None:
        self._device = run("losetup", "--direct-io=on", "--find", "--show", str(self.image)).strip()
        run("mount", self._device, str(self.mount))

    def detach(self) -> None:
        subprocess.run(["umount", str(self.mount)], check=False, capture_output=True)
        if self._device:
            subprocess.run(["losetup", "--detach", self._device], check=False, capture_output=True)


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[tuple[Disk, Disk]]:
    """The disk that loses power, and the one that takes its image."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("losetup", "mkfs.ext4", "mount"))):
        pytest.skip("a power cut needs root, losetup and mkfs.ext4")
    (tmp_path / "before").mkdir()
    (tmp_path / "after").mkdir()
    before, after = Disk(tmp_path / "before"), Disk(tmp_path / "after")
    try:
        before.make()
        before.attach()
    except subprocess.CalledProcessError as exc:
        before.detach()
        pytest.skip(f"no loop device with direct I/O here: {exc.stderr.strip()}")
    yield before, after
    after.detach()
    before.detach()


def cut_power_under_load(before: Disk, after: Disk, *options: str) -> tuple[set[str], Path]:
    """Load a server on `before`, freeze it, and mount what had reached the disk: (acknowledged ids, state there)."""
    load = Load()
    process, port = start(before.mount / "state", *options)
    try:
        asyncio.run(load.run(port, seconds=0.7, then=signal.SIGSTOP, process=process))
        acked = set(load.acked)
        shutil.copyfile(before.image, after.image)
    finally:
        process.kill()
        process.wait(20)
        assert process.stdout is not None
        process.stdout.close()
    after.attach()
    return acked, after.mount / "state"


def test_a_power_cut_loses_no_acknowledged_outcome(disks: tuple[Disk, Disk]) -> None:
    acked, state = cut_power_under_load(*disks)
    assert len(acked) > 200
    LogWriter(state / "log" / "outcomes").close()  # opens again: recovered and sealed
    assert acked <= set(logged_ids(state))
    assert (state / "unit.key").stat().st_size == 32


def test_without_fsync_the_same_power_cut_loses_them(disks: tuple[Disk, Disk]) -> None:
    """The control: if this one passes the check above, the harness is blind."""
    acked, state = cut_power_under_load(*disks, "--no-sync")
    survived = set(logged_ids(state)) if (state / "log").exists() else set()
    assert acked - survived
