"""What passes between a worker and a custodian besides the release case (protocol §6.2.2)."""

from dataclasses import dataclass
from typing import Annotated

from shared.statements.cose import MAX_STATEMENT
from shared.statements.rules import Octets, Text
from shared.statements.schema import Bytes32, Record

MAX_SHARE_REQUEST = 2**18 + 256
MAX_SEALED_SHARE = 4096
_Statement = Annotated[bytes, Octets(MAX_STATEMENT, 1)]


@dataclass(frozen=True, slots=True)
class CaseAnswer(Record):
    """What a custodian answers to a release case: exactly one of the two statements."""

    release: _Statement | None = None
    """A disclosure release."""
    report: _Statement | None = None
    """An escrow report."""

    def check(self) -> None:
        """Check that there is one statement."""
        self.require(
            (self.release is None) is not (self.report is None),
            "needs either a release or a report",
        )


@dataclass(frozen=True, slots=True)
class ShareRequest(Record):
    """`POST /share`: the proof that a release is in the log."""

    request: Bytes32
    """Entry of the disclosure request."""
    proof: Annotated[str, Text(2**18, 1)]
    """tlog-proof of the disclosure release that was made for it."""


@dataclass(frozen=True, slots=True, repr=False)
class ShareAnswer(Record):
    """The sealed share that the release names by its hash."""

    share: Annotated[bytes, Octets(MAX_SEALED_SHARE, 1)]
