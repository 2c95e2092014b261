"""Starting and stopping a service: the ready file, and signals that request an orderly shutdown."""

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from shared.runtime.keys import write_atomic

CANCELLED_EXIT: Final = 130


def write_ready(path: Path, addresses: Mapping[str, str]) -> None:
    """Tell the parent process what was bound, as JSON such as `{"grpc": "127.0.0.1:41234"}`.
    The file appears complete, and only once the service answers.
    """
    write_atomic(path, (json.dumps(dict(addresses), indent=2) + "\n").encode())


def run_service(main: Callable[[asyncio.Event], Awaitable[int | None]]) -> int:
    """Run `main(stop)` in a fresh event loop and return its exit code (0 for None).

    SIGTERM and SIGINT set `stop`, which asks `main` to finish what is in flight and return; a second
    signal cancels it. What `main` raises is raised here.
    """
    return asyncio.run(_run(main))


async def _run(main: Callable[[asyncio.Event], Awaitable[int | None]]) -> int:
    stop = asyncio.Event()
    task = asyncio.ensure_future(main(stop))

    def asked() -> None:
        if stop.is_set():
            task.cancel()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)
    try:
        return await task or 0
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
        return CANCELLED_EXIT
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
