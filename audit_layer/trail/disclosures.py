"""Statements about disclosures, by the tenant of the receipt that they are about."""

from typing import Any

from sqlalchemy import Select, func, select

from audit_layer.trail.models import ReceiptRow, StatementRow
from shared.statements.disclosures import DISCLOSURE_TYPES


def disclosures_of(tenant: str | None, *columns: Any) -> Select[Any]:
    """Select these columns (by default rows) of all statements about disclosures; a tenant's are those about its receipts.

    The subject of each of these types is the receipt of its payload, which intake has verified.
    """
    found = select(*columns or (StatementRow,)).where(StatementRow.type.in_(DISCLOSURE_TYPES))
    if tenant is None:
        return found
    about = func.decode(StatementRow.subject, "hex")
    return found.join(ReceiptRow, ReceiptRow.entry == about).where(ReceiptRow.tenant == tenant)
