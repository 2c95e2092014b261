"""Period seals: what a tenant owes an operator for a billing period that was closed (protocol §8.6)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

from shared.codec.cbor import encode
from shared.codec.hashing import labelled_hash
from shared.statements.ratecards import CURRENCY
from shared.statements.rules import Text
from shared.statements.schema import Bytes32, Line, Ms, Name, Statement, Uint
from shared.translog.tree import Frontier, leaf_hash

NO_PERIOD = bytes(32)
"""`previous` of the first period of a tenant, operator and currency."""


@dataclass(frozen=True, slots=True)
class PeriodSeal(Statement):
    """The bill of [start, end) is final: which receipts are on it, and what the contract makes of them."""

    TYPE: ClassVar[str] = "period-seal"

    tenant: Name
    operator: Name
    currency: Annotated[str, Text(12, 3, pattern=CURRENCY)]
    """Of the rate cards."""
    start: Ms
    end: Ms
    time_zone: Line
    at: Ms
    previous: Bytes32
    """Entry of the seal before; 32 zero bytes for the first. Periods do not overlap."""
    size: Uint
    """Every receipt with a log index below this had been booked."""
    lines: Uint
    root: Bytes32
    """Merkle root over the lines (`lines_root`)."""
    bill: Bytes32
    """SHA-256 of the bill, which its two parties have."""

    @property
    def subject(self) -> str:
        """The tenant."""
        return self.tenant

    def check(self) -> None:
        """Check the range."""
        self.require(self.start < self.end, "ends before it begins")


def period_line(receipt: bytes, net: int) -> bytes:
    """Return the hash that stands for one line: a receipt that the period bills (`net` 1) or takes back (−1)."""
    return labelled_hash("period-line", encode([receipt, net]))


def lines_root(lines: Iterable[tuple[bytes, int]]) -> tuple[int, bytes]:
    """Return the number of lines and the Merkle root (RFC 9162 §2.1.1) over them, in order of the receipts' log indexes."""
    frontier = Frontier()
    for receipt, net in lines:
        frontier.append(leaf_hash(period_line(receipt, net)))
    return frontier.size, frontier.root()
