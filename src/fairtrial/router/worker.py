"""One router process: `python -m fairtrial.router.worker CONFIG`.

Start: load the snapshot (or the last good one), bind, announce. Run: one tick every 50 ms moves the clock, flushes
records and notices a new snapshot. End: SIGTERM drains, a second one ends at once, and so does the parent's death.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from hashlib import blake2b
from typing import Final

import structlog

from fairtrial.events.keys import load_unit_key
from fairtrial.events.log import LogSyncError
from fairtrial.events.writer import LogClosedError, LogFullError, LogPoisonedError, LogWriter
from fairtrial.model.allocation import Snapshot
from fairtrial.model.errors import ConfigError
from fairtrial.model.units import UnitKeyer
from fairtrial.router.admin import Admin, announcement_path, metrics_socket_path, run_dir
from fairtrial.router.client import ClientConnection
from fairtrial.router.compile import Surroundings, compile_table
from fairtrial.router.config import WorkerConfig, decode_config, encode_config
from fairtrial.router.counters import WorkerCounters
from fairtrial.router.ids import RequestIds
from fairtrial.router.listener import Listener, bind
from fairtrial.router.metrics import render_metrics
from fairtrial.router.readings import read_gauges
from fairtrial.router.records import RecordBuffer, RecordContext
from fairtrial.router.snapshots import SnapshotFile
from fairtrial.router.state import WorkerState
from fairtrial.router.wheel import TICK_S, Wheel

__all__ = ["WorkerConfig", "encode_config", "main", "run_worker"]

MAX_QUEUED_RECORD_BYTES: Final = 64 << 20
# Every so many ticks: snapshot and pools (200 ms), clock offset (1 s), names (10 s).
_POLL_TICKS: Final = 4
_CLOCK_TICKS: Final = 20
_RESOLVE_TICKS: Final = 200
# An idle connection may have a request on its way: only what has been idle for so long since the drain began is closed.
IDLE_GRACE_S: Final = 1.0

_logger = structlog.get_logger("fairtrial.router")


class Worker:
    """One process's loop around a `WorkerState`."""

    def __init__(self, config: WorkerConfig, loop: asyncio.AbstractEventLoop) -> None:
        self._config = config
        self._loop = loop
        self._state_dir = config.state_dir
        self._wheel = Wheel()
        self._counters = WorkerCounters()
        via = config.via or f"fairtrial-{blake2b(f'{config.host}:{config.port}'.encode(), digest_size=4).hexdigest()}"
        self._around = Surroundings(self._wheel, self._counters, via)
        self._file = SnapshotFile(config.snapshot_path)
        snapshot, problem = self._file.load_first()
        if problem is not None:
            self._note_bad_snapshot(problem)
        self._key = UnitKeyer(load_unit_key(self._state_dir))
        self._log = LogWriter(
            self._state_dir / "log" / f"requests-{config.worker_id}",
            max_queue_bytes=MAX_QUEUED_RECORD_BYTES,
            durability="relaxed",
            prefill=False,
        )
        records = RecordBuffer(self._submit, context=self._context(snapshot), counters=self._counters)
        self._state = WorkerState(
            loop=loop,
            wheel=self._wheel,
            ids=RequestIds(unix_ms=time.time_ns() // 1_000_000),
            counters=self._counters,
            records=records,
            table=compile_table(snapshot, self._around, previous=None),
        )
        self._state.admin = Admin(
            self._state, state_dir=self._state_dir, worker_id=config.worker_id, render=self._render
        )
        sock = bind(config.host, config.port, reuse_port=config.reuse_port)
        self._listener = Listener(sock, lambda: ClientConnection(self._state))
        self._port = self._listener.port
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._started_at = loop.time()
        self._is_dropping = False  # logged once, not per batch; the counter has the number
        self._socket_path = metrics_socket_path(self._state_dir, config.worker_id)

    async def run(self, announce: Callable[[int], None]) -> None:
        """Serve until told to stop, then drain. announce: called with the port once connections are accepted."""
        self._loop.add_signal_handler(signal.SIGTERM, self._on_terminate)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload)
        if self._config.control_fd is None:
            self._loop.add_signal_handler(signal.SIGINT, self._on_terminate)
        else:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which drains its workers
            self._loop.add_reader(self._config.control_fd, self._on_parent)
        run_dir(self._state_dir).mkdir(parents=True, exist_ok=True)
        self._socket_path.unlink(missing_ok=True)
        metrics_server = await self._state.admin.listen(self._socket_path)
        await self._resolve()
        await self._listener.start()
        self._tick()
        announcement_path(self._state_dir, self._config.worker_id).write_text(self._announcement())
        announce(self._port)
        # What lives now lives on: the collector need not look at it again (and full collections take 20 ms).
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 100)
        try:
            await self._stop.wait()
            await self._drain()
        finally:
            announcement_path(self._state_dir, self._config.worker_id).unlink(missing_ok=True)
            metrics_server.close()
            self._socket_path.unlink(missing_ok=True)
            self._close()

    # -- signals ---------------------------------------------------------------------------------------------------

    def _on_terminate(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def _on_parent(self) -> None:
        """The control pipe is readable: its end of file means that the parent is gone."""
        assert self._config.control_fd is not None
        if os.read(self._config.control_fd, 4096) == b"":
            self._loop.remove_reader(self._config.control_fd)
            _logger.warning("parent is gone: draining", worker=self._config.worker_id)
            self._stop.set()

    # -- every tick ------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        """Move the coarse clock; after a stall, by as many ticks as were missed, so that deadlines stay true."""
        wheel = self._wheel
        target = int((self._loop.time() - self._started_at) / TICK_S)
        while wheel.now < target:
            for timed in wheel.advance():
                timed.on_deadline()
            self._on_tick(wheel.now)
        self._state.ids.tick(time.time_ns() // 1_000_000)
        self._state.records.flush()
        self._loop.call_at(self._started_at + (wheel.now + 1) * TICK_S, self._tick)

    def _on_tick(self, now: int) -> None:
        if now % _POLL_TICKS == 0:
            self._sweep(now)
            if self._file.has_changed():
                self._reload()
        if now % _CLOCK_TICKS == 0:
            self._state.records.context = self._context(self._state.table.snapshot)
        if now % _RESOLVE_TICKS == 0:
            task = self._loop.create_task(self._resolve())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _sweep(self, now: int) -> None:
        for pool in self._state.table.pools.values():
            pool.sweep()
        for shadow in [shadow for shadow in self._state.shadows if shadow.deadline <= now]:
            shadow.time_out()

    async def _resolve(self) -> None:
        await asyncio.gather(*(pool.resolve() for pool in self._state.table.pools.values()))

    # -- snapshots -------------------------------------------------------------------------------------------------

    def _reload(self) -> None:
        """Swap the table if the snapshot on disk is good and new. Requests in flight keep theirs."""
        state = self._state
        try:
            snapshot = self._file.load()
            if snapshot.version == state.table.snapshot.version and snapshot.digest == state.table.snapshot.digest:
                return
            table = compile_table(snapshot, self._around, previous=state.table)
        except ConfigError as exc:
            self._note_bad_snapshot(exc)
            return
        kept = set(table.pools.values())
        for pool in state.table.pools.values():
            if pool not in kept:
                pool.retire()
        state.table = table
        state.records.flush()
        state.records.context = self._context(snapshot)
        _logger.info("snapshot in use", worker=self._config.worker_id, version=snapshot.version)

    def _note_bad_snapshot(self, error: ConfigError) -> None:
        self._counters.snapshot_errors += 1
        _logger.error("snapshot ignored", worker=self._config.worker_id, error=str(error))

    def _context(self, snapshot: Snapshot) -> RecordContext:
        offset = time.time_ns() - time.perf_counter_ns()
        return RecordContext(key=self._key, keep_unit_ids=snapshot.file.keep_unit_ids, epoch_offset_ns=offset)

    def _submit(self, payload: bytes, count: int) -> bool:
        try:
            self._log.append_relaxed(payload, count)
        except (LogFullError, LogPoisonedError, LogClosedError, LogSyncError) as exc:
            if not self._is_dropping:
                _logger.error("dropping records", worker=self._config.worker_id, error=str(exc))  # noqa: TRY400
            self._is_dropping = True
            return False
        self._is_dropping = False
        return True

    # -- the end ---------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Fail readiness, stop accepting, let requests finish, cut what is left after the drain timeout."""
        state = self._state
        options = state.table.options
        _logger.info("draining", worker=self._config.worker_id, connections=len(state.connections))
        state.is_ready = False
        if await self._wait(options.drain_delay_s):
            return
        state.is_draining = True
        await self._listener.stop()
        began = self._loop.time()
        while state.connections or state.shadows:
            elapsed = self._loop.time() - began
            if elapsed >= options.drain_timeout_s or await self._wait(TICK_S):
                break
            if elapsed >= min(IDLE_GRACE_S, options.drain_timeout_s / 2):
                for connection in list(state.connections):
                    connection.close_if_idle()
        if state.connections:
            _logger.warning(
                "drain timeout: connections cut", worker=self._config.worker_id, count=len(state.connections)
            )

    async def _wait(self, seconds: float) -> bool:
        """Wait; True as soon as somebody is in a hurry."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), seconds)
        return self._hurry.is_set()

    def _close(self) -> None:
        state = self._state
        for connection in list(state.connections):
            connection.abort()
            connection.connection_lost(None)
        for pool in state.table.pools.values():
            pool.close()
        state.records.flush()
        self._log.close()

    def _announcement(self) -> str:
        return json.dumps(
            {
                "worker_id": self._config.worker_id,
                "pid": os.getpid(),
                "host": self._config.host,
                "port": self._port,
                "metrics_socket": str(self._socket_path),
                "snapshot": self._state.table.snapshot.version,
            }
        )

    def _render(self) -> str:
        dropped = self._log.counts.refused_by_disk + self._log.counts.failed_records
        self._counters.records_lost = dropped
        return render_metrics(self._counters, read_gauges(self._state, self._config.worker_id))


def _raise_file_limit() -> None:
    """A router needs two descriptors per request in flight; the soft default of 1024 is for interactive shells."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS says "unlimited" and means 10240
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _new_loop() -> asyncio.AbstractEventLoop:
    """The loop of uvloop where it is installed: 15-20 % over asyncio's own (docs/decisions/0020)."""
    try:
        import uvloop  # noqa: PLC0415 - optional on platforms without a wheel
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _announce(port: int) -> None:
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()


def run_worker(config: WorkerConfig, *, announce: Callable[[int], None] = _announce) -> int:
    """Serve until told to stop. Returns the exit code: 0 after a drain. Raises ConfigError, OSError."""
    _raise_file_limit()

    async def serve() -> None:
        await Worker(config, asyncio.get_running_loop()).run(announce)

    with asyncio.Runner(loop_factory=_new_loop) as runner:
        runner.run(serve())
    return 0


def main() -> int:
    """Entry point of the process."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        arguments = sys.argv[1:]
        return run_worker(decode_config(arguments, "" if arguments else sys.stdin.read()))
    except (ConfigError, OSError) as exc:
        sys.stderr.write(f"router worker: {exc}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
