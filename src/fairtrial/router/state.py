"""What all connections of one worker share: clock, table, counters, records, ids."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fairtrial.router.counters import WorkerCounters
from fairtrial.router.ids import RequestIds
from fairtrial.router.records import RecordBuffer
from fairtrial.router.wheel import Wheel

if TYPE_CHECKING:
    from fairtrial.router.admin import Admin
    from fairtrial.router.client import ClientConnection
    from fairtrial.router.shadow import ShadowCopy
    from fairtrial.router.table import RouteTable


class WorkerState:
    """One worker's shared state. table is swapped whole; an exchange keeps the plans it began with.

    is_draining: answers close their connection. is_ready: readiness is announced. shadows: copies in flight.
    """

    __slots__ = (
        "admin",
        "connections",
        "counters",
        "ids",
        "is_draining",
        "is_ready",
        "loop",
        "records",
        "shadows",
        "table",
        "wheel",
    )

    admin: Admin

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        wheel: Wheel,
        ids: RequestIds,
        counters: WorkerCounters,
        records: RecordBuffer,
        table: RouteTable,
    ) -> None:
        self.loop = loop
        self.wheel = wheel
        self.ids = ids
        self.counters = counters
        self.records = records
        self.table = table
        self.connections: set[ClientConnection] = set()
        self.shadows: set[ShadowCopy] = set()
        self.is_draining = False
        self.is_ready = True
