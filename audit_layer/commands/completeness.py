"""`counterfoil log complete` and `counterfoil log gaps`: whether the log has everything, with a proof that others can check."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from audit_layer.commands.options import FILE, core_of, rendered, settings_of, utc
from shared.runtime.output import emit, json_option

if TYPE_CHECKING:
    from shared.verification.completeness import Document
    from shared.verification.completeness_check import Answer
    from shared.verification.trust import Trust

NOT_COMPLETE: Final = 1
"""Exit code when something is missing; a document that does not verify is 3."""
MAX_DOCUMENT: Final = 1 << 30
MAX_POLICY: Final = 1 << 20

_day = click.DateTime(("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"))
_config = click.option(
    "--config",
    type=FILE,
    envvar="COUNTERFOIL_AUDIT_CONFIG",
    show_envvar=True,
    help="The audit server's audit.toml.",
)


@click.command("complete")
@click.option("--tenant", help="Whose inferences.")
@click.option("--from", "start", type=_day, help="Begun at or after this time (UTC).")
@click.option("--to", "end", type=_day, help="Begun before this time (UTC).")
@click.option("--statements", is_flag=True, help="Include the signed receipts in the document.")
@click.option(
    "--out", type=FILE, help="Write the document to this file; `--check` verifies it anywhere."
)
@click.option("--check", "document", type=FILE, help="Verify a document offline.")
@click.option(
    "--policy",
    type=FILE,
    help="With --check: JSON with the logs, witnesses, quorum and authority that you trust.",
)
@_config
@json_option
def complete(
    tenant: str | None,
    start: datetime | None,
    end: datetime | None,
    statements: bool,
    out: Path | None,
    document: Path | None,
    policy: Path | None,
    config: Path | None,
    as_json: bool,
) -> int:
    """Say how many inferences a tenant had in a period, and prove that none is missing.

    Exit code 1 when that cannot be proved, or not yet; the reasons are shown.
    """
    if document is not None:
        if tenant or start or end or statements or out:
            raise click.UsageError("--check can be combined with --policy and --json only")
        return _check(document, policy, as_json)
    if config is None or tenant is None or start is None or end is None or policy is not None:
        raise click.UsageError(
            "give --tenant, --from, --to and --config, or --check with or without --policy"
        )
    found = _ask(config, tenant, (_ms(start), _ms(end)), statements)
    if out is not None:
        from shared.runtime.keys import write_private  # noqa: PLC0415  # --help stays light

        write_private(out, found.model_dump_json(indent=1).encode())
    return _show(found, found.trust.trust(), "the audit server's own configuration", as_json)


def _ask(config: Path, tenant: str, span: tuple[int, int], statements: bool) -> "Document":
    from audit_layer.log.proof_service import ProofService  # noqa: PLC0415
    from audit_layer.trail.completeness_document import build  # noqa: PLC0415  # --help stays light
    from audit_layer.wiring.audit_server import published  # noqa: PLC0415
    from audit_layer.wiring.log_keys import log_policy  # noqa: PLC0415
    from shared.codec.moment import Period  # noqa: PLC0415

    settings = settings_of(config)
    with core_of(config) as core:
        proofs = ProofService(core.engine, published(settings), log_policy(settings))
        return build(core.engine, proofs, tenant, Period(*span), statements=statements)


def _check(path: Path, policy: Path | None, as_json: bool) -> int:
    from shared.verification.completeness import parse_document, parse_trust  # noqa: PLC0415

    document = parse_document(read_file(path, MAX_DOCUMENT))
    if policy is None:
        whose = "the document's own keys: it agrees with itself, but not with anyone you chose"
        return _show(document, document.trust.trust(), whose, as_json)
    trust = parse_trust(read_file(policy, MAX_POLICY)).trust()
    return _show(document, trust, str(policy), as_json)


def read_file(path: Path, most: int) -> bytes:
    """Return the bytes of a document or policy; MALFORMED when there are more than `most`."""
    from shared.runtime.errors import Code, CounterfoilError  # noqa: PLC0415
    from shared.runtime.reading import read_bounded  # noqa: PLC0415  # --help stays light

    data = read_bounded(path, most)
    if len(data) > most:
        raise CounterfoilError(Code.MALFORMED, f"{path} is larger than {most} bytes")
    return data


def _show(document: "Document", trust: "Trust", whose: str, as_json: bool) -> int:
    """Judge a document under `trust`, and print the answer with its proof."""
    from shared.verification.completeness_check import judge  # noqa: PLC0415  # --help stays light

    answer = judge(document, trust)
    data = {"answer": answer, "trusted": whose, "document": document.model_dump(mode="json")}
    emit(data, as_json, lambda: _rendered(document, answer, whose))
    return 0 if answer.complete else NOT_COMPLETE


def _rendered(document: "Document", answer: "Answer", whose: str) -> object:
    from rich.console import Group  # noqa: PLC0415  # --json need not wait for it

    from shared.runtime.output import table  # noqa: PLC0415  # likewise

    rows = _rows(document)
    columns = ("index", "number", "attempt", "started", "seal", "entry")
    shown = (
        [table("Receipts", columns, [[row[column] for column in columns] for row in rows])]
        if rows
        else []
    )
    return Group(*shown, *_sentences(answer, whose))


def _rows(document: "Document") -> list[dict[str, Any]]:
    """Return the period's receipts in log order, each with the tenant seal that counts it."""
    from shared.verification.completeness_check import seal_number  # noqa: PLC0415  # --help stays light

    counted = [
        (line, f"{seal_number(part)}{note}")
        for part in document.seals
        for lines, note in ((part.receipts, ""), (part.late, " late"))
        for line in lines or ()
    ]
    counted += [(line, "none yet") for line in document.unsealed]
    return [
        {
            "index": line.index,
            "number": f"{line.number} (part)" if line.part else line.number,
            "attempt": line.attempt,
            "started": utc(line.started),
            "seal": seal,
            "entry": line.entry,
        }
        for line, seal in sorted(counted, key=lambda item: item[0].index)
        if document.start <= line.started < document.end
    ]


def _sentences(answer: "Answer", whose: str) -> list[str]:
    period = f"{answer.tenant}, {utc(answer.start)} to {utc(answer.end)}"
    verdict = "complete" if answer.complete else "not complete because"
    lines = [f"{period}: {answer.inferences} inferences, {verdict}"]
    lines += [f"  {reason}" for reason in answer.because]
    if answer.late:
        lines.append(f"{answer.late} of them came after their period's tenant seal.")
    if answer.as_of is not None:
        lines.append(f"As of {utc(answer.as_of)}, log size {answer.as_of_size}; under {whose}.")
    return lines


def _ms(value: datetime) -> int:
    from datetime import UTC  # noqa: PLC0415  # next to its only use

    return int(value.replace(tzinfo=UTC).timestamp() * 1000)


@click.command("gaps")
@click.option(
    "--config",
    type=FILE,
    required=True,
    envvar="COUNTERFOIL_AUDIT_CONFIG",
    show_envvar=True,
    help="The audit server's audit.toml.",
)
@json_option
def gaps(config: Path, as_json: bool) -> int:
    """Look now for numbers that nodes and tenants skipped; report those missing for too long.

    Exit code 1 when a reported gap is still open.
    """
    from audit_layer.trail.gap_watch import GapWatch  # noqa: PLC0415  # --help stays light
    from shared.codec.moment import now_ms  # noqa: PLC0415

    settings = settings_of(config)
    with core_of(config) as core:
        watch = GapWatch(core.engine, grace_ms=settings.gap_grace_seconds * 1000)
        look = watch.look(now_ms())
        rows = [
            {
                "kind": row.kind,
                "issuer": row.issuer,
                "first": row.first,
                "last": row.last,
                "since": utc(row.since),
                "finding": row.finding,
            }
            for row in watch.open_gaps()
        ]
    columns = ("kind", "issuer", "first", "last", "since", "finding")
    table = rendered("Gaps", columns, rows)
    emit({"look": look, "gaps": rows}, as_json, table if rows else lambda: "No number is missing.")
    return NOT_COMPLETE if any(row["finding"] is not None for row in rows) else 0
