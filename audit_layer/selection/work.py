"""What the selection authority asks of the work list: the seam to the replay room, which keeps it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True)
class Assignment:
    """One replay that one worker owes, by the authority's disclosure request."""

    receipt: bytes
    """Log entry of the receipt."""
    epoch: int
    worker: str
    request_statement: bytes
    deadline: int
    """Unix ms after which missing evidence counts against whoever withheld it."""
    confirms: bool = False
    """Whether it is a second opinion on a verdict that blames the node."""


class WorkList(Protocol):
    """The work list. Every function runs in the caller's transaction."""

    def assign(self, session: Session, assignments: Iterable[Assignment]) -> None:
        """Put work on the list; a receipt is on it at most once, plus once to confirm."""

    def requests(self, session: Session, epoch: int) -> Sequence[bytes]:
        """Return the request statements of an epoch's drawn receipts, in the order in which they were assigned."""

    def unconfirmed(self, session: Session) -> Sequence[Assignment]:
        """Return finished work whose verdict blames the node, and which no second worker has been asked to confirm."""
