"""Audit requests, disclosure requests, releases, and what is reported where a share does not fit (protocol §6.2)."""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

from shared.statements.schema import Bytes32, Ms, Name, Statement, Uint
from shared.statements.verdicts import Verdict


class DisclosureReason(StrEnum):
    """Why a receipt may be disclosed."""

    DRAW = "draw"
    FLOOR = "floor"
    WHOLE = "whole"
    CONFIRM = "confirm"
    TENANT = "tenant"
    """Its tenant asked for it, whatever the draw says."""


@dataclass(frozen=True, slots=True)
class AuditRequest(Statement):
    """A tenant wants one of its receipts audited whatever the draw says, and pays for it."""

    TYPE: ClassVar[str] = "audit-request"

    tenant: Name
    receipt: Bytes32
    at: Ms

    @property
    def subject(self) -> str:
        """The receipt."""
        return self.receipt.hex()


@dataclass(frozen=True, slots=True)
class DisclosureRequest(Statement):
    """The audit authority asks custodians to release one receipt's shares to one worker."""

    TYPE: ClassVar[str] = "disclosure-request"

    receipt: Bytes32
    index: Uint
    draw: Bytes32
    """Entry of the draw or, where its tenant asked for the audit, of the audit request."""
    reason: DisclosureReason
    recipient: Bytes32
    """Key id of the worker's HPKE key."""
    deadline: Ms

    @property
    def subject(self) -> str:
        """The receipt."""
        return self.receipt.hex()


@dataclass(frozen=True, slots=True)
class DisclosureRelease(Statement):
    """A custodian's account of one release."""

    TYPE: ClassVar[str] = "disclosure-release"

    request: Bytes32
    receipt: Bytes32
    custodian: Name
    share: Bytes32
    """SHA-256 of the sealed share."""

    @property
    def subject(self) -> str:
        """The receipt."""
        return self.receipt.hex()


@dataclass(frozen=True, slots=True)
class EscrowReport(Statement):
    """A custodian's account of a wrap that does not open, or does not hold what the envelope's header commits to.

    Alone it blames nobody (protocol §6.2.2).
    """

    TYPE: ClassVar[str] = "escrow-report"

    request: Bytes32
    receipt: Bytes32
    envelope: Bytes32
    """Hash of the envelope."""
    custodian: Name
    key: Bytes32
    """Key id of the custodian's HPKE key, as the header lists it."""

    @property
    def subject(self) -> str:
        """The receipt."""
        return self.receipt.hex()


@dataclass(frozen=True, slots=True)
class ShareReport(Statement):
    """A worker's account of a sealed share that a release names, and that is not the one the header commits to."""

    TYPE: ClassVar[str] = "share-report"

    release: Bytes32
    """Entry of the disclosure release."""
    request: Bytes32
    receipt: Bytes32
    custodian: Name
    worker: Name

    @property
    def subject(self) -> str:
        """The receipt."""
        return self.receipt.hex()


DISCLOSURE_TYPES: Final = frozenset(
    {
        AuditRequest.TYPE,
        DisclosureRequest.TYPE,
        DisclosureRelease.TYPE,
        EscrowReport.TYPE,
        ShareReport.TYPE,
        Verdict.TYPE,
    }
)
"""What a tenant sees of disclosures of its requests, and its seals count: each names the receipt as its subject."""
