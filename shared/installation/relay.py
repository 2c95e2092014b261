"""A link with a delay, for demonstrations on one machine: `python -m shared.installation.relay`.

Everything that a connection carries is held for a while in each direction, in order; nothing is read or changed.
"""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Final

import click

from shared.runtime.net import split_address
from shared.runtime.readiness import run_service, write_ready

PIECE: Final = 1 << 16
HELD: Final = 256
"""Pieces that a direction may hold: a sender that is quicker than the link waits."""


class Relay:
    """Passes on every connection to one address, `seconds` later."""

    def __init__(self, host: str, port: int, seconds: float) -> None:
        self._to = host, port
        self._seconds = seconds

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until both directions have ended, or one breaks."""
        opened = [writer]
        try:
            other_reader, other_writer = await asyncio.open_connection(*self._to)
            opened.append(other_writer)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, other_writer))
                both.create_task(self._pass(other_reader, writer))
        except* OSError:
            pass  # whoever is left sees its connection closed
        finally:
            for one in opened:
                one.close()
            for one in opened:
                with contextlib.suppress(OSError):
                    await one.wait_closed()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(HELD)
        clock = asyncio.get_running_loop().time

        async def take() -> None:
            while True:
                data = await reader.read(PIECE)
                await held.put((clock() + self._seconds, data))
                if not data:
                    return

        async def give() -> None:
            while True:
                due, data = await held.get()
                await asyncio.sleep(max(0.0, due - clock()))
                if not data:
                    if writer.can_write_eof():
                        writer.write_eof()
                    return
                writer.write(data)
                await writer.drain()

        async with asyncio.TaskGroup() as both:
            both.create_task(take())
            both.create_task(give())


@click.command()
@click.option("--ports", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--listen", required=True, help="Its own name among the ports.")
@click.option("--to", required=True, help="The name of what it passes connections on to.")
@click.option("--delay-ms", type=click.FloatRange(0, 10_000), required=True, help="Each way.")
@click.option("--ready-file", type=click.Path(path_type=Path), required=True)
def main(ports: Path, listen: str, to: str, delay_ms: float, ready_file: Path) -> int:
    """Pass connections on, later."""
    addresses = json.loads(ports.read_text(encoding="utf-8"))
    (host, port), target = split_address(addresses[listen]), split_address(addresses[to])

    async def serve(stop: asyncio.Event) -> None:
        relay = Relay(*target, delay_ms / 1000)
        server = await asyncio.start_server(relay.connected, host, port)
        write_ready(ready_file, {"tcp": addresses[listen]})
        await stop.wait()
        server.close()

    return run_service(serve)


if __name__ == "__main__":
    raise SystemExit(main.main(standalone_mode=False))
