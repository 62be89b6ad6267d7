"""docs/reference/events-api.md keeps its word: its examples run, and its limits are the code's."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import uvloop
from starlette.applications import Starlette

from fairtrial.api.intake import MAX_BODY_BYTES, MAX_ERRORS_LISTED, Intake
from fairtrial.api.intake_protocol import REQUEST_TIMEOUT_S
from fairtrial.api.server import ControlServer
from fairtrial.events.items import MAX_AHEAD_US, MAX_ID_CHARS, MAX_UNIT_BYTES, MAX_VALUES

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "events-api.md").read_text()
BLOCKS = re.findall(r"```(sh|json)\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_every_example_gives_the_answer_on_the_page(tmp_path: Path) -> None:
    async def story() -> None:
        intake = Intake.open(tmp_path, loop=asyncio.get_running_loop())
        server = ControlServer(Starlette(), intake)
        await server.start()
        for (kind, text), (next_kind, answer) in zip(BLOCKS, [*BLOCKS[1:], ("", "")], strict=True):
            if kind == "sh":
                command = text.replace("127.0.0.1:8081", f"127.0.0.1:{server.port}")
                done = await asyncio.to_thread(
                    subprocess.run, ["sh", "-c", command], capture_output=True, text=True, check=True
                )
                if next_kind == "json":
                    expected = answer
                elif "exposures" in text:
                    expected = '{"accepted":1,"rejected":0,"errors":[]}'
                else:
                    expected = '{"accepted":2,"rejected":0,"errors":[]}'
                assert json.loads(done.stdout) == json.loads(expected)
        await server.stop()
        intake.close()

    uvloop.run(story())


def test_the_page_names_the_limits_of_the_code() -> None:
    assert f"at most {MAX_BODY_BYTES >> 20} MiB" in PAGE
    assert f"1 to {MAX_UNIT_BYTES} bytes" in PAGE
    assert f"1 to {MAX_ID_CHARS} characters" in PAGE
    assert f"1 to {MAX_VALUES} named finite numbers" in PAGE
    assert f"{MAX_AHEAD_US // 60_000_000} minutes ahead" in PAGE
    assert f"at most {MAX_ERRORS_LISTED:,} " in PAGE
    assert f"within {REQUEST_TIMEOUT_S:.0f} s" in PAGE
