"""Which times an order and its envelope may have when they reach a node (protocol §3).
The bounds keep a node's memory of accepted orders short: they expire within a day, and are refused after that for
their age alone.
"""

from typing import Final

from shared.runtime.clocks import untimely
from shared.runtime.errors import Code
from shared.statements.orders import Order

_MINUTE_MS: Final = 60_000
_HOUR_MS: Final = 60 * _MINUTE_MS
SKEW_MS: Final = 5 * _MINUTE_MS
"""How far a tenant's clock may be ahead of the node's."""
MAX_AGE_MS: Final = 6 * _HOUR_MS
"""The maximum age of an order."""
MAX_LIFE_MS: Final = 24 * _HOUR_MS
"""How long after its creation an order, and its envelope, may expire."""


def check_order(order: Order, now_ms: int) -> None:
    """Check that an order is neither too old, nor from the future, nor expired: EXPIRED, or INVALID_ARGUMENT."""
    if order.created > now_ms + SKEW_MS:
        raise untimely(
            Code.INVALID_ARGUMENT,
            f"an order may be at most {SKEW_MS // _MINUTE_MS} minutes ahead of this node's clock; this one was created at",
            order.created,
            now_ms,
        )
    _check_not_past("order", order.expiry, now_ms)
    if order.created < now_ms - MAX_AGE_MS:
        raise untimely(
            Code.EXPIRED,
            f"an order is valid for at most {MAX_AGE_MS // _HOUR_MS} hours; this one was created at",
            order.created,
            now_ms,
            remedy="Order again.",
        )
    check_expiry("order", order.created, order.expiry, now_ms)


def check_expiry(what: str, created: int, expiry: int, now_ms: int) -> None:
    """Check that something expires after now and within a day of its order's creation."""
    _check_not_past(what, expiry, now_ms)
    if expiry > created + MAX_LIFE_MS:
        raise untimely(
            Code.INVALID_ARGUMENT,
            f"the {what} expires more than {MAX_LIFE_MS // _HOUR_MS} hours after its order was created, at",
            expiry,
            now_ms,
            remedy="Choose a shorter expiry.",
        )


def _check_not_past(what: str, expiry: int, now_ms: int) -> None:
    if expiry <= now_ms:
        raise untimely(Code.EXPIRED, f"the {what} expired at", expiry, now_ms)
