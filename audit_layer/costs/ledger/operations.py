"""What happens to money beyond usage: prepayment, payment, stake, slash, bounty, dispute. Pure.

Each is a journal to be posted under the caller's idempotency key. `expense:` and `escrow:` (prepaid) of a tenant are debit
accounts; `payable:`, `dispute:`, `stake:` and `slash:` of an operator and `bounty:` of a finder are credit accounts; `cash:`
is where money comes from and goes to. Escrow, stake, slash, bounty and dispute hold what may only be taken once it is there:
the database refuses a commit that overdraws them.
"""

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from audit_layer.costs.ledger.posting import Journal, Posting
from shared.codec.ids import check_name
from shared.codec.money import check_currency
from shared.runtime.errors import Code, CounterfoilError


class Operation(StrEnum):
    """What is done, and with whose accounts: a tenant's, an operator's, or both."""

    PREPAY = "prepay"
    """A tenant pays into its escrow."""
    REFUND = "refund"
    """What is left of it goes back."""
    PAY = "pay"
    """A tenant pays an operator what is payable, outside escrow."""
    SETTLE = "settle"
    """An operator is paid what is payable from the tenant's escrow."""
    STAKE = "stake"
    """An operator deposits a stake."""
    UNSTAKE = "unstake"
    SLASH = "slash"
    """A part of the stake is lost."""
    AWARD = "award"
    """A part of what was slashed goes to whoever found it."""
    CLAIM = "claim"
    """A finder takes its bounty out."""
    DISPUTE = "dispute"
    """What is payable is set aside while a tenant disputes it."""
    UPHOLD = "uphold"
    """The dispute ends for the tenant: it owes nothing of it."""
    REJECT = "reject"
    """The dispute ends for the operator: it is payable again."""


Sides = tuple[str, str]
"""(account that is debited, account that is credited), with {tenant} and {operator} to be filled in."""
_SIDES: Final[Mapping[Operation, Sides]] = MappingProxyType(
    {
        Operation.PREPAY: ("escrow:{tenant}", "cash:{tenant}"),
        Operation.REFUND: ("cash:{tenant}", "escrow:{tenant}"),
        Operation.PAY: ("payable:{operator}", "cash:{tenant}"),
        Operation.SETTLE: ("payable:{operator}", "escrow:{tenant}"),
        Operation.STAKE: ("cash:{operator}", "stake:{operator}"),
        Operation.UNSTAKE: ("stake:{operator}", "cash:{operator}"),
        Operation.SLASH: ("stake:{operator}", "slash:{operator}"),
        Operation.AWARD: ("slash:{operator}", "bounty:{tenant}"),
        Operation.CLAIM: ("bounty:{tenant}", "cash:{tenant}"),
        Operation.DISPUTE: ("payable:{operator}", "dispute:{operator}"),
        Operation.UPHOLD: ("dispute:{operator}", "expense:{tenant}"),
        Operation.REJECT: ("dispute:{operator}", "payable:{operator}"),
    }
)


def journal_of(
    operation: Operation,
    *,
    key: str,
    amount: Decimal,
    currency: str,
    day: date,
    tenant: str | None = None,
    operator: str | None = None,
    memo: str | None = None,
) -> Journal:
    """Return the journal of an operation; `tenant` is the finder of an award or claim.

    Errors: INVALID_ARGUMENT for an amount that is not positive, or a party that is missing.
    """
    if not (amount.is_finite() and amount > 0):
        raise CounterfoilError(Code.INVALID_ARGUMENT, f"{amount} is not an amount to {operation}")
    debit, credit = (_filled(side, operation, tenant, operator) for side in _SIDES[operation])
    return Journal(
        kind=operation.value,
        key=f"{operation} {key}",
        day=day,
        postings=(
            Posting(debit, amount, check_currency(currency)),
            Posting(credit, amount.copy_negate(), currency),
        ),
        tenant=tenant,
        operator=operator,
        memo=memo,
    )


def _filled(side: str, operation: Operation, tenant: str | None, operator: str | None) -> str:
    for name, value in (("tenant", tenant), ("operator", operator)):
        field = f"{{{name}}}"
        if field in side:
            if value is None:
                raise CounterfoilError(Code.INVALID_ARGUMENT, f"{operation} needs the {name}")
            side = side.replace(field, check_name(value, f"the {name}"))
    return side
