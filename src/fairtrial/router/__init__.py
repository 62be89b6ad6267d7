"""The data plane: asyncio around `wire` and `assign`."""
