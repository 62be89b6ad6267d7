"""A real model behind a real HTTP server, for `fairtrial demo`: scikit-learn on hand-written digits, V1 `:predict`.

    python -m fairtrial.cli.demo_model --kind challenger --port 0 --seed 7 [--slow-ms 80] [--failing 0.2]

Champion: logistic regression that has seen few examples. Challenger: a support-vector machine that has seen them all.
The first line on stdout is the port it listens on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import sys
from typing import TYPE_CHECKING, Any

import uvicorn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

TRAFFIC_SHARE = 0.5
CHAMPION_EXAMPLES = 60


def load_rows(seed: int) -> tuple[Any, Any, Any, Any]:
    """Split the 1,797 digits into training rows and held-out rows: (x_train, y_train, x_traffic, y_traffic)."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    x_train, x_traffic, y_train, y_traffic = train_test_split(
        pixels, labels, test_size=TRAFFIC_SHARE, random_state=seed, stratify=labels
    )
    return x_train, y_train, x_traffic, y_traffic


def train(kind: str, seed: int) -> Any:
    """Fit the champion or the challenger on training rows only."""
    x_train, y_train, _, _ = load_rows(seed)
    if kind == "challenger":
        from sklearn.svm import SVC

        return SVC(gamma=0.001).fit(x_train, y_train)
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=2000).fit(x_train[:CHAMPION_EXAMPLES], y_train[:CHAMPION_EXAMPLES])


class ModelServer:
    """The ASGI application: V1 prediction protocol for one model, with the faults that a scenario asks for."""

    def __init__(self, model: Any, *, slow_ms: float, failing: float, seed: int) -> None:
        self._model = model
        self._slow_s = slow_ms / 1000
        self._failing = failing
        self._random = random.Random(seed)  # noqa: S311 -- which answers fail in a demo is no secret

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        """Read the whole body, answer once (ASGI 3)."""
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        status, answer = await self._answer(scope["path"], body)
        payload = json.dumps(answer).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(payload)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": payload})

    async def _answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if not path.endswith(":predict"):
            return 404, {"error": f"no such route: {path}"}
        try:
            instances = json.loads(body)["instances"]
        except (ValueError, KeyError, TypeError):
            return 400, {"error": 'the body must be {"instances": [[64 numbers], ...]}'}
        if self._slow_s:
            await asyncio.sleep(self._slow_s * self._random.uniform(0.8, 1.2))
        if self._failing and self._random.random() < self._failing:
            return 500, {"error": "out of memory"}
        return 200, {"predictions": [int(digit) for digit in self._model.predict(instances)]}


def main() -> int:
    """Train, listen, print the port, serve until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=["champion", "challenger"], required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slow-ms", type=float, default=0.0)
    parser.add_argument("--failing", type=float, default=0.0)
    arguments = parser.parse_args()

    model = train(arguments.kind, arguments.seed)
    server = ModelServer(model, slow_ms=arguments.slow_ms, failing=arguments.failing, seed=arguments.seed)
    listener = socket.create_server(("127.0.0.1", arguments.port))
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    config = uvicorn.Config(server, log_level="warning", lifespan="off", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
