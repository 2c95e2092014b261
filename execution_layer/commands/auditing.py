"""`counterfoil client audit` and `audits`: asking for the audit of an answer, and what was asked for and came of it."""

import asyncio
from pathlib import Path
from typing import Any

import click

from execution_layer.commands.options import config_option, file_path
from shared.runtime.output import emit, json_option, table


@click.command("audit")
@config_option
@click.argument("entry")
@json_option
def ask_audit(config: Path, entry: str, as_json: bool) -> int:
    """Ask for the audit of one answer, whatever the draw says; its tenant pays for it.

    ENTRY is its receipt or order, or `latest`. Of an answer by a chain, every stage's part is audited too. Where custodians pin
    no tenants, they release only what was sealed with the policy `always` (`counterfoil infer --audit always`), which asks by
    itself. Exit code 5 if the log has not taken it yet: it is asked for again by the next command that reaches the audit server,
    such as `counterfoil client proofs`.
    """
    from execution_layer.client.client import AsyncCounterfoilClient  # noqa: PLC0415  # --help stays light
    from execution_layer.client.policy import ClientPolicy  # noqa: PLC0415

    async def main() -> dict[str, Any]:
        async with AsyncCounterfoilClient(ClientPolicy.load(config)) as client:
            await client.audit(entry)
            found = client.archive.whole(entry)
            signed = [found.receipt_entry, *(part.receipt_entry for part in found.parts)]
            asked = client.archive.audits(1_000_000)
            own, *stages = [_row(item) for item in asked if item.receipt in signed]
            return {**own, **({"stages": stages} if stages else {})}

    facts = asyncio.run(main())
    rows = [facts, *facts.get("stages", ())]
    emit(
        facts,
        as_json,
        lambda: "\n".join(f"receipt {row['receipt']}: {row['state']}" for row in rows),
    )
    return 0 if all(row["log_index"] is not None for row in rows) else 5


@click.command("audits")
@config_option
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=50, show_default=True)
@click.option("--url", help="Query API of the audit server, to show verdicts.")
@click.option("--token-file", type=file_path, help="File with your token for it.")
@json_option
def audits(
    config: Path, limit: int, url: str | None, token_file: Path | None, as_json: bool
) -> None:
    """List the audits that this client has asked for, newest first, and with --url their verdicts.

    A verdict is shown only once a proof that the witnessed log has it was verified.
    """
    from execution_layer.client.archive import Archive  # noqa: PLC0415  # --help stays light
    from execution_layer.client.policy import ClientPolicy  # noqa: PLC0415
    from execution_layer.client.verdicts import QueryApi, verdicts_of  # noqa: PLC0415
    from shared.runtime.config import read_secret  # noqa: PLC0415

    if (url is None) != (token_file is None):
        raise click.UsageError("--url and --token-file belong together")
    policy = ClientPolicy.load(config)
    opened = Archive(policy.archive)
    try:
        rows = [_row(item) for item in opened.audits(limit)]
    finally:
        opened.close()
    if url is not None and token_file is not None:
        api = QueryApi(url, policy.ca_file, read_secret(token_file))
        asked = [row for row in rows if row["log_index"] is not None]
        found = asyncio.run(
            verdicts_of(api, [bytes.fromhex(row["receipt"]) for row in asked], policy.log.policy())
        )
        for row, verdicts in zip(asked, found, strict=True):
            row["verdicts"] = verdicts
    emit(rows, as_json, lambda: _table(rows, verdicts=url is not None))


def _row(item: Any) -> dict[str, Any]:
    state = (
        "waits for its receipt"
        if item.receipt is None
        else f"not taken by the log: {item.rejected}"
        if item.rejected is not None
        else "not in the log yet"
        if item.log_index is None
        else f"asked for, entry {item.log_index} of the log"
    )
    return {
        "number": item.number,
        "attempt": item.attempt,
        "node": item.node,
        "receipt": None if item.receipt is None else item.receipt.hex(),
        "audit_request": None if item.audit_request is None else item.audit_request.hex(),
        "log_index": item.log_index,
        "state": state,
    }


def _table(rows: list[dict[str, Any]], *, verdicts: bool) -> Any:
    columns = ["number", "node", "state", "receipt", *(["verdicts"] if verdicts else [])]

    def cell(row: dict[str, Any], column: str) -> Any:
        if column != "verdicts":
            return row[column]
        told = [
            f"{item['outcome']} ({item['reason']}) by {item['worker']}"
            for item in row.get("verdicts", ())
        ]
        return "; ".join(told) or "none yet"

    return table(
        "Audits asked for", columns, [[cell(row, column) for column in columns] for row in rows]
    )
