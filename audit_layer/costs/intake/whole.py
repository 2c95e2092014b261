"""From drafts and facts to the invoice: what only the whole can tell. Pure.

Signs of a credit note, tax that amounts contain, line numbers used twice, amounts that are not quantity × unit price, and
sums that are not those stated. Each amount is rounded by less than the currency's minor unit; so is a sum, of the amounts as
stated or of the exact ones.
"""

from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from typing import Final

from audit_layer.costs.billed import BilledInvoice, BilledLine
from audit_layer.costs.charge import USAGE, ChargeKind
from audit_layer.costs.intake.facts import Facts
from audit_layer.costs.intake.faults import Problems
from audit_layer.costs.intake.forms import DateForm, NumberForm, TaxForm
from audit_layer.costs.intake.lines import Draft
from audit_layer.costs.intake.values import Day
from shared.codec.moment import Period, days_period
from shared.codec.money import exact_sum, minor_digits
from shared.runtime.errors import CounterfoilError

NET_PLACES: Final = 12
"""Decimal places of a net amount computed from a gross one; what is lost goes into the tax line."""
TAX_LINE: Final = "tax-contained"
_CONTEXT: Final = Context(prec=60, rounding=ROUND_HALF_EVEN)
_DEDUCTED: Final = (ChargeKind.DISCOUNT, ChargeKind.CREDIT)


class Assembly:
    """Puts one invoice together."""

    def __init__(
        self,
        facts: Facts,
        problems: Problems,
        *,
        numbers: NumberForm,
        dates: DateForm,
        tax: TaxForm,
        format_name: str,
    ) -> None:
        self._facts = facts
        self._problems = problems
        self._numbers = numbers
        self._dates = dates
        self._tax = tax
        self._format = format_name
        self._credit_note = facts.get("document") == "credit-note"

    def invoice(self, drafts: Sequence[Draft]) -> BilledInvoice | None:
        """Return the invoice; None, with the problems noted, where anything is wrong."""
        if not drafts and not self._problems.found():
            self._problems.add("no row is a line")
            return None
        required = self._facts.required
        texts = [required(field) for field in ("invoice_id", "operator", "currency")]
        issued: Day | None = required("issued_at")
        days = self._days()
        if self._problems.found() or days is None or issued is None:
            return None
        invoice_id, operator, currency = texts
        lines = self._lines(drafts, Fraction(1, 10 ** minor_digits(currency)))
        total, rounding = self._sums(lines, Fraction(1, 10 ** minor_digits(currency)))
        if self._problems.found():
            return None
        first, end, period = days
        return BilledInvoice(
            invoice_id=invoice_id,
            operator=operator,
            currency=currency,
            first=first,
            end=end,
            period=period,
            issued=issued.day,
            lines=tuple(lines),
            rounding=rounding,
            total=total,
            tenant=self._facts.get("tenant"),
            corrects=self._facts.get("corrects"),
            format=self._format,
            time_zone=self._dates.time_zone,
        )

    # -- the period ----------------------------------------------------------------------------------

    def _days(self) -> tuple[date, date, Period] | None:
        start: Day | None = self._facts.required("period_start")
        stop: Day | None = self._facts.required("period_end")
        if start is None or stop is None:
            return None
        after = self._dates.period_end == "day-after"
        for field, bound in (("period_start", start), *([("period_end", stop)] if after else [])):
            if not bound.begins:
                self._problems.add(
                    f"{bound.day} has a time at which no day begins in {self._dates.time_zone}; "
                    "set dates.time_zone to the zone of the invoice's days",
                    field=field,
                )
                return None
        try:
            end = stop.day if after else stop.day + timedelta(days=1)
            return start.day, end, days_period(start.day, end, self._dates.time_zone)
        except (
            OverflowError,
            CounterfoilError,
        ):  # the end of the calendar; an end before the start
            self._problems.add(
                f"{stop.day} ({self._dates.period_end}) is no end of a period that begins on {start.day}",
                field="period_end",
            )
            return None

    # -- lines ---------------------------------------------------------------------------------------

    def _lines(self, drafts: Sequence[Draft], unit: Fraction) -> list[BilledLine]:
        seen: dict[str, int] = {}
        for draft in drafts:
            if (first := seen.setdefault(draft.line_id, draft.row)) != draft.row:
                self._problems.add(
                    f"a number of its own; row {first} has the same",
                    row=draft.row,
                    field="line_id",
                    raw=draft.line_id,
                )
            self._sign(draft)
        contained = self._net(drafts)
        lines = [self._line(draft) for draft in drafts]
        for draft, line in zip(drafts, lines, strict=True):
            self._check(draft, line, unit)
        if contained:
            lines.append(
                BilledLine("the tax in the rows' amounts", TAX_LINE, ChargeKind.TAX, contained)
            )
        return lines

    def _sign(self, draft: Draft) -> None:
        """Give amounts their signs: negative for what is deducted, and for what a credit note gives back."""
        if draft.kind in self._numbers.deducted:
            if draft.amount < 0:
                self._problems.add(
                    f"no sign, as numbers.deducted has {draft.kind}",
                    row=draft.row,
                    field="amount",
                    raw=str(draft.amount),
                )
            draft.amount = _negated(draft.amount)
        if not self._credit_note:
            return
        if self._numbers.credit_notes == "unsigned":
            draft.amount = _negated(draft.amount)
        if draft.quantity is not None and draft.amount < 0:
            draft.quantity = -abs(draft.quantity)
            draft.unit_price = None if draft.unit_price is None else abs(draft.unit_price)

    def _net(self, drafts: Sequence[Draft]) -> Decimal:
        """Take contained tax out of amounts and unit prices; return what was taken out of the amounts."""
        if self._tax.amounts == "net" and self._tax.unit_prices == "net":
            return Decimal(0)
        taken = []
        for draft in drafts:
            if draft.kind is ChargeKind.TAX:
                self._problems.add(
                    "no line for tax, which tax.amounts says is in the others; as a check map it to tax-total",
                    row=draft.row,
                    field="kind",
                    raw="tax",
                )
            if draft.tax_rate is None:
                self._problems.add(
                    "is stated nowhere, but amounts or prices are gross",
                    row=draft.row,
                    field="tax_rate",
                )
                continue
            if self._tax.amounts == "gross":
                net = _without(draft.amount, draft.tax_rate)
                taken.append(_CONTEXT.subtract(draft.amount, net))
                draft.amount = net
            if self._tax.unit_prices == "gross" and draft.unit_price is not None:
                draft.unit_price = _without(draft.unit_price, draft.tax_rate)
        return exact_sum(taken)

    def _line(self, draft: Draft) -> BilledLine:
        return BilledLine(
            place=f"row {draft.row}",
            line_id=draft.line_id,
            kind=draft.kind,
            amount=draft.amount,
            quantity=draft.quantity,
            unit_price=draft.unit_price,
            per=draft.per,
            tenant=draft.tenant,
            node=draft.node,
            model_root=draft.model_root,
            day=draft.day,
            description=draft.description,
        )

    def _check(self, draft: Draft, line: BilledLine, unit: Fraction) -> None:
        def wrong(field: str, raw: object, expected: str) -> None:
            self._problems.add(expected, row=draft.row, field=field, raw=_text(raw))

        back = self._credit_note or draft.correction
        if line.quantity is not None and line.quantity < 0 and not back:
            wrong("quantity", line.quantity, "zero or more; what is taken back is a credit note")
        if line.unit_price is not None and line.unit_price < 0:
            wrong("unit_price", line.unit_price, "zero or more")
        if line.kind in USAGE and line.amount < 0 and not back:
            wrong("amount", line.amount, "zero or more; what is taken back is a credit")
        if line.kind in _DEDUCTED and line.amount > 0 and not back:
            wrong(
                "amount",
                line.amount,
                "a negative amount; if the file states what is deducted without a sign, "
                f'set numbers.deducted = ["{line.kind}"]',
            )
        if line.kind is ChargeKind.ROUNDING and abs(Fraction(line.amount)) >= unit:
            wrong("amount", line.amount, "less than the currency's minor unit; else it is a fee")
        if line.kind in USAGE and abs(Fraction(line.amount) - line.exact) >= unit:
            price = _text(line.unit_price)
            wrong("amount", line.amount, f"{line.quantity} × {price} / {line.per} within rounding")

    # -- sums ----------------------------------------------------------------------------------------

    def _sums(self, lines: Sequence[BilledLine], unit: Fraction) -> tuple[Decimal, Decimal]:
        """Return the total and its rounding; every sum that is stated must be that of the lines."""
        taxes = [line for line in lines if line.kind is ChargeKind.TAX]
        others = [line for line in lines if line.kind is not ChargeKind.TAX]
        sums = (
            ("total", lines, "all lines"),
            ("net_total", others, "all lines but tax"),
            ("tax_total", taxes, "the tax lines"),
        )
        for field, among, of in sums:
            stated = self._stated(field)
            if stated is not None and not _adds_up(stated, among, unit):
                found = exact_sum(line.amount for line in among)
                self._problems.add(
                    f"{found:f}, the sum of {of}, within rounding", field=field, raw=_text(stated)
                )
        found = exact_sum(line.amount for line in lines)
        stated = self._stated("total")
        total = found if stated is None else stated
        if self._credit_note and total > 0:
            self._problems.add(
                "a credit note gives back, so its total is not above zero; numbers.credit_notes "
                "says whether the file states that with or without a sign",
                field="total",
                raw=_text(total),
            )
        return total, exact_sum((total, _negated(found)))

    def _stated(self, field: str) -> Decimal | None:
        value: Decimal | None = self._facts.get(field)
        flipped = self._credit_note and self._numbers.credit_notes == "unsigned"
        return _negated(value) if flipped and value is not None else value


def outside(invoice: BilledInvoice) -> int:
    """Return how many lines are for days outside the invoice's own period: for reconciliation to explain."""
    days: Iterable[date] = (line.day for line in invoice.lines if line.day is not None)
    return sum(not invoice.first <= day < invoice.end for day in days)


def _adds_up(stated: Decimal, lines: Sequence[BilledLine], unit: Fraction) -> bool:
    """Whether a sum is that of the amounts, or that of what the amounts were before each was rounded."""
    amounts = Fraction(exact_sum(line.amount for line in lines))
    given = Fraction(stated)
    return abs(given - amounts) < unit or (
        abs(given - sum((line.exact for line in lines), Fraction(0))) < unit
    )


def _without(gross: Decimal, rate: Decimal) -> Decimal:
    """Return gross / (1 + rate %), to `NET_PLACES`."""
    net = _CONTEXT.divide(_CONTEXT.multiply(gross, Decimal(100)), _CONTEXT.add(Decimal(100), rate))
    return _CONTEXT.quantize(net, Decimal(1).scaleb(-NET_PLACES))


def _negated(value: Decimal) -> Decimal:
    """Return −value exactly, and zero without a sign: Python's minus rounds to 28 digits."""
    return value.copy_negate() if value else value.copy_abs()


def _text(value: object) -> str:
    return format(value, "f") if isinstance(value, Decimal) else str(value)
