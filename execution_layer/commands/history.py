"""`counterfoil client view`, `compare` and `evidence`: what the log showed this client, held against what it showed others."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from execution_layer.commands.options import config_option, file_path
from shared.runtime.output import emit, json_option, table

if TYPE_CHECKING:
    from execution_layer.client.policy import ClientPolicy

THE_LOG: Final = "the log"
LOG_COLUMNS: Final = ("origin", "size", "accepted_size", "proved_by", "reason", "seen")
NODE_COLUMNS: Final = ("against", "number", "attempt", "order", "reason", "proved_by", "seen")
HANDED_IN_COLUMNS: Final = ("order", "statement", "index", "refused")


@click.command("view")
@config_option
@click.option("--to", "to", type=file_path, required=True, help="File to write.")
@json_option
def view(config: Path, to: Path, as_json: bool) -> None:
    """Export the checkpoints that this client was shown, for another client to `compare`."""
    from execution_layer.client.archive import Archive  # noqa: PLC0415  # --help stays light
    from execution_layer.client.policy import ClientPolicy  # noqa: PLC0415
    from execution_layer.client.views import encode_view  # noqa: PLC0415
    from shared.runtime.keys import write_result  # noqa: PLC0415

    archive = Archive(ClientPolicy.load(config).archive)
    try:
        write_result(to, encode_view(archive))
    finally:
        archive.close()
    emit({"view": to}, as_json, lambda: f"{to}: give it to another client to compare")


@click.command("compare")
@config_option
@click.argument("file", type=file_path)
@json_option
def compare(config: Path, file: Path, as_json: bool) -> int:
    """Compare another client's view (FILE) of the log with this one's: were both shown one history?

    Sizes that both have are compared offline; that the larger tree extends the smaller one is proved by the log or a mirror.
    Exit code 3, with the evidence kept, when the histories differ; 5 when nobody answers to prove it.
    """
    from execution_layer.client.client import AsyncCounterfoilClient  # noqa: PLC0415  # --help stays light
    from execution_layer.client.policy import ClientPolicy  # noqa: PLC0415

    async def main() -> dict[str, int]:
        async with AsyncCounterfoilClient(ClientPolicy.load(config)) as client:
            return await client.compare_view(file)

    facts = asyncio.run(main())
    emit(
        facts,
        as_json,
        lambda: (
            f"one history: {facts['common']} sizes in common agree, and size {facts['larger']} extends"
            f" {facts['smaller']}"
        ),
    )
    return 0


@click.command("evidence")
@config_option
@click.option("--to", "to", type=file_path, help="Export it to this file, for auditors.")
@click.option(
    "--hand-in",
    is_flag=True,
    help="Submit to the log the receipts and refusals by which it convicts their nodes.",
)
@json_option
def evidence(config: Path, to: Path | None, hand_in: bool, as_json: bool) -> int:
    """Show what this client keeps against the log and against nodes; exit code 3 when there is anything.

    Against the log: checkpoints that contradict what it showed before. Against nodes: a second value that one signed in
    one place of a stream, and a refusal of an order that it answered.
    """
    from execution_layer.client import accusations, views  # noqa: PLC0415  # --help stays light
    from execution_layer.client.archive import Archive  # noqa: PLC0415
    from execution_layer.client.policy import ClientPolicy  # noqa: PLC0415
    from shared.runtime.keys import write_result  # noqa: PLC0415

    policy = ClientPolicy.load(config)
    archive = Archive(policy.archive)
    try:
        suspects, accused = archive.suspects(), accusations.accusations(archive)
        exported = [accusations.exported(archive, one) for one in accused]
    finally:
        archive.close()
    if to is not None:
        write_result(to, views.encode_evidence(suspects, policy.log.policy(), exported))
    rows = [
        *(views.facts(item) for item in suspects),
        *(accusations.facts(one) for one in accused),
    ]
    told = asyncio.run(_hand_in(policy)) if hand_in and accused else []
    shown = {"evidence": rows, "handed_in": told} if hand_in else rows
    emit(shown, as_json, lambda: _shown(rows, told))
    return 3 if rows else 0


async def _hand_in(policy: "ClientPolicy") -> list[dict[str, Any]]:
    from execution_layer.client.client import AsyncCounterfoilClient  # noqa: PLC0415  # --help stays light

    async with AsyncCounterfoilClient(policy) as client:
        return [asdict(item) for item in await client.hand_in_accused()]


def _shown(rows: list[dict[str, Any]], told: list[dict[str, Any]]) -> object:
    """Return the evidence, and what the log said of what was handed in, for people."""
    from rich.console import Group  # noqa: PLC0415  # --help stays light

    parts = (
        ("Evidence against the log", LOG_COLUMNS, [r for r in rows if r["against"] == THE_LOG]),
        ("Evidence against nodes", NODE_COLUMNS, [r for r in rows if r["against"] != THE_LOG]),
        ("Handed in", HANDED_IN_COLUMNS, told),
    )
    tables = [
        table(title, columns, [[_cell(row[name]) for name in columns] for row in found])
        for title, columns, found in parts
        if found
    ]
    return Group(*tables) if tables else "There is no evidence against the log or a node."


def _cell(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else value
