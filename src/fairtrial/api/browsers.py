"""Keeps web pages of other sites away from a port that trusts whoever reaches it.

A browser on the operator's machine reaches loopback too. A page elsewhere can post to it (its Origin gives it away) or,
by DNS rebinding, read from it under a name of its own (its Host gives it away). Programs send neither.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache
from typing import Any

from fairtrial.api.problems import problem

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


@lru_cache(maxsize=256)
def objection(host: bytes | None, origin: bytes | None) -> str | None:
    """Why a request must be refused (403), or None. host, origin: values of these fields, None where absent."""
    if host is not None and not is_loopback(_name(host)):
        return (
            f"Host is {host.decode('latin-1')!r}; this port answers to localhost and loopback addresses only: put an "
            "authenticating proxy that sets Host in front of it"
        )
    if origin is not None and origin.lower() != b"http://" + (host or b"").lower():
        return f"Origin is {origin.decode('latin-1')!r}: pages of other sites may not use this port"
    return None


def is_loopback(name: str) -> bool:
    """True for localhost and literal loopback addresses."""
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _name(host: bytes) -> str:
    """Host without its port, and without the brackets of an IPv6 address."""
    text = host.decode("latin-1").strip()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]


class OwnPagesOnly:
    """ASGI middleware: 403 for what `objection` objects to."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Look at two fields, then step aside."""
        if scope["type"] == "http":
            fields = dict(scope["headers"])
            reason = objection(fields.get(b"host"), fields.get(b"origin"))
            if reason is not None:
                await problem(403, reason)(scope, receive, send)
                return
        await self._app(scope, receive, send)
