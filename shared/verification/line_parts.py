"""Checking the proof of a line whose receipts fill several files (docs/cost-proof.md): every part, and that they are the whole."""

from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from typing import Any

from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import entry_of
from shared.verification.bundle_check import Report
from shared.verification.line_figures import added
from shared.verification.line_proof import A_PART, compared, verify_line
from shared.verification.line_proof_file import END_INDEX, Figures, LineProof
from shared.verification.line_statements import require
from shared.verification.steps import Verification
from shared.verification.trust import Trust


def verify_parts(proofs: Sequence[LineProof], trust: Trust) -> Report:
    """Check the parts of one line's proof, one or more, in any order."""
    run, reports = Verification(), list[Report]()
    parts = sorted(proofs, key=lambda proof: proof.scope.first_index)
    for at, proof in enumerate(parts, start=1):
        run.step(f"part {at} of {len(parts)} is proved", partial(_part, proof, trust, reports))
    run.step("the parts are of one line, and together all of it", lambda: _whole(parts))
    found: Figures | None = run.step(
        "the difference is what the line bills less all that is proven", lambda: _summed(parts)
    )
    rests_on = dict.fromkeys(word for report in reports for word in report.rests_on)
    rests_on.pop(A_PART, None)
    facts = {} if found is None else _facts(reports, found)
    return Report(run.steps, list(rests_on), facts)


def _part(proof: LineProof, trust: Trust, reports: list[Report]) -> str:
    report = verify_line(proof, trust)
    reports.append(report)
    last = report.steps[-1]
    if not last.holds:
        raise CounterfoilError(
            Code[last.code or Code.INTERNAL.name],
            f"step {last.number}, {last.title}: {last.detail}",
        )
    scope, figures = proof.scope, proof.figures
    return (
        f"{len(proof.receipts)} receipts at log indexes from {scope.first_index} to before {scope.end_index}:"
        f" {figures.proven} {proof.invoice.currency}"
    )


def _whole(parts: Sequence[LineProof]) -> str:
    for proof in parts[1:]:
        require(_line(proof) == _line(parts[0]), "the files are about different lines")
    priced = [proof.figures for proof in parts if proof.figures.terms]
    rates = {(figures.currency, Decimal(figures.fx_rate)) for figures in priced}
    require(len(rates) <= 1, "the parts have different currencies or exchange rates")
    ends = [0, *(proof.scope.end_index for proof in parts)]
    starts = [*(proof.scope.first_index for proof in parts), END_INDEX]
    for end, start in zip(ends, starts, strict=True):
        what = "missing" if end < start else "in two parts"
        lowest, highest = sorted((end, start))
        require(end == start, f"log indexes from {lowest} to before {highest} are {what}")
    becomes: dict[bytes, Any] = {}
    for part in (item for proof in parts for item in (*proof.receipts, *proof.others)):
        entry, said = entry_of(part.statement), (part.state, part.because)
        require(
            becomes.setdefault(entry, said) == said,
            f"the receipt at index {part.index} is {part.state} in one part, and not so in another: make them anew",
        )
    return f"{len(parts)} files"


def _line(proof: LineProof) -> tuple[Any, ...]:
    """Return what all parts of a line have in common."""
    anywhere = proof.scope.model_copy(update={"first_index": 0, "end_index": END_INDEX})
    return proof.invoice, proof.claims, anywhere


def _summed(parts: Sequence[LineProof]) -> tuple[Figures, str]:
    found = added([proof.figures for proof in parts])
    return found, compared(found, parts[0].claims, parts[0].invoice.currency)


def _facts(reports: Sequence[Report], found: Figures) -> dict[str, Any]:
    counts = [report.facts["receipts"] for report in reports]
    whole = {"first_index": 0, "end_index": END_INDEX}
    return {
        **reports[-1].facts,
        "scope": {**reports[-1].facts["scope"], **whole},
        "receipts": {state: sum(count[state] for count in counts) for state in counts[0]},
        "entries": [entry for report in reports for entry in report.facts["entries"]],
        "figures": found.model_dump(mode="json"),
        "seals": sum(report.facts["seals"] for report in reports),
        "parts": len(reports),
    }
