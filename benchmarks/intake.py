"""Outcome intake over HTTP, acknowledged after fdatasync: our log, SQLite (WAL, FULL) and PostgreSQL COPY.

The same protocol, decoding, checking and hashing in front of each, and the same group commit; only the store differs
(intake_stores.py). The server has one core, wrk the other; PostgreSQL's own processes run where they like. "a CPU
second" is what the server process alone would do with a core to itself and a disk that never makes it wait.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from fairtrial.events.writer import LogWriter
from fairtrial.model.records import OutcomeRecord

HERE = Path(__file__).parent
ROOT = HERE.parent
PSYCOPG = ROOT / ".cache" / "bench" / "psycopg"
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
SECONDS = int(os.environ.get("BENCH_SECONDS", "2"))
SHAPES = {"100 a request, 32 connections": (100, 32, 200_000), "1 a request, 64 connections": (1, 64, 20_000)}
NAMES = {
    "log": "Fairtrial's log",
    "sqlite": "SQLite, WAL, synchronous=FULL",
    "postgres": "PostgreSQL, COPY",
    "none": "nothing stored",
}


@contextmanager
def postgres() -> Iterator[str]:
    """A throw-away PostgreSQL cluster; yields its connection string. Raises LookupError with the reason why not."""
    folder = next((p for p in sorted(Path("/usr/lib/postgresql").glob("*/bin"))), None)
    initdb = str(folder / "initdb") if folder else shutil.which("initdb")
    server = str(folder / "postgres") if folder else shutil.which("postgres")
    if initdb is None or server is None:
        raise LookupError("no PostgreSQL here")
    if os.geteuid() == 0 and shutil.which("runuser") is None:
        raise LookupError("PostgreSQL does not run as root, and there is no runuser")
    install_psycopg()
    prefix = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        if prefix:
            shutil.chown(name, "postgres", "postgres")
        data = f"{name}/data"
        subprocess.run([*prefix, initdb, "-D", data, "-A", "trust", "-U", "bench"], check=True, capture_output=True)
        command = [*prefix, server, "-D", data, "-k", name, "-c", "listen_addresses="]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            address = f"host={name} user=bench dbname=postgres"
            wait_for_postgres(address)
            yield address
        finally:
            pid = Path(data, "postmaster.pid").read_text().split()[0]
            os.kill(int(pid), 2)
            process.wait(20)


def install_psycopg() -> None:
    if not PSYCOPG.exists():
        command = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet", "--target", str(PSYCOPG)]
        done = subprocess.run([*command, "psycopg[binary]>=3.2"], check=False, capture_output=True, text=True)
        if done.returncode:
            raise LookupError("psycopg cannot be installed: " + done.stderr.strip().splitlines()[-1])


def wait_for_postgres(address: str) -> None:
    sys.path.insert(0, str(PSYCOPG))
    import psycopg  # type: ignore[import-not-found,unused-ignore]

    for _ in range(200):
        try:
            psycopg.connect(address).close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return
    raise LookupError("PostgreSQL did not start")


def pinned(core: int) -> list[str]:
    can_pin = shutil.which("taskset") is not None and (os.cpu_count() or 1) > 1
    return ["taskset", "-c", str(core)] if can_pin else []


def measure(store: str, size: int, connections: int, environment: dict[str, str]) -> tuple[float, ...]:
    """(outcomes acknowledged a second, a CPU second of the server, p50 ms, p99 ms)."""
    with tempfile.TemporaryDirectory(dir=ROOT / ".cache" / "bench") as name:
        command = [*pinned(0), sys.executable, "-m", "benchmarks.intake_stores", store, name]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT) as server:
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            load = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}", "--latency", "-s", str(HERE / "intake_load.lua")]
            command = [*pinned(1), *load, f"http://127.0.0.1:{port}", "--", str(size)]
            used = cpu_seconds(server.pid)
            text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            used = cpu_seconds(server.pid) - used
            server.terminate()
    if "Non-2xx" in text:
        raise RuntimeError(text)
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])  # type: ignore[index]
    count = int(re.search(r"(\d+) requests in", text)[1])  # type: ignore[index]
    return rate * size, count * size / used, *(milliseconds(text, share) for share in ("50%", "99%"))


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def milliseconds(text: str, share: str) -> float:
    found = re.search(rf"{share}\s+([\d.]+)(us|ms|s)\b", text)
    assert found is not None
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]


def disk_floor() -> str:
    """What one fdatasync of 4 KiB costs here and now: nobody can acknowledge faster."""
    with tempfile.NamedTemporaryFile(dir=ROOT / ".cache" / "bench") as file:
        fd = file.fileno()
        os.pwrite(fd, bytes(4 << 20), 0)
        os.fsync(fd)
        times = []
        for i in range(500):
            start = time.perf_counter()
            os.pwrite(fd, b"x" * 4096, i * 4096)
            os.fdatasync(fd)
            times.append((time.perf_counter() - start) * 1000)
    times.sort()
    return f"fdatasync alone at that moment: p50 {times[250]:.2f} ms, p99 {times[495]:.2f} ms"


def compaction() -> None:
    """How fast the log becomes Parquet: a million events, then small batches against that day."""
    from fairtrial.events.compact import Compactor

    encode = msgspec.json.Encoder().encode_lines
    noon = 20_000 * 86_400_000_000 + 43_200_000_000

    def lines(count: int) -> bytes:
        ids = [str(uuid.uuid4()) for _ in range(count)]
        return encode([OutcomeRecord(x, noon + i, noon + i, "purchase", i / 7, None, i) for i, x in enumerate(ids)])

    print("\ncompaction: events a second, or seconds, from the log to synced Parquet, repeats looked for")
    with tempfile.TemporaryDirectory(dir=ROOT / ".cache" / "bench") as name:
        writer = LogWriter(Path(name) / "log" / "outcomes")
        compactor = Compactor(Path(name))
        for count, times in ((1_000_000, 1), (1_000, 7)):
            walls, cpus = [], []
            for _ in range(times):
                part = min(count, 10_000)
                for _ in range(count // part):
                    writer.append_relaxed(lines(part), part)
                while writer.queued_bytes:
                    time.sleep(0.01)
                wall, cpu = time.perf_counter(), time.process_time()
                assert compactor.run_once().rows == count
                walls.append(time.perf_counter() - wall)
                cpus.append(time.process_time() - cpu)
            wall, cpu = statistics.median(walls), statistics.median(cpus)
            per_second = f"  ({count / wall:,.0f} a second; {count / cpu:,.0f} a CPU second)" if count > 10_000 else ""
            print(f"{count:>9,} events {wall:8.3f} s, CPU {cpu:.3f} s{per_second}", flush=True)
        writer.close()
        compactor.close()


def run(stores: list[str], environment: dict[str, str]) -> int:
    """Print one table per shape; 1 where a target was missed."""
    missed = 0
    (ROOT / ".cache" / "bench").mkdir(parents=True, exist_ok=True)
    for title, (size, connections, target) in SHAPES.items():
        results: dict[str, list[tuple[float, ...]]] = {store: [] for store in stores}
        for round_number in range(ROUNDS):
            for store in stores if round_number % 2 == 0 else reversed(stores):
                results[store].append(measure(store, size, connections, environment))
        print(f"\n{title}: outcomes acknowledged a second, median of {ROUNDS} rounds of {SECONDS} s")
        print(disk_floor())
        columns = "".join(f"{c:>10}" for c in ("a second", "worst", "best", "a CPU s", "p50 ms", "p99 ms", "log is"))
        print(f"{'store':<32}{columns}")
        medians = {s: [statistics.median(column) for column in zip(*r, strict=True)] for s, r in results.items()}
        for store in stores:
            rates = [r[0] for r in results[store]]
            rate, per_cpu_second, p50, p99 = medians[store]
            ratio = f"{medians['log'][0] / rate:.2f}x"
            figures = [
                *(f"{x:,.0f}" for x in (rate, min(rates), max(rates), per_cpu_second)),
                f"{p50:.1f}",
                f"{p99:.1f}",
            ]
            numbers = "".join(f"{figure:>10}" for figure in (*figures, ratio))
            print(f"{NAMES[store]:<32}{numbers}", flush=True)
        is_met = medians["log"][0] >= target
        missed += not is_met
        print(f"target {target:,} a second: {'met' if is_met else 'MISSED'}", flush=True)
    compaction()
    return 1 if missed else 0


def main() -> int:
    if shutil.which("wrk") is None:
        print("skipped: wrk is not installed")
        return 0
    environment = {**os.environ, "PYTHONPATH": f"{PSYCOPG}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    stores = json.loads(os.environ.get("BENCH_STORES", '["log", "sqlite", "postgres", "none"]'))
    if "postgres" not in stores:
        return run(stores, environment)
    try:
        with postgres() as address:
            return run(stores, {**environment, "BENCH_POSTGRES": address})
    except LookupError as reason:
        print(f"PostgreSQL is left out: {reason}")
        return run([s for s in stores if s != "postgres"], environment)


if __name__ == "__main__":
    sys.exit(main())
