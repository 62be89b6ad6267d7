"""One refresh: compact what is new in the log, count it, and build the view of every experiment.

The instant is taken before the log is read: a unit whose outcome window ends later than that still counts as waiting,
so no outcome that lies unread in the log is ever taken for a missing one.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from fairtrial.analysis.files import DataFile, FilesByStream
from fairtrial.analysis.state import AnalysisState
from fairtrial.analysis.view import Circumstances, build_view
from fairtrial.controller.clock import now_us
from fairtrial.controller.history import read_history
from fairtrial.controller.statedir import StateDir
from fairtrial.events.compact import Compactor
from fairtrial.events.manifest import Manifest
from fairtrial.model.allocation import Snapshot
from fairtrial.model.view import ExperimentView

TIDY_EVERY_US: Final = 600_000_000
KEEP_LOG_US: Final = 24 * 3_600_000_000
"""Compacted segments stay for a day: long enough to look at what just happened, short enough for a small disk."""


class Refresher:
    """Owns compactor and analysis of one state directory; blocking, one thread at a time."""

    def __init__(self, state: StateDir, *, clock: Callable[[], int] = now_us) -> None:
        self._state = state
        self._clock = clock
        self._compactor = Compactor(state.root)
        self._analysis = AnalysisState(state.database)
        self._tidied_at = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def manifest(self) -> Manifest:
        """What was compacted so far."""
        return self._compactor.manifest

    def close(self) -> None:
        """Let go of both databases."""
        self._analysis.close()
        self._compactor.close()

    def refresh(self, snapshot: Snapshot) -> dict[str, ExperimentView]:
        """Views of every experiment of `snapshot`, from everything that was durable when this was called."""
        now = self._clock()
        self._compactor.run_once()
        if now - self._tidied_at > TIDY_EVERY_US:
            self._compactor.merge_days(now_us=now)
            self._compactor.trim_log(older_than_us=now - KEEP_LOG_US)
            self._tidied_at = now
        files = self._files()
        history = read_history(self._state.epochs)
        views = {}
        for name, experiment in snapshot.file.experiments.items():
            self._analysis.refresh(experiment, files)
            circumstances = Circumstances(
                now=now,
                data_through=files.newest_at(),
                allocations=history.get(name, (snapshot.allocations[name],)),
                status=snapshot.allocations[name].status.value,
                log_positions=self._positions(),
            )
            views[name] = build_view(self._analysis, experiment, circumstances)
        return views

    def _files(self) -> FilesByStream:
        return FilesByStream(
            requests=self._stream("requests"), exposures=self._stream("exposures"), outcomes=self._stream("outcomes")
        )

    def _stream(self, stream: str) -> tuple[DataFile, ...]:
        return tuple(
            DataFile(
                id=file.id,
                path=str(file.path),
                day=file.day,
                rows=file.rows,
                min_at=file.min_at,
                max_at=file.max_at,
                first_id=file.first_id,
            )
            for file in self.manifest.files(stream)
        )

    def _positions(self) -> dict[str, str]:
        logs = sorted(path.name for path in (self._state.root / "log").glob("*") if path.is_dir())
        return {name: str(self.manifest.cursor(name).position) for name in logs}
