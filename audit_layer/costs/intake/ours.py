"""Our own JSON invoice as a `BilledInvoice`. Pure; `audit_layer.costs.invoices` parses and checks it."""

from datetime import date, datetime

from audit_layer.costs.billed import BilledInvoice, BilledLine
from audit_layer.costs.charge import ChargeKind
from audit_layer.costs.invoices import Invoice
from shared.codec.moment import day_of, parse_day, parse_rfc3339


def billed(invoice: Invoice) -> BilledInvoice:
    """Return an invoice in the form that reconciliation reads; nothing is changed."""
    days = invoice.days
    return BilledInvoice(
        invoice_id=invoice.invoice_id,
        operator=invoice.operator,
        currency=invoice.currency,
        first=days.first,
        end=days.end,
        period=days.period,
        issued=_issued(invoice.issued_at, invoice.time_zone),
        lines=tuple(
            BilledLine(
                place=f"lines[{at}]",
                line_id=line.line_id,
                kind=ChargeKind(line.kind),
                amount=line.amount,
                quantity=line.quantity,
                unit_price=line.unit_price,
                per=line.per,
                tenant=line.tenant,
                node=line.node,
                model_root=bytes.fromhex(line.model_root),
                day=line.day,
            )
            for at, line in enumerate(invoice.lines)
        ),
        rounding=invoice.rounding,
        total=invoice.total,
        time_zone=invoice.time_zone,
    )


def _issued(text: str, zone_name: str | None) -> date:
    """Return the day of a day or a time: in the invoice's zone, or without one in the offset that the time states."""
    if "T" not in text.upper():
        return parse_day(text)
    if zone_name is not None:
        return day_of(parse_rfc3339(text), zone_name)
    return datetime.fromisoformat(text.upper()).date()
