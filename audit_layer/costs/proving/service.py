"""Making proofs of invoice lines (docs/cost-proof.md): one transaction for what is signed, then one checkpoint for all."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from hashlib import sha256
from typing import Any, Protocol

from pydantic import ValidationError
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from audit_layer.costs.billed import BilledInvoice
from audit_layer.costs.contracts.store import terms_at
from audit_layer.costs.contracts.terms import last_day
from audit_layer.costs.intake.content import content_of
from audit_layer.costs.models import InvoiceRow
from audit_layer.costs.proving.claims import claims_of
from audit_layer.costs.proving.gathering import Gathered, gather
from audit_layer.costs.stored_invoices import stored, tenant_of
from audit_layer.log.proof_service import Together
from audit_layer.storage.engine import session
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.policy import LogPolicy
from shared.translog.policy_file import PolicyFile
from shared.verification.line_figures import Known, figures, outcomes
from shared.verification.line_proof import verify_line
from shared.verification.line_proof_file import (
    MAX_FILE,
    Claim,
    Invoice,
    LineProof,
    Log,
    Logged,
    ReceiptPart,
    Scope,
)
from shared.verification.payable import Standing, State
from shared.verification.trust import Trust


class Proofs(Protocol):
    """Proofs of inclusion, as far as these use cases need them."""

    @property
    def policy(self) -> LogPolicy:
        """The rule for a witnessed checkpoint."""
        ...

    def prove_together(self, places: Mapping[bytes, int]) -> Together:
        """Prove that entries are at these indexes, all under one checkpoint."""
        ...


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is to be proved, and what there is for it."""

    invoice: Invoice
    claims: tuple[Claim, ...]
    scope: Scope
    found: Gathered
    becomes: Mapping[bytes, Standing]
    currency: str
    fx_rate: Decimal


class LineProofs:
    """Proofs of lines of stored invoices."""

    def __init__(self, engine: Engine, proofs: Proofs) -> None:
        self._engine = engine
        self._proofs = proofs

    def make(self, number: int, line_id: str, *, first_index: int = 0) -> bytes:
        """Return the proof of a line of a stored invoice, as a file. It has been checked.

        A line with more receipts than a file holds takes several: `scope.end_index` of one is `first_index` of the next.

        Errors: NOT_FOUND; those of `claims_of` and `gather`; INVALID_ARGUMENT for what is too large; NOT_WITNESSED with a
        hint until a witnessed checkpoint covers everything; CONFLICT where prices do not add up or the contract does not
        bill in the invoice's currency; CORRUPT.
        """
        with session(self._engine, isolation="REPEATABLE READ") as db:
            asked = _asked(db, number, line_id, first_index)
        found = asked.found
        places = {entry: item.index for entry, item in found.statements.items()}
        together = self._proofs.prove_together(places)
        try:
            proof = _written(asked, together, self._proofs.policy)
        except ValidationError as error:
            told = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, told["loc"]))
            raise _too_large(f"{where}: {told['msg']}") from error
        last = verify_line(proof, Trust(self._proofs.policy)).steps[-1]
        if not last.holds:
            raise CounterfoilError(
                Code.CORRUPT,
                f"what is stored does not prove the line: step {last.number}, {last.title}: {last.detail}",
                remedy="Run `counterfoil cost fsck` and `counterfoil log fsck`.",
            )
        data = proof.encode().encode()
        if len(data) > MAX_FILE:
            raise _too_large(f"{len(data)} bytes, of at most {MAX_FILE}")
        return data


def _too_large(why: str) -> CounterfoilError:
    return CounterfoilError(
        Code.INVALID_ARGUMENT, f"what is behind this line does not fit into one proof: {why}"
    )


def _asked(db: Session, number: int, line_id: str, first_index: int) -> _Asked:
    row = db.get(InvoiceRow, number)
    if row is None:
        raise CounterfoilError(Code.NOT_FOUND, f"there is no invoice {number}")
    invoice = stored(db, row)
    claims, scope = claims_of(
        invoice, line_id, tenant=tenant_of([invoice]), first_index=first_index
    )
    found = gather(db, invoice.operator, scope)
    becomes = outcomes([*found.receipts, *found.others])
    currency, rate = _exchange(db, invoice, found, becomes)
    told = Invoice(
        number=number,
        invoice_id=invoice.invoice_id,
        operator=invoice.operator,
        currency=invoice.currency,
        sha256=sha256(content_of(row.content)).hexdigest(),
    )
    scope = scope.model_copy(update={"end_index": found.end_index})
    return _Asked(told, claims, scope, found, becomes, currency, rate)


def _exchange(
    db: Session, invoice: BilledInvoice, found: Gathered, becomes: Mapping[bytes, Standing]
) -> tuple[str, Decimal]:
    """Return the currency of the receipts' prices, and units of the invoice's for one of it, as the contract has it."""
    counted = [item for item in found.receipts if becomes[item.entry].state is not State.REFUSED]
    currencies = sorted({item.card.currency for item in counted if item.card is not None})
    if currencies in ([], [invoice.currency]):
        return invoice.currency, Decimal(1)
    terms = terms_at(
        db, min(item.receipt.tenant for item in counted), invoice.operator, invoice.period.end - 1
    )
    if terms.currency != invoice.currency:
        raise CounterfoilError(
            Code.CONFLICT,
            f"the receipts are priced in {' and '.join(currencies)}, and no contract bills them in {invoice.currency}",
            remedy="Record a contract whose currency is the invoice's, with the exchange rates that were agreed on.",
        )
    return currencies[0], terms.fx_rate(currencies[0], last_day(invoice.period, terms.time_zone))


def _written(asked: _Asked, together: Together, policy: LogPolicy) -> LineProof:
    found = asked.found

    def logged(entry: bytes) -> dict[str, Any]:
        item = found.statements[entry]
        return {"statement": item.raw, "index": item.index, "path": together.paths[entry]}

    def part(item: Known) -> ReceiptPart:
        standing = asked.becomes[item.entry]
        return ReceiptPart(
            **logged(item.entry),
            order=found.orders[item.receipt.order],
            verdicts=tuple(Logged(**logged(opinion.entry)) for opinion in item.opinions),
            sealed=tuple(found.sealed.get(item.entry, ())),
            state=standing.state,
            because=None if standing.because is None else standing.because.hex(),
            refusal=None if item.refused is None else Logged(**logged(item.refused)),
        )

    def all_of(entries: Any) -> tuple[Logged, ...]:
        return tuple(Logged(**logged(entry)) for entry in entries)

    return LineProof(
        invoice=asked.invoice,
        claims=asked.claims,
        scope=asked.scope,
        log=Log(checkpoint=together.note, policy=PolicyFile.of(policy).encode()),
        keys=tuple(found.keys),
        key_bundles=all_of(found.key_bundles),
        rate_cards=all_of(found.rate_cards),
        receipts=tuple(map(part, found.receipts)),
        others=tuple(map(part, found.others)),
        seals=all_of(found.seals),
        figures=figures(
            found.receipts,
            asked.becomes,
            asked.claims,
            currency=asked.currency,
            fx_rate=asked.fx_rate,
        ),
    )
