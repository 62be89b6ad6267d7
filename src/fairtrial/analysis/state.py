"""The analysis state: a DuckDB file that remembers one row per unit and metric, so a refresh reads new files only.

The file is a cache. Where it is unreadable it is put aside and computed anew from the Parquet files; the rows of an
experiment are computed anew where another version wrote them, where its metrics changed, or where files were merged
before all of them were counted. Only the looks already taken are worth keeping: computing anew leaves them alone.

DuckDB lets one process open a file, so one process owns the state. Its connection serves one thread at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import duckdb

from fairtrial.analysis import sql
from fairtrial.analysis.files import FilesByStream
from fairtrial.analysis.refresh import RefreshKind, RefreshResult, read_cursor, refresh_units
from fairtrial.analysis.rules import MeasurePlan, plan_measures
from fairtrial.model.errors import FairtrialError
from fairtrial.model.experiment import Experiment

STATE_VERSION: Final = f"{sql.LAYOUT}/{duckdb.__version__}"
"""What the unit rows mean, as a digest of the SQL that makes them, and the DuckDB that wrote them."""


IN_USE: Final = ("Could not set lock", "Conflicting lock", "already attached", "Unique file handle")
UNREADABLE: Final = (
    *("not a valid duckdb", "version number", "serializ", "corrupt", "checksum", "wal", "internal error"),
    "could not read enough",
)
"""Parts of DuckDB's messages: it has no error type for either."""


class StateLockedError(FairtrialError):
    """The state is open elsewhere."""


class AnalysisState:
    """Unit rows of every experiment. path: the DuckDB file; made where missing, remade where unreadable.

    memory_limit: of DuckDB's buffers, as DuckDB writes it ("1GB"); beyond it, it spills beside `path`. threads: of its
    queries. Raises StateLockedError where another process has the file open.
    """

    def __init__(self, path: str | Path, *, memory_limit: str = "1GB", threads: int = 2) -> None:
        self.path = Path(path)
        self._config: dict[str, str | int | float | list[str]] = {
            "memory_limit": memory_limit,
            "threads": threads,
            "temp_directory": f"{self.path}.tmp",
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        self.con = self._open()

    def close(self) -> None:
        """Write everything down and let go of the file."""
        self.con.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def refresh(self, experiment: Experiment, files: FilesByStream) -> RefreshResult:
        """Bring one experiment's unit rows up to `files`, all files of one manifest read.

        All or nothing: rows and the list of counted files change in one transaction. Falls back to a full recompute
        where the metrics changed, or files were merged before all of them were counted.
        """
        plan = plan_measures(experiment)
        try:
            result = self._add(plan, files)
        except duckdb.Error as error:
            if not _is_damage(error):
                raise
            self.con.close()
            self._put_aside()
            self.con = self._attached()
            result = None
        return self.recompute(experiment, files) if result is None else result

    def _add(self, plan: MeasurePlan, files: FilesByStream) -> RefreshResult | None:
        """Count new files; None where there is nothing to add to."""
        if self._schema_of(plan) is None:
            return None
        with self.transaction(plan):
            return None if files.straddles(read_cursor(self.con)) else refresh_units(self.con, plan, files)

    def recompute(self, experiment: Experiment, files: FilesByStream) -> RefreshResult:
        """Forget one experiment's unit rows and compute them from all `files`."""
        plan = plan_measures(experiment)
        self._forget(plan)
        self._create(plan)
        with self.transaction(plan):
            result = refresh_units(self.con, plan, files)
        return RefreshResult(RefreshKind.FULL, result.files, result.new_units, result.recomputed_units)

    @contextmanager
    def transaction(self, plan: MeasurePlan) -> Iterator[duckdb.DuckDBPyConnection]:
        """Run statements in the schema of one experiment, all or nothing."""
        self.con.execute(f"USE {self._catalog}.{_schema(plan)}")
        self.con.execute("BEGIN")
        try:
            yield self.con
        except BaseException:
            self.con.execute("ROLLBACK")
            raise
        else:
            self.con.execute("COMMIT")
        finally:
            self.con.execute(f"USE {self._catalog}.main")

    @property
    def _catalog(self) -> str:
        return "state"

    def _open(self) -> duckdb.DuckDBPyConnection:
        try:
            return self._attached()
        except duckdb.Error as error:
            if any(sign in str(error) for sign in IN_USE):
                raise StateLockedError(
                    f"{self.path} is in use by another process or thread; ask that one (fairtrial up), or stop it first"
                ) from error
            if not any(sign in str(error).lower() for sign in UNREADABLE):
                raise FairtrialError(f"{self.path} cannot be opened: {str(error).splitlines()[0]}") from error
            self._put_aside()
            return self._attached()

    def _attached(self) -> duckdb.DuckDBPyConnection:
        """Open the file; where another version wrote it, keep its looks and forget its unit rows."""
        con = self._connected()
        if con.execute("SELECT version FROM main.about").fetchall() != [(STATE_VERSION,)]:
            for (schema,) in con.execute("SELECT schema_name FROM main.experiment").fetchall():
                con.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
            con.execute("DELETE FROM main.experiment")
            con.execute("DELETE FROM main.about")
            con.execute("INSERT INTO main.about VALUES (?)", [STATE_VERSION])
        return con

    def _connected(self) -> duckdb.DuckDBPyConnection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        con = duckdb.connect(config=self._config)
        try:
            escaped = str(self.path).replace("'", "''")
            con.execute(f"ATTACH '{escaped}' AS {self._catalog}")
            con.execute(f"USE {self._catalog}.main")
            con.execute(sql.CREATE_REGISTRY)
        except duckdb.Error:
            con.close()
            raise
        return con

    def _put_aside(self) -> None:
        """Keep what cannot be read, for whoever wants to know why; everything but its looks can be computed anew."""
        for suffix in ("", ".wal"):
            path = Path(f"{self.path}{suffix}")
            if path.exists():
                path.replace(f"{path}.unreadable")

    def _schema_of(self, plan: MeasurePlan) -> str | None:
        found = self.con.execute(
            "SELECT schema_name FROM main.experiment WHERE name = ? AND digest = ?", [plan.experiment, plan.digest]
        ).fetchone()
        return None if found is None else str(found[0])

    def _forget(self, plan: MeasurePlan) -> None:
        self.con.execute(f"DROP SCHEMA IF EXISTS {_schema(plan)} CASCADE")
        self.con.execute("DELETE FROM main.experiment WHERE name = ?", [plan.experiment])

    def _create(self, plan: MeasurePlan) -> None:
        self.con.execute(f"CREATE SCHEMA {_schema(plan)}")
        with self.transaction(plan):
            self.con.execute(sql.CREATE_TABLES)
            self.con.execute(
                "INSERT INTO main.experiment VALUES (?, ?, ?)", [plan.experiment, _schema(plan), plan.digest]
            )


def _is_damage(error: duckdb.Error) -> bool:
    """True where the state's own file is broken; a broken Parquet file is not that."""
    return isinstance(error, duckdb.InternalException | duckdb.FatalException) or "Corrupt database" in str(error)


def _schema(plan: MeasurePlan) -> str:
    """A name that needs no quotes, whatever the experiment is called."""
    return "e_" + hashlib.sha256(plan.experiment.encode()).hexdigest()[:16]
