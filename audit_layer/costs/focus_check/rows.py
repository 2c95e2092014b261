"""What the cells of one row say about each other: nulls, arithmetic, periods. Pure.

A row is a mapping from column to text, with None (or nothing) for a null. A rule looks at a column only when the file has it,
and at a number or a time only when it can be read: a cell that cannot be is a finding of its own.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from typing import Final

from audit_layer.costs.focus_check import rules
from audit_layer.costs.focus_check.cells import EXACT, moment, number
from audit_layer.costs.focus_check.columns import COST_AND_USAGE, Dataset
from audit_layer.costs.focus_check.report import Rule

Row = Mapping[str, str | None]
Found = tuple[Rule, str, str]
"""The broken rule, the column, and what was expected."""
Judge = Callable[[Row], Iterator[Found]]

PIVOTS: Final = ("ChargeCategory", "ChargeClass", "CommitmentDiscountStatus")
"""Columns on which most rules of a row depend: where one of them cannot be read, a row is held against none of these."""
_PRICED: Final = (
    "ContractedUnitPrice",
    "ListUnitPrice",
    "PricingCategory",
    "PricingCurrencyContractedUnitPrice",
    "PricingCurrencyListUnitPrice",
    "PricingQuantity",
    "SkuId",
    "SkuPriceId",
)
_DESCRIBES: Final = {
    "CapacityReservationStatus": "CapacityReservationId",
    "CommitmentDiscountCategory": "CommitmentDiscountId",
    "CommitmentDiscountName": "CommitmentDiscountId",
    "CommitmentDiscountQuantity": "CommitmentDiscountId",
    "CommitmentDiscountStatus": "CommitmentDiscountId",
    "CommitmentDiscountType": "CommitmentDiscountId",
    "CommitmentDiscountUnit": "CommitmentDiscountQuantity",
    "ConsumedUnit": "ConsumedQuantity",
    "InvoiceDetailId": "InvoiceId",
    "AllocatedResourceId": "AllocatedMethodId",
    "AllocatedResourceName": "AllocatedResourceId",
    "AllocatedTags": "AllocatedMethodId",
    "PricingUnit": "PricingQuantity",
    "RegionName": "RegionId",
    "ResourceName": "ResourceId",
    "ResourceType": "ResourceId",
    "SkuMeter": "SkuId",
    "SkuPriceDetails": "SkuPriceId",
    "SubAccountName": "SubAccountId",
    "SubAccountType": "SubAccountId",
}
"""A column that is null where another one is."""
_ALWAYS_DESCRIBES: Final = (
    "AllocatedResourceName",
    "CommitmentDiscountCategory",
    "CommitmentDiscountType",
    "CommitmentDiscountUnit",
    "ConsumedUnit",
    "InvoiceDetailId",
    "PricingUnit",
    "RegionName",
    "ResourceType",
    "SubAccountName",
    "SubAccountType",
)
"""Those that are filled wherever the other one is."""
_UNIT_PRICES: Final = (
    "ContractedUnitPrice",
    "ListUnitPrice",
    "PricingCurrencyContractedUnitPrice",
    "PricingCurrencyListUnitPrice",
)
_OF_SKU_PRICE: Final = (
    *_UNIT_PRICES,
    "CommitmentDiscountQuantity",
    "ConsumedQuantity",
    "PricingQuantity",
)
"""Columns that FOCUS 1.4 wants null where SkuPriceId is."""
_CURRENCY_PAIRS: Final = (
    ("PricingCurrencyContractedUnitPrice", "ContractedUnitPrice"),
    ("PricingCurrencyEffectiveCost", "EffectiveCost"),
    ("PricingCurrencyListUnitPrice", "ListUnitPrice"),
)
_PERIODS: Final = (
    ("BillingPeriodStart", "BillingPeriodEnd"),
    ("ChargePeriodStart", "ChargePeriodEnd"),
)
_UPDATES: Final = (
    ("InvoiceDetailCreated", "InvoiceDetailLastUpdated"),
    ("BillingPeriodCreated", "BillingPeriodLastUpdated"),
)


def judges_of(
    dataset: Dataset, present: Collection[str], floating: Collection[str] = ()
) -> list[Judge]:
    """Return what judges the rows of a file with these columns; `floating`: those stored as binary fractions."""
    names = frozenset(present)
    judges: list[Judge] = [_periods]
    if dataset.name != COST_AND_USAGE:
        return [*judges, _updates, _payment]
    judges += [
        _described(names),
        _prices(names),
        _consumed(names),
        _commitment(names, dataset.version),
        _charge_period,
        _same_currency,
        _amounts,
    ]
    if dataset.version != "1.2" and "SkuPriceId" in names:
        judges.append(_sku_price(names))
    exempt = dataset.version == "1.2"  # Corrections: later versions have no such exception
    products = (
        ("ListCost", "ListUnitPrice", rules.LIST_COST, rules.LIST_ROUNDED),
        ("ContractedCost", "ContractedUnitPrice", rules.CONTRACTED_COST, rules.CONTRACTED_ROUNDED),
    )
    judges += [
        _product(
            *product,
            exempt=exempt,
            binary=bool({*product[:2], "PricingQuantity"} & frozenset(floating)),
        )
        for product in products
        if {*product[:2], "PricingQuantity"} <= names
    ]
    return [*judges, _subcategory(dataset)]


def _correction(row: Row) -> bool:
    return row.get("ChargeClass") == "Correction"


def _described(names: frozenset[str]) -> Judge:
    pairs = [(name, of) for name, of in _DESCRIBES.items() if name in names]
    always = [
        (name, _DESCRIBES[name])
        for name in _ALWAYS_DESCRIBES
        if name in names and _DESCRIBES[name] in names
    ]

    def judge(row: Row) -> Iterator[Found]:
        for name, of in pairs:
            if row[name] is not None and row.get(of) is None:
                yield rules.ORPHAN, name, f"null, as {of} is"
        for name, of in always:
            if row[name] is None and row[of] is not None:
                yield rules.BARE, name, f"a value, as {of} has one"
        if row.get("SkuId") is not None and row.get("SkuMeter", "") is None:
            yield rules.METER, "SkuMeter", "a value, as SkuId has one"

    return judge


def _prices(names: frozenset[str]) -> Judge:
    columns = [name for name in _PRICED if name in names]

    def judge(row: Row) -> Iterator[Found]:
        category = row["ChargeCategory"]
        if category == "Tax":
            for name in columns:
                if row[name] is not None:
                    yield rules.TAX, name, "null, as the charge is a Tax"
        elif category in {"Usage", "Purchase"} and not _correction(row):
            for name in columns:
                if row[name] is None:
                    yield rules.PRICED, name, f"a value, as the charge is a {category}"

    return judge


def _sku_price(names: frozenset[str]) -> Judge:
    without = [name for name in _OF_SKU_PRICE if name in names]
    with_it = [name for name in _UNIT_PRICES if name in names]

    def judge(row: Row) -> Iterator[Found]:
        if row["SkuPriceId"] is None:
            for name in without:
                if row[name] is not None:
                    yield rules.NO_SKU_PRICE, name, "null, as SkuPriceId is"
        elif _correction(row) or row["ChargeCategory"] not in {"Usage", "Purchase"}:  # else CF-0302
            for name in with_it:
                if row[name] is None:
                    yield rules.SKU_PRICE, name, "a value, as SkuPriceId has one"

    return judge


def _consumed(names: frozenset[str]) -> Judge:
    def judge(row: Row) -> Iterator[Found]:
        consumes = (
            row["ChargeCategory"] == "Usage" and row.get("CommitmentDiscountStatus") != "Unused"
        )
        quantity = row.get("ConsumedQuantity")
        if quantity is not None and not consumes:
            yield rules.CONSUMED_ONLY, "ConsumedQuantity", "null, as nothing was consumed"
        if "ConsumedQuantity" in names and quantity is None and consumes and not _correction(row):
            yield rules.CONSUMED, "ConsumedQuantity", "the quantity that was consumed"
        if row.get("ChargeFrequency") == "Usage-Based" and row["ChargeCategory"] == "Purchase":
            yield rules.FREQUENCY, "ChargeFrequency", "One-Time or Recurring"
        reserved = row.get("CapacityReservationId") is not None
        if (
            reserved
            and row["ChargeCategory"] == "Usage"
            and row.get("CapacityReservationStatus", "") is None
        ):
            yield rules.RESERVATION, "CapacityReservationStatus", "Used or Unused"

    return judge


def _commitment(names: frozenset[str], version: str) -> Judge:
    with_quantity = "CommitmentDiscountQuantity" in names
    handled = version == "1.2"  # 1.4 has no DiscountHandling
    with_resource = handled and "ResourceId" in names

    def judge(row: Row) -> Iterator[Found]:
        category, status = row["ChargeCategory"], row.get("CommitmentDiscountStatus")
        commitment = row.get("CommitmentDiscountId")
        if handled and status == "Unused" and category != "Usage":
            yield rules.UNUSED_USAGE, "ChargeCategory", "Usage"
        if commitment is None:
            if row.get("PricingCategory") == "Committed":
                yield rules.COMMITTED_ID, "PricingCategory", "a CommitmentDiscountId beside it"
            return
        if with_quantity:
            yield from _commitment_quantity(row)
        its_own = category == "Purchase" or status == "Unused"
        if with_resource and its_own and row["ResourceId"] != commitment:
            yield rules.COMMITMENT_ROW, "ResourceId", "the CommitmentDiscountId"
        yield from _committed(row)

    return judge


def _commitment_quantity(row: Row) -> Iterator[Found]:
    committed = row["ChargeCategory"] in {"Usage", "Purchase"}
    quantity = row["CommitmentDiscountQuantity"]
    if committed and quantity is None and not _correction(row):
        yield rules.COMMITTED_QUANTITY, "CommitmentDiscountQuantity", "its quantity"
    if not committed and quantity is not None:
        yield rules.NO_COMMITTED_QUANTITY, "CommitmentDiscountQuantity", "null"


def _committed(row: Row) -> Iterator[Found]:
    """Judge price category, status and costs of a row that names a commitment."""
    pricing, status = row.get("PricingCategory"), row.get("CommitmentDiscountStatus", "")
    if row["ChargeCategory"] == "Purchase":
        if pricing == "Committed":
            yield rules.COMMITTED, "PricingCategory", "the price category of the purchase itself"
        yield from _zero(row, rules.PREPAID, "EffectiveCost", "PricingCurrencyEffectiveCost")
    elif row["ChargeCategory"] == "Usage":
        if status is None:
            yield rules.STATUS, "CommitmentDiscountStatus", "Used or Unused"
        if pricing not in {None, "Committed"}:
            yield rules.COMMITTED, "PricingCategory", "Committed"
        if status == "Unused":
            yield from _zero(row, rules.UNUSED_BILLED, "BilledCost")


def _zero(row: Row, rule: Rule, *columns: str) -> Iterator[Found]:
    for column in columns:
        if number(row.get(column)):
            yield rule, column, "0"


def _amounts(row: Row) -> Iterator[Found]:
    for name in _UNIT_PRICES:
        price = number(row.get(name))
        if price is not None and price < 0:
            yield rules.NEGATIVE_PRICE, name, "0 or more"
    billed = number(row.get("BilledCost"))
    if row["ChargeCategory"] != "Credit" or billed is None:
        return
    for name, price_name in (
        ("ListCost", "ListUnitPrice"),
        ("ContractedCost", "ContractedUnitPrice"),
        ("EffectiveCost", None),
    ):
        cost = number(row.get(name))
        priced = price_name is not None and row.get(price_name) is not None
        if cost is not None and cost != billed and not priced:
            yield rules.CREDIT, name, f"the BilledCost, {_plain(billed)}"


def _product(
    cost_name: str, price_name: str, wrong: Rule, rounded: Rule, *, exempt: bool, binary: bool
) -> Judge:
    def judge(row: Row) -> Iterator[Found]:
        cost, price = number(row[cost_name]), number(row[price_name])
        quantity = number(row["PricingQuantity"])
        if cost is None or price is None or quantity is None or (exempt and _correction(row)):
            return
        product = EXACT.multiply(price, quantity)
        if cost == product or (binary and _nearly(cost, product)):
            return
        rule = rounded if _is_rounded(cost, product) else wrong
        yield rule, cost_name, f"{_plain(product)} = {price_name} × PricingQuantity"

    return judge


def _nearly(cost: Decimal, product: Decimal) -> bool:
    """Whether two numbers are as close as doubles allow: each of three values was rounded to 53 bits once."""
    difference = EXACT.subtract(cost, product).copy_abs()
    return difference <= EXACT.multiply(product.copy_abs(), Decimal(2) ** -51)


def _is_rounded(cost: Decimal, product: Decimal) -> bool:
    return bool(cost) and any(
        product.quantize(cost, rounding, EXACT) == cost
        for rounding in (ROUND_HALF_EVEN, ROUND_HALF_UP)
    )


def _plain(value: Decimal) -> str:
    text = format(value, "f")
    return text if len(text) <= 60 else str(value)[:60]


def _same_currency(row: Row) -> Iterator[Found]:
    currency = row.get("PricingCurrency")
    if currency is None or currency != row.get("BillingCurrency"):
        return
    for name, of in _CURRENCY_PAIRS:
        priced, billed = number(row.get(name)), number(row.get(of))
        if priced is not None and billed is not None and priced != billed:
            yield rules.SAME_CURRENCY, name, f"{of}, {_plain(billed)}"


def _periods(row: Row) -> Iterator[Found]:
    for first, last in _PERIODS:
        start, end = moment(row.get(first)), moment(row.get(last))
        if start is not None and end is not None and start >= end:
            yield rules.PERIOD_ORDER, last, f"a time after {first}, {row[first]}"


def _charge_period(row: Row) -> Iterator[Found]:
    opened, closed = moment(row.get("BillingPeriodStart")), moment(row.get("BillingPeriodEnd"))
    start, end = moment(row.get("ChargePeriodStart")), moment(row.get("ChargePeriodEnd"))
    if opened is None or closed is None or start is None or end is None:
        return
    if _correction(row):
        if start >= opened:
            yield (
                rules.NO_CORRECTION,
                "ChargeClass",
                "null, as the charge is of this billing period",
            )
    elif row["ChargeCategory"] == "Usage" and opened < closed and start < end:
        if not opened <= start < closed:
            yield rules.OUTSIDE, "ChargePeriodStart", "a time in the billing period"
        elif end > closed:
            yield rules.OUTSIDE, "ChargePeriodEnd", "a time not after BillingPeriodEnd"


def _updates(row: Row) -> Iterator[Found]:
    for first, last in _UPDATES:
        created, updated = moment(row.get(first)), moment(row.get(last))
        if created is not None and updated is not None and updated < created:
            yield rules.UPDATED, last, f"a time not before {first}, {row[first]}"


def _payment(row: Row) -> Iterator[Found]:
    referred = row.get("PaymentCurrencyInvoiceDetailId")
    if number(row.get("PaymentCurrencyBilledCost")) and referred not in {
        None,
        row.get("InvoiceDetailId"),
    }:
        yield rules.PAYMENT_ROW, "PaymentCurrencyInvoiceDetailId", "the row's own InvoiceDetailId"


def _subcategory(dataset: Dataset) -> Judge:
    categories = frozenset(dataset.subcategories.values())

    def judge(row: Row) -> Iterator[Found]:
        parent = dataset.subcategories.get(row.get("ServiceSubcategory") or "")
        category = row.get("ServiceCategory")
        if parent is not None and category in categories and parent != category:
            yield rules.PARENT, "ServiceSubcategory", f"a subcategory of {category}"

    return judge
