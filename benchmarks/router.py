"""The router beside nginx, HAProxy, Envoy and the naive Flask proxy: requests a second, CPU, latency, memory.

Every proxy has one core, splits the same users between two models, and talks to the same backend; wrk and the backend
have the other core. Rounds alternate between the peers; medians are printed. Ours has everything switched on: strict
parsing, assignment, request records to disk, metrics. On a busy machine CPU per request is the figure to trust.

  python -m benchmarks.router [--rounds 5] [--seconds 3] [--soak]
"""

from __future__ import annotations

import argparse
import http.client
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.router_peers import CACHE, LOAD_CORE, PEERS, Running, SkippedError, affinity

LOAD = Path(__file__).parent / "router_load"
PATH = "/v1/models/churn:predict"


@dataclass(frozen=True)
class Round:
    """What one run of wrk measured. latencies: milliseconds."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    errors: int


@dataclass
class Peer:
    name: str
    port: int
    running: Running | None
    rounds: list[Round] = field(default_factory=list)
    single: list[Round] = field(default_factory=list)
    half: list[Round] = field(default_factory=list)
    rss_mib: float = 0.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def start_backend(stack: ExitStack) -> int:
    """The C backend of router_load/, so that the load side is never the limit."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SkippedError("no C compiler for the benchmark's backend")
    CACHE.mkdir(parents=True, exist_ok=True)
    binary = CACHE / "backend"
    subprocess.run([compiler, "-O2", "-w", "-o", str(binary), str(LOAD / "backend.c")], check=True)
    process = subprocess.Popen([str(binary)], stdout=subprocess.PIPE, preexec_fn=affinity(LOAD_CORE))  # noqa: PLW1509
    stack.callback(process.kill)
    assert process.stdout is not None
    return int(process.stdout.readline())


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("POST", PATH, b"{}", {"x-user-id": "u"})
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise SkippedError("it did not answer within 30 s")
        time.sleep(0.1)


_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


def _ms(text: str, mark: str) -> float:
    found = re.search(rf"{mark}\s+([0-9.]+)(us|ms|s|m)\b", text)
    return float(found[1]) * _UNITS[found[2]] if found else float("nan")


def load(peer: Peer, *, seconds: float, connections: int, script: str, arguments: list[str]) -> Round:
    before = peer.running.cpu_s() if peer.running else 0.0
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", str(LOAD / script)]
    command += [f"http://127.0.0.1:{peer.port}", "--", *arguments]
    output = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=affinity(LOAD_CORE)).stdout
    cpu_s = (peer.running.cpu_s() if peer.running else 0.0) - before
    total = re.search(r"(\d+) requests in ([0-9.]+)(s|m)", output)
    assert total is not None, output
    count = int(total[1])
    rate = re.search(r"Requests/sec:\s+([0-9.]+)", output)
    errors = sum(int(number) for number in re.findall(r"Non-2xx or 3xx responses: (\d+)", output))
    sockets = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    errors += sum(map(int, sockets.groups())) if sockets else 0
    return Round(
        float(rate[1]) if rate else 0.0, _ms(output, r"50%"), _ms(output, r"99%"), cpu_s / max(count, 1) * 1e6, errors
    )


def start_peers(stack: ExitStack, backend: int, wanted: list[str]) -> list[Peer]:
    peers = [Peer("direct", backend, None)]
    for name in wanted:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)))
        port = free_port()
        try:
            running = PEERS[name](folder, backend, port)
            stack.callback(running.stop)
            wait_for(port)
        except SkippedError as reason:
            print(f"{name}: skipped, {reason}\n")
            continue
        peers.append(Peer(name, port, running))
    return peers


def measure(peers: list[Peer], *, rounds: int, seconds: float) -> None:
    small = ["300", "0"]
    for number in range(rounds + 1):
        for peer in peers:
            found = load(peer, seconds=seconds, connections=32, script="predict.lua", arguments=small)
            if number:  # the first warms up
                peer.rounds.append(found)
    for _ in range(max(3, rounds // 2)):
        for peer in peers:
            peer.single.append(load(peer, seconds=seconds, connections=1, script="predict.lua", arguments=small))
    half = median(each.rate for each in peers[1].rounds) / 2
    delay_ms = 5
    connections = max(1, round(half * delay_ms / 1e3))
    for _ in range(max(3, rounds // 2)):
        for peer in peers:
            if median(each.rate for each in peer.rounds) < half:
                continue  # it would only queue
            arguments = [*small, str(delay_ms)]
            peer.half.append(
                load(peer, seconds=seconds, connections=connections, script="paced.lua", arguments=arguments)
            )
    for peer in peers:
        peer.rss_mib = peer.running.rss_mib() if peer.running else 0.0


def middle(rounds: list[Round], name: str) -> float:
    return median(getattr(each, name) for each in rounds) if rounds else float("nan")


def show(peers: list[Peer]) -> None:
    by_name = {peer.name: peer for peer in peers}
    print("POST of 300 bytes of JSON, 32 connections; the proxy on one core; latencies in milliseconds.\n")
    print("| proxy | req/s | x nginx | x Envoy | CPU us/req | p50 | p99 | RSS MiB | errors |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for peer in peers:
        rate = middle(peer.rounds, "rate")
        ratios = [
            f"{rate / middle(by_name[name].rounds, 'rate'):.2f}" if name in by_name else "-"
            for name in ("nginx split_clients", "Envoy weighted clusters")
        ]
        print(
            f"| {peer.name} | {rate:,.0f} | {ratios[0]} | {ratios[1]} | {middle(peer.rounds, 'cpu_us'):.1f} "
            f"| {middle(peer.rounds, 'p50_ms'):.2f} | {middle(peer.rounds, 'p99_ms'):.2f} | {peer.rss_mib:.0f} "
            f"| {sum(each.errors for each in peer.rounds)} |"
        )
    direct = by_name["direct"]
    print("\nAdded latency (minus `direct`), one connection; and at half of our own highest rate (paced).\n")
    print("| proxy | added p50, 1 connection | p50, half load | added p50, half load | p99, half load |")
    print("|---|---:|---:|---:|---:|")
    for peer in peers:
        half = middle(peer.half, "p50_ms")
        print(
            f"| {peer.name} | {middle(peer.single, 'p50_ms') - middle(direct.single, 'p50_ms'):.3f} | {half:.2f} "
            f"| {half - middle(direct.half, 'p50_ms'):.3f} | {middle(peer.half, 'p99_ms'):.2f} |"
        )


def soak(peer: Peer, requests: int) -> None:
    """Memory over a million requests, then with a thousand readers that do not read."""
    assert peer.running is not None
    print(f"\nMemory of one worker over {requests:,} requests.\n")
    print("| requests | RSS MiB |\n|---:|---:|")
    done = 0
    while done < requests:
        found = load(peer, seconds=5, connections=64, script="predict.lua", arguments=["300", "0"])
        done += int(found.rate * 5)
        print(f"| {done:,} | {peer.running.rss_mib():.1f} |")
    before = peer.running.rss_mib()
    readers = [slow_reader(peer.port) for _ in range(1000)]
    levels = []
    for _ in range(6):
        time.sleep(10)
        levels.append(peer.running.rss_mib())
    for reader in readers:
        reader.close()
    time.sleep(2)
    print("\n1,000 clients that pipeline requests and never read an answer.\n")
    print(f"RSS before {before:.1f} MiB; every 10 s {', '.join(f'{level:.1f}' for level in levels)} MiB; ", end="")
    print(f"after they left {peer.running.rss_mib():.1f} MiB.")


def slow_reader(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    request = f"POST {PATH} HTTP/1.1\r\nHost: h\r\nx-user-id: slow\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    try:
        for _ in range(50):
            sock.send(request * 100)
    except BlockingIOError:
        pass
    return sock


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--soak", action="store_true", help="memory over a million requests and with slow readers")
    parser.add_argument("--requests", type=int, default=1_000_000, help="of the soak")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        print("skipped: wrk is not installed")
        return 0
    with ExitStack() as stack:
        try:
            backend = start_backend(stack)
        except SkippedError as reason:
            print(f"skipped: {reason}")
            return 0
        peers = start_peers(stack, backend, ["fairtrial"] if options.soak else options.peers)
        if options.soak:
            soak(peers[1], options.requests)
        else:
            measure(peers, rounds=options.rounds, seconds=options.seconds)
            show(peers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
