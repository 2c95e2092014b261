"""Erasures: what the audit authority states it has made unreadable, and why (protocol §2.1)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from shared.statements.rules import Text
from shared.statements.schema import Bytes32, Ms, Name, Statement, Uint


@dataclass(frozen=True, slots=True)
class Erasure(Statement):
    """The statements of one tenant's day are gone; their entries, and all proofs over them, remain."""

    TYPE: ClassVar[str] = "erasure"

    tenant: Name
    start: Ms
    end: Ms
    """The receipts that began in [start, end), with their orders, evidence, and copies in findings."""
    statements: Uint
    """How many log entries can no longer be read."""
    entries: Bytes32
    """SHA-256 of these entries, concatenated by index."""
    reason: Annotated[str, Text(256, 1, line=True)]
    requested_by: Annotated[str, Text(256, 1, line=True)]
    at: Ms

    @property
    def subject(self) -> str:
        """The tenant."""
        return self.tenant

    def check(self) -> None:
        """Check the range."""
        self.require(self.start < self.end, "ends before it begins")
