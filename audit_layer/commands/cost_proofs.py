"""`counterfoil cost prove`: a line of an invoice down to its signed receipts, as a file, and that file checked offline."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from audit_layer.commands.cost_client import Api, with_optional_api
from audit_layer.commands.options import FILE
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.output import emit
from shared.runtime.printable import for_terminal

if TYPE_CHECKING:
    from shared.verification.line_proof_file import LineProof
    from shared.verification.trust import Trust

MAX_PARTS: Final = 1_000
"""Files of one line's proof."""


@click.command("prove")
@click.argument("number", metavar="[INVOICE_NUMBER", type=click.IntRange(1), required=False)
@click.argument("line_id", metavar="LINE_ID]", required=False)
@click.option(
    "--out",
    type=FILE,
    help="Write the proof to this file; a line with many receipts takes more: x.json, x.2.json, …",
)
@click.option(
    "--verify",
    "proof_files",
    type=FILE,
    multiple=True,
    help="Check this file instead, asking nobody; repeatable, for all parts of one line.",
)
@click.option(
    "--policy",
    "policy_file",
    type=FILE,
    help="With --verify: your own log policy (C2SP tlog-policy text).",
)
@click.option(
    "--signer",
    "signers",
    multiple=True,
    metavar="NAME=KEY",
    help="With --verify: the key (hexadecimal) that you trust for an operator, tenant, worker or the audit authority;"
    " repeatable.",
)
@with_optional_api
def prove(
    api: Api | None,
    *,
    number: int | None,
    line_id: str | None,
    out: Path | None,
    proof_files: tuple[Path, ...],
    policy_file: Path | None,
    signers: tuple[str, ...],
    as_json: bool,
) -> int:
    """Prove what is behind line LINE_ID of stored invoice INVOICE_NUMBER, or --verify a proof offline.

    A proof holds the signed receipts, orders, rate card and verdicts, the seals of closed periods, and proofs that all of
    it is in the witnessed log (docs/cost-proof.md). Checking one takes no network, no database and no token. Exit code 3 when a
    step fails or the file is not a proof.
    """
    if proof_files:
        if number is not None or out is not None:
            raise click.UsageError("--verify takes no invoice and no --out")
        return _verify(proof_files, policy_file, signers, as_json)
    if number is None or line_id is None or out is None:
        raise click.UsageError("name an INVOICE_NUMBER, a LINE_ID and --out FILE, or --verify FILE")
    if policy_file is not None or signers:
        raise click.UsageError("--policy and --signer are for --verify")
    if api is None:
        raise click.UsageError("--url, --token-file and --ca are needed to make a proof")
    _make(api, number, line_id, out, as_json)
    return 0


def _make(api: Api, number: int, line_id: str, out: Path, as_json: bool) -> None:
    from shared.runtime.keys import write_result  # noqa: PLC0415  # --help stays light
    from shared.verification.line_figures import added  # noqa: PLC0415

    files: list[Path] = []
    parts: list[LineProof] = []
    for data, proof in _parts(api, number, line_id):
        name = out if not files else out.with_name(f"{out.stem}.{len(files) + 1}{out.suffix}")
        write_result(name, data)
        files.append(name)
        parts.append(proof)
    figures, currency = added([part.figures for part in parts]), parts[0].invoice.currency
    receipts = sum(len(part.receipts) for part in parts)
    told = {
        "files": files,
        "receipts": receipts,
        "billed": figures.billed,
        "proven": figures.proven,
        "difference": figures.difference,
        "currency": currency,
    }
    where = str(out) if len(files) == 1 else f"{out} to {files[-1]}"
    emit(
        told,
        as_json,
        lambda: (
            f"{receipts} receipts prove {figures.proven} of {figures.billed} {currency};"
            f" the proof is in {for_terminal(where)}"
        ),
    )


def _parts(api: Api, number: int, line_id: str) -> Iterator[tuple[bytes, "LineProof"]]:
    """Yield the files of a line's proof."""
    from urllib.parse import quote  # noqa: PLC0415  # --help stays light

    from shared.verification.line_proof_file import END_INDEX, parse_line_proof  # noqa: PLC0415

    path = f"/invoices/{number}/lines/{quote(line_id, safe='')}/proof"
    first = 0
    for _ in range(MAX_PARTS):
        data = api.answer("GET", path, {"first_index": first}).content
        proof = parse_line_proof(data)
        scope = proof.scope
        if scope.first_index != first or scope.end_index <= first:
            raise CounterfoilError(Code.MALFORMED, "the server answered with another part")
        yield data, proof
        if scope.end_index == END_INDEX:
            return
        first = scope.end_index
    raise CounterfoilError(
        Code.INVALID_ARGUMENT,
        f"the line takes more than {MAX_PARTS} files",
        remedy="Ask the operator to bill it in smaller lines.",
    )


def _verify(
    paths: Sequence[Path], policy_file: Path | None, signers: Sequence[str], as_json: bool
) -> int:
    from shared.verification.line_parts import verify_parts  # noqa: PLC0415  # --help stays light
    from shared.verification.line_proof import verify_line  # noqa: PLC0415
    from shared.verification.line_proof_file import read_line_proof  # noqa: PLC0415

    trust = _trust(policy_file, signers)
    proofs = [read_line_proof(path) for path in paths]
    report = verify_line(proofs[0], trust) if len(proofs) == 1 else verify_parts(proofs, trust)
    emit(
        {
            "verified": report.verified,
            "steps": report.steps,
            "rests_on": report.rests_on,
            "facts": report.facts,
        },
        as_json,
        lambda: for_terminal(report.as_text()),
    )
    return 0 if report.verified else 3


def _trust(policy_file: Path | None, signers: Sequence[str]) -> "Trust":
    """Return the trust of the options."""
    from shared.codec.ids import parse_hex32  # noqa: PLC0415  # --help stays light
    from shared.translog.policy_file import read_policy_file  # noqa: PLC0415
    from shared.verification.trust import Trust  # noqa: PLC0415

    named: dict[str, set[bytes]] = {}
    for signer in signers:
        name, equals, key = signer.partition("=")
        if not name or not equals:
            raise CounterfoilError(Code.CONFIGURATION, f"--signer {signer[:60]!r} is not NAME=KEY")
        named.setdefault(name, set()).add(parse_hex32(key, "a signer's key"))
    log = None if policy_file is None else read_policy_file(policy_file).policy()
    return Trust(log).with_signers(named)
