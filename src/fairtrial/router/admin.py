"""What the router answers itself: health, readiness, and the metrics of all workers.

Workers share one port, so a scrape reaches any of them. Each also listens on a unix socket; whoever is scraped asks its
siblings there, and the control process does the same (`collect_metrics`). The protocol of that socket is: connect, read
one page of Prometheus text to the end.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fairtrial.router.metrics import CONTENT_TYPE, merge_metrics
from fairtrial.wire.render import response
from fairtrial.wire.request import RequestHead

if TYPE_CHECKING:
    from fairtrial.router.client import ClientConnection
    from fairtrial.router.state import WorkerState

SIBLING_TIMEOUT_S: Final = 0.5
# sun_path holds 104 bytes on macOS and 108 on Linux, the final NUL included.
_MAX_SOCKET_PATH: Final = 100


def run_dir(state_dir: Path) -> Path:
    """Where running workers leave their addresses."""
    return state_dir / "run"


def announcement_path(state_dir: Path, worker_id: int) -> Path:
    """The JSON file of one running worker: pid, host, port, metrics_socket, snapshot."""
    return run_dir(state_dir) / f"router-{worker_id}.json"


def metrics_socket_path(state_dir: Path, worker_id: int) -> Path:
    """Its unix socket; in a short temporary directory where the state directory's path is too long for one."""
    path = run_dir(state_dir).absolute() / f"router-{worker_id}.sock"
    if len(str(path).encode()) < _MAX_SOCKET_PATH:
        return path
    return Path(tempfile.mkdtemp(prefix="fairtrial-")) / "router.sock"


class Admin:
    """Answers of one worker. render: its own metrics page."""

    def __init__(self, worker: WorkerState, *, state_dir: Path, worker_id: int, render: Callable[[], str]) -> None:
        self._worker = worker
        self._state_dir = state_dir
        self._worker_id = worker_id
        self._render = render
        self._tasks: set[asyncio.Task[None]] = set()

    def answer(self, client: ClientConnection, head: RequestHead) -> None:
        """Answer one request to `/-/...` now, or as soon as the siblings have."""
        if head.method not in {b"GET", b"HEAD"}:
            _send(client, head, 405, "text/plain", b"only GET and HEAD\n")
            return
        path = head.target.partition(b"?")[0]
        if path == b"/-/metrics":
            task = self._worker.loop.create_task(self._send_metrics(client, head))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        is_serving = self._worker.is_ready and not self._worker.is_draining
        body = {
            "status": "serving" if is_serving else "draining",
            "snapshot": self._worker.table.snapshot.version,
            "digest": self._worker.table.snapshot.digest,
        }
        _send(client, head, 200 if is_serving else 503, "application/json", json.dumps(body).encode() + b"\n")

    async def _send_metrics(self, client: ClientConnection, head: RequestHead) -> None:
        texts = await collect_texts(self._state_dir, skip=self._worker_id)
        page = merge_metrics([self._render(), *texts])
        _send(client, head, 200, CONTENT_TYPE, page.encode())

    async def listen(self, path: Path) -> asyncio.Server:
        """Serve this worker's own page on a unix socket, which must not exist."""
        return await asyncio.start_unix_server(self._serve_page, str(path))

    async def _serve_page(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(self._render().encode())
            await asyncio.wait_for(writer.drain(), SIBLING_TIMEOUT_S)
        except (OSError, TimeoutError):
            return  # whoever asked has gone; it counts this worker as absent
        finally:
            writer.close()


def _send(client: ClientConnection, head: RequestHead, status: int, content_type: str, body: bytes) -> None:
    fields = b"Cache-Control: no-store\r\n"
    is_head = head.method == b"HEAD"
    keep_alive = client.keep_alive and not head.is_http10
    client.answer_directly(
        response(status, body, content_type=content_type, fields=fields, is_head=is_head, keep_alive=keep_alive),
        keep_alive=keep_alive,
    )


async def collect_metrics(state_dir: Path) -> str:
    """The metrics of all running workers of a state directory, merged; empty families where none answers."""
    return merge_metrics(await collect_texts(state_dir, skip=None))


async def collect_texts(state_dir: Path, *, skip: int | None) -> list[str]:
    """The page of each running worker except `skip`; one that does not answer in SIBLING_TIMEOUT_S is left out."""
    own = announcement_path(state_dir, skip).name if skip is not None else ""
    paths = [path for path in sorted(run_dir(state_dir).glob("router-*.json")) if path.name != own]
    texts = await asyncio.gather(*(_ask_sibling(path) for path in paths))
    return [text for text in texts if text]


def _socket_of(announcement: Path) -> str:
    return str(json.loads(announcement.read_bytes())["metrics_socket"])


async def _ask_sibling(announcement: Path) -> str:
    try:
        address = _socket_of(announcement)
        async with asyncio.timeout(SIBLING_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(address)
            try:
                return (await reader.read()).decode()
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError, KeyError):
        return ""  # not running any more, or not yet: its file is older or newer than its socket
