"""What audits cost that tenants ask for: a price in their contract with the auditor, posted once for each audit that was answered.

An audit is answered by the first worker's PASS or FAIL under a disclosure request that names an audit request (protocol
§6.2.7). What confirms or contradicts it costs nothing more, and what came to nothing (INCONCLUSIVE) costs nothing. All of it
follows from statements in the log and a recorded contract, so `check` computes it again. In the caller's transaction.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from audit_layer.costs.contracts.store import terms_at, terms_by_digest
from audit_layer.costs.contracts.terms import Terms
from audit_layer.costs.ledger.posting import Journal, Posting, post, postings_of
from audit_layer.costs.models import AuditFeeRow, JournalRow
from audit_layer.trail.models import StatementRow, VerdictRow
from shared.statements.cose import read_as
from shared.statements.disclosures import DisclosureReason, DisclosureRequest
from shared.statements.verdicts import Outcome, Verdict
from shared.verification.trust import AUTHORITY

KIND: Final = "audit"
ANSWERS: Final = (Outcome.PASS.value, Outcome.FAIL.value)


def charge_new(db: Session, limit: int) -> int:
    """Look at asked-for verdicts that the books have not, in the log's order, and post their prices; return how many."""
    seen = select(func.coalesce(func.max(AuditFeeRow.log_index), -1)).scalar_subquery()
    verdicts = db.scalars(
        select(VerdictRow)
        .where(VerdictRow.asked, VerdictRow.log_index > seen)
        .order_by(VerdictRow.log_index)
        .limit(limit)
    ).all()
    for verdict in verdicts:
        terms = _terms(db, verdict)
        journal = None if terms is None else post(db, _journal(verdict, terms))
        digest = None if terms is None else terms.digest
        db.add(
            AuditFeeRow(
                verdict=verdict.entry, log_index=verdict.log_index, contract=digest, journal=journal
            )
        )
        db.flush()
    return len(verdicts)


def check_fees(db: Session) -> Iterator[str]:
    """Yield what in the fees is not as verdicts and contracts make it."""
    rows = {row.verdict: row for row in db.scalars(select(AuditFeeRow))}
    newest = max((row.log_index for row in rows.values()), default=-1)
    asked = select(VerdictRow).where(VerdictRow.asked, VerdictRow.log_index <= newest)
    verdicts = {verdict.entry: verdict for verdict in db.scalars(asked)}
    for entry in sorted(rows.keys() ^ verdicts.keys()):
        yield f"verdict {entry.hex()}: {'no fee was considered' if entry in verdicts else 'a fee for what nobody asked for'}"
    posted = {row.journal for row in rows.values()}
    for number in db.scalars(select(JournalRow.id).where(JournalRow.kind == KIND)):
        if number not in posted:
            yield f"journal {number} is for an audit that no verdict answered"
    for entry in sorted(rows.keys() & verdicts.keys()):
        yield from _differs(db, rows[entry], verdicts[entry])


def _differs(db: Session, row: AuditFeeRow, verdict: VerdictRow) -> Iterator[str]:
    name = f"verdict {row.verdict.hex()}"
    if row.journal is None or row.contract is None:
        return  # there was no price when it was booked; one that is recorded later changes nothing
    terms = terms_by_digest(db, row.contract)
    if terms is None or not _answers(db, verdict) or not _holds(terms, verdict):
        yield f"{name}: its fee is under no contract that has a price for it"
    elif postings_of(db, row.journal) != list(_journal(verdict, terms).postings):
        yield f"{name}: journal {row.journal} does not post the price of an audit"


def _terms(db: Session, verdict: VerdictRow) -> Terms | None:
    """Return the terms under which a verdict costs its tenant something; None if it costs nothing, or was paid for before."""
    paid = select(JournalRow.id).where(JournalRow.key == _key(verdict))
    if not _answers(db, verdict) or db.scalar(paid) is not None:
        return None
    terms = terms_at(db, verdict.tenant, AUTHORITY, verdict.at)
    return terms if terms.per_audit else None


def _answers(db: Session, verdict: VerdictRow) -> bool:
    """Whether a verdict is the answer to an audit request: the first worker's, and not of what a client showed."""
    if verdict.outcome not in ANSWERS:
        return False
    row = db.get_one(StatementRow, verdict.entry)
    request = db.get(StatementRow, read_as(Verdict, row.raw).request)
    if request is None or request.type != DisclosureRequest.TYPE:
        return False
    asked = read_as(DisclosureRequest, request.raw)
    # What a worker found beside it, about another node of the same chain, nobody asked for.
    return asked.reason is DisclosureReason.TENANT and asked.receipt == verdict.receipt


def _holds(terms: Terms, verdict: VerdictRow) -> bool:
    start, end = terms.valid
    parties = (terms.tenant, terms.operator) == (verdict.tenant, AUTHORITY)
    return parties and start <= verdict.at and (end is None or verdict.at < end)


def _key(verdict: VerdictRow) -> str:
    return f"{KIND} {verdict.receipt.hex()}"


def _journal(verdict: VerdictRow, terms: Terms) -> Journal:
    assert terms.currency is not None
    price, currency = terms.per_audit, terms.currency
    return Journal(
        kind=KIND,
        key=_key(verdict),
        day=datetime.fromtimestamp(verdict.at / 1000, UTC).date(),
        postings=(
            Posting(f"expense:{verdict.tenant}", price, currency),
            Posting(f"payable:{AUTHORITY}", price.copy_negate(), currency),
        ),
        tenant=verdict.tenant,
        operator=AUTHORITY,
        memo=f"audit of receipt {verdict.receipt.hex()}, which its tenant asked for",
    )
