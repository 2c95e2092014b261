"""`counterfoil client resume`: finishes answers that were cut off, from the archive and from their nodes."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from execution_layer.commands.options import config_option
from shared.runtime.output import emit, emit_line, json_option, table

if TYPE_CHECKING:
    from execution_layer.client.archive import Transcript
    from execution_layer.client.policy import ClientPolicy


@click.command("resume")
@config_option
@click.argument("which", metavar="[ENTRY]", required=False)
@click.option("--list", "listing", is_flag=True, help="Only list the answers that are open.")
@json_option
def resume(config: Path, which: str | None, listing: bool, as_json: bool) -> int:
    """Finish answers that were cut off when this client died or gave up: all of them, or the one of an order's ENTRY.

    A node keeps an answer for as long as it keeps the evidence of it. Nothing is computed again, and nothing is paid twice.
    An answer that another process still waits for is received by both.
    """
    from execution_layer.client.archive import Archive  # noqa: PLC0415  # --help stays light
    from execution_layer.client.policy import ClientPolicy  # noqa: PLC0415  # likewise

    policy = ClientPolicy.load(config)
    archive = Archive(policy.archive)
    try:
        found = archive.unfinished()
        wanted = [archive.find(which)] if which is not None else found
    finally:
        archive.close()
    if listing:
        return _list(found, as_json)
    return asyncio.run(_finish(policy, [item.order_entry.hex() for item in wanted], as_json))


def _list(found: "list[Transcript]", as_json: bool) -> int:
    from execution_layer.client.show import brief  # noqa: PLC0415  # --help stays light

    facts = [{**brief(item), "frames": len(item.frames)} for item in found]
    rows = [
        (item["created"], item["node"], item["state"], item["frames"], item["order"])
        for item in facts
    ]
    columns = ("created", "node", "state", "frames", "order")
    emit(facts, as_json, lambda: table("Answers that were cut off", columns, rows))
    return 0


async def _finish(policy: "ClientPolicy", orders: list[str], as_json: bool) -> int:
    """Finish answers one after another; return 1 if one of them could not be."""
    from execution_layer.client.batch import summary  # noqa: PLC0415  # --help stays light
    from execution_layer.client.client import AsyncCounterfoilClient  # noqa: PLC0415  # likewise
    from shared.runtime.errors import CounterfoilError  # noqa: PLC0415  # likewise

    failed = 0
    async with AsyncCounterfoilClient(policy) as client:
        for order in orders:
            try:
                facts: dict[str, Any] = summary(await client.resume(order, on_pause=tell_pause))
            except CounterfoilError as error:
                failed = 1
                facts = {"error": error.code.name, "detail": str(error)}
            _show({"order": order, **facts}, as_json)
    return failed


def _show(facts: dict[str, Any], as_json: bool) -> None:
    from shared.runtime.printable import for_terminal  # noqa: PLC0415  # --help stays light

    if as_json:
        emit_line(facts)
    elif "error" in facts:
        click.secho(f"{facts['order'][:16]}…: {for_terminal(facts['detail'])}", fg="red", err=True)
    else:
        click.echo(for_terminal(facts["text"]))
        told = f"— {facts['node']}: {facts['finish']}; receipt {facts['receipt']} checked"
        click.secho(told, fg="green", err=True)


def tell_pause(name: str, error: Exception) -> None:
    """Say on stderr that an answer has paused."""
    from shared.runtime.printable import for_terminal  # noqa: PLC0415  # --help stays light

    told = for_terminal(f"{name}: {getattr(error, 'detail', error)}; waiting for the rest")
    click.secho(f"\n[{told}]", fg="yellow", err=True)
