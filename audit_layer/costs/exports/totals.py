"""Control totals: what the lines of an export come to, by currency and category, exactly. Pure."""

from collections import defaultdict
from collections.abc import Mapping
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow

from audit_layer.costs.exports.table import Row, decimal_text

_EXACT = Context(prec=120, traps=[Inexact, InvalidOperation, Overflow])


class Totals:
    """Sums and the number of rows, added up while an export is written."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
        self.rows = 0
        """Rows counted."""

    def count(self, row: Row) -> None:
        """Count a row of a dataset; where it has a BilledCost, add it to its currency and category."""
        self.rows += 1
        cost = row.get("BilledCost")
        if isinstance(cost, Decimal):
            self.add(str(row["BillingCurrency"]), str(row["ChargeCategory"]), cost)

    def add(self, currency: str, category: str, amount: Decimal) -> None:
        """Add an amount."""
        key = currency, category
        self._sums[key] = _EXACT.add(self._sums[key], amount)

    def as_text(self) -> Mapping[str, Mapping[str, str]]:
        """Return {currency: {category: exact sum}}, in order of name."""
        found: dict[str, dict[str, str]] = {}
        for (currency, category), amount in sorted(self._sums.items()):
            found.setdefault(currency, {})[category] = decimal_text(amount)
        return found
