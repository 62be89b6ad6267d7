"""The intake's HTTP server with other stores behind it: `python -m benchmarks.intake_stores STORE DIRECTORY`.

Every store gets the same group commit: one thread takes all that is queued, makes it durable, answers all. SQLite and
PostgreSQL store one row per outcome with nothing but its JSON text and no index: the least they can do. It prints its
port.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue

import uvloop

from fairtrial.api.intake import Intake, IntakeRoute, Store, deliver_on
from fairtrial.api.intake_protocol import IntakeServer
from fairtrial.events.intake import IntakeDecoder
from fairtrial.events.writer import LogWriter, OnDurable
from fairtrial.model.units import UnitKeyer

Commit = Callable[[bytes], None]


class GroupStore:
    """Group commit around any blocking `commit(lines)`. make: called in the committing thread."""

    def __init__(self, make: Callable[[], Commit], loop: asyncio.AbstractEventLoop) -> None:
        self._queue: SimpleQueue[tuple[bytes, OnDurable] | None] = SimpleQueue()
        self._deliver = deliver_on(loop)
        self._thread = threading.Thread(target=self._run, args=(make,))
        self._thread.start()

    queued_bytes = 0

    def submit(self, payload: bytes, _count: int, on_durable: OnDurable) -> None:
        self._queue.put((payload, on_durable))

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _run(self, make: Callable[[], Commit]) -> None:
        commit = make()
        while (item := self._queue.get()) is not None:
            group = [item]
            while len(group) < 10_000:
                try:
                    more = self._queue.get_nowait()
                except Empty:
                    break
                if more is None:
                    return
                group.append(more)
            commit(b"".join([payload for payload, _ in group]))
            self._deliver([done for _, done in group], None, None)


class NoStore:
    """Stores nothing and says yes: what the protocol, decoding, checking and hashing cost alone."""

    queued_bytes = 0

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def submit(self, _payload: bytes, _count: int, on_durable: OnDurable) -> None:
        self._loop.call_soon(on_durable, None, None)

    def close(self) -> None:
        """Nothing is open."""


def sqlite_commit(directory: Path) -> Commit:
    db = sqlite3.connect(directory / "outcomes.db", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE outcomes (body BLOB)")

    def commit(lines: bytes) -> None:
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT INTO outcomes VALUES (?)", [(line,) for line in lines.splitlines()])
        db.execute("COMMIT")

    return commit


def postgres_commit() -> Commit:
    import psycopg  # type: ignore[import-not-found,unused-ignore]

    db = psycopg.connect(os.environ["BENCH_POSTGRES"])
    cursor = db.cursor()
    cursor.execute("DROP TABLE IF EXISTS outcomes")
    cursor.execute("CREATE TABLE outcomes (body text)")
    db.commit()

    def commit(lines: bytes) -> None:
        with cursor.copy("COPY outcomes FROM STDIN") as copy:
            copy.write(lines)
        db.commit()

    return commit


def make_store(name: str, directory: Path, loop: asyncio.AbstractEventLoop) -> Store:
    if name == "log":
        return LogWriter(directory / "log", deliver=deliver_on(loop))
    if name == "sqlite":
        return GroupStore(lambda: sqlite_commit(directory), loop)
    if name == "postgres":
        return GroupStore(postgres_commit, loop)
    if name == "none":
        return NoStore(loop)
    raise ValueError(name)


async def main(name: str, directory: Path) -> None:
    loop = asyncio.get_running_loop()
    store = make_store(name, directory, loop)
    intake = Intake(IntakeDecoder(UnitKeyer(bytes(32))), dict.fromkeys(IntakeRoute, store))
    server = await loop.create_server(IntakeServer(intake, asyncio.Protocol), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    server.close()
    store.close()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], Path(sys.argv[2])))
