"""The columns of FOCUS Cost and Usage 1.2 and 1.4 (FinOps Open Cost and Usage Specification) that these exports fill.

FOCUS's own columns come first, ours begin with `x_`. Columns that 1.2 and 1.4 do not share:

| 1.2                         | 1.4                                    |
|-----------------------------|----------------------------------------|
| ProviderName, PublisherName | ServiceProviderName, HostProviderName  |
| CommitmentDiscount…         |                                        |
|                             | InvoiceDetailId                        |
"""

from typing import Final

from audit_layer.costs.exports.table import Column, Dataset, Kind

_COSTS: Final = ("BilledCost", "EffectiveCost", "ListCost", "ContractedCost")
_COMMITMENTS: Final = tuple(
    f"CommitmentDiscount{what}"
    for what in ("Category", "Id", "Name", "Quantity", "Status", "Type", "Unit")
)
"""Of commitments there are none here: FOCUS 1.2 wants all of these columns or none, and readers expect the status."""
_OLD: Final = frozenset({"ProviderName", "PublisherName", *_COMMITMENTS})
_NEW: Final = frozenset({"ServiceProviderName", "HostProviderName", "InvoiceDetailId"})

_EVERY: Final = (
    *(Column(name, Kind.COST) for name in _COSTS),
    Column("ListUnitPrice", Kind.PRICE, nullable=True),
    Column("ContractedUnitPrice", Kind.PRICE, nullable=True),
    Column("BillingAccountId", Kind.TEXT),
    Column("BillingAccountName", Kind.TEXT),
    Column("BillingCurrency", Kind.TEXT),
    Column("BillingPeriodStart", Kind.TIME),
    Column("BillingPeriodEnd", Kind.TIME),
    Column("ChargePeriodStart", Kind.TIME),
    Column("ChargePeriodEnd", Kind.TIME),
    Column("ChargeCategory", Kind.TEXT),
    Column("ChargeClass", Kind.TEXT, nullable=True),
    Column("ChargeDescription", Kind.TEXT),
    Column("ChargeFrequency", Kind.TEXT),
    *(
        Column(name, Kind.QUANTITY if name.endswith("Quantity") else Kind.TEXT, nullable=True)
        for name in _COMMITMENTS
    ),
    Column("ConsumedQuantity", Kind.QUANTITY, nullable=True),
    Column("ConsumedUnit", Kind.TEXT, nullable=True),
    Column("InvoiceId", Kind.TEXT, nullable=True),
    Column("InvoiceDetailId", Kind.TEXT, nullable=True),
    Column("InvoiceIssuerName", Kind.TEXT),
    Column("PricingCategory", Kind.TEXT, nullable=True),
    Column("PricingCurrency", Kind.TEXT),
    Column("PricingCurrencyContractedUnitPrice", Kind.PRICE, nullable=True),
    Column("PricingCurrencyEffectiveCost", Kind.COST),
    Column("PricingCurrencyListUnitPrice", Kind.PRICE, nullable=True),
    Column("PricingQuantity", Kind.QUANTITY, nullable=True),
    Column("PricingUnit", Kind.TEXT, nullable=True),
    Column("ProviderName", Kind.TEXT),
    Column("PublisherName", Kind.TEXT),
    Column("ServiceProviderName", Kind.TEXT),
    Column("HostProviderName", Kind.TEXT),
    Column("ResourceId", Kind.TEXT, nullable=True),
    Column("ResourceName", Kind.TEXT, nullable=True),
    Column("ResourceType", Kind.TEXT, nullable=True),
    Column("ServiceCategory", Kind.TEXT),
    Column("ServiceName", Kind.TEXT),
    Column("ServiceSubcategory", Kind.TEXT),
    Column("SkuId", Kind.TEXT, nullable=True),
    Column("SkuMeter", Kind.TEXT, nullable=True),
    Column("SkuPriceDetails", Kind.TEXT, nullable=True),
    Column("SkuPriceId", Kind.TEXT, nullable=True),
    Column("Tags", Kind.TEXT, nullable=True),
    Column("x_Receipt", Kind.IDENTIFIER, nullable=True),
    Column("x_LogIndex", Kind.COUNT, nullable=True),
    Column("x_Started", Kind.INSTANT),
    Column("x_Ended", Kind.INSTANT),
    Column("x_VerifiedQuantity", Kind.QUANTITY, nullable=True),
    Column("x_QuantityVariance", Kind.QUANTITY, nullable=True),
    Column("x_AuditState", Kind.TEXT, nullable=True),
    Column("x_RateCard", Kind.TEXT, nullable=True),
    Column("x_Node", Kind.TEXT, nullable=True),
    Column("x_ModelRoot", Kind.TEXT, nullable=True),
    Column("x_ModelName", Kind.TEXT, nullable=True),
    Column("x_CostCentre", Kind.TEXT, nullable=True),
    Column("x_Reason", Kind.TEXT, nullable=True),
    Column("x_Because", Kind.IDENTIFIER, nullable=True),
)

FOCUS_1_2: Final = Dataset(
    "CostAndUsage", "1.2", tuple(column for column in _EVERY if column.name not in _NEW)
)
FOCUS_1_4: Final = Dataset(
    "CostAndUsage", "1.4", tuple(column for column in _EVERY if column.name not in _OLD)
)
