"""Orders: what a tenant signs to ask one node for one request."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from shared.statements.rules import Whole
from shared.statements.schema import U32, Bytes32, Ms, Name, Statement, Uint

MAX_TOKENS = 2**20


@dataclass(frozen=True, slots=True)
class Order(Statement):
    """One attempt at one request. A retry keeps `number` and counts `attempt` up from 0."""

    TYPE: ClassVar[str] = "order"

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
    """Blinded (protocol §4.5)."""

    def check(self) -> None:
        """Check that the order expires after it was made."""
        self.require(self.created < self.expiry, "expires before it was made")
