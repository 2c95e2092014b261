"""Recompute billing periods: what is booked into them and, of closed ones, lines, bill, seal and journal."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import pairwise
from typing import Final

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from audit_layer.costs.billing import bill_of, lines_of
from audit_layer.costs.closing import STEPS, close_journal
from audit_layer.costs.ledger.posting import postings_of
from audit_layer.costs.models import JournalRow, PeriodEventRow, PeriodRow
from audit_layer.costs.periods import CLOSED, CLOSING, OPEN
from audit_layer.log.tile_table import log_size
from audit_layer.trail.models import PartyRow, StatementRow
from shared.runtime.errors import CounterfoilError
from shared.statements.cose import SignedStatement, entry_of, open_as, read_as, verify_signature
from shared.statements.periods import NO_PERIOD, PeriodSeal, lines_root

_SAME: Final = ("tenant", "operator", "currency", "start", "end", "time_zone")
_MISPLACED: Final = text("""
SELECT r.receipt, 'is booked' FROM costs_rated_receipts r LEFT JOIN costs_periods p ON p.id = r.period
 WHERE r.billable AND ((r.tenant, r.operator, r.currency) = (p.tenant, p.operator, p.currency) AND r.ended < p."end") IS NOT TRUE
UNION ALL
SELECT r.receipt, 'is corrected' FROM costs_corrections c JOIN costs_rated_receipts r USING (receipt)
  LEFT JOIN costs_periods p ON p.id = c.period
 WHERE c.journal IS NOT NULL AND ((r.tenant, r.operator, r.currency) = (p.tenant, p.operator, p.currency)) IS NOT TRUE
""")
_HIGHEST: Final = text("""
SELECT coalesce(max(r.log_index), -1) FROM costs_rated_receipts r
 WHERE r.period = :period OR EXISTS (SELECT FROM costs_corrections c WHERE c.receipt = r.receipt AND c.period = :period)
""")


def check_periods(db: Session) -> Iterator[str]:
    """Yield what in billing periods is not as receipts, corrections, contracts and seals have it."""
    yield from (
        f"receipt {receipt.hex()} {how} in a period that is not its own"
        for receipt, how in db.execute(_MISPLACED)
    )
    rows = db.scalars(select(PeriodRow).order_by(PeriodRow.start, PeriodRow.id)).all()
    events: dict[int, list[PeriodEventRow]] = defaultdict(list)
    for event in db.scalars(
        select(PeriodEventRow).order_by(PeriodEventRow.period, PeriodEventRow.turn)
    ):
        events[event.period].append(event)
    chains: dict[tuple[str, str, str], list[PeriodRow]] = defaultdict(list)
    for row in rows:
        chains[row.tenant, row.operator, row.currency].append(row)
        yield from _states(row, events[row.id])
    for chain in chains.values():
        yield from _chain(db, chain, events)
    yield from _strangers(db, events)


def _states(row: PeriodRow, events: Sequence[PeriodEventRow]) -> Iterator[str]:
    state = OPEN
    for turn, event in enumerate(events):
        allowed = (CLOSED, *STEPS[CLOSING]) if state == CLOSING else STEPS[state]
        if event.turn != turn or event.state not in allowed:
            yield f"billing period {row.id}: event {event.turn} makes it {event.state}, but it was {state}"
        state = event.state


def _chain(
    db: Session, chain: Sequence[PeriodRow], events: Mapping[int, Sequence[PeriodEventRow]]
) -> Iterator[str]:
    """Check the periods of two parties and one currency, in order."""
    for earlier, later in pairwise(chain):
        if later.start < earlier.end:
            yield f"billing periods {earlier.id} and {later.id} overlap"
    previous = NO_PERIOD
    for row in chain:
        for event in events[row.id]:
            if event.state == CLOSED and event.statement is not None:
                yield from (
                    f"billing period {row.id}: {what}" for what in _closed(db, row, event, previous)
                )
                previous = _entry(event)


def _closed(db: Session, row: PeriodRow, event: PeriodEventRow, previous: bytes) -> Iterator[str]:
    """Compare a closed period with its seal, and both with what they rest on."""
    raw, document = event.statement or b"", event.bill or b""
    try:
        seal, signed = open_as(PeriodSeal, raw, None)
    except CounterfoilError as error:
        yield f"its seal cannot be read: {error.detail}"
        return
    if not _signed(db, signed):
        yield f"its seal is not signed by the audit authority, but by {signed.issuer}"
    yield from (
        f"{name} is not the seal's" for name in _SAME if getattr(row, name) != getattr(seal, name)
    )
    if seal.at != event.at:
        yield "at is not the seal's"
    if seal.previous != previous:
        yield "its seal does not name the seal before it"
    count, root = lines_root(lines_of(db, row.id))
    if count != seal.lines:
        yield f"it has {count} lines, but its seal has {seal.lines}"
    if root != seal.root:
        yield "its lines are not those of its seal"
    if event.root != seal.root:
        yield "the root beside its seal is not the seal's"
    if not (db.scalar(_HIGHEST, {"period": row.id}) or 0) < seal.size <= log_size(db):
        yield f"its seal's log size, {seal.size}, does not cover its lines, or the log is smaller"
    if sha256(document).digest() != seal.bill:
        yield "its bill is not the one that its seal names"
    yield from _bill(db, row, document)


def _bill(db: Session, row: PeriodRow, document: bytes) -> Iterator[str]:
    try:
        bill = bill_of(db, row)
    except (CounterfoilError, ValueError, KeyError, TypeError, ArithmeticError) as error:
        yield f"its bill cannot be computed again: {error}"
        return
    if bill.document() != document:
        yield "its bill is not what its lines and terms come to"
    wanted = close_journal(row, bill)
    stored = db.scalar(select(JournalRow).where(JournalRow.key == f"close {row.id}"))
    found = [] if stored is None else postings_of(db, stored.id)
    posted = () if wanted is None else wanted.postings
    parties = (row.tenant, row.operator, "close")
    same = stored is None or (stored.tenant, stored.operator, stored.kind) == parties
    if not same or sorted(found) != sorted(posted):
        yield "its journal is not what its bill posts"


def _signed(db: Session, statement: SignedStatement) -> bool:
    """Whether a key of the audit authority signed a statement."""
    for key in db.scalars(select(PartyRow.public_key).where(PartyRow.role == "authority")):
        try:
            verify_signature(statement, key)
        except CounterfoilError:
            continue
        return True
    return False


def _strangers(db: Session, events: Mapping[int, Sequence[PeriodEventRow]]) -> Iterator[str]:
    """Compare the log's seals with the books', and the closes that were posted with the periods that are closed."""
    kept = {_entry(event) for found in events.values() for event in found if event.statement}
    for logged in db.scalars(
        select(StatementRow)
        .where(StatementRow.type == PeriodSeal.TYPE)
        .order_by(StatementRow.log_index)
    ):
        if logged.entry not in kept:
            seal = read_as(PeriodSeal, logged.raw)
            yield (
                f"the log has a period seal that the books do not have: {logged.entry.hex()}, of {seal.tenant} with"
                f" {seal.operator} in {seal.currency}"
            )
    closed = {
        f"close {period}"
        for period, found in events.items()
        if any(event.state == CLOSED for event in found)
    }
    for key in db.scalars(select(JournalRow.key).where(JournalRow.kind == "close")):
        if key not in closed:
            yield f"the journal {key!r} is of no closed period"


def _entry(event: PeriodEventRow) -> bytes:
    """Return the log entry of a stored seal; of what is none, none that the log can have."""
    try:
        return entry_of(event.statement or b"")
    except CounterfoilError:
        return b""
