"""Waiting for a state, with a limit instead of a fixed sleep."""

import asyncio


async def until(condition, timeout_s=10.0):
    """Return once a condition holds for which there is no event."""
    async with asyncio.timeout(timeout_s):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)
