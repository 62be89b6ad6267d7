"""Analysis of one experiment with ten metrics out of 10 M exposures and 20 M outcomes, and a refresh after one minute.

Beside it, in the same run: what one does without a state - one wide query over everything in the same engine (one
conditional sum per metric and side, as most experiment platforms write it), and pandas. Each case runs in a process of
its own, so that peak memory is its own. All must agree: exit code 1 where they do not.

    python -m benchmarks.analysis [--rounds 3] [--scale 1.0] [--without-pandas]
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb

from fairtrial.analysis.files import DataFile, FilesByStream
from fairtrial.analysis.moments import ExperimentMoments, read_moments
from fairtrial.analysis.rules import plan_measures
from fairtrial.analysis.state import AnalysisState
from fairtrial.analysis.view import Circumstances, build_view
from fairtrial.model.experiment import (
    AnalysisPlan,
    Covariate,
    EventSource,
    Experiment,
    Metric,
    MetricKind,
    MetricRole,
    RequestUnit,
    Variant,
)

CACHE = Path(__file__).parent.parent / ".cache" / "bench"
DAY, DAYS, METRICS = 86_400_000_000, 21, 10
START = 1_760_000_000_000_000 // DAY * DAY
NOW = START + DAYS * DAY + 60_000_000
WEEK_S = 7 * 86_400.0
EXPOSURES, OUTCOMES, USERS, EXPERIMENTS = 10_000_000, 20_000_000, 2_000_000, 5
LIMIT_SECONDS, LIMIT_REFRESH, LIMIT_GIB, LIMIT_DIFFERENCE = 10.0, 1.0, 1.5, 1e-12


def trial() -> Experiment:
    """Ten per-unit sums over seven days, each with its own seven days before as a covariate."""
    metrics = tuple(
        Metric(
            name=f"m{number}",
            role=MetricRole.PRIMARY if number == 0 else MetricRole.SECONDARY,
            kind=MetricKind.MEAN,
            source=EventSource(f"metric{number}"),
            within_s=WEEK_S,
            covariate=Covariate(EventSource(f"metric{number}"), WEEK_S),
        )
        for number in range(METRICS)
    )
    return Experiment(
        name="exp0",
        endpoint="e",
        unit=RequestUnit(),
        variants=(Variant("control", "a"), Variant("treatment", "b")),
        split=(("control", 0.5), ("treatment", 0.5)),
        control="control",
        salt="exp0",
        metrics=metrics,
        analysis=AnalysisPlan(planned_units=USERS),
    )


def generate(folder: Path, scale: float) -> None:
    """Day files, and one minute more, as the compactor would write them."""
    con = duckdb.connect()
    con.execute("SET threads = 2; SET memory_limit = '3GB'; SET preserve_insertion_order = false")
    spans = [(day, START + day * DAY, DAY) for day in range(DAYS)] + [(DAYS, START + DAYS * DAY, 60_000_000)]
    for stream, total in (("exposures", EXPOSURES), ("outcomes", OUTCOMES)):
        (folder / stream).mkdir(parents=True)
        per_day = int(total * scale) // DAYS
        for number, start, length in spans:
            rows = per_day if length == DAY else per_day // 1440
            low = number * per_day
            columns = (
                f"'exp' || (i % {EXPERIMENTS}) AS experiment, "
                f"CASE hash(u, i % {EXPERIMENTS}) % 2 WHEN 0 THEN 'control' ELSE 'treatment' END AS variant, "
                f"({int(number >= 5)})::BIGINT AS epoch, 0.5::DOUBLE AS propensity"
                if stream == "exposures"
                else f"'metric' || (i % {METRICS}) AS name, NULL::VARCHAR AS \"values\", '' AS request_id, "
                "round(exp(hash(i, 3) % 10000 / 5000.0 - 1), 4) + hash(u) % 100 / 50.0 AS value"
            )
            con.execute(
                f"COPY (SELECT format('{{:016x}}', hash(i, {total})) AS id, "
                f'({start} + (i - {low}) * {length} // {rows})::BIGINT AS "at", '
                f"(hash(u) // 2)::BIGINT - {2**62} AS unit, {columns} "
                f"FROM (SELECT range AS i, (hash(range, {total}) % {int(USERS * scale)})::BIGINT AS u "
                f"FROM range({low}, {low + rows}))) "
                f"TO '{folder}/{stream}/{number:02}.parquet' (FORMAT parquet, COMPRESSION zstd)"
            )


def files(folder: Path, *, with_minute: bool) -> FilesByStream:
    def of(stream: str) -> tuple[DataFile, ...]:
        listed = []
        for number, path in enumerate(sorted((folder / stream).glob("*.parquet"))[: DAYS + with_minute]):
            start = START + number * DAY
            listed.append(DataFile(number + 1, str(path), str(number), 0, start, start + DAY - 1))
        return tuple(listed)

    return FilesByStream(exposures=of("exposures"), outcomes=of("outcomes"))


def sums(moments: ExperimentMoments) -> dict[str, list[float]]:
    """Every number that the statistics rest on."""
    return {
        f"m{place} {cell.epoch} {cell.arm}": [c.count, c.mean_y, c.mean_x, c.ssd_y, c.ssd_x, c.cross_dev]
        for place, metric in enumerate(moments.metrics)
        for cell, c in sorted(metric.cells.items())
    }


def read(state: AnalysisState) -> ExperimentMoments:
    plan = plan_measures(trial())
    with state.transaction(plan) as con:
        return read_moments(con, plan, now=NOW)


Timed = tuple[float, dict[str, list[float]]]


def case_full(folder: Path, path: Path) -> Timed:
    """Everything from scratch, in an empty state, down to the finished view."""
    with AnalysisState(path, memory_limit="1GB", threads=2) as state:
        return timed_view(state, lambda: state.recompute(trial(), files(folder, with_minute=True)))


def case_refresh(folder: Path, path: Path) -> Timed:
    """One minute of new events on a state that counts 21 days, down to the finished view."""
    with AnalysisState(path, memory_limit="1GB", threads=2) as state:
        return timed_view(state, lambda: state.refresh(trial(), files(folder, with_minute=True)))


def timed_view(state: AnalysisState, count: Callable[[], object]) -> Timed:
    started = time.perf_counter()
    count()
    build_view(state, trial(), Circumstances(now=NOW))
    seconds = time.perf_counter() - started
    return seconds, sums(read(state))


def case_wide(folder: Path, _: Path) -> Timed:
    """No state: units, then one wide row per unit with two conditional sums per metric, then variances."""
    started = time.perf_counter()
    con = duckdb.connect()
    con.execute("SET threads = 2; SET memory_limit = '1GB'; SET preserve_insertion_order = false")
    wide = ", ".join(
        f"coalesce(sum(CASE WHEN name = 'metric{m}' AND o.\"at\" >= t0 THEN value END), 0) AS y{m}, "
        f"coalesce(sum(CASE WHEN name = 'metric{m}' AND o.\"at\" < t0 THEN value END), 0) AS x{m}"
        for m in range(METRICS)
    )
    last = ", ".join(
        f"[count(*), avg(y{m}), avg(x{m}), var_pop(y{m}) * count(*), var_pop(x{m}) * count(*), "
        f"covar_pop(y{m}, x{m}) * count(*)]"
        for m in range(METRICS)
    )
    week = 7 * DAY
    rows = con.execute(f"""
      WITH unit AS (
        SELECT unit, min("at") AS t0, arg_min(variant, "at") AS variant, arg_min(epoch, "at") AS epoch
        FROM read_parquet('{folder}/exposures/*.parquet') WHERE experiment = 'exp0'
        GROUP BY unit HAVING min(variant) = max(variant)
      ), row AS (
        SELECT u.unit, any_value(u.variant) AS variant, any_value(u.epoch) AS epoch, {wide}
        FROM unit u LEFT JOIN read_parquet('{folder}/outcomes/*.parquet') o
          ON o.unit = u.unit AND o."at" >= t0 - {week} AND o."at" < t0 + {week}
        WHERE t0 + {week} <= {NOW}
        GROUP BY u.unit
      )
      SELECT epoch, variant, [{last}] FROM row GROUP BY epoch, variant ORDER BY epoch, variant
    """).fetchall()
    found = {f"m{m} {e} {int(v == 'treatment')}": numbers[m] for e, v, numbers in rows for m in range(METRICS)}
    return time.perf_counter() - started, found


def case_pandas(folder: Path, _: Path) -> Timed:
    """No state, in memory: read, merge, group."""
    import pandas as pd

    started = time.perf_counter()
    exposures = pd.read_parquet(
        folder / "exposures", columns=["unit", "at", "variant", "epoch"], filters=[("experiment", "==", "exp0")]
    )
    exposures = exposures.sort_values("at")
    by_unit = exposures.groupby("unit", sort=False)
    units = by_unit.first().rename(columns={"at": "t0"})[by_unit.variant.min() == by_unit.variant.max()]
    units = units[units.t0 + 7 * DAY <= NOW]
    outcomes = pd.read_parquet(folder / "outcomes", columns=["unit", "at", "name", "value"])
    rows = outcomes.merge(units[["t0"]], left_on="unit", right_index=True)
    age = rows["at"] - rows.t0
    rows["y"], rows["x"] = rows.value.where(age >= 0, 0.0), rows.value.where(age < 0, 0.0)
    rows = rows[(age >= -7 * DAY) & (age < 7 * DAY)]
    per_unit = rows.groupby(["name", "unit"], sort=False)[["y", "x"]].sum()
    found = {}
    for number in range(METRICS):
        both = units.join(per_unit.loc[f"metric{number}"])
        both[["y", "x"]] = both[["y", "x"]].fillna(0.0)
        for (epoch, variant), cell in both.groupby(["epoch", "variant"]):
            y, x = cell.y - cell.y.mean(), cell.x - cell.x.mean()
            numbers = [len(cell), cell.y.mean(), cell.x.mean(), (y * y).sum(), (x * x).sum(), (x * y).sum()]
            found[f"m{number} {epoch} {int(variant == 'treatment')}"] = [float(n) for n in numbers]
    return time.perf_counter() - started, found


CASES = {"full": case_full, "refresh": case_refresh, "wide": case_wide, "pandas": case_pandas}


def run(case: str, folder: Path, state: Path) -> dict[str, object]:
    command = [sys.executable, "-m", "benchmarks.analysis", "--case", case, str(folder), str(state)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(result.stdout)


def difference(one: dict[str, list[float]], other: dict[str, list[float]]) -> float:
    """Largest difference, relative to the size of the number (of a cross product: of its two spreads)."""
    assert one.keys() == other.keys(), sorted(one.keys() ^ other.keys())[:5]
    worst = 0.0
    for key, left in one.items():
        right = other[key]
        scales = [*(abs(n) for n in right[:5]), math.sqrt(right[3] * right[4])]
        worst = max(worst, *(abs(a - b) / (s or 1.0) for a, b, s in zip(left, right, scales, strict=True)))
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--without-pandas", action="store_true")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        case, folder, state = arguments.case
        seconds, found = CASES[case](Path(folder), Path(state))
        mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "mib": mib, "sums": found}))
        return 0
    return compare(arguments)


def compare(arguments: argparse.Namespace) -> int:
    folder = CACHE / f"analysis-{arguments.scale:g}"
    if not (folder / "done").exists():
        started = time.perf_counter()
        generate(folder, arguments.scale)
        (folder / "done").touch()
        print(f"made the data in {time.perf_counter() - started:.0f} s", file=sys.stderr)
    names = ["full", "refresh", "wide", *([] if arguments.without_pandas else ["pandas"])]
    results: dict[str, list[dict[str, object]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(dir=CACHE) as place:
        for number in range(arguments.rounds):
            for name in names if number == 0 else [n for n in names if n != "pandas"]:
                state = Path(place) / f"{name}-{number}.duckdb"
                if name == "refresh":
                    with AnalysisState(state) as made:
                        made.refresh(trial(), files(folder, with_minute=False))
                results[name].append(run(name, folder, state))
    return report(arguments.scale, results)


def report(scale: float, results: dict[str, list[dict[str, object]]]) -> int:
    labels = {
        "full": "Fairtrial, full recompute, with the view",
        "refresh": "Fairtrial, refresh after one minute, with the view",
        "wide": "no state: one wide DuckDB query",
        "pandas": "no state: pandas",
    }
    full = results["full"][-1]["sums"]
    print(
        f"{EXPOSURES * scale / 1e6:g} M exposures of {EXPERIMENTS} experiments, {OUTCOMES * scale / 1e6:g} M outcomes,"
    )
    print(f"one experiment, {METRICS} metrics with covariates; medians of {len(results['full'])} rounds (pandas: 1)\n")
    print(f"{'':52}{'seconds':>9}{'peak MiB':>10}{'largest difference':>20}")
    worst = {}
    for name, rounds in results.items():
        seconds = statistics.median(float(r["seconds"]) for r in rounds)  # type: ignore[arg-type]
        mib = max(float(r["mib"]) for r in rounds)  # type: ignore[arg-type]
        worst[name] = (seconds, mib, max(difference(r["sums"], full) for r in rounds))  # type: ignore[arg-type]
        print(f"{labels[name]:52}{seconds:9.2f}{mib:10.0f}{worst[name][2]:20.1e}")
    checks = [
        ("full recompute below 10 s", worst["full"][0] < LIMIT_SECONDS),
        ("full recompute below 1.5 GiB", worst["full"][1] < LIMIT_GIB * 1024),
        ("refresh below 1 s", worst["refresh"][0] < LIMIT_REFRESH),
        ("refresh equals recompute to 1e-12", worst["refresh"][2] < LIMIT_DIFFERENCE),
    ]
    print()
    for label, is_met in checks:
        print(f"{'met   ' if is_met else 'MISSED'} {label}")
    return 0 if worst["refresh"][2] < LIMIT_DIFFERENCE and worst["wide"][2] < 1e-9 else 1


if __name__ == "__main__":
    sys.exit(main())
