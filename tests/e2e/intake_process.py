"""A process that serves the intake: `intake_process.py STATE [--no-sync]`. Prints its port, then serves until killed.

--no-sync: fsync does nothing; the negative control of the power cut.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import uvloop
from starlette.applications import Starlette

from fairtrial.api.intake import Intake
from fairtrial.api.server import ControlServer


async def serve(state: Path) -> None:
    intake = Intake.open(state, loop=asyncio.get_running_loop())
    server = ControlServer(Starlette(), intake)
    await server.start()
    print(server.port, flush=True)
    await asyncio.Event().wait()


def pretend(_fd: object) -> None:
    """No disk is asked."""


if __name__ == "__main__":
    if "--no-sync" in sys.argv:
        for name in ("fsync", "fdatasync"):
            setattr(os, name, pretend)
    uvloop.run(serve(Path(sys.argv[1])))
