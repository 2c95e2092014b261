"""What the rows of a file say about each other: facts that belong together, and rows that appear twice. Pure.

Keys and values are kept as digests (see `seen`), 50 to 100 bytes for each; a finding names the row that said otherwise.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from audit_layer.costs.focus_check import rules
from audit_layer.costs.focus_check.columns import BILLING_PERIOD, COST_AND_USAGE, Dataset
from audit_layer.costs.focus_check.report import Rule
from audit_layer.costs.focus_check.rows import Found, Row
from audit_layer.costs.focus_check.seen import FirstSeen, digest


@dataclass(frozen=True, slots=True)
class Fact:
    """For one value of `key` there is one value of each of `facts`, over the whole file. Nulls in the key match nothing."""

    rule: Rule
    key: tuple[str, ...]
    facts: tuple[str, ...]


def _cost_and_usage(provider: str) -> tuple[Fact, ...]:
    account = ("InvoiceIssuerName", "BillingAccountId", "BillingPeriodStart")
    invoice = ("InvoiceIssuerName", "InvoiceId")
    return (
        Fact(rules.SKU_PARENT, (provider, "SkuPriceId"), ("SkuId",)),
        Fact(rules.SERVICE_PARENT, (provider, "ServiceName"), ("ServiceCategory",)),
        Fact(
            rules.SERVICE_SUBPARENT,
            (provider, "ServiceCategory", "ServiceName"),
            ("ServiceSubcategory",),
        ),
        Fact(
            rules.COMMITMENT_FACTS,
            (provider, "CommitmentDiscountId"),
            ("CommitmentDiscountCategory", "CommitmentDiscountType"),
        ),
        Fact(
            rules.COMMITMENT_FACTS,
            (provider, "CommitmentDiscountId"),
            ("CommitmentDiscountUnit",),
        ),
        Fact(rules.PERIOD_FACTS, account, ("BillingPeriodEnd",)),
        Fact(rules.ACCOUNT_CURRENCY, account, ("BillingCurrency",)),
        Fact(rules.INVOICE_FACTS, ("BillingAccountId", "InvoiceId"), ("InvoiceIssuerName",)),
        Fact(
            rules.INVOICE_FACTS,
            invoice,
            ("BillingAccountId", "BillingPeriodStart", "BillingCurrency"),
        ),
    )


_INVOICE: Final = ("InvoiceIssuerName", "InvoiceId")
_INVOICE_DETAIL: Final = (
    Fact(
        rules.INVOICE_FACTS,
        _INVOICE,
        ("BillingAccountId", "BillingPeriodStart", "BillingCurrency"),
    ),
    Fact(rules.INVOICE_FACTS, ("BillingAccountId", "InvoiceId"), ("InvoiceIssuerName",)),
    Fact(
        rules.INVOICE_DETAIL_FACTS,
        _INVOICE,
        (
            "InvoiceIssueStatus",
            "InvoiceIssueDate",
            "PaymentDueDate",
            "PaymentTerms",
            "PaymentCurrency",
        ),
    ),
    Fact(rules.PERIOD_FACTS, ("InvoiceIssuerName", "BillingPeriodStart"), ("BillingPeriodEnd",)),
)


class Whole:
    """Follows a file row by row."""

    def __init__(self, dataset: Dataset, present: Collection[str]) -> None:
        self._name = dataset.name
        facts: tuple[Fact, ...] = ()
        if dataset.name == COST_AND_USAGE:
            has = "ProviderName" in dataset.columns
            facts = _cost_and_usage("ProviderName" if has else "ServiceProviderName")
        elif dataset.name != BILLING_PERIOD:
            facts = _INVOICE_DETAIL
        names = frozenset(present)
        self._facts = [
            (fact, column, FirstSeen(), set[tuple[str | None, ...]]())
            for fact in facts
            if frozenset(fact.key) <= names
            for column in fact.facts
            if column in names
        ]
        self._rows = FirstSeen()
        self._records = FirstSeen()
        self._referred = FirstSeen()

    def row(self, number: int, cells: Sequence[str | None], row: Row) -> Iterator[Found]:
        """Take one row; yield what it contradicts. `cells` are all of them, `row` those of FOCUS columns."""
        seen = self._rows.see(digest(*cells), 0, number)
        if seen is not None:
            yield rules.REPEATED, "", f"no row equal to row {seen[1]}"
            return
        for fact, column, table, known in self._facts:
            value = row[column]
            key = tuple([row[name] for name in fact.key])
            if None in key or (value is None and fact.rule is not rules.INVOICE_DETAIL_FACTS):
                continue
            if (*key, value) in known:
                continue
            first = table.see(digest(*key), digest(value), number)
            if first is None or first[0] == digest(value):
                _remember(known, (*key, value))
            else:
                yield fact.rule, column, f"what row {first[1]} has for the same {fact.key[-1]}"
        if self._name == BILLING_PERIOD:
            yield from self._once(
                rules.PERIOD_TWICE, number, row, "InvoiceIssuerName", "BillingPeriodStart"
            )
        elif self._name != COST_AND_USAGE:
            yield from self._once(rules.DETAIL_TWICE, number, row, *_INVOICE, "InvoiceDetailId")
            referred = self._key(row, *_INVOICE, "PaymentCurrencyInvoiceDetailId")
            if referred is not None:
                self._referred.see(referred, 0, number)

    def end(self) -> Iterator[tuple[int, Found]]:
        """Yield what is only known when the last row was read, with the row that it is about."""
        for key, _, number in self._referred.items():
            if key not in self._records:
                found = (
                    rules.PAYMENT_DETAIL,
                    "PaymentCurrencyInvoiceDetailId",
                    "an InvoiceDetailId of the same invoice",
                )
                yield number, found

    @staticmethod
    def _key(row: Row, *columns: str) -> int | None:
        parts = [row.get(column) for column in columns]
        return None if None in parts else digest(*parts)

    def _once(self, rule: Rule, number: int, row: Row, *columns: str) -> Iterator[Found]:
        key = self._key(row, *columns)
        if key is not None and (first := self._records.see(key, 0, number)) is not None:
            yield rule, columns[-1], f"another value than row {first[1]} has"


def _remember(known: set[tuple[str | None, ...]], entry: tuple[str | None, ...]) -> None:
    """Remember what agrees, to save the digests of a value that comes again: a thousand short ones at most."""
    if len(known) >= 1000:
        known.clear()
    if sum(len(part or "") for part in entry) <= 500:
        known.add(entry)
