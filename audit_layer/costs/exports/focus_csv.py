"""FOCUS 1.2 as CSV text, for answers that fit in memory."""

from collections.abc import Iterable

from audit_layer.costs.charge import Charge
from audit_layer.costs.exports.focus_columns import FOCUS_1_2
from audit_layer.costs.exports.focus_rows import rows_of
from audit_layer.costs.exports.totals import Totals
from audit_layer.costs.exports.writing import csv_lines

COLUMNS = FOCUS_1_2.names


def to_csv(charges: Iterable[Charge]) -> str:
    """Return the export as CSV with a header row (RFC 4180)."""
    return "".join(csv_lines(FOCUS_1_2, rows_of(charges), Totals()))
