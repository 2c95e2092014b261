"""What a line of an invoice bills, and which receipts are behind it. Pure; the invoice is the operator's word."""

from collections.abc import Sequence
from datetime import date
from typing import Final, NamedTuple

from audit_layer.costs.billed import BilledInvoice, BilledLine
from audit_layer.costs.charge import TOKENS
from shared.codec.moment import Period, day_period
from shared.codec.money import format_decimal
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.printable import printable
from shared.verification.line_proof_file import END_INDEX, MAX_CLAIMS, Claim, Scope
from shared.verification.rating import TokenKind

_DAY_MS: Final = 86_400_000


class _Where(NamedTuple):
    """What tells one line's receipts from another's; None where a line does not say."""

    tenant: str | None
    node: str | None
    model_root: bytes | None
    day: date | None


def claims_of(
    invoice: BilledInvoice, line_id: str, *, tenant: str | None, first_index: int = 0
) -> tuple[tuple[Claim, ...], Scope]:
    """Return what a line bills, with every other line of the invoice that bills the same tokens, and whose they are.

    `tenant` is the invoice's where its lines do not say; `first_index` is the log index from which on.

    Errors: NOT_FOUND for a line that is not on the invoice; INVALID_ARGUMENT for one that no receipt can prove; CONFLICT where
    too many lines bill the same.
    """
    lines = [line for line in invoice.lines if line.line_id == line_id]
    shown = printable(line_id, 128)
    if not lines:
        raise CounterfoilError(
            Code.NOT_FOUND, f"invoice {printable(invoice.invoice_id, 128)} has no line {shown!r}"
        )
    counted = [line for line in lines if line.kind in TOKENS]
    if not counted:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"line {shown!r} bills a {lines[0].kind.value}, which follows from the contract and not from receipts",
            remedy="Lines for input, cached and output tokens can be proved.",
        )
    where = _where(counted[0], tenant)
    kinds = {line.kind for line in counted}
    same = [
        line for line in invoice.lines if line.kind in kinds and _where(line, tenant) == where
    ]  # fmt: skip
    if len(same) > MAX_CLAIMS:
        raise CounterfoilError(
            Code.CONFLICT,
            f"{len(same)} lines bill the same tokens as line {shown!r}: of one tenant, node, model and day",
            remedy="Ask the operator for an invoice whose lines say what they bill.",
        )
    same.sort(key=lambda line: line.line_id != line_id)  # stable: the line itself comes first
    days = _days(invoice, where.day)
    scope = Scope(
        tenant=where.tenant,
        node=where.node,
        model_root=None if where.model_root is None else where.model_root.hex(),
        start=days.start,
        end=days.end,
        first_index=first_index,
        end_index=END_INDEX,
    )
    return tuple(map(_claim, same)), scope


def line_ids(invoice: BilledInvoice, places: Sequence[str]) -> list[str]:
    """Return the lines of an invoice at these places that receipts can prove, each once, in its order."""
    wanted = set(places)
    found = (line for line in invoice.lines if line.place in wanted and line.kind in TOKENS)
    return list(dict.fromkeys(line.line_id for line in found))


def _where(line: BilledLine, tenant: str | None) -> _Where:
    return _Where(line.tenant or tenant, line.node, line.model_root, line.day)


def _claim(line: BilledLine) -> Claim:
    return Claim(
        line_id=line.line_id,
        place=line.place,
        kind=TokenKind(line.kind),
        quantity=line.quantity,
        unit_price=None if line.unit_price is None else format_decimal(line.unit_price),
        per=line.per,
        amount=format_decimal(line.amount),
    )


def _days(invoice: BilledInvoice, day: date | None) -> Period:
    """Return a line's day as times; all the invoice's days for a line that names none."""
    if day is None:
        return invoice.period
    if invoice.time_zone is not None:
        return day_period(day, invoice.time_zone)
    length = (invoice.end - invoice.first).days * _DAY_MS
    if invoice.period.end - invoice.period.start != length:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"the invoice does not say in which time zone {day} is a day, and its period has a change of the clock",
            remedy='Have the operator name it, for example "time_zone": "Europe/Berlin".',
        )
    start = invoice.period.start + (day - invoice.first).days * _DAY_MS
    return Period(start, start + _DAY_MS)
