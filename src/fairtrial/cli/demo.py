"""`fairtrial demo`: two real models compete for real, in about a minute.

Trains a champion and a challenger on hand-written digits, serves both over HTTP, starts `fairtrial up` in front of
them, drives users through the router, posts true labels late, and ends with the verdict table. Nothing here is
simulated but the users' patience: the same processes, log and statistics as in production.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import httpx
import msgspec

from fairtrial.model.errors import UpstreamError
from fairtrial.model.view import ExperimentView

if TYPE_CHECKING:
    from fairtrial.cli.demo_screen import Screen
    from fairtrial.cli.demo_traffic import Driver

EXPERIMENT = "digits-2-launch"
WINDOW_S = 8.0
USERS_PER_SECOND = 32
SHORTEST_S, LONGEST_S = 10.0, 75.0
MOST_USERS = 20_000
START_TIMEOUT_S = 60.0
SLOW_MS = 150.0
FAILING_SHARE = 0.2


class Scenario(StrEnum):
    """What the challenger is like."""

    BETTER = "better"
    SAME = "same"
    SLOWER = "slower"
    FAILING = "failing"


STORIES = {
    Scenario.BETTER: "the challenger reads more digits correctly",
    Scenario.SAME: "the challenger is the champion under another name",
    Scenario.SLOWER: f"the challenger is better, but takes {SLOW_MS:.0f} ms longer",
    Scenario.FAILING: f"the challenger fails {FAILING_SHARE:.0%} of its requests",
}

FILE = """\
models:
  digits-1: {{url: {champion}/v1/models/digits, version: "1"}}
  digits-2: {{url: {challenger}/v1/models/digits, version: "2"}}
endpoints:
  digits:
    match: {{path: /v1/models/digits}}
    model: digits-1
experiments:
  {name}:
    endpoint: digits
    hypothesis: The challenger reads more hand-written digits correctly, without failing or slowing down.
    owner: demo
    unit: {{header: x-user-id}}
    variants:
      control: {{model: digits-1}}
      treatment: {{model: digits-2}}
    split: {{control: 50, treatment: 50}}
    metrics:
      accuracy:
        role: primary
        kind: ratio
        numerator: {{event: label, value: correct}}
        denominator: {{event: label, value: count}}
        within: {window_s}s
        mde: 5pp
      errors: {{role: guardrail, kind: proportion, of: error, margin: 2pp, limit: 10%}}
      latency: {{role: guardrail, kind: quantile, of: latency_s, quantile: 0.95, margin: 0.05}}
    analysis: {{method: group_sequential, planned_units: {users}, min_runtime: {min_runtime_s}s}}
"""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Base URLs of the running system."""

    router: str
    control: str


async def _first_line(process: asyncio.subprocess.Process, messages: Path) -> str:
    """The line that says a process is ready. Raises UpstreamError with its own words where it is not."""
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), START_TIMEOUT_S)
    except TimeoutError:
        raise UpstreamError(f"{messages.stem} did not start within {START_TIMEOUT_S:.0f} s") from None
    if not line:
        code = await process.wait()
        raise UpstreamError(f"{messages.stem} ended with code {code} before it was ready:\n{_words(messages)}")
    return line.decode().strip()


def _words(messages: Path) -> str:
    return messages.read_text(errors="replace").strip()


@contextlib.asynccontextmanager
async def _process(*arguments: str, messages: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a module; what it says on stderr goes to `messages`, so that the screen stays readable."""
    with messages.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,  # Ctrl-C reaches us alone, and we end them in order
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), 15)
            except TimeoutError:
                process.kill()
                await process.wait()


def _model_arguments(scenario: Scenario, *, is_challenger: bool, seed: int) -> list[str]:
    is_better = is_challenger and scenario is not Scenario.SAME
    arguments = ["fairtrial.cli.demo_model", "--seed", str(seed), "--kind", "challenger" if is_better else "champion"]
    if is_challenger and scenario is Scenario.SLOWER:
        arguments += ["--slow-ms", str(SLOW_MS)]
    if is_challenger and scenario is Scenario.FAILING:
        arguments += ["--failing", str(FAILING_SHARE)]
    return arguments


@contextlib.asynccontextmanager
async def _system(scenario: Scenario, *, users: int, seed: int, state: Path) -> AsyncIterator[Addresses]:
    """Two model servers and `fairtrial up` in front of them, all on free ports; stopped on the way out."""
    async with contextlib.AsyncExitStack() as stack:
        logs = [state / "champion.log", state / "challenger.log"]
        servers = [
            await stack.enter_async_context(
                _process(*_model_arguments(scenario, is_challenger=c, seed=seed), messages=logs[c])
            )
            for c in (False, True)
        ]
        ports = await asyncio.gather(*(_first_line(s, log) for s, log in zip(servers, logs, strict=True)))
        champion, challenger = (f"http://127.0.0.1:{port}" for port in ports)
        file = state / "experiment.yaml"
        file.write_text(
            FILE.format(
                name=EXPERIMENT,
                champion=champion,
                challenger=challenger,
                window_s=int(WINDOW_S),
                users=users,
                min_runtime_s=int(_duration_s(users) / 2),
            )
        )
        arguments = (
            "-f",
            str(file),
            "--state",
            str(state / "state"),
            "--router-port",
            "0",
            "--port",
            "0",
            "-o",
            "json",
        )
        up_log = state / "up.log"
        up = await stack.enter_async_context(
            _process("fairtrial.cli.main", "up", *arguments, "--refresh", "1s", messages=up_log)
        )
        ready = json.loads(await _first_line(up, up_log))
        yield Addresses(ready["router"], ready["control"])


def _duration_s(users: int) -> float:
    return min(max(users / USERS_PER_SECOND, SHORTEST_S), LONGEST_S)


async def _view(client: httpx.AsyncClient, addresses: Addresses, *, fresh: bool = False) -> ExperimentView | None:
    url = f"{addresses.control}/api/v1/experiments/{EXPERIMENT}/view"
    answer = await client.get(url, params={"fresh": "true"} if fresh else {})
    if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        return None
    answer.raise_for_status()
    return msgspec.json.decode(answer.content, type=ExperimentView)


async def _compete(driver: Driver, addresses: Addresses, screen: Screen) -> ExperimentView:
    """Drive all users while showing what is known; then let the last units mature and take the final view."""
    async with httpx.AsyncClient(timeout=30) as client:
        traffic = asyncio.create_task(driver.run())
        try:
            while not traffic.done():
                await asyncio.wait([traffic], timeout=1.0)
                screen.show(driver.traffic, await _view(client, addresses))
            traffic.result()
        finally:
            traffic.cancel()
            await asyncio.gather(traffic, return_exceptions=True)
        for left in range(int(WINDOW_S) + 1, 0, -1):
            screen.show(driver.traffic, await _view(client, addresses), waiting_s=left)
            await asyncio.sleep(1.0)
        view = await _view(client, addresses, fresh=True)
    if view is None:
        raise UpstreamError("the control process has no view of the experiment")
    return view


async def _run(scenario: Scenario, *, users: int, seed: int, state: Path, screen: Screen) -> ExperimentView:
    from fairtrial.cli.demo_model import load_rows
    from fairtrial.cli.demo_traffic import Driver, Row

    screen.say(f"Scenario {scenario.value}: {STORIES[scenario]}.")
    screen.say("Training a champion and a challenger on hand-written digits (scikit-learn), starting both servers ...")
    _, _, pixels, labels = load_rows(seed)
    rows = [Row(tuple(map(float, p)), int(label)) for p, label in zip(pixels, labels, strict=True)]
    async with _system(scenario, users=users, seed=seed, state=state) as addresses:
        screen.say(f"Router  {addresses.router}/v1/models/digits:predict")
        screen.say(f"Status  {addresses.control}/   (open it in a browser while this runs)")
        driver = Driver(
            rows,
            router=addresses.router,
            control=addresses.control,
            users=users,
            duration_s=_duration_s(users),
            seed=seed,
        )
        with screen.live(users):
            return await _compete(driver, addresses, screen)


def demo(
    scenario: Scenario = Scenario.BETTER,
    *,
    users: int = 1_200,
    seed: int = 7,
    output: Literal["table", "json"] = "table",
    state: Path | None = None,
) -> int:
    """Let two real models compete for about a minute, and print the verdict.

    The exit code is 0 when the trial could be run, whatever its verdict.
    """
    from fairtrial.cli.analyze import print_view
    from fairtrial.cli.demo_screen import Screen

    with contextlib.ExitStack() as stack:
        if state is None:
            state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fairtrial-demo-")))
        state.mkdir(parents=True, exist_ok=True)
        screen = Screen(is_quiet=output == "json")
        view = asyncio.run(_run(scenario, users=users, seed=seed, state=state, screen=screen))
    print_view(view, output=output)
    screen.closing(scenario, view)
    return 0
