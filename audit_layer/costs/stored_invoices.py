"""Invoices as they are stored: taken in, read again, and the credit notes that belong to one. In the caller's transaction."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from audit_layer.costs.billed import BilledInvoice
from audit_layer.costs.intake.mapping import InvoiceMapping
from audit_layer.costs.intake.read import Format, read_invoice
from audit_layer.costs.model_names import roots_of
from audit_layer.costs.models import InvoiceRow
from shared.runtime.errors import Code, CounterfoilError


@dataclass(frozen=True, slots=True)
class Submitted:
    """An invoice file, and what says how it is to be read."""

    content: bytes
    format: Format | None = None
    mapping: bytes | None = None
    stated: Mapping[str, str] | None = None
    """What the file does not say, by field."""


def read(db: Session, given: Submitted) -> BilledInvoice:
    """Read a file; MALFORMED names what is wrong with it."""
    return read_invoice(
        given.content,
        format=given.format,
        mapping=mapping_of(given.mapping),
        names=roots_of(db).get,
        stated=given.stated,
    )


def mapping_of(data: bytes | None) -> InvoiceMapping | None:
    """Parse a mapping file, if there is one."""
    return None if data is None else InvoiceMapping.parse(data)


def settings_of(given: Submitted) -> bytes:
    """Return how a file is to be read, as it is stored beside it."""
    mapping = None if given.mapping is None else given.mapping.decode("utf-8-sig")
    extra = {"mapping": mapping, "stated": dict(given.stated or {})}
    return json.dumps(extra, sort_keys=True).encode()


def stored(db: Session, row: InvoiceRow) -> BilledInvoice:
    """Read a stored invoice again."""
    settings = json.loads(row.mapping or b"{}")
    mapping = settings.get("mapping")
    return read(
        db,
        Submitted(
            row.content,
            Format(row.format),
            None if mapping is None else mapping.encode(),
            settings.get("stated") or None,
        ),
    )


def stored_invoice(db: Session, number: int) -> tuple[BilledInvoice, int]:
    """Return a stored invoice, and when it was received (ms); NOT_FOUND if there is none."""
    row = db.get(InvoiceRow, number)
    if row is None:
        raise CounterfoilError(Code.NOT_FOUND, f"there is no invoice {number}")
    return stored(db, row), row.received_at


def corrected_by(db: Session, invoice: BilledInvoice) -> InvoiceRow | None:
    """Return the stored invoice of the same operator that a credit note corrects."""
    if invoice.corrects is None:
        return None
    return db.scalar(
        select(InvoiceRow).where(
            InvoiceRow.operator == invoice.operator, InvoiceRow.invoice_id == invoice.corrects
        )
    )


def credit_notes(db: Session, invoice: BilledInvoice) -> list[BilledInvoice]:
    """Return the invoices of the same operator that correct this one."""
    rows = db.scalars(
        select(InvoiceRow)
        .where(InvoiceRow.operator == invoice.operator, InvoiceRow.invoice_id != invoice.invoice_id)
        .order_by(InvoiceRow.id)
    )
    others = (stored(db, row) for row in rows if row.format != Format.JSON)
    return [other for other in others if other.corrects == invoice.invoice_id]


def tenants_of(invoices: Sequence[BilledInvoice]) -> frozenset[str]:
    """Return the tenants that invoices or their lines name."""
    named = {one.tenant for one in invoices} | {
        line.tenant for one in invoices for line in one.lines
    }
    return frozenset(name for name in named if name)


def tenant_of(invoices: Sequence[BilledInvoice]) -> str | None:
    """Return the one tenant that all lines name; None if there is no such one."""
    named = tenants_of(invoices)
    return next(iter(named)) if len(named) == 1 else None
