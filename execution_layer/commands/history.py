"""`counterfoil client view`, `compare` and `evidence`: what the log showed this client, held against what it showed others."""

import asyncio
from pathlib import Path

import click

from execution_layer.commands.options import config_option, file_path
from shared.runtime.output import emit, json_option, table


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
@json_option
def evidence(config: Path, to: Path | None, as_json: bool) -> int:
    """Show the checkpoints that contradict what the log showed before; exit code 3 when there are any."""
    from execution_layer.client.archive import Archive  # noqa: PLC0415  # --help stays light
    from execution_layer.client.policy import ClientPolicy  # noqa: PLC0415
    from execution_layer.client.views import encode_evidence, facts  # noqa: PLC0415
    from shared.runtime.keys import write_result  # noqa: PLC0415

    policy = ClientPolicy.load(config)
    archive = Archive(policy.archive)
    try:
        found = archive.suspects()
    finally:
        archive.close()
    if to is not None:
        write_result(to, encode_evidence(found, policy.log.policy()))
    rows = [facts(item) for item in found]
    columns = ("origin", "size", "accepted_size", "proved_by", "reason", "seen")
    emit(
        rows,
        as_json,
        lambda: (
            table(
                "Evidence against the log",
                columns,
                [[row[name] for name in columns] for row in rows],
            )
            if rows
            else "There is no evidence against the log."
        ),
    )
    return 3 if rows else 0
