"""A workbook (XLSX) for people: a summary with charts, and every charge with its exact amount as text.

A spreadsheet computes in binary fractions of 15 digits: what it shows is rounded, the text beside it is exact, and CSV or
Parquet are the authority. Text is always written as a string, never as a formula, a link or a number.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from audit_layer.costs.charge import Charge
from audit_layer.costs.exports.focus_rows import CATEGORIES, METERS
from audit_layer.costs.exports.formats import Format
from audit_layer.costs.exports.manifest import About, Manifest
from audit_layer.costs.exports.summary import BY_DAY, Summary, Sums, model_of, team_of
from audit_layer.costs.exports.table import decimal_text
from audit_layer.costs.exports.totals import Totals
from audit_layer.costs.exports.writing import publish
from shared.codec.moment import to_rfc3339
from shared.codec.money import minor_digits
from shared.runtime.errors import CounterfoilError
from shared.runtime.keys import Signer
from shared.runtime.replacing import Output

SUMMARY, LINES = "Summary", "Lines"
MOST_ROWS: Final = 1_048_575
"""Rows of a sheet below its header; what comes after is on the next sheet, `Lines 2`."""
FINER: Final = 4
"""Digits beyond the minor unit with which single charges are shown: many cost less than a cent."""
UNKNOWN_DIGITS: Final = 6
"""Digits shown of a currency that ISO 4217 does not know."""
MAX_TEXT: Final = 32_767
"""Characters in a cell."""
CHARTED: Final = 20
"""Bars in a chart: the largest."""
_WIDE: Final = Context(prec=120, rounding=ROUND_HALF_EVEN)

COLUMNS: Final = (
    ("Day", 12), ("Started (UTC)", 25), ("Tenant", 16), ("Team", 18), ("Operator", 16), ("Node", 16), ("Model", 20),
    ("Category", 12), ("What", 22), ("Quantity", 14), ("Unit price (exact)", 18), ("Per", 10), ("Amount", 14),
    ("Amount (exact)", 26), ("Currency", 10), ("Class", 12), ("Audit", 13), ("Reason", 30), ("Invoice", 16),
    ("Log index", 12), ("Receipt", 68),
)  # fmt: skip
"""Headers and widths of the sheets of lines."""
PLACES: Final = {name: place for place, (name, _) in enumerate(COLUMNS)}


def write_workbook(
    path: Path,
    charges: Iterable[Charge],
    about: About,
    key: Signer | None = None,
    *,
    zone: str = "UTC",
    check: Callable[[Totals], None] | None = None,
) -> Manifest:
    """Write charges as a workbook, its days those of `zone`; errors as in `writing.publish`.

    `check` sees the totals before the file replaces another; its errors pass.
    """

    def fill(out: Output, totals: Totals) -> None:
        with _book(out) as book:
            created = datetime.fromtimestamp(about.created // 1000, UTC).replace(tzinfo=None)
            book.set_properties({"title": "Charges", "created": created})
            styles, summary = Styles(book), Summary(zone)
            first = book.add_worksheet(SUMMARY)
            _write_lines(book, styles, charges, summary, totals)
            _write_summary(book, first, styles, summary, about)
            if check is not None:
                check(totals)
            book.close()

    return publish(path, Format.XLSX, ("Workbook", "1"), about, fill, key)


@contextmanager
def _book(out: Output) -> Iterator[Any]:
    """Yield a workbook in constant memory; its rows wait in a folder that goes away, also after an error."""
    from xlsxwriter import Workbook  # noqa: PLC0415  # only for those who want a workbook

    with TemporaryDirectory(prefix="counterfoil-") as folder:
        book = Workbook(out, {"constant_memory": True, "tmpdir": folder})
        try:
            yield book
        finally:
            for sheet in book.worksheets():
                sheet.row_data_fh.close()


class Styles:
    """Number formats by currency, and the header's."""

    def __init__(self, book: Any) -> None:
        self._book, self._money = book, dict[tuple[str, int], Any]()
        self.header = book.add_format({"bold": True, "bottom": 1, "text_wrap": True})
        self.title = book.add_format({"bold": True, "font_size": 14})
        self.exact = book.add_format({"align": "right", "num_format": "@"})
        self.count = book.add_format({"num_format": "#,##0"})

    def money(self, currency: str, more: int = 0) -> Any:
        """Return the format of amounts in a currency, with `more` digits than its minor unit has."""
        if (currency, more) not in self._money:
            digits = shown_digits(currency) + more
            number = f"#,##0.{'0' * digits}" if digits else "#,##0"
            self._money[currency, more] = self._book.add_format(
                {"num_format": f'{number} "{currency}"'}
            )
        return self._money[currency, more]


def shown_digits(currency: str) -> int:
    """Return how many digits after the point an amount is shown with."""
    try:
        return minor_digits(currency)
    except CounterfoilError:
        return UNKNOWN_DIGITS


def rounded(amount: Decimal, digits: int) -> float:
    """Return an amount rounded half to even, as the number that a spreadsheet shows."""
    return float(_WIDE.quantize(amount, Decimal(1).scaleb(-digits)))


@dataclass(frozen=True, slots=True)
class Sheet:
    """One sheet, written a row after another."""

    sheet: Any

    def text(self, row: int, column: int, text: str | None, style: Any = None) -> None:
        """Write text as a string, whatever it looks like; too long text is cut."""
        if text:
            self.sheet.write_string(row, column, text[:MAX_TEXT], style)

    def number(self, row: int, column: int, number: float, style: Any = None) -> None:
        """Write a number."""
        self.sheet.write_number(row, column, number, style)


def _write_lines(
    book: Any, styles: Styles, charges: Iterable[Charge], summary: Summary, totals: Totals
) -> None:
    sheet, row, sheets = _lines_sheet(book, styles, 1), 0, 1
    for charge in charges:
        if row == MOST_ROWS:
            sheets += 1
            sheet, row = _lines_sheet(book, styles, sheets), 0
        row += 1
        summary.add(charge)
        totals.rows += 1
        totals.add(charge.currency, CATEGORIES[charge.kind], charge.amount)
        _write_line(sheet, row, charge, summary.day_of(charge), styles)


def _lines_sheet(book: Any, styles: Styles, number: int) -> Sheet:
    sheet = book.add_worksheet(LINES if number == 1 else f"{LINES} {number}")
    sheet.freeze_panes(1, 0)
    sheet.repeat_rows(0)
    _for_paper(sheet)
    sheet.autofilter(0, 0, MOST_ROWS, len(COLUMNS) - 1)
    for place, (name, width) in enumerate(COLUMNS):
        sheet.set_column(place, place, width)
        sheet.write_string(0, place, name, styles.header)
    return Sheet(sheet)


def _for_paper(sheet: Any) -> None:
    """Print a sheet across one page."""
    sheet.set_landscape()
    sheet.fit_to_pages(1, 0)


def _write_line(sheet: Sheet, row: int, charge: Charge, day: str, styles: Styles) -> None:
    texts = {
        "Day": day, "Started (UTC)": to_rfc3339(charge.started), "Tenant": charge.tenant, "Team": team_of(charge),
        "Operator": charge.operator, "Node": charge.node, "Model": model_of(charge), "Category": CATEGORIES[charge.kind],
        "What": METERS[charge.kind], "Currency": charge.currency, "Class": "Correction" if charge.correction else None,
        "Audit": charge.audit.value if charge.receipt else None, "Reason": charge.reason, "Invoice": charge.invoice_id,
        "Receipt": charge.receipt.hex() if charge.receipt else None,
    }  # fmt: skip
    exact = {"Unit price (exact)": charge.unit_price, "Amount (exact)": charge.amount}
    counts = {"Quantity": charge.quantity, "Per": charge.per, "Log index": charge.log_index}
    for name, text in texts.items():
        sheet.text(row, PLACES[name], text)
    for name, value in exact.items():
        sheet.text(row, PLACES[name], decimal_text(value), styles.exact)
    for name, count in counts.items():
        if count is not None:
            sheet.number(row, PLACES[name], count, styles.count)
    amount = rounded(charge.amount, shown_digits(charge.currency) + FINER)
    sheet.number(row, PLACES["Amount"], amount, styles.money(charge.currency, FINER))


def _write_summary(book: Any, sheet: Any, styles: Styles, summary: Summary, about: About) -> None:
    """Write for each currency a table and a chart by team, by model and by day, one below the other."""
    page, row = Sheet(sheet), 3
    for place, width in enumerate((30, 20, 28)):
        sheet.set_column(place, place, width)
    page.text(0, 0, "Charges", styles.title)
    page.text(1, 0, f"{about.period}, amounts shown rounded; the text beside each is exact.")
    sheet.freeze_panes(3, 0)
    _for_paper(sheet)
    for currency, by in summary:
        for name, sums in by.items():
            for place, text in enumerate((f"By {name}", f"Amount ({currency})", "Amount (exact)")):
                page.text(row, place, text, styles.header)
            _write_sums(page, row + 1, sums, currency, styles)
            shown = len(sums) if name == BY_DAY else min(len(sums), CHARTED)
            sheet.insert_chart(row, 4, _chart(book, name, currency, row + 1, shown))
            row += max(len(sums) + 2, 17)  # as high as a chart


def _write_sums(page: Sheet, start: int, sums: Sums, currency: str, styles: Styles) -> None:
    for row, (text, amount) in enumerate(sums.items(), start):
        page.text(row, 0, text)
        page.number(row, 1, rounded(amount, shown_digits(currency)), styles.money(currency))
        page.text(row, 2, decimal_text(amount), styles.exact)


def _chart(book: Any, name: str, currency: str, first: int, rows: int) -> Any:
    chart = book.add_chart({"type": "line" if name == BY_DAY else "bar"})
    last = first + rows - 1
    series: Mapping[str, Any] = {
        "name": f"{currency} by {name}",
        "categories": [SUMMARY, first, 0, last, 0],
        "values": [SUMMARY, first, 1, last, 1],
    }
    chart.add_series(series)
    chart.set_title({"name": f"{currency} by {name}"})
    chart.set_legend({"none": True})
    if name != BY_DAY:
        chart.set_y_axis({"reverse": True})  # the largest on top
    chart.set_size({"width": 560, "height": 320})
    return chart
