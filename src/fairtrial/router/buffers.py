"""Where models' bytes land: one buffer for all connections of a worker, so that a read cannot be larger than that.

Without it uvloop reads up to 256 KiB at once, and a thousand clients that read slowly hold a quarter of a gigabyte. A
buffer is filled and copied out of within one callback, so sharing it is safe on one event loop. Clients are read the
plain way: a buffered read costs 2 us a request, and what a client may leave with us is bounded by PIPELINE_BYTES and
one read.
"""

from __future__ import annotations

from typing import Final

READ: Final = memoryview(bytearray(64 << 10))
# Bytes that a slow client may leave in our memory before its model is paused.
WRITE_HIGH_BYTES: Final = 32 << 10
