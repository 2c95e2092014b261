"""`counterfoil audit custodians`: what the log says of the custodians of a tenant's requests, with the entries that show it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from audit_layer.commands.completeness import MAX_DOCUMENT, read_file
from audit_layer.commands.disclosures import FAULTS, asked, asking, judged
from audit_layer.commands.options import FILE
from audit_layer.commands.query import moment_option
from shared.runtime.output import emit

if TYPE_CHECKING:
    from shared.verification.disclosure_record import Answer

COLUMNS: Final = (
    *("custodian", "asked", "in_time", "late", "undated", "missing", "unsealed", "open"),
    *("share_reports", "contradicted"),
)


@click.command("custodians")
@click.option("--tenant", help="Whose requests.")
@moment_option("--from", "start", "Of receipts that began at or after this time (UTC).")
@moment_option("--to", "end", "Of receipts that began before this time (UTC).")
@click.option(
    "--policy",
    type=FILE,
    help="JSON with the logs, witnesses, quorum, authority and signers that you trust, like `trust` in a document.",
)
@click.option("--check", "document", type=FILE, help="A document of `audit disclosures --out`.")
@asking
def custodians(
    url: str | None,
    token_file: Path | None,
    ca: Path | None,
    as_json: bool,
    tenant: str | None,
    start: int | None,
    end: int | None,
    policy: Path | None,
    document: Path | None,
) -> int:
    """Show for each custodian what was asked of it, what it gave in time, late or not at all, and reports against it.

    The rule is docs/protocol.md, 6.2.10; it is applied here, to what is proved to be in the witnessed log. A figure blames
    nobody by itself: the entries say where to look. Exit code 1 if the document has a fault.
    """
    from shared.verification.disclosure_record import parse_record  # noqa: PLC0415  # --help stays light

    if document is not None:
        if tenant or start or end:
            raise click.UsageError("--check takes only --policy and --json beside it")
        record = parse_record(read_file(document, MAX_DOCUMENT))
    elif url is None or token_file is None or ca is None or tenant is None:
        raise click.UsageError(
            "Give --tenant, --url, --token-file and --ca (or set the variables that stand for them), or --check."
        )
    else:
        record = asked((url, token_file, ca), tenant, start, end)
    answer, whose = judged(record, policy, 1)
    told = {
        "custodians": answer.custodians,
        "witnessed_at": answer.witnessed_at,
        "faults": answer.faults,
        "trusted": whose,
    }
    emit(told, as_json, lambda: _shown(answer, whose))
    return FAULTS if answer.faults else 0


def _shown(answer: "Answer", whose: str) -> object:
    from rich.console import Group  # noqa: PLC0415  # --json need not wait for it

    from shared.codec.moment import to_rfc3339  # noqa: PLC0415  # --help stays light
    from shared.runtime.output import table  # noqa: PLC0415  # likewise

    rows: list[list[Any]] = [
        [getattr(record, column) for column in COLUMNS] for record in answer.custodians
    ]
    titles = [column.replace("_", " ") for column in COLUMNS]
    shown = [
        [record.custodian, one.what, one.request.hex(), one.entry and one.entry.hex()]
        for record in answer.custodians
        for one in record.shown
    ]
    parts: list[object] = [table(f"Custodians of {answer.tenant}", titles, rows)]
    if shown:
        columns = ("custodian", "what", "request", "entry")
        parts.append(table("What speaks against them", columns, shown))
    parts += [f"({fault.step}) {fault.wrong}: {fault.detail}" for fault in answer.faults]
    at = to_rfc3339(answer.witnessed_at)
    parts.append(f"As of {at}, when the log was witnessed at size {answer.size}; under {whose}.")
    return Group(*parts)  # type: ignore[arg-type]  # tables and texts
