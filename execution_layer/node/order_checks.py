"""What a node checks of any order, for a whole answer or for a stage's part of one; none of it opens or writes anything."""

from dataclasses import dataclass
from typing import Protocol

from execution_layer.node import order_times
from execution_layer.node.identity import BundleKeys, KeyRing
from shared.envelope.header import Header
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import MAX_STATEMENT, open_as, verify_signature
from shared.statements.keys import stale_bundle
from shared.statements.orders import Order


class TenantKeys(Protocol):
    """The known tenants."""

    def key_of(self, tenant: str, kid: bytes) -> bytes | None:
        """Return a tenant's live key (32 bytes) with this key id, or else any of its keys; None for a stranger."""


@dataclass(frozen=True, slots=True)
class SignedOrder:
    """An order that a known tenant has signed."""

    order: Order
    statement: bytes
    entry: bytes
    tenant_key: bytes
    """The public key (32 bytes) that signed it."""


class OrderChecks:
    """The checks, with what this node knows."""

    def __init__(
        self, ring: KeyRing, tenants: TenantKeys, *, rate_card: bytes, max_output_tokens: int
    ) -> None:
        self._ring = ring
        self._tenants = tenants
        self._rate_card = rate_card
        self._max_output_tokens = max_output_tokens

    def signed(self, raw: bytes) -> SignedOrder:
        """Check that the order is signed by a known tenant."""
        check_size("order", raw, MAX_STATEMENT)
        if not raw:
            raise CounterfoilError(Code.NO_ORDER, "the request carries no order")
        order, statement = open_as(Order, raw, None, new=True)
        key = self._tenants.key_of(order.tenant, statement.kid)
        if key is None:
            raise CounterfoilError(
                Code.NO_ORDER,
                f"{order.tenant} is not a tenant of this node",
                remedy="Ask the operator to register the tenant's public key.",
            )
        verify_signature(statement, key)
        return SignedOrder(order, raw, statement.entry, key)

    def bundle(self, order: Order, now_ms: int) -> BundleKeys:
        """Return the key bundle that the order names; STALE_KEY unless it is this node's and live."""
        keys = self._ring.find(order.bundle, now_ms)
        if keys is None:
            known = self._ring.known(order.bundle)
            if known is not None:
                raise stale_bundle(known, now_ms, {"bundle": self._ring.current().entry.hex()})
            raise CounterfoilError(
                Code.STALE_KEY,
                f"the order names key bundle {order.bundle.hex()[:16]}…, which is not in use here",
                remedy="Read the key directory again and seal the request for a current key bundle.",
                metadata={"bundle": self._ring.current().entry.hex()},
            )
        return keys

    def terms(self, order: Order) -> None:
        """Check the price and the budget."""
        if order.rate_card != self._rate_card:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT,
                f"the order names rate card {order.rate_card.hex()[:16]}…; this node uses another",
                remedy="Name the operator's current rate card, if your policy accepts it.",
                metadata={"rate_card": self._rate_card.hex()},
            )
        if order.max_output_tokens > self._max_output_tokens:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT,
                f"a budget of {order.max_output_tokens} tokens is above this node's"
                f" {self._max_output_tokens}",
                remedy="Ask for fewer tokens.",
            )


def check_header(order: Order, header: Header, kc: bytes, now_ms: int) -> None:
    """Check that an order is for the envelope with this header and key commitment, and that the envelope has not expired."""
    agreed = (
        ("ctx", order.ctx, header.ctx),
        ("kc", order.kc, kc),
        ("tenant", order.tenant, header.tenant),
        ("max_output_tokens", order.max_output_tokens, header.max_output_tokens),
    )
    for name, ordered, found in agreed:
        if ordered != found:
            raise for_another(name)
    order_times.check_expiry("envelope", order.created, header.expiry, now_ms)


def for_another(name: str) -> CounterfoilError:
    """Return what is raised of an order whose `name` is not the envelope's."""
    return CounterfoilError(Code.NO_ORDER, f"the order is for another envelope: its {name} differs")


def check_model(header: Header, root: bytes, keys: BundleKeys) -> None:
    """Check that the header names the model that this node serves, under a key bundle that says so."""
    if header.model_root != root or root not in keys.bundle.model_roots:
        raise CounterfoilError(
            Code.UNKNOWN_MODEL,
            f"this node does not serve model {header.model_root.hex()[:16]}…",
            remedy="Choose a node whose key bundle names the model.",
        )


def check_size(what: str, data: bytes, most: int) -> None:
    """Refuse, before anything is parsed, what is longer than it may be."""
    if len(data) > most:
        raise CounterfoilError(
            Code.MALFORMED,
            f"the {what} is {len(data)} bytes long, more than the permitted {most}",
        )
