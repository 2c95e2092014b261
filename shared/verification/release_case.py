"""What a custodian is shown before it releases a share (protocol §6.2.3)."""

from dataclasses import dataclass
from typing import Annotated, Final

from shared.envelope.header import MAX_ENVELOPE
from shared.statements.cose import MAX_LONG_STATEMENT, MAX_STATEMENT
from shared.statements.epochs import MAX_PARTIES
from shared.statements.rules import Count, Octets, Text
from shared.statements.schema import Bytes32, Record

MAX_IDENTITIES: Final = 64
MAX_CASE: Final = 8 * 2**20
_Statement = Annotated[bytes, Octets(MAX_STATEMENT, 1)]
_Long = Annotated[bytes, Octets(MAX_LONG_STATEMENT, 1)]
_Proof = Annotated[str, Text(2**18, 1)]
_Statements = Annotated[tuple[_Statement, ...], Count(0, MAX_PARTIES)]
OF_A_DRAW: Final = (
    *("open", "open_proof", "seal", "seal_proof", "draw", "draw_proof"),
    *("commitments", "reveals", "floor_entries"),
)
"""Fields that a case has only if a draw is the reason; all but the last are then needed."""


@dataclass(frozen=True, slots=True)
class ShownIdentity(Record):
    """A statement about an identity's keys, and its tlog-proof."""

    statement: _Statement
    proof: _Proof


@dataclass(frozen=True, slots=True)
class ReleaseCase(Record):
    """What a custodian receives, in wire form: statements, and a tlog-proof for each that must be witnessed.

    Either the draw and what it follows from are shown, or the audit request of the tenant.
    """

    request: _Statement
    request_proof: _Proof
    receipt: _Statement
    receipt_proof: _Proof
    bundle: _Statement
    """The key bundle that the receipt names."""
    order: _Statement
    envelope: Annotated[bytes, Octets(MAX_ENVELOPE, 1)]
    open: _Statement | None = None
    open_proof: _Proof | None = None
    seal: _Long | None = None
    seal_proof: _Proof | None = None
    draw: _Long | None = None
    draw_proof: _Proof | None = None
    commitments: _Statements | None = None
    """All those that the open statement names, in its order."""
    reveals: _Statements | None = None
    """In the order of the commitments."""
    floor_entries: Annotated[tuple[Bytes32, ...], Count(1, 2**16)] | None = None
    """Entries of the key bundle's receipts in the epoch, in order of index; needed if the floor drew the receipt."""
    audit: _Statement | None = None
    """The audit request for which the receipt is to be disclosed."""
    audit_proof: _Proof | None = None
    bundle_proof: _Proof | None = None
    """Needed if the key that signed the key bundle is not one that the custodian pins, or has ended."""
    identities: Annotated[tuple[ShownIdentity, ...], Count(0, MAX_IDENTITIES)] | None = None
    """How the log continues the keys of the node's operator and of the tenant."""
    verdict: _Statement | None = None
    """The FAIL to be confirmed."""
    verdict_proof: _Proof | None = None
