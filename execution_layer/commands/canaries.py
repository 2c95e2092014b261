"""`counterfoil client canaries`: requests that test nodes and that nobody can tell from the tenant's others."""

import asyncio
from pathlib import Path
from typing import Any

import click

from execution_layer.commands.options import config_option, file_path
from shared.runtime.output import emit, emit_line, json_option, table

LOOKED_AT = 10_000
"""Attempts of the archive that a plan is made from."""


@click.group("canaries")
def canaries() -> None:
    """Test nodes with prepared prompts that they cannot tell from your own requests."""


@canaries.command("send")
@config_option
@click.argument("prompts", type=file_path)
@click.option("--count", type=click.IntRange(1, 10_000), required=True, help="How many to send.")
@click.option("--node", help="Test only this node (NAME or OPERATOR/NAME).")
@click.option("--dry-run", is_flag=True, help="Show what would be sent, and send nothing.")
@json_option
def send(
    config: Path, prompts: Path, count: int, node: str | None, dry_run: bool, as_json: bool
) -> int:
    """Send canaries among your own requests, as your own requests.

    PROMPTS has a JSON object {"prompt": TEXT} in each line, and more of them than --count. Nobody else may know them, and
    none may have been sent before; they should be what your users could have asked. Everything else (settings, system message,
    tags, deadline, size, gaps) is drawn from what this archive has sent, so run it beside your application, at the hours when
    that runs. Afterwards show each to auditors: `counterfoil client share RECEIPT --to FILE`, which a worker judges with
    `counterfoil audit worker judge-shown FILE`. They are paid for like any request, under the tags of those that they are like.
    Exit code 1 if one of them failed.
    """
    from execution_layer.client.canaries import habits_of, plan  # noqa: PLC0415  # --help stays light
    from execution_layer.client.client import AsyncCounterfoilClient  # noqa: PLC0415
    from execution_layer.client.policy import ClientPolicy  # noqa: PLC0415
    from execution_layer.client.prompts import read_words  # noqa: PLC0415
    from shared.runtime.errors import CounterfoilError  # noqa: PLC0415

    words = read_words(prompts)

    async def main() -> list[dict[str, Any]]:
        from secrets import SystemRandom  # noqa: PLC0415  # next to its only use

        results = []
        async with AsyncCounterfoilClient(ClientPolicy.load(config)) as client:
            habits = habits_of(client.archive.sent(LOOKED_AT))
            for planned in plan(habits, words, count, SystemRandom()):
                facts: dict[str, Any] = {
                    "gap_s": round(planned.gap_s, 3),
                    "max_tokens": planned.body.settings.max_tokens,
                    "bytes": planned.body.size,
                }
                if not dry_run:
                    await asyncio.sleep(planned.gap_s)
                    try:
                        answer = await client.generate(node=node, **planned.options())
                        facts |= {"node": answer.node, "receipt": answer.receipt.entry.hex()}
                    except CounterfoilError as error:
                        facts |= {"error": error.code.name, "detail": str(error)}
                results.append(facts)
                if as_json:
                    emit_line(facts)
        return results

    results = asyncio.run(main())
    columns = ("gap_s", "max_tokens", "bytes", "node", "receipt", "error")
    if not as_json:
        rows = [[row.get(column) for column in columns] for row in results]
        emit(results, False, lambda: table("Canaries", columns, rows))
    return 1 if any("error" in row for row in results) else 0


@canaries.command("list")
@config_option
@click.option("--limit", type=click.IntRange(1, LOOKED_AT), default=1000, show_default=True)
@json_option
def list_canaries(config: Path, limit: int, as_json: bool) -> None:
    """List the canaries among the latest attempts, newest first: nothing but this archive knows which they are."""
    from execution_layer.client.archive import Archive  # noqa: PLC0415  # --help stays light
    from execution_layer.client.policy import ClientPolicy  # noqa: PLC0415
    from shared.codec.moment import to_rfc3339  # noqa: PLC0415

    opened = Archive(ClientPolicy.load(config).archive)
    try:
        rows = [
            {
                "created": to_rfc3339(item.created),
                "state": item.state,
                "receipt": None if item.receipt is None else item.receipt.hex(),
            }
            for item in opened.sent(limit)
            if item.canary
        ]
    finally:
        opened.close()
    columns = ("created", "state", "receipt")
    emit(
        rows,
        as_json,
        lambda: table("Canaries", columns, [[row[column] for column in columns] for row in rows]),
    )
