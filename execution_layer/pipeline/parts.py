"""What a stage of an accountable chain asks of the node around it (protocol §4.10)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from shared.envelope.stages import BoundarySecret


@dataclass(frozen=True, slots=True)
class Part:
    """An order for this stage that was accepted."""

    order: bytes
    """Its entry."""
    ctx: bytes
    head: str
    """`operator/node` of the head, who alone may have it computed."""
    before: BoundarySecret
    behind: BoundarySecret
    positions: int
    """At most so many are computed."""


@dataclass(frozen=True, slots=True)
class Offered:
    """An order as a head hands it over; nothing of it has been verified."""

    order: bytes
    """The statement."""
    header: bytes
    kc: bytes
    wrap: bytes
    head_bundle: bytes
    """The head's key bundle, a statement."""


class Counts(NamedTuple):
    """Tokens of an answer, as its head says."""

    input: int
    cached: int
    output: int

    @property
    def positions(self) -> int:
        """How many positions the chain has computed for it, or had in its cache."""
        return self.input + self.output - 1


class Roots(NamedTuple):
    """What a part commits to."""

    received: bytes
    sent: bytes
    compute_ms: int


Computed = Callable[[Part, int], Roots]
"""Returns the roots over a part's first n positions; CONFLICT unless exactly these are there (those behind them are ignored,
which a cancelled answer leaves)."""


class Parts(Protocol):
    """Accepts orders, and signs receipts for what was computed."""

    async def accept(self, offered: Offered, caller: str) -> bytes:
        """Accept an order from the node `caller`, durably, and return the key bundle (statement) that it names; raises why
        not. One that was accepted is accepted again.
        """

    def find(self, order: bytes) -> Part | None:
        """Return an accepted part, also one that has its receipt: a chain may have to compute it again for another stage."""

    async def close(self, order: bytes, counts: Counts, caller: str, computed: Computed) -> bytes:
        """Sign, store and return a part's receipt, the same one each time. NOT_FOUND, FORBIDDEN for another caller than the
        head, CONFLICT if the counts are not those of what was computed or of the receipt that there is. Without output, the
        part is given up, and its receipt says failed.
        """
