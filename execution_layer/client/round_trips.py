"""How far nodes are from here: the time in which a TCP connection to each is made, the shortest of a few."""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Final

from execution_layer.client.planning import RoundTrips
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.net import split_address

TRIES: Final = 3
AT_ONCE: Final = 16
TIMEOUT_S: Final = 3.0


async def measured(endpoints: Mapping[str, str]) -> dict[str, float]:
    """Return the round trip in seconds to every endpoint (host:port, by name) that answers."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(name: str, endpoint: str) -> tuple[str, float | None]:
        async with gate:
            return name, await _shortest(endpoint)

    found = await asyncio.gather(*(one(*item) for item in endpoints.items()))
    return {name: seconds for name, seconds in found if seconds is not None}


def given(settings: Sequence[str]) -> RoundTrips:
    """Return the round trips of NODE=MS and NODE,NODE=MS; INVALID_ARGUMENT for anything else."""
    here: dict[str, float] = {}
    between: dict[frozenset[str], float] = {}
    for text in settings:
        names, equals, value = text.partition("=")
        pair = names.split(",")
        try:
            seconds = float(value) / 1000
        except ValueError:
            seconds = -1.0
        valid = all("/" in name for name in pair) and len(set(pair)) == len(pair) <= 2
        if not equals or not valid or not 0 <= seconds < 3600:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT,
                f"{text[:80]!r} is not a round trip",
                remedy="Give OPERATOR/NODE=MS, or OPERATOR/NODE,OPERATOR/NODE=MS for that between two nodes.",
            )
        if len(pair) == 1:
            here[names] = seconds
        else:
            between[frozenset(pair)] = seconds
    return RoundTrips(here, between)


async def _shortest(endpoint: str) -> float | None:
    found = []
    with contextlib.suppress(OSError, TimeoutError, CounterfoilError):
        host, port = split_address(endpoint)
        async with asyncio.timeout(TIMEOUT_S):
            # The name is looked up once, outside of what is measured.
            addresses = await asyncio.get_running_loop().getaddrinfo(host, port)
            for _ in range(TRIES):
                began = time.monotonic()
                _, writer = await asyncio.open_connection(*addresses[0][4][:2])
                found.append(time.monotonic() - began)
                writer.close()
    return min(found, default=None)
