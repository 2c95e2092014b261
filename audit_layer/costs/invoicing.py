"""Operators' invoices: taken in, compared with what is proven, and what became of the difference.

Every use case is one transaction and may be repeated: an invoice is stored once.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from hashlib import sha256
from typing import Final

from sqlalchemy import Engine, func, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from audit_layer.costs.billed import BilledInvoice
from audit_layer.costs.contracts.store import terms_at
from audit_layer.costs.contracts.terms import Tolerance
from audit_layer.costs.intake.content import content_of
from audit_layer.costs.intake.mapping import InvoiceMapping
from audit_layer.costs.intake.read import Format, Preview, preview, read_invoice, told_format
from audit_layer.costs.model_names import names_of, roots_of
from audit_layer.costs.models import CaseEventRow, InvoiceRow, ReconciliationRow
from audit_layer.costs.reconciling.cases import SETTLED, Event, State, check_move, first_state
from audit_layer.costs.reconciling.owed import owed
from audit_layer.costs.reconciling.variance import Reconciliation, reconcile
from audit_layer.costs.reporting import as_json
from audit_layer.log.tile_table import log_size
from audit_layer.storage.engine import session
from audit_layer.trail.models import PartyRow
from shared.codec.moment import now_ms
from shared.runtime.errors import Code, CounterfoilError

_PRECISE: Final = Context(prec=60)
MAX_NOTE: Final = 2000
CASE_LOCK: Final = (
    0x63665F63617365  # "cf_case": two people at once would each decide on the same state
)


@dataclass(frozen=True, slots=True)
class Submitted:
    """An invoice file, and what says how it is to be read."""

    content: bytes
    format: Format | None = None
    mapping: bytes | None = None
    stated: Mapping[str, str] | None = None
    """What the file does not say, by field."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A stored invoice, and the state of its case; None before it was compared."""

    id: int
    operator: str
    invoice_id: str
    format: str
    received_at: int
    received_by: str
    state: State | None
    gap: str | None
    currency: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """An invoice compared with what is proven now."""

    id: int
    invoice: BilledInvoice
    result: Reconciliation
    history: Sequence[Event]
    """The case: its last event has its state."""
    names: Mapping[bytes, str]
    """Of models."""


class Invoicing:
    """Invoices over one database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def look(self, given: Submitted) -> Preview:
        """Return how a file would be read; nothing is stored."""
        with session(self._engine) as db:
            roots = roots_of(db)
        return preview(
            given.content,
            format=given.format,
            mapping=_mapping(given.mapping),
            names=roots.get,
            stated=given.stated,
        )

    def take(self, given: Submitted, *, by: str) -> int:
        """Store an invoice as submitted and return its number here; the same bytes again are the same invoice.

        Errors: MALFORMED; NOT_FOUND when this log does not know its operator; CONFLICT when another invoice has its number.
        """
        with session(self._engine) as db:
            invoice = _read(db, given)
            _check_operator(db, invoice.operator)
            extra = {"mapping": _text(given.mapping), "stated": dict(given.stated or {})}
            settings = json.dumps(extra, sort_keys=True).encode()
            digest = sha256(given.content + b"\0" + settings).digest()
            db.execute(
                upsert(InvoiceRow)
                .values(
                    operator=invoice.operator,
                    invoice_id=invoice.invoice_id,
                    digest=digest,
                    content=given.content,
                    format=told_format(
                        content_of(given.content), given.format, _mapping(given.mapping)
                    ).value,
                    mapping=settings,
                    received_at=now_ms(),
                    received_by=by,
                )
                .on_conflict_do_nothing()
            )
            known = db.scalars(
                select(InvoiceRow).where(
                    InvoiceRow.operator == invoice.operator,
                    InvoiceRow.invoice_id == invoice.invoice_id,
                )
            ).one()
            if known.digest not in {digest, sha256(given.content).digest()}:
                raise CounterfoilError(
                    Code.CONFLICT,
                    f"invoice {invoice.invoice_id!r} of {invoice.operator} was submitted before "
                    "with different content",
                    remedy="A corrected invoice needs a number of its own.",
                )
            return known.id

    def list(self, operator: str | None = None) -> list[Listed]:
        """Return the stored invoices, the latest first."""
        with session(self._engine) as db:
            query = select(InvoiceRow).order_by(InvoiceRow.id.desc())
            if operator is not None:
                query = query.where(InvoiceRow.operator == operator)
            return [_listed(db, row) for row in db.scalars(query)]

    def reconcile(self, number: int, *, by: str = "counterfoil") -> Outcome:
        """Compare a stored invoice, with its credit notes, with what is proven now; keep the result, and the case's state.

        Errors: NOT_FOUND; CONFLICT when the contract bills in another currency.
        """
        with session(self._engine) as db:
            db.execute(select(func.pg_advisory_xact_lock(CASE_LOCK)))
            outcome = _compare(db, number)
            history = list(outcome.history)
            if not history or _to_be_judged_anew(history[-1], outcome.result):
                state = _judged(db, outcome)
                history.append(_write_event(db, outcome, state, by, "compared"))
            db.add(
                ReconciliationRow(
                    invoice=number,
                    log_size=log_size(db),
                    result=json.dumps(as_json(outcome.result)),
                    computed_at=now_ms(),
                )
            )
            return Outcome(number, outcome.invoice, outcome.result, history, outcome.names)

    def move(self, number: int, to: State, *, by: str, note: str) -> Outcome:
        """Put an invoice's case into another state.

        Errors: NOT_FOUND; CONFLICT for a step that does not exist; FORBIDDEN where a second person is needed.
        """
        if not note.strip() or len(note) > MAX_NOTE:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT, f"a note of 1 to {MAX_NOTE} characters must say why"
            )
        with session(self._engine) as db:
            db.execute(select(func.pg_advisory_xact_lock(CASE_LOCK)))
            outcome = _compare(db, number)
            if not outcome.history:
                raise CounterfoilError(
                    Code.CONFLICT,
                    f"invoice {number} has not been compared",
                    remedy="Reconcile it first.",
                )
            check_move(outcome.history, to, by)
            event = _write_event(db, outcome, to, by, note)
            history = [*outcome.history, event]
            return Outcome(number, outcome.invoice, outcome.result, history, outcome.names)


def _compare(db: Session, number: int) -> Outcome:
    row = db.get(InvoiceRow, number)
    if row is None:
        raise CounterfoilError(Code.NOT_FOUND, f"there is no invoice {number}")
    invoice = stored(db, row)
    family = [invoice, *_credit_notes(db, invoice)]
    tenant = tenant_of(family)
    due = owed(db, invoice.operator, invoice.period, tenant=tenant, currency=invoice.currency)
    result = reconcile(family, due)
    return Outcome(number, invoice, result, _history(db, number), names_of(db))


def stored(db: Session, row: InvoiceRow) -> BilledInvoice:
    """Return a stored invoice as it is read."""
    settings = json.loads(row.mapping or b"{}")
    mapping = settings.get("mapping")
    return _read(
        db,
        Submitted(
            row.content,
            Format(row.format),
            None if mapping is None else mapping.encode(),
            settings.get("stated") or None,
        ),
    )


def _read(db: Session, given: Submitted) -> BilledInvoice:
    return read_invoice(
        given.content,
        format=given.format,
        mapping=_mapping(given.mapping),
        names=roots_of(db).get,
        stated=given.stated,
    )


def _mapping(data: bytes | None) -> InvoiceMapping | None:
    return None if data is None else InvoiceMapping.parse(data)


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8-sig")


def _credit_notes(db: Session, invoice: BilledInvoice) -> list[BilledInvoice]:
    """Return the invoices of the same operator that correct this one."""
    rows = db.scalars(
        select(InvoiceRow)
        .where(InvoiceRow.operator == invoice.operator, InvoiceRow.invoice_id != invoice.invoice_id)
        .order_by(InvoiceRow.id)
    )
    others = (stored(db, row) for row in rows if row.format != Format.JSON)
    return [other for other in others if other.corrects == invoice.invoice_id]


def tenant_of(invoices: Sequence[BilledInvoice]) -> str | None:
    """Return the one tenant that all lines name; None if there is no such one."""
    named = {one.tenant for one in invoices if one.tenant} | {
        line.tenant for one in invoices for line in one.lines if line.tenant
    }
    return named.pop() if len(named) == 1 else None


def _history(db: Session, number: int) -> list[Event]:
    rows = db.scalars(
        select(CaseEventRow).where(CaseEventRow.invoice == number).order_by(CaseEventRow.turn)
    )
    return [Event(State(row.state), row.by, row.at, row.note, Fraction(row.amount)) for row in rows]


def _to_be_judged_anew(last: Event, result: Reconciliation) -> bool:
    """Whether what was said of a variance no longer fits it: people's decisions stand until the variance changes."""
    return last.amount != Fraction(_decimal(result.gap))


def _judged(db: Session, outcome: Outcome) -> State:
    invoice, result = outcome.invoice, outcome.result
    tenant = result.tenant or tenant_of([invoice])
    at = invoice.period.end - 1
    terms = None if tenant is None else terms_at(db, tenant, invoice.operator, at)
    tolerance = Tolerance() if terms is None else terms.tolerance
    return first_state(
        result.gap, result.proven, tolerance, _tolerated(db, invoice.operator, outcome.id)
    )


def _tolerated(db: Session, operator: str, number: int) -> list[Fraction]:
    """Return the variances of the operator's other invoices that are within tolerance, since the last one that was settled."""
    found: list[Fraction] = []
    others = db.scalars(
        select(InvoiceRow.id)
        .where(InvoiceRow.operator == operator, InvoiceRow.id < number)
        .order_by(InvoiceRow.id)
    )
    for other in others:
        history = _history(db, other)
        if history and history[-1].state is State.WITHIN_TOLERANCE:
            found.append(history[-1].amount)
        elif history and history[-1].state in SETTLED - {State.MATCHED}:
            found.clear()
    return found


def _write_event(db: Session, outcome: Outcome, state: State, by: str, note: str) -> Event:
    now = now_ms()
    turn = len(_history(db, outcome.id))
    db.add(
        CaseEventRow(
            invoice=outcome.id,
            turn=turn,
            state=state.value,
            amount=_decimal(outcome.result.gap),
            currency=outcome.result.currency,
            note=note,
            at=now,
            by=by,
        )
    )
    db.flush()
    return Event(state, by, now, note, Fraction(_decimal(outcome.result.gap)))


def _decimal(value: Fraction) -> Decimal:
    """Return a variance as the books' column holds it: 24 digits after the point, the rest cut off."""
    scaled = abs(value.numerator) * 10**24 // value.denominator
    digits = Decimal(scaled if value >= 0 else -scaled)
    return digits.scaleb(-24, _PRECISE)


def _listed(db: Session, row: InvoiceRow) -> Listed:
    last = db.scalar(
        select(CaseEventRow)
        .where(CaseEventRow.invoice == row.id)
        .order_by(CaseEventRow.turn.desc())
        .limit(1)
    )
    return Listed(
        id=row.id,
        operator=row.operator,
        invoice_id=row.invoice_id,
        format=row.format,
        received_at=row.received_at,
        received_by=row.received_by,
        state=None if last is None else State(last.state),
        gap=None if last is None else f"{last.amount.normalize(_PRECISE):f}",
        currency=None if last is None else last.currency,
    )


def _check_operator(db: Session, name: str) -> None:
    """Refuse an operator that this log does not know, naming those that it does."""
    known = sorted(set(db.scalars(select(PartyRow.name).where(PartyRow.role == "operator"))))
    if name not in known:
        raise CounterfoilError(
            Code.NOT_FOUND,
            f"the invoice's operator {name!r} is not registered here",
            remedy=f"Known operators: {', '.join(known[:20]) or 'none yet'}.",
        )
