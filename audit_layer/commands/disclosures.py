"""`counterfoil audit disclosures`: what of a tenant's requests was disclosed to whom and why, with a proof that it is all."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from audit_layer.commands.completeness import MAX_DOCUMENT, MAX_POLICY, read_file
from audit_layer.commands.options import FILE, query_api_options
from audit_layer.commands.query import ask, moment_option, paged, show_page
from shared.runtime.output import emit

if TYPE_CHECKING:
    from shared.verification.disclosure_record import Answer, DisclosureDocument

FAULTS: Final = 1
"""Exit code when something is wrong with a disclosure; a document that cannot be believed at all is 3."""


F = TypeVar("F", bound=Callable[..., Any])


def asking(command: F) -> F:
    """Add the options that say where and as whom to ask."""
    return query_api_options(
        command,
        variable="COUNTERFOIL_AUDIT_TOKEN_FILE",
        whose="File with the bearer token.",
        required=False,
    )


@click.command("disclosures")
@click.option(
    "--tenant", help="Whose disclosures; without it, a list of all that the token may see."
)
@moment_option("--from", "start", "Of receipts that began at or after this time (UTC).")
@moment_option("--to", "end", "Of receipts that began before this time (UTC).")
@click.option(
    "--policy",
    type=FILE,
    help="JSON with the logs, witnesses, quorum, authority and signers that you trust, like `trust` in a document.",
)
@click.option(
    "--threshold",
    type=click.IntRange(1, 255),
    default=1,
    show_default=True,
    help="How many custodians' shares open your requests: as many releases must precede a verdict.",
)
@click.option(
    "--out", type=FILE, help="Write the document to this file; `--check` verifies it anywhere."
)
@click.option("--check", "document", type=FILE, help="Verify a document offline.")
@paged
@asking
def disclosures(
    url: str | None,
    token_file: Path | None,
    ca: Path | None,
    as_json: bool,
    tenant: str | None,
    start: int | None,
    end: int | None,
    policy: Path | None,
    threshold: int,
    out: Path | None,
    document: Path | None,
    **page: Any,
) -> int:
    """Show every disclosure of a tenant's requests: why, to whom, who released, the verdict; and prove that none is hidden.

    The steps of docs/protocol.md, 6.2.6, are checked here; exit code 1 if one does not hold. Without --tenant, statements
    about disclosures are listed page by page, and nothing is checked.
    """
    from shared.verification.disclosure_record import parse_record  # noqa: PLC0415

    if document is not None:
        if tenant or start or end or out:
            raise click.UsageError("--check takes only --policy, --threshold and --json beside it")
        return _judged(parse_record(read_file(document, MAX_DOCUMENT)), policy, threshold, as_json)
    if url is None or token_file is None or ca is None:
        raise click.UsageError(
            "Give --url, --token-file and --ca (or set the variables that stand for them), or --check."
        )
    if tenant is None:
        columns = ("log_index", "type", "issuer", "subject", "entry")
        found = ask(url, token_file, ca, "/v1/disclosures", **page)
        show_page("Disclosures", columns, found, as_json)
        return 0
    record = asked((url, token_file, ca), tenant, start, end)
    if out is not None:
        from shared.runtime.keys import write_private  # noqa: PLC0415  # --help stays light

        write_private(out, record.model_dump_json(indent=1).encode())
    return _judged(record, policy, threshold, as_json)


def asked(
    at: tuple[str, Path, Path], tenant: str, start: int | None, end: int | None
) -> "DisclosureDocument":
    """Return the document that the query API at (address, token file, CA file) gives."""
    import json  # noqa: PLC0415  # next to its only use

    from shared.codec.moment import MAX_MS  # noqa: PLC0415  # --help stays light
    from shared.verification.disclosure_record import parse_record  # noqa: PLC0415

    span: dict[str, Any] = {"from": start or 0, "to": MAX_MS if end is None else end}
    return parse_record(json.dumps(ask(*at, f"/v1/tenants/{tenant}/disclosures", **span)).encode())


def _judged(
    document: "DisclosureDocument", policy: Path | None, threshold: int, as_json: bool
) -> int:
    """Check a document, print what it shows, and return the exit code."""
    answer, whose = judged(document, policy, threshold)
    emit({"answer": answer, "trusted": whose}, as_json, lambda: _shown(answer, whose))
    return FAULTS if answer.faults else 0


def judged(
    document: "DisclosureDocument", policy: Path | None, threshold: int
) -> "tuple[Answer, str]":
    """Check a document under the trust in a file, or else its own; return the result, and whose keys it rests on."""
    from shared.codec.moment import now_ms  # noqa: PLC0415  # --help stays light
    from shared.verification.disclosure_record import judge_record, parse_signers  # noqa: PLC0415

    if policy is None:
        trust, whose = document.trust.trust(), "the document's own keys, not keys that you chose"
    else:
        trust, whose = parse_signers(read_file(policy, MAX_POLICY)).trust(), str(policy)
    return judge_record(document, trust, now=now_ms(), threshold=threshold), whose


def _shown(answer: "Answer", whose: str) -> object:
    from rich.console import Group  # noqa: PLC0415  # --json need not wait for it

    from shared.runtime.output import table  # noqa: PLC0415  # likewise

    rows: list[dict[str, Any]] = [
        {
            "request": row.at,
            "receipt": row.receipt_index,
            "why": row.reason if row.epoch is None else f"{row.reason}, epoch {row.epoch}",
            "who": row.worker,
            "released by (at)": ", ".join(f"{name} ({at})" for name, at in row.released) or None,
            "verdict": row.verdict,
        }
        for row in answer.rows
    ]
    columns = ("request", "receipt", "why", "who", "released by (at)", "verdict")
    title = f"Disclosures of {answer.tenant}: {len(rows)} of {answer.receipts} receipts"
    cells = [[row[column] for column in columns] for row in rows]
    return Group(table(title, columns, cells), *_sentences(answer, whose))


def _sentences(answer: "Answer", whose: str) -> list[str]:
    from shared.verification.disclosure_record import SHOWN  # noqa: PLC0415  # --help stays light

    first, end = answer.sealed
    told = [f"({fault.step}) {fault.wrong}: {fault.detail}" for fault in answer.faults]
    if not told:
        told = ["Every disclosure shown was due, and went the way that the protocol prescribes."]
    if answer.unanswered:
        places = ", ".join(map(str, answer.unanswered))
        told.append(
            f"You asked for audits that the authority has not answered, at {places}: it may, within its limits (docs/protocol.md,"
            " 6.2.7)."
        )
    if any(row.reason == SHOWN for row in answer.rows):
        told.append(
            "What is called shown was opened without custodians: you showed it yourself, by the workers' word."
        )
    told.append(
        f"The authority has sealed that there are no others at log indexes {first} to {end - 1}."
        if end > first
        else "No tenant seal counts disclosures yet: that there are no others is the server's word."
    )
    if first < end < answer.size:
        told.append(
            f"From {end} to {answer.size - 1} that is the server's word until the next seal."
        )
    return [*told, f"Indexes are of the log, witnessed at size {answer.size}; under {whose}."]
