"""Where the kernel's bytes land: one buffer for all connections of a worker, so that a read cannot be larger than that.

Without it uvloop reads up to 256 KiB at once, and a thousand clients that send and never read hold a quarter of a
gigabyte. A buffer is filled and copied out of within one callback, so sharing it is safe on one event loop.
"""

from __future__ import annotations

from typing import Final

# Heads, and requests that wait behind one that is being answered.
SMALL: Final = memoryview(bytearray(16 << 10))
# Bodies, either way.
LARGE: Final = memoryview(bytearray(64 << 10))
# Bytes that a slow peer may leave in our memory before the other side is paused.
WRITE_HIGH_BYTES: Final = 32 << 10
