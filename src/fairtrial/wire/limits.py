"""How much of everything one HTTP message may have."""

from __future__ import annotations

from dataclasses import dataclass, fields

from fairtrial.model.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds, inclusive; sizes in bytes, at least 1. Whoever goes over one is refused at once, not at the end.

    max_head_bytes: request line, fields and blank line (431). max_target_bytes: request target (414). max_fields: field
    lines of a head, and of a trailer section (431). max_chunk_line_bytes: a chunk-size line with its extensions (400).
    max_extension_bytes: all chunk extensions of a body together (400). max_trailer_bytes: trailer section (431).
    max_response_head_bytes: head of a response (502). max_body_bytes: payload of a request (413); None where the
    caller counts for itself, as the router does by endpoint.
    """

    max_head_bytes: int = 32 << 10
    max_target_bytes: int = 8 << 10
    max_fields: int = 100
    max_chunk_line_bytes: int = 4 << 10
    max_extension_bytes: int = 32 << 10
    max_trailer_bytes: int = 8 << 10
    max_response_head_bytes: int = 64 << 10
    max_body_bytes: int | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None and value < 1:
                raise ConfigError(f"{each.name} is {value}; must be at least 1")
