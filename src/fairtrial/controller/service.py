"""The control process of `fairtrial up`: publishes the file, keeps the routers alive, refreshes the views.

Level-triggered: every loop looks at what is there (file, log, processes) and makes it so; nothing depends on having
seen a change happen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import structlog

from fairtrial.controller.clock import now_us
from fairtrial.controller.inert import inert_parts
from fairtrial.controller.publish import publish
from fairtrial.controller.refresh import Refresher
from fairtrial.controller.statedir import StateDir, write_atomically
from fairtrial.controller.workers import WorkerPool
from fairtrial.model.allocation import Snapshot
from fairtrial.model.errors import ConfigError
from fairtrial.model.parse import load_experiment
from fairtrial.model.view import ExperimentView

log = structlog.get_logger()

WATCH_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class _FileStamp:
    """What tells one content of a watched file from the next without reading it."""

    modified_ns: int
    size: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> _FileStamp | None:
        try:
            status = path.stat()
        except OSError:
            return None
        return cls(status.st_mtime_ns, status.st_size, status.st_ino)


class ControlService:
    """Everything between the file on disk and the views on screen. Used from one event loop."""

    def __init__(
        self, file: Path, state: StateDir, refresher: Refresher, *, encode_view: Callable[[ExperimentView], bytes]
    ) -> None:
        self._file, self._state, self._refresher = file, state, refresher
        self._encode_view = encode_view
        self._stamp = _FileStamp.of(file)
        self._snapshot, _ = publish(load_experiment(file), state, at=now_us(), name=str(file))
        self._views: dict[str, ExperimentView] = {}
        self._workers: WorkerPool | None = None
        self._file_problem: str | None = None
        self._refresh_problem: str | None = None
        self._refreshing = asyncio.Lock()
        # One thread: the analysis engine's connection serves one at a time.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="refresh")
        self.refreshes = 0
        self.failed_refreshes = 0

    @property
    def snapshot(self) -> Snapshot:
        """The allocation that is being served."""
        return self._snapshot

    @property
    def views(self) -> Mapping[str, ExperimentView]:
        """The latest view of each experiment."""
        return self._views

    @property
    def workers(self) -> WorkerPool | None:
        """The router's processes, once there are any."""
        return self._workers

    def warnings(self) -> list[str]:
        """What a person should look at although everything is being served, in sentences."""
        inert = [f"{part.path}: {part.message}; {part.fix}" for part in inert_parts(self._snapshot.file, name="")]
        return [self._file_problem, *inert] if self._file_problem else inert

    def problems(self) -> list[str]:
        """Why the process is not ready, in sentences."""
        found = [self._refresh_problem]
        if self._workers is None or self._workers.alive < self._workers.wanted:
            alive = self._workers.alive if self._workers else 0
            wanted = self._workers.wanted if self._workers else 0
            found.append(f"{alive} of {wanted} router workers run")
        return [problem for problem in found if problem]

    def attach(self, workers: WorkerPool) -> None:
        """Tell the service which routers to announce snapshots to."""
        self._workers = workers

    def reload(self) -> None:
        """Serve the file as it is now. A file with mistakes is reported; the last good one goes on being served."""
        self._stamp = _FileStamp.of(self._file)
        try:
            wanted = load_experiment(self._file)
            self._snapshot, is_new = publish(wanted, self._state, at=now_us(), name=str(self._file))
        except (ConfigError, OSError) as error:
            mistakes = "; ".join(str(problem) for problem in getattr(error, "problems", ())) or str(error)
            self._file_problem = f"{self._file} is not served, the last good version is: {mistakes}"
            log.warning("experiment_file_refused", file=str(self._file), mistakes=mistakes)
            return
        if self._file_problem is not None:
            self._file_problem = None
            log.info("experiment_file_accepted_again", file=str(self._file))
        if is_new:
            self._views = {name: view for name, view in self._views.items() if name in wanted.experiments}
            log.info("snapshot_published", version=self._snapshot.version, digest=self._snapshot.digest[:12])
            if self._workers is not None:
                self._workers.announce()

    async def watch(self) -> None:
        """Reload whenever the file changes on disk; runs until cancelled."""
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            stamp = _FileStamp.of(self._file)
            if stamp != self._stamp:
                self.reload()

    async def refresh(self) -> None:
        """Read the log to its end and publish fresh views. Whoever asks while one runs gets the next."""
        async with self._refreshing:
            snapshot = self._snapshot
            loop = asyncio.get_running_loop()
            views = await loop.run_in_executor(self._thread, self._refresher.refresh, snapshot)
            self._views = {name: view for name, view in views.items() if name in self._snapshot.file.experiments}
            await loop.run_in_executor(self._thread, self._save, dict(self._views))
            self.refreshes += 1
            self._refresh_problem = None

    def _save(self, views: Mapping[str, ExperimentView]) -> None:
        self._state.views.mkdir(exist_ok=True)
        for name, view in views.items():
            write_atomically(self._state.views / f"{name}.json", self._encode_view(view))

    async def refresh_every(self, interval_s: float) -> None:
        """Refresh again and again; a failure is reported, shown, and tried again; runs until cancelled."""
        while True:
            try:
                await self.refresh()
            except Exception as error:  # noqa: BLE001 -- root of the task: the routers must outlive a fault here
                self._note_failed_refresh(error)
            await asyncio.sleep(interval_s)

    def _note_failed_refresh(self, error: BaseException) -> None:
        self.failed_refreshes += 1
        self._refresh_problem = f"views are not fresh: {error}"
        log.error("refresh_failed", error=str(error), kind=type(error).__name__, exc_info=error)

    def close(self) -> None:
        """Wait for a running refresh and let go of the log and the analysis."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._refresher.close()
