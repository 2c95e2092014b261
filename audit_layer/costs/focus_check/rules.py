"""The rules, each with a number that stays the same: what it says and the requirement of FOCUS that it stems from.

The source names the column or attribute of the specification whose requirement it is. `own` marks what FOCUS does not state
and finance teams rely on all the same.
"""

from typing import Final

from audit_layer.costs.focus_check.report import Force, Rule

RULES: Final[dict[str, Rule]] = {}


def _rule(number: str, force: Force, says: str, source: str) -> Rule:
    rule = Rule(f"CF-{number}", force, says, source)
    RULES[rule.id] = rule
    return rule


def _must(number: str, says: str, source: str) -> Rule:
    return _rule(number, Force.MUST, says, source)


def _should(number: str, says: str, source: str) -> Rule:
    return _rule(number, Force.SHOULD, says, source)


# Reading
ENCODING = _must("0001", "the text is valid UTF-8", "StringHandling")
MALFORMED = _must("0002", "a record is well-formed CSV (RFC 4180)", "own")
RAGGED = _must("0003", "a row has as many cells as the header", "own")
OVERSIZE = _must("0004", "a cell has at most 131,072 characters, a record 16 MiB", "own")
TRUNCATED = _must("0005", "the file is whole and its compression intact", "own")
BOMB = _must("0006", "the file does not expand out of proportion", "own")
EMPTY = _must("0007", "there is a header", "own")
MARK = _should("0008", "there is no byte order mark", "own")

# Header
MISSING = _must("0101", "every mandatory column is present", "feature level of the column")
RECOMMENDED = _should("0102", "every recommended column is present", "feature level of the column")
GROUP = _must("0103", "columns required under one condition are present together", "feature level")
DUPLICATE_COLUMN = _must("0104", "a column appears once", "ColumnHandling")
CUSTOM_NAME = _must("0105", "a column that is not of FOCUS begins with x_", "ColumnHandling")
SPELLING = _must("0106", "a FOCUS column has its exact name and case", "ColumnHandling")
COLUMN_ORDER = _should("0107", "custom columns come after all FOCUS columns", "ColumnHandling")
CUSTOM_STYLE = _should(
    "0108", "a custom name is x_ and Pascal case, at most 50 characters", "ColumnHandling"
)
PHYSICAL_TYPE = _must("0109", "a Parquet column has a type that fits", "data type of the column")
ZONELESS = _should("0110", "a Parquet time column states UTC", "DateTimeFormat")

# Cells
NULL = _must("0201", "a column that does not allow nulls has a value", "nullability of the column")
NUMBER = _must("0202", "a decimal is plain or in E notation, without a plus sign", "NumericFormat")
DATE_TIME = _must("0203", "a time is YYYY-MM-DDTHH:mm:ssZ, in UTC", "DateTimeFormat")
FRACTION = _must("0204", "a time has whole seconds", "DateTimeFormat")
ALLOWED = _must("0205", "a value is one of the allowed values", "allowed values of the column")
CURRENCY = _must("0206", "a currency is an ISO 4217 code", "CurrencyFormat")
KEY_VALUE = _must(
    "0207", "a key-value cell is one flat JSON object with unique keys", "KeyValueFormat"
)
OBJECT = _must("0208", "a JSON cell is one JSON object with unique keys", "JsonObjectFormat")
PRICE_DETAILS = _must(
    "0209", "a property is FOCUS-defined, of its type, or begins with x_", "SkuPriceDetails"
)
GRAIN = _must("0210", "a property is FOCUS-defined or begins with x_", "InvoiceDetailGrain")
CONTROL = _must("0211", "text holds no control characters", "own")
PLACEHOLDER = _must("0212", "no placeholder stands for a null", "NullHandling")
BLANK = _should("0213", "text is more than spaces", "StringHandling")
UNIT = _should("0214", "a unit is written as the unit format has it", "UnitFormat")
FORMULA = _should("0215", "no text begins as a spreadsheet's formula does", "own")

# Nulls within a row, and values that go together
TAX = _must("0301", "prices, price quantities and SKUs are null for Tax", "nullability")
PRICED = _must(
    "0302", "they are filled for Usage and Purchase, except for a Correction", "nullability"
)
ORPHAN = _must("0303", "a column is null when the one that it describes is null", "nullability")
BARE = _must("0304", "a column is filled when the one that it describes is filled", "nullability")
CONSUMED_ONLY = _must(
    "0305", "only Usage that is not an Unused commitment consumes", "ConsumedQuantity"
)
CONSUMED = _must("0306", "such Usage states what it consumes", "ConsumedQuantity")
STATUS = _must("0307", "Usage under a commitment states Used or Unused", "CommitmentDiscountStatus")
COMMITTED_QUANTITY = _must(
    "0308", "Usage and Purchase of a commitment state its quantity", "CommitmentDiscountQuantity"
)
NO_COMMITTED_QUANTITY = _must(
    "0309", "no other charge states a commitment's quantity", "CommitmentDiscountQuantity"
)
RESERVATION = _must(
    "0310", "Usage of a capacity reservation states Used or Unused", "CapacityReservationStatus"
)
FREQUENCY = _must("0311", "a Purchase is not Usage-Based", "ChargeFrequency")
COMMITTED = _must(
    "0312", "Usage under a commitment is Committed, its Purchase is not", "PricingCategory"
)
COMMITTED_ID = _must("0313", "a Committed price names its commitment", "DiscountHandling")
COMMITMENT_ROW = _must(
    "0314", "a commitment's Purchase and Unused rows have it as resource", "DiscountHandling"
)
UNUSED_USAGE = _must("0315", "what is Unused of a commitment is Usage", "DiscountHandling")
PARENT = _must("0316", "a ServiceSubcategory is one of its ServiceCategory's", "ServiceSubcategory")
NO_SKU_PRICE = _must(
    "0318", "1.4: unit prices and quantities are null where SkuPriceId is", "nullability"
)
SKU_PRICE = _must("0319", "1.4: unit prices are filled where SkuPriceId is", "nullability")
METER = _should("0317", "a SkuMeter is filled when SkuId is", "SkuMeter")

# Arithmetic within a row
LIST_COST = _must("0401", "ListCost is ListUnitPrice × PricingQuantity", "ListCost")
LIST_ROUNDED = _must("0402", "ListCost is that product unrounded", "ListCost")
CONTRACTED_COST = _must(
    "0403", "ContractedCost is ContractedUnitPrice × PricingQuantity", "ContractedCost"
)
CONTRACTED_ROUNDED = _must("0404", "ContractedCost is that product unrounded", "ContractedCost")
NEGATIVE_PRICE = _must("0405", "a unit price is not negative", "unit price columns")
CREDIT = _must("0406", "a Credit has one amount in all four costs", "ListCost, EffectiveCost")
PREPAID = _must("0407", "the Purchase of a commitment has no effective cost", "EffectiveCost")
UNUSED_BILLED = _must("0408", "an Unused row is not billed again", "DiscountHandling, BilledCost")
SAME_CURRENCY = _must(
    "0409", "amounts in pricing and billing currency agree where it is one currency", "own"
)

# Periods within a row
PERIOD_ORDER = _must("0501", "a period ends after it starts", "period columns")
OUTSIDE = _must(
    "0502", "Usage lies within its billing period, except for a Correction", "ChargeClass"
)
NO_CORRECTION = _must("0503", "a Correction is of an earlier billing period", "ChargeClass")
UPDATED = _must("0504", "a record is updated when or after it is created", "LastUpdated columns")

# The whole file
REPEATED = _must("0601", "no row appears twice", "own")
SKU_PARENT = _must("0602", "a SkuPriceId has one SkuId", "SkuPriceId")
SERVICE_PARENT = _must("0603", "a service has one ServiceCategory", "ServiceName")
SERVICE_SUBPARENT = _should("0604", "a service has one ServiceSubcategory", "ServiceName")
COMMITMENT_FACTS = _must(
    "0605", "a commitment has one unit, category and type", "CommitmentDiscountUnit"
)
PERIOD_FACTS = _must("0606", "billing periods that start together end together", "BillingPeriodEnd")
ACCOUNT_CURRENCY = _must(
    "0607", "an account is billed in one currency in a billing period", "BillingCurrency"
)
INVOICE_FACTS = _must(
    "0608", "an invoice has one issuer, account, period and currency", "InvoiceId"
)
INVOICE_DETAIL_FACTS = _must(
    "0609", "an invoice has one status, dates, terms and payment currency", "InvoiceId"
)
DETAIL_TWICE = _must("0610", "an InvoiceDetailId is unique within its invoice", "InvoiceDetailId")
PERIOD_TWICE = _must("0611", "a billing period appears once for each issuer", "BillingPeriod")
PAYMENT_DETAIL = _must(
    "0612", "a payment detail is a row of the invoice", "PaymentCurrencyInvoiceDetailId"
)
PAYMENT_ROW = _must(
    "0613", "a row with a payment amount refers to itself", "PaymentCurrencyInvoiceDetailId"
)
