"""Keeps the router's worker processes alive: start, watch, restart, announce a snapshot, drain.

A worker that dies is started again at once, then after longer and longer pauses while it keeps dying. Workers hold the
read end of a pipe whose write end lives here, so they leave when this process does, however it dies.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import dataclass, field

import structlog

from fairtrial.router.worker import WorkerConfig, encode_config

log = structlog.get_logger()

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
HEALTHY_AFTER_S = 30.0


@dataclass(slots=True)
class _Worker:
    config: WorkerConfig
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)


class WorkerPool:
    """N router workers on one port."""

    def __init__(self, configs: list[WorkerConfig]) -> None:
        self._workers = [_Worker(config) for config in configs]
        self._is_stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._read_end, self._write_end = os.pipe()

    @property
    def restarts(self) -> int:
        """How often a worker had to be started again."""
        return sum(worker.restarts for worker in self._workers)

    @property
    def wanted(self) -> int:
        """How many workers there should be."""
        return len(self._workers)

    @property
    def alive(self) -> int:
        """Workers whose process runs now."""
        return sum(1 for w in self._workers if w.process is not None and w.process.returncode is None)

    async def start(self) -> None:
        """Start every worker; returns once each accepts connections. Raises RuntimeError where one cannot start."""
        self._tasks = [asyncio.create_task(self._keep_alive(worker)) for worker in self._workers]
        for worker, task in zip(self._workers, self._tasks, strict=True):
            ready = asyncio.create_task(worker.ready.wait())
            await asyncio.wait([ready, task], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                ready.cancel()
                task.result()

    async def watch(self) -> None:
        """Runs until cancelled; raises where a worker cannot be kept alive."""
        await asyncio.gather(*(asyncio.shield(task) for task in self._tasks))

    async def _keep_alive(self, worker: _Worker) -> None:
        pause_s = FIRST_PAUSE_S
        loop = asyncio.get_running_loop()
        while not self._is_stopping:
            started_at = loop.time()
            code = await self._run_once(worker)
            if self._is_stopping:
                return
            if not worker.ready.is_set():
                raise RuntimeError(
                    f"router worker {worker.config.worker_id} ended with code {code} before it was ready"
                )
            log.error("router_worker_died", worker=worker.config.worker_id, code=code)
            worker.restarts += 1
            pause_s = FIRST_PAUSE_S if loop.time() - started_at > HEALTHY_AFTER_S else min(pause_s * 2, LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s)

    async def _run_once(self, worker: _Worker) -> int:
        config = worker.config
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "fairtrial.router.worker",
            encode_config(config, control_fd=self._read_end),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(self._read_end,),
            start_new_session=True,
        )
        worker.process = process
        assert process.stdout is not None
        if await process.stdout.readline():
            worker.ready.set()
        return await process.wait()

    def announce(self) -> None:
        """Tell every worker that a new snapshot lies on disk."""
        self._signal(signal.SIGHUP)

    def _signal(self, number: signal.Signals) -> None:
        for worker in self._workers:
            if worker.process is not None and worker.process.returncode is None:
                worker.process.send_signal(number)

    async def stop(self, *, timeout_s: float) -> None:
        """Drain: workers finish what they have; whoever is not done after `timeout_s` is cut off."""
        self._is_stopping = True
        self._signal(signal.SIGTERM)
        running = [task for task in self._tasks if not task.done()]
        pending = (await asyncio.wait(running, timeout=timeout_s))[1] if running else set()
        if pending:
            log.warning("router_drain_timeout", workers=len(pending), timeout_s=timeout_s)
            self._signal(signal.SIGKILL)
            await asyncio.wait(pending, timeout=5)
        os.close(self._write_end)
        os.close(self._read_end)

    def hurry(self) -> None:
        """Do not wait for requests under way: a worker's second SIGTERM means now."""
        self._signal(signal.SIGTERM)
