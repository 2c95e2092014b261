"""Orders: what a tenant signs to ask one node for one request."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from shared.codec.hashing import framing
from shared.statements.keys import MAX_STAGES
from shared.statements.receipts import Usage
from shared.statements.request import RequestBody
from shared.statements.rules import Whole
from shared.statements.schema import U32, Bytes32, Ms, Name, Record, Statement, Uint

MAX_TOKENS = 2**20
MAX_WAIT_MS = 86_400_000
TEMPLATE_TOKENS, MESSAGE_TOKENS = 1024, 64
"""Allowance for what a chat template adds, once and per message."""


@dataclass(frozen=True, slots=True)
class Part(Record):
    """Of which chain's answer an order is a part."""

    head: Bytes32
    """Entry of the order for the head."""
    place: Annotated[int, Whole(MAX_STAGES, 1)]
    """The stage's, counted from 1."""


@dataclass(frozen=True, slots=True)
class Order(Statement):
    """One attempt at one request. A retry keeps `number` and counts `attempt` up from 0."""

    TYPE: ClassVar[str] = "order"
    NEEDED: ClassVar[frozenset[str]] = frozenset({"max_input_tokens"})
    CRITICAL: ClassVar[frozenset[str]] = frozenset({"part"})

    tenant: Name
    number: Uint
    attempt: U32
    ctx: Bytes32
    kc: Bytes32
    envelope: Bytes32
    """The envelope hash."""
    bundle: Bytes32
    """Entry of the node's key bundle."""
    created: Ms
    expiry: Ms
    max_output_tokens: Annotated[int, Whole(MAX_TOKENS, 1)]
    rate_card: Bytes32
    """Entry of the rate card under which the work is rated."""
    cost_centre: Bytes32 | None = None
    """The tenant's tags, blinded under its tag key (protocol §4.5.1)."""
    max_input_tokens: Annotated[int, Whole(MAX_TOKENS, 1)] | None = None
    """The most prompt tokens that the tenant pays for; a node refuses a longer prompt. Orders made before this field was
    defined lack it; their prompts are bounded only by the node's context."""
    max_ms: Annotated[int, Whole(MAX_WAIT_MS, 1)] | None = None
    """How long the tenant waits for the whole answer (ms from its acceptance); without it, no answer ends by a deadline."""
    part: Part | None = None
    """For a stage of a chain (protocol §4.10); without it, the order is for a whole answer."""

    @property
    def subject(self) -> str:
        """The request: its `ctx`."""
        return self.ctx.hex()

    def check(self) -> None:
        """Check that the order expires after it was created."""
        self.require(self.created < self.expiry, "expires before it was created")


def cancel_message(order: bytes) -> bytes:
    """Return what a tenant signs to have the answer to an order end; `order` is the order's entry (protocol §4.7)."""
    return framing("cancel", order)


def input_bound(body: RequestBody) -> int:
    """Return a `max_input_tokens` for a client without a tokenizer: a token per UTF-8 byte, plus the template's."""
    return min(
        MAX_TOKENS,
        body.size + TEMPLATE_TOKENS + MESSAGE_TOKENS * len(body.messages) + len(body.prefix),
    )


def within_order(order: Order, usage: Usage) -> str | None:
    """Return, in words, which quantity of a receipt exceeds what its order pays for; None if none does."""
    return beyond_bounds(
        (usage.input, usage.output), (order.max_input_tokens, order.max_output_tokens)
    )


def beyond_bounds(counted: tuple[int, int], most: tuple[int | None, int | None]) -> str | None:
    """Do the same, given (input, output) tokens of the receipt and at most of the order."""
    for side, count, bound in zip(("input", "output"), counted, most, strict=True):
        if bound is not None and count > bound:
            return f"the receipt counts {count} {side} tokens, but at most {bound} were ordered"
    return None
