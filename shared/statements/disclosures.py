"""Disclosure requests and releases (protocol §6.2)."""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from shared.statements.schema import Bytes32, Ms, Name, Statement, Uint


class DisclosureReason(StrEnum):
    """Why a receipt may be disclosed."""

    DRAW = "draw"
    FLOOR = "floor"
    WHOLE = "whole"
    CONFIRM = "confirm"


@dataclass(frozen=True, slots=True)
class DisclosureRequest(Statement):
    """The audit authority asks custodians to release one receipt's shares to one worker."""

    TYPE: ClassVar[str] = "disclosure-request"

    receipt: Bytes32
    index: Uint
    draw: Bytes32
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
