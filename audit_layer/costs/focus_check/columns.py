"""The columns of each dataset and version of FOCUS, as data.

Sources: FOCUS 1.2, chapter Columns, and the dataset tables of the 1.4 specification's sources (github.com/
FinOps-Open-Cost-and-Usage-Spec/FOCUS_Spec). docs/focus.md says what could not be compared with the released text of 1.4.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """The type and value format of a column."""

    STRING = "string"
    UNIT = "unit"
    DECIMAL = "decimal"
    DATE_TIME = "date/time"
    NATIONAL = "currency, ISO 4217"
    CURRENCY = "currency, ISO 4217 or virtual"
    KEY_VALUE = "JSON key-value"
    OBJECT = "JSON object"


class Level(StrEnum):
    """Whether a column has to be there: always, or as a recommendation; CONDITIONAL are both in a provider's circumstances,
    which a file does not state.
    """

    MANDATORY = "mandatory"
    CONDITIONAL = "conditional"
    RECOMMENDED = "recommended"


@dataclass(frozen=True, slots=True)
class Column:
    """One FOCUS column: a null is allowed or not, `allowed` is empty where any value is."""

    name: str
    kind: Kind
    level: Level
    nullable: bool
    allowed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Dataset:
    """The columns of one dataset in one version. Columns of one group are there together or not at all."""

    name: str
    version: str
    columns: dict[str, Column]
    groups: tuple[tuple[str, ...], ...] = ()
    subcategories: dict[str, str] = field(default_factory=dict)
    """The parent ServiceCategory of each ServiceSubcategory."""


_SUBCATEGORIES: Final = {
    "AI and Machine Learning": "AI Platforms, Bots, Generative AI, Machine Learning, Natural Language Processing",
    "Analytics": "Analytics Platforms, Business Intelligence, Data Processing, Search, Streaming Analytics",
    "Business Applications": "Productivity and Collaboration",
    "Compute": "Containers, End User Computing, Quantum Compute, Serverless Compute, Virtual Machines",
    "Databases": "Caching, Data Warehouses, Ledger Databases, NoSQL Databases, Relational Databases,"
    " Time Series Databases",
    "Developer Tools": "Developer Platforms, Continuous Integration and Deployment, Development Environments,"
    " Source Code Management, Quality Assurance",
    "Identity": "Identity and Access Management",
    "Integration": "API Management, Messaging, Workflow Orchestration",
    "Internet of Things": "IoT Analytics, IoT Platforms",
    "Management and Governance": "Architecture, Compliance, Cost Management, Data Governance, Disaster Recovery,"
    " Endpoint Management, Observability, Support",
    "Media": "Content Creation, Gaming, Media Streaming, Mixed Reality",
    "Migration": "Data Migration, Resource Migration",
    "Mobile": "",
    "Multicloud": "Multicloud Integration",
    "Networking": "Application Networking, Content Delivery, Network Connectivity, Network Infrastructure,"
    " Network Routing, Network Security",
    "Security": "Secret Management, Security Posture Management, Threat Detection and Response",
    "Storage": "Backup Storage, Block Storage, File Storage, Object Storage, Storage Platforms",
    "Web": "Application Platforms",
    "Other": "",
}
SUBCATEGORIES: Final = {
    name: category
    for category, names in _SUBCATEGORIES.items()
    for name in (*filter(None, names.split(", ")), f"Other ({category})")
}

ALLOWED: Final = {
    "BillingPeriodStatus": frozenset({"Open", "Closed"}),
    "CapacityReservationStatus": frozenset({"Used", "Unused"}),
    "ChargeCategory": frozenset({"Usage", "Purchase", "Tax", "Credit", "Adjustment"}),
    "ChargeClass": frozenset({"Correction"}),
    "ChargeFrequency": frozenset({"One-Time", "Recurring", "Usage-Based"}),
    "CommitmentDiscountCategory": frozenset({"Spend", "Usage"}),
    "CommitmentDiscountStatus": frozenset({"Used", "Unused"}),
    "InvoiceIssueStatus": frozenset({"Open", "Issued", "Voided"}),
    "PricingCategory": frozenset({"Standard", "Dynamic", "Committed", "Other"}),
    "ServiceCategory": frozenset(_SUBCATEGORIES),
    "ServiceSubcategory": frozenset(SUBCATEGORIES),
}

_LEVELS: Final = {"M": Level.MANDATORY, "C": Level.CONDITIONAL, "R": Level.RECOMMENDED}
_KINDS: Final = {
    "S": Kind.STRING,
    "U": Kind.UNIT,
    "D": Kind.DECIMAL,
    "T": Kind.DATE_TIME,
    "N": Kind.NATIONAL,
    "P": Kind.CURRENCY,
    "K": Kind.KEY_VALUE,
    "O": Kind.OBJECT,
}

_BOTH: Final = """
AvailabilityZone C S null
BilledCost M D
BillingAccountId M S
BillingAccountName M S null
BillingAccountType C S
BillingCurrency M N
BillingPeriodEnd M T
BillingPeriodStart M T
CapacityReservationId C S null
CapacityReservationStatus C S null
ChargeCategory M S
ChargeClass M S null
ChargeDescription M S null
ChargeFrequency R S
ChargePeriodEnd M T
ChargePeriodStart M T
CommitmentDiscountCategory C S null
CommitmentDiscountId C S null
CommitmentDiscountName C S null
CommitmentDiscountQuantity C D null
CommitmentDiscountStatus C S null
CommitmentDiscountType C S null
CommitmentDiscountUnit C U null
ConsumedQuantity C D null
ConsumedUnit C U null
ContractedCost M D
ContractedUnitPrice C D null
EffectiveCost M D
InvoiceIssuerName M S
ListCost M D
ListUnitPrice C D null
PricingCategory C S null
PricingCurrencyContractedUnitPrice C D null
PricingCurrencyEffectiveCost C D
PricingCurrencyListUnitPrice C D null
PricingQuantity M D null
PricingUnit M U null
RegionId C S null
RegionName C S null
ResourceId C S null
ResourceName C S null
ResourceType C S null
ServiceCategory M S
ServiceName M S
ServiceSubcategory R S
SkuId C S null
SkuMeter C S null
SkuPriceDetails C K null
SkuPriceId C S null
SubAccountId C S null
SubAccountName C S null
SubAccountType C S null
Tags C K null
"""
"""What 1.2 and 1.4 have in common in Cost and Usage: column, feature level, kind, and whether a null is allowed."""
_ONLY_1_2: Final = """
InvoiceId R S null
PricingCurrency C P
ProviderName M S
PublisherName M S
"""
_ONLY_1_4: Final = """
AllocatedMethodDetails C O null
AllocatedMethodId C S null
AllocatedResourceId C S null
AllocatedResourceName C S null
AllocatedTags C K null
CommitmentProgramEligibilityDetails C O null
ContractApplied C O null
HostProviderName M S
InvoiceDetailId C S null
InvoiceId C S null
PricingCurrency C P
ServiceProviderName M S
"""
_INVOICE_DETAIL: Final = """
BilledCost M D
BillingAccountId M S
BillingCurrency M N
BillingPeriodEnd M T
BillingPeriodStart M T
ChargeCategory M S
InvoiceDetailCreated M T
InvoiceDetailDescription M S null
InvoiceDetailGrain M K null
InvoiceDetailId M S
InvoiceDetailLastUpdated M T
InvoiceId M S
InvoiceIssueDate M T null
InvoiceIssueStatus M S
InvoiceIssuerName M S
PaymentCurrency C N
PaymentCurrencyBilledCost C D
PaymentCurrencyInvoiceDetailId C S
PaymentDueDate M T null
PaymentTerms M S
PurchaseOrderNumber C S null
ReferenceInvoiceId M S
"""
_BILLING_PERIOD: Final = """
BillingPeriodCreated M T
BillingPeriodEnd M T
BillingPeriodLastUpdated M T
BillingPeriodStart M T
BillingPeriodStatus M S
InvoiceIssuerName M S
"""
_GROUPS: Final = (
    ("CapacityReservationId", "CapacityReservationStatus"),
    (
        "CommitmentDiscountCategory",
        "CommitmentDiscountId",
        "CommitmentDiscountName",
        "CommitmentDiscountQuantity",
        "CommitmentDiscountStatus",
        "CommitmentDiscountType",
        "CommitmentDiscountUnit",
    ),
    ("ConsumedQuantity", "ConsumedUnit"),
    ("RegionId", "RegionName"),
    ("ResourceId", "ResourceName"),
    ("SkuId", "SkuMeter", "SkuPriceDetails", "SkuPriceId"),
    ("SubAccountId", "SubAccountName"),
)
"""Conditional columns that the specification requires under one and the same condition."""
_GROUPS_1_4: Final = (
    *_GROUPS,
    ("AllocatedMethodId", "AllocatedResourceId", "AllocatedResourceName", "AllocatedTags"),
    ("InvoiceDetailId", "InvoiceId"),
)


def _columns(*tables: str) -> dict[str, Column]:
    found = {}
    for line in "".join(tables).split("\n"):
        if not line:
            continue
        name, level, kind, *null = line.split()
        found[name] = Column(
            name=name,
            kind=_KINDS[kind],
            level=_LEVELS[level],
            nullable=bool(null),
            allowed=ALLOWED.get(name, frozenset()),
        )
    return dict(sorted(found.items()))


COST_AND_USAGE: Final = "cost-and-usage"
INVOICE_DETAIL: Final = "invoice-detail"
BILLING_PERIOD: Final = "billing-period"

DATASETS: Final = {
    (COST_AND_USAGE, "1.2"): Dataset(
        COST_AND_USAGE, "1.2", _columns(_BOTH, _ONLY_1_2), _GROUPS, SUBCATEGORIES
    ),
    (COST_AND_USAGE, "1.4"): Dataset(
        COST_AND_USAGE, "1.4", _columns(_BOTH, _ONLY_1_4), _GROUPS_1_4, SUBCATEGORIES
    ),
    (INVOICE_DETAIL, "1.4"): Dataset(INVOICE_DETAIL, "1.4", _columns(_INVOICE_DETAIL)),
    (BILLING_PERIOD, "1.4"): Dataset(BILLING_PERIOD, "1.4", _columns(_BILLING_PERIOD)),
}
"""Every dataset that can be checked, by its name and version."""
