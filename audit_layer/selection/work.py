"""What the selection authority asks of the work list: the seam to the replay room, which keeps it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from sqlalchemy.orm import Session


class Kind(StrEnum):
    """Which opinion about a receipt a worker gives."""

    PRIMARY = "primary"
    CONFIRM = "confirm"
    """A second one on a verdict that blames the node."""
    THIRD = "third"
    """Where the second worker did not make the same charge."""
    ASKED = "asked"
    """The first one on what its tenant asked for; whatever a draw asks for is another's."""
    ASKED_CONFIRM = "asked-confirm"
    ASKED_THIRD = "asked-third"
    FOUND = "found"
    """What another one came to about another receipt of the same chain of nodes."""


@dataclass(frozen=True, slots=True)
class Chain:
    """The opinions that one reason to audit a receipt can come to, in order."""

    first: Kind
    second: Kind
    third: Kind


DRAWN: Final = Chain(Kind.PRIMARY, Kind.CONFIRM, Kind.THIRD)
ASKED: Final = Chain(Kind.ASKED, Kind.ASKED_CONFIRM, Kind.ASKED_THIRD)
CHAINS: Final = (DRAWN, ASKED)


def first_of(kind: Kind) -> Kind:
    """Return the kind of the opinion on which one of this kind is a further one; itself for a first one."""
    chain = next(chain for chain in CHAINS if kind in (chain.first, chain.second, chain.third))
    return chain.first


@dataclass(frozen=True, slots=True)
class Assignment:
    """One replay that one worker owes, by the authority's disclosure request."""

    receipt: bytes
    """Log entry of the receipt."""
    epoch: int | None
    """None if its tenant asked for the audit."""
    worker: str
    request_statement: bytes
    deadline: int
    """Unix ms after which missing evidence counts against whoever withheld it."""
    kind: Kind = Kind.PRIMARY


class WorkList(Protocol):
    """The work list. Every function runs in the caller's transaction."""

    def assign(self, session: Session, assignments: Iterable[Assignment]) -> None:
        """Put work on the list; a receipt is on it at most once for each kind."""

    def requests(self, session: Session, epoch: int) -> Sequence[bytes]:
        """Return the request statements of an epoch's drawn receipts, in the order in which they were assigned."""

    def unconfirmed(self, session: Session) -> Sequence[tuple[Assignment, Kind, Sequence[str]]]:
        """Return finished first work whose verdict blames the node and that another worker must look at.

        With it, the kind of opinion that is due, and the workers that have given theirs.
        """
