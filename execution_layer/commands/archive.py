"""`counterfoil client archive`, `share` and `recipient-key`: the client's own records, and showing one of them to somebody."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from execution_layer.commands.options import config_option, file_path
from shared.runtime.output import emit, json_option, table


@click.group("archive")
def archive() -> None:
    """Inspect the client's own records."""


@archive.command("list")
@config_option
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=50, show_default=True)
@json_option
def archive_list(config: Path, limit: int, as_json: bool) -> None:
    """List the latest attempts, newest first; behind each that was ordered from a chain, its stages' parts."""
    from execution_layer.client.archive import Archive  # noqa: PLC0415  # --help stays light
    from execution_layer.client.policy import ClientPolicy  # noqa: PLC0415
    from execution_layer.client.show import brief  # noqa: PLC0415

    opened = Archive(ClientPolicy.load(config).archive)
    try:
        rows = [brief(item) for item in opened.latest(limit)]
    finally:
        opened.close()
    columns = ("number", "attempt", "node", "state", "receipt", "log_index")
    emit(
        rows,
        as_json,
        lambda: table("Archive", columns, [[row[c] for c in columns] for row in _with_parts(rows)]),
    )


def _with_parts(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield rows of attempts, each before those of its stages."""
    for row in rows:
        yield row
        for stage in row.get("stages", ()):
            yield {**row, **stage, "state": f"stage {stage['place']}"}


@archive.command("show")
@config_option
@click.argument("entry")
@click.option(
    "--export", "export_to", type=file_path, help="Write a bundle for `verify` to this file."
)
@json_option
def archive_show(config: Path, entry: str, export_to: Path | None, as_json: bool) -> None:
    """Show one attempt by the ENTRY of its receipt or order, with prompt and answer; `latest` is the newest.

    The ENTRY of a stage's receipt or order shows the answer of its chain; the bundle is then about that receipt.
    """
    from execution_layer.client.archive import Archive  # noqa: PLC0415  # --help stays light
    from execution_layer.client.policy import ClientPolicy  # noqa: PLC0415
    from execution_layer.client.show import full  # noqa: PLC0415
    from execution_layer.client.verify import export  # noqa: PLC0415
    from shared.runtime.keys import write_result  # noqa: PLC0415

    policy = ClientPolicy.load(config)
    opened = Archive(policy.archive)
    try:
        found = opened.whole(entry)
        facts = full(found)
        if export_to is not None:
            item = opened.named_part(entry) or found
            write_result(export_to, export(opened, item, policy).encode().encode())
    finally:
        opened.close()
    emit(facts, as_json, lambda: "\n".join(f"{name:<12} {value}" for name, value in facts.items()))


@click.command("share")
@config_option
@click.argument("entry")
@click.option("--to", "to", type=file_path, required=True, help="File to write.")
@click.option(
    "--recipient", type=file_path, help="Seal it to this person: the .pub file of `recipient-key`."
)
@json_option
def share(config: Path, entry: str, to: Path, recipient: Path | None, as_json: bool) -> None:
    """Open one request to one person: a file with prompt, answer, receipt and proofs, for `counterfoil verify`.

    ENTRY is the receipt or order of the request, or `latest`. Without --recipient, whoever gets the file can read it.
    """
    from execution_layer.client.archive import Archive  # noqa: PLC0415  # --help stays light
    from execution_layer.client.policy import ClientPolicy  # noqa: PLC0415
    from execution_layer.client.share import LEARNS, share_of  # noqa: PLC0415
    from shared.runtime.keys import write_result  # noqa: PLC0415
    from shared.verification.share import seal_share  # noqa: PLC0415

    policy = ClientPolicy.load(config)
    opened = Archive(policy.archive)
    try:
        data = share_of(opened, opened.find(entry), policy).encode()
    finally:
        opened.close()
    if recipient is not None:
        data = seal_share(data, _public_key(recipient))
    write_result(to, data, mode=0o600)
    sealed = recipient is not None
    facts = {"share": to, "sealed": sealed, "learns": LEARNS}
    whose = "the holder of that key" if sealed else "whoever holds it"
    emit(facts, as_json, lambda: f"{to} opens this request to {whose}.\n{LEARNS}")


@click.command("recipient-key")
@click.option("--to", "to", type=file_path, required=True, help="Private key; public: FILE.pub.")
@json_option
def recipient_key(to: Path, as_json: bool) -> None:
    """Make a key to which others seal what they share with you; give them FILE.pub. An existing key is kept."""
    from shared.envelope.hpke import load_or_create_hpke_key  # noqa: PLC0415  # --help stays light
    from shared.runtime.keys import PUBLIC_FILE, write_result  # noqa: PLC0415

    key = load_or_create_hpke_key(to)
    public = to.with_name(to.name + ".pub")
    write_result(public, key.public_bytes.hex().encode() + b"\n", mode=PUBLIC_FILE)
    facts = {"private_key": to, "public_key": public, "key_id": key.key_id}
    emit(facts, as_json, lambda: f"{public}: give it to those who share with you; keep {to}")


def _public_key(file: Path) -> bytes:
    from shared.envelope.hpke import PUBLIC_BYTES  # noqa: PLC0415  # --help stays light
    from shared.runtime.errors import Code, CounterfoilError  # noqa: PLC0415
    from shared.runtime.reading import read_bounded  # noqa: PLC0415

    try:
        return bytes.fromhex(read_bounded(file, 4 * PUBLIC_BYTES).decode("ascii").strip())
    except ValueError as error:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"{file} does not hold a public key",
            remedy="It is the .pub file that `counterfoil client recipient-key` writes.",
        ) from error
