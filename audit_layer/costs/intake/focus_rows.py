"""Cost and Usage rows of FOCUS 1.0 … 1.4, of any provider, as lines of an invoice. Pure.

- *Usage* in tokens, requests or GPU time is a line with quantity and contracted unit price; other usage is a fee.
- *Tax* is tax, *Credit* a credit, *Purchase* a fee; *Adjustment* a credit where it is negative and a fee otherwise.
- The amount is BilledCost. Where it is not quantity × contracted price (a commitment paid before), the line has no unit
  price; ContractedCost must be that product, as FOCUS itself requires.

FOCUS 1.2 has no column for the direction of tokens: it is read from the column that the mapping names, from `x_ChargeKind`
or `x_Kind`, from SkuMeter, or from the end of SkuId, in this order.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Final, NamedTuple

from audit_layer.costs.charge import TOKENS, ChargeKind
from audit_layer.costs.intake.conventions import Conventions
from audit_layer.costs.intake.facts import Facts
from audit_layer.costs.intake.faults import Problems, Unreadable, quoted, refused
from audit_layer.costs.intake.limits import MAX_ROWS
from audit_layer.costs.intake.lines import Draft, LineReader
from audit_layer.costs.intake.table import Column, Row, Table
from audit_layer.costs.intake.trace import RowReading, Trace
from audit_layer.costs.intake.values import is_divisor
from shared.codec.money import minor_digits

REQUIRED: Final = (
    "BilledCost", "BillingCurrency", "BillingPeriodStart", "BillingPeriodEnd", "ChargeCategory", "ChargePeriodStart",
)  # fmt: skip
_FIELDS: Final = {
    "amount": "BilledCost",
    "currency": "BillingCurrency",
    "period_start": "BillingPeriodStart",
    "period_end": "BillingPeriodEnd",
    "day": "ChargePeriodStart",
    "unit_price": "ContractedUnitPrice",
    "invoice_id": "InvoiceId",
    "operator": "InvoiceIssuerName",
    "tenant": "BillingAccountId",
    "description": "ChargeDescription",
    "model": "x_ModelRoot",
    "node": "x_Node",
}
_CATEGORIES: Final = {
    "Tax": ChargeKind.TAX,
    "Credit": ChargeKind.CREDIT,
    "Purchase": ChargeKind.FEE,
    "Adjustment": ChargeKind.FEE,
}
_OUR_KINDS: Final = ("x_ChargeKind", "x_Kind")
_METERS: Final = {
    "input": ChargeKind.INPUT,
    "input tokens": ChargeKind.INPUT,
    "prompt tokens": ChargeKind.INPUT,
    "cached": ChargeKind.CACHED,
    "cached tokens": ChargeKind.CACHED,
    "cached input tokens": ChargeKind.CACHED,
    "output": ChargeKind.OUTPUT,
    "output tokens": ChargeKind.OUTPUT,
    "completion tokens": ChargeKind.OUTPUT,
}
_UNIT: Final = re.compile(
    r"(?:(\d{1,10}) ?)?(k|m|b|thousand|million|billion)? ?"
    r"(tokens?|requests?|gpu[ -](?:milliseconds?|seconds?|hours?))",
    re.ASCII,
)
_FACTORS: Final = {"k": 3, "thousand": 3, "m": 6, "million": 6, "b": 9, "billion": 9}
_GPU_MS: Final = {"milliseconds": 1, "seconds": 1000, "hours": 3_600_000}


class Unit(NamedTuple):
    """What a unit of FOCUS stands for: tokens, requests, or milliseconds of a GPU, and how many."""

    what: str
    size: int


@lru_cache(maxsize=1024)
def unit_of(text: str) -> Unit | None:
    """Return the meaning of `1000 Tokens`, `1M tokens`, `Requests`, `GPU-Hours`; None for any other unit."""
    match = _UNIT.fullmatch(" ".join(text.casefold().split()))
    if match is None:
        return None
    size = int(match[1] or 1) * 10 ** _FACTORS.get(match[2] or "", 0)
    what = match[3].rstrip("s") + "s"
    if what.startswith("gpu"):
        what, size = "gpu", size * _GPU_MS[what[4:]]
    return Unit(what, size) if is_divisor(size) else None


class FocusRows:
    """Reads one FOCUS table. `drafts` may be read once."""

    def __init__(
        self,
        table: Table,
        columns: Mapping[str, str | int],
        conventions: Conventions,
        facts: Facts,
        problems: Problems,
        trace: Trace,
    ) -> None:
        self._table = table
        self._own = columns
        self._conventions = conventions
        self._facts = facts
        self._problems = problems
        self._trace = trace
        self._at: dict[str, int] = {}
        self._width = 0
        self._readers: dict[tuple[str, bool], LineReader] = {}

    def drafts(self) -> Iterator[Draft]:
        """Return the lines in order; problems are noted on the way. MALFORMED where the header is not that of FOCUS."""
        rows = iter(self._table.rows)
        header = next(rows, None)
        reader = self._resolve([cell.text for cell in header.cells] if header is not None else [])
        for count, row in enumerate(rows, start=1):
            if count > MAX_ROWS:
                raise refused(f"has more than {MAX_ROWS} rows")
            if self._problems.are_enough(row.number):
                break
            reading = RowReading(row.number, "line")
            draft = None
            if row.blank:
                reading.outcome, reading.why = "skipped", "blank"
            elif len(row.cells) != self._width:
                self._problems.add(
                    f"the row has {len(row.cells)} cells, but the header names {self._width} columns",
                    row=row.number,
                )
            else:
                draft = self._draft(row, reader, reading)
            if draft is None and reading.outcome == "line":
                reading.outcome = "problem"
            self._trace.add(reading)
            if draft is not None:
                yield draft

    def _resolve(self, titles: Sequence[str]) -> LineReader:
        for at, title in enumerate(titles):
            if title in self._at:
                raise refused(f"has the column {quoted(title)} twice")
            self._at[title] = at
        self._width = len(titles)
        if missing := [name for name in REQUIRED if name not in self._at]:
            raise refused(f"is not FOCUS: it has no column {', '.join(missing)}")
        columns = {
            field: Column(self._at[name], name)
            for field, name in _FIELDS.items()
            if name in self._at
        }
        for field, wanted in self._own.items():
            at = wanted - 1 if isinstance(wanted, int) else self._at.get(wanted, -1)
            if not 0 <= at < len(titles):
                self._problems.add(f"there is no column {quoted(str(wanted))}", field=field)
            else:
                columns[field] = Column(at, titles[at])
        return LineReader(columns, self._conventions, self._facts, self._problems)

    def _draft(self, row: Row, reader: LineReader, reading: RowReading) -> Draft | None:
        fields = reading if self._trace.keeps else None
        category = self._text(row, "ChargeCategory")
        units = [unit_of(self._text(row, f"{which}Unit")) for which in ("Consumed", "Pricing")]
        kind = self._kind(row, reader, category, units[0] or units[1], fields)
        if kind is None:
            return None
        consumed, priced = units
        if consumed is not None and priced is not None and consumed.what != priced.what:
            priced = None  # a price for something else than what was consumed
        which = "Consumed" if consumed is not None and self._text(row, "ConsumedQuantity") else "Pricing"  # fmt: skip
        unit = consumed if which == "Consumed" else priced
        before = self._problems.count
        draft = self._reader(reader, which, priced=priced is not None).draft(
            row, kind, fields, scale=unit.size if unit else None, per=priced.size if priced else 1
        )
        if draft is None:
            return None
        draft.correction = self._text(row, "ChargeClass") == "Correction"
        if category == "Adjustment" and kind is ChargeKind.FEE and draft.amount < 0:
            draft.kind = ChargeKind.CREDIT
        self._check(row, draft)
        return draft if self._problems.count == before else None

    def _reader(self, reader: LineReader, which: str, *, priced: bool) -> LineReader:
        """Return the reader that takes the quantity from `which` columns, and the price if its unit is known."""
        if (which, priced) not in self._readers:
            columns = {**reader.columns}
            if not priced:
                columns.pop("unit_price", None)
            if (name := f"{which}Quantity") in self._at:
                columns["quantity"] = Column(self._at[name], name)
            self._readers[which, priced] = reader.among(columns)
        return self._readers[which, priced]

    # -- what a row is -------------------------------------------------------------------------------

    def _kind(
        self,
        row: Row,
        reader: LineReader,
        category: str,
        unit: Unit | None,
        fields: RowReading | None,
    ) -> ChargeKind | None:
        if category != "Usage":
            kind = _CATEGORIES.get(category)
            if kind is None:
                expected = ", ".join(("Usage", *_CATEGORIES))
                self._wrong(row, "ChargeCategory", f"one of {expected}")
            ours = self._ours(row)
            return ours if ours is not None and kind in _NUANCED and ours in _NUANCES else kind
        if unit is None:
            return ChargeKind.FEE
        if unit.what != "tokens":
            return ChargeKind.REQUEST if unit.what == "requests" else ChargeKind.GPU_SECOND
        return self._direction(row, reader, fields)

    def _direction(
        self, row: Row, reader: LineReader, fields: RowReading | None
    ) -> ChargeKind | None:
        """Return which tokens a row is about, from the first column that can say it."""
        if "kind" in reader.columns:
            text = reader.kind_text(row, fields)
            if text is None:
                return None
            if text in TOKENS:
                return ChargeKind(text)
            self._wrong(row, reader.columns["kind"].name, "input, cached or output by values.kind")
            return None
        ours = self._ours(row)
        named = _METERS.get(self._text(row, "SkuMeter").casefold())
        suffix = _METERS.get(self._text(row, "SkuId").rpartition("-")[2])
        found = ours or named or suffix
        if found not in TOKENS:
            self._problems.add(
                "nothing says whether these are input, cached or output tokens; map columns.kind to the column that does",
                row=row.number,
                field="kind",
            )
            return None
        return found

    def _ours(self, row: Row) -> ChargeKind | None:
        text = next((text for name in _OUR_KINDS if (text := self._text(row, name))), "")
        return ChargeKind(text) if text in _KINDS else None

    def _check(self, row: Row, draft: Draft) -> None:
        """Hold the contracted cost against quantity × price; drop a price that the billed amount does not follow."""
        currency = self._facts.get("currency")
        if draft.unit_price is None or draft.quantity is None or currency is None:
            return
        unit = Fraction(1, 10 ** minor_digits(currency))
        product = Fraction(draft.unit_price) * draft.quantity / draft.per
        if "ContractedCost" in self._at and (cell := row.cell(self._at["ContractedCost"])).text:
            try:
                contracted = Fraction(self._conventions.numbers.read(cell))
            except Unreadable as error:
                self._wrong(row, "ContractedCost", str(error))
                return
            if abs(contracted - product) >= unit:
                price = f"{draft.quantity} × {draft.unit_price:f} / {draft.per}"
                self._wrong(row, "ContractedCost", f"{price} within rounding")
        if abs(Fraction(draft.amount) - product) >= unit:
            draft.unit_price = None

    def _text(self, row: Row, column: str) -> str:
        return row.cell(self._at[column]).text if column in self._at else ""

    def _wrong(self, row: Row, column: str, expected: str) -> None:
        at = Column(self._at[column], column)
        raw = self._text(row, column)
        self._problems.add(expected, row=row.number, column=str(at), raw=raw)


_KINDS: Final = frozenset(map(str, ChargeKind))
_NUANCED: Final = (ChargeKind.FEE, ChargeKind.CREDIT)
_NUANCES: Final = (
    ChargeKind.DISCOUNT, ChargeKind.CREDIT, ChargeKind.MINIMUM, ChargeKind.FEE, ChargeKind.ROUNDING,
)  # fmt: skip
"""Kinds that FOCUS's categories do not tell apart, but our own export does."""
