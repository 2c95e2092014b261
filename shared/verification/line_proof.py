"""Checking a proof of one line of an invoice offline (docs/cost-proof.md): numbered steps, nothing but signed bytes.

What is proven follows from receipts, orders, verdicts and the signed rate card. The line itself is the operator's word, and
only the file's maker says that nothing else in the log bears on it: `Report.rests_on` says so.
"""

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

from shared.codec.moment import MAX_MS, to_rfc3339
from shared.statements.periods import PeriodSeal, period_line
from shared.translog.policy import LogPolicy, Witnessed, verify_witnessed
from shared.translog.proofs import verify_inclusion
from shared.translog.tree import leaf_hash
from shared.verification.bundle_check import Report, policy_in, whose_word
from shared.verification.line_figures import Known, figures, outcomes, same, tokens_of
from shared.verification.line_proof_file import Claim, Figures, LineProof
from shared.verification.line_statements import Signed, Statements, about, names_of, require
from shared.verification.payable import Standing, State
from shared.verification.steps import Verification
from shared.verification.trust import Trust

_THE_LINE: Final = (
    "What the line bills is the operator's word, as the file tells it: hold it against the invoice, whose file has the"
    " SHA-256 {}."
)
_ALL_OF_THEM: Final = (
    "That these are all receipts behind the line, and that no other attempt and no other verdict changes what is payable,"
    " is the word of the file's maker. Whoever knows of another can show it."
)
A_PART: Final = "The file is one part of the line's proof: verify all of them together."


def verify_line(proof: LineProof, trust: Trust) -> Report:
    """Check everything that a proof claims, offline, and recompute what the line's receipts come to."""
    run = Verification()
    policy: LogPolicy = run.step(
        "the policy names a log and a quorum of witnesses",
        lambda: policy_in(proof.log.policy, trust, "file"),
    )
    head: Witnessed = run.step(
        "the checkpoint is signed by the log and its witnesses", lambda: _checkpoint(proof, policy)
    )
    opened = Statements(proof, trust, head)
    for title, check in (
        ("every key bundle is signed by its operator and in the log", opened.open_key_bundles),
        ("every rate card is signed by its operator and in the log", opened.open_rate_cards),
        (
            "every receipt is signed by its node and in the log, and none is there twice",
            opened.open_receipts,
        ),
        ("every order and every cancellation is signed by its tenant", opened.open_orders),
        (
            "every verdict is about one of these receipts, signed by its worker and in the log",
            opened.open_verdicts,
        ),
        ("every period seal is signed by the audit authority and in the log", opened.open_seals),
    ):
        run.step(title, check)
    found = _Conclusions(proof, opened)
    for title, check in (
        ("the receipts are the line's: operator, tenant, node, model and days", found.in_scope),
        (
            "which of them are payable follows from receipts, orders, rate cards and verdicts",
            found.outcomes,
        ),
        ("the bills of closed periods agree with that", found.billed),
        ("tokens at the signed prices come to what the file says", found.arithmetic),
        ("the difference is what the line bills less that", found.difference),
    ):
        run.step(title, check)
    facts = found.facts(head) if run.holds else {}
    return Report(run.steps, _rests_on(proof, trust), facts)


class _Conclusions:
    """What follows from the statements; each method is a step, and relies on those above it."""

    def __init__(self, proof: LineProof, opened: Statements) -> None:
        self._proof = proof
        self._opened = opened
        self._known: dict[bytes, Known] = {}
        self._becomes: dict[bytes, Standing] = {}
        self._figures = proof.figures

    def in_scope(self) -> str:
        """Check that the receipts are the line's, and the others of the same requests."""
        self._known = self._opened.known()
        requests = {self._known[item.entry].request for item in self._own()}
        for item in self._opened.receipts:
            with about(f"the receipt at index {item.part.index}"):
                problem = self._why_not(item)
                if item.own:
                    require(problem is None, f"it {problem}")
                else:
                    require(problem is not None, "it is the line's, but among the others")
                    related = self._known[item.entry].request in requests
                    require(related, "it is of no request of the line's")
        scope = self._proof.scope
        days = f"{to_rfc3339(scope.start)} to {to_rfc3339(min(scope.end, MAX_MS))}"
        part = f", at log indexes from {scope.first_index} to before {scope.end_index}"
        return days + (part if self._proof.is_part else "")

    def _why_not(self, item: Signed) -> str | None:
        """Return why a receipt is not behind the line; None if it is."""
        scope, receipt, bundle = self._proof.scope, item.receipt, item.bundle
        if bundle.operator != self._proof.invoice.operator:
            return "is another operator's"
        for name, wanted, has in (
            ("tenant", scope.tenant, receipt.tenant),
            ("node", scope.node, bundle.node),
            ("model", scope.model_root, receipt.model_root.hex()),
        ):
            if wanted is not None and wanted != has:
                return f"is of another {name}"
        if not scope.start <= receipt.ended < scope.end:
            return "ended on another day"
        within = scope.first_index <= item.part.index < scope.end_index
        return None if within else "belongs to another part of the proof"

    def outcomes(self) -> str:
        """Apply protocol §8.3, and check what the file says that becomes of each receipt."""
        self._becomes = outcomes(self._known.values())
        for item in self._opened.receipts:
            standing = self._becomes[item.entry]
            follows = _in_words(standing.state, standing.because)
            because = None if item.part.because is None else bytes.fromhex(item.part.because)
            said = _in_words(item.part.state, because)
            require(
                follows == said,
                f"the receipt at index {item.part.index} is {follows}, not {said}",
            )
        return self._tally()

    def billed(self) -> str:
        """Check the receipts' lines on the bills of closed periods (protocol §8.6)."""
        attempts = Counter(known.request for known in self._known.values())
        for item in self._own():
            with about(f"the receipt at index {item.part.index}"):
                self._lines_lead_to_seals(item)
                self._is_billed(item, alone=attempts[self._known[item.entry].request] == 1)
        lines = sum(len(item.part.sealed) for item in self._own())
        if not self._opened.seals:
            return "the file has none"
        return f"{lines} lines on {len(self._opened.seals)} bills"

    def _lines_lead_to_seals(self, item: Signed) -> None:
        for line in item.part.sealed:
            require(line.seal < len(self._opened.seals), "its seal is not in the file")
            seal = self._opened.seals[line.seal]
            require(_is_of(seal, self._known[item.entry]), "it is on the bill of other parties")
            leaf = leaf_hash(period_line(item.entry, line.net))
            verify_inclusion(leaf, line.index, seal.lines, line.path, seal.root)
        seals = {line.seal for line in item.part.sealed}
        require(len(seals) == len(item.part.sealed), "it is twice on one bill")

    def _is_billed(self, item: Signed, *, alone: bool) -> None:
        """Check that bills and rule agree. What is refused may be on a bill: a later one takes it back. A receipt with a
        rival for its request may have been refused for a time, which leaves open when it is billed.
        """
        known = self._known[item.entry]
        nets = {line.seal: line.net for line in item.part.sealed}
        reason = known.rated()[1]
        require(
            reason is None or not nets, f"a bill has it, but by itself it is not payable: {reason}"
        )
        if self._becomes[item.entry].state is State.REFUSED or not alone:
            return
        require(-1 not in nets.values(), "a bill takes it back, but nothing here refuses it")
        for place, seal in enumerate(self._opened.seals):
            within = seal.start <= known.receipt.ended < seal.end and known.index < seal.size
            if within and _is_of(seal, known):
                require(
                    nets.get(place) == 1,
                    "nothing here refuses it, but the bill of its period lacks it",
                )

    def arithmetic(self) -> str:
        """Recompute what the receipts come to."""
        said, invoice = self._proof.figures, self._proof.invoice
        rate = Decimal(said.fx_rate)
        require(rate > 0, "the exchange rate is not above zero")
        self._figures = found = figures(
            [self._known[item.entry] for item in self._own()],
            self._becomes,
            self._proof.claims,
            currency=said.currency,
            fx_rate=rate,
        )
        abroad = found.currency != invoice.currency
        require(abroad or rate == 1, "there is an exchange rate within one currency")
        require(
            same(_receipts_only(said), _receipts_only(found)),
            f"they come to {_sum_of(found)}, not to {_sum_of(said)}",
        )
        exchanged = f" × {said.fx_rate} {invoice.currency}/{found.currency}" if abroad else ""
        return f"{_sum_of(found)}{exchanged}: {found.proven} {invoice.currency} are proven"

    def difference(self) -> str:
        """Recompute the difference to what the line bills."""
        said, found = self._proof.figures, self._figures
        require(
            same(said, found),
            f"{found.billed} billed less {found.proven} proven is {found.difference}, which is"
            f" not {said.difference} of {said.billed}",
        )
        return compared(found, self._proof.claims, self._proof.invoice.currency)

    def facts(self, head: Witnessed) -> dict[str, Any]:
        """Return what was verified, once every step has passed."""
        proof = self._proof
        states = Counter(self._becomes[item.entry].state for item in self._own())
        return {
            "invoice": proof.invoice.model_dump(mode="json"),
            "claims": [claim.model_dump(mode="json") for claim in proof.claims],
            "scope": proof.scope.model_dump(mode="json"),
            "receipts": {state.value: states[state] for state in State},
            "entries": [item.entry for item in self._own()],
            "figures": self._figures.model_dump(mode="json"),
            "seals": len(self._opened.seals),
            "origin": head.checkpoint.origin,
            "size": head.checkpoint.size,
            "root": head.checkpoint.root,
            "witnesses": head.times,
        }

    def _own(self) -> Sequence[Signed]:
        return self._opened.receipts[: len(self._proof.receipts)]

    def _tally(self) -> str:
        """Count the receipts by what becomes of them, with the reasons."""
        told = []
        for state in State:
            items = [item for item in self._own() if self._becomes[item.entry].state is state]
            reasons = sorted({self._becomes[item.entry].reason or "" for item in items})
            why = f" ({'; '.join(reasons[:8])}; at {names_of(items)})" if any(reasons) else ""
            if items:
                told.append(f"{len(items)} {state}{why}")
        return ", ".join(told) or "there is no receipt"


def _checkpoint(proof: LineProof, policy: LogPolicy) -> tuple[Witnessed, str]:
    head = verify_witnessed(proof.log.checkpoint, policy)
    times = ", ".join(f"{name} {to_rfc3339(1000 * at)}" for name, at in head.times.items())
    return head, f"{head.checkpoint.size} entries of {head.checkpoint.origin}; witnessed by {times}"


def _is_of(seal: PeriodSeal, known: Known) -> bool:
    """Whether a seal is of a receipt's parties and, as far as its rate card is known, currency."""
    currency = known.card is None or seal.currency == known.card.currency
    parties = (known.receipt.tenant, known.operator)
    return currency and (seal.tenant, seal.operator) == parties


def _in_words(state: State, because: bytes | None) -> str:
    return state.value if because is None else f"{state} because of {because.hex()}"


def _receipts_only(given: Figures) -> Figures:
    """Return the figures without what the invoice says."""
    return given.model_copy(update={"billed": "0", "difference": "0"})


def _sum_of(given: Figures) -> str:
    terms = " + ".join(
        f"{term.quantity} {term.kind} × {term.unit_price} / {term.per}" for term in given.terms
    )
    held = f" ({given.held} of it held)" if Decimal(given.held) else ""
    return f"{terms or 'nothing'} = {given.proven} {given.currency}{held}"


def compared(found: Figures, claims: Sequence[Claim], currency: str) -> str:
    """Say in words how what a line bills differs from what is proven."""
    told = f"billed {found.billed}, proven {found.proven}: {found.difference} {currency} apart"
    if any(claim.quantity is None for claim in claims):
        return told
    proven, counted = tokens_of(found.terms), Counter[str]()
    for claim in claims:
        counted[claim.kind] += claim.quantity or 0
    tokens = ", ".join(
        f"{kind} {counted[kind]} billed, {proven.get(kind, 0)} proven"
        for kind in dict.fromkeys(claim.kind for claim in claims)
    )
    return f"{told}; tokens: {tokens}"


def _rests_on(proof: LineProof, trust: Trust) -> list[str]:
    told = [
        *whose_word(trust, "file"),
        _THE_LINE.format(proof.invoice.sha256),
        _ALL_OF_THEM,
    ]
    if proof.is_part:
        told.append(A_PART)
    if proof.figures.currency != proof.invoice.currency:
        told.append("The exchange rate is that of a contract that is not in the file.")
    if not proof.seals:
        told.append("That no closed period bills these receipts is the word of the file's maker.")
    return told
