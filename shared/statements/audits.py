"""Epochs, draws, disclosure and verdicts (protocol §6)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from types import MappingProxyType
from typing import Annotated, ClassVar

from shared.statements.rules import Count, Text, Whole
from shared.statements.schema import Boolean, Bytes32, Ms, Name, Ppm, Statement, Uint

MAX_PARTIES = 64
_REASON = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)


class DrawReason(StrEnum):
    """Why a receipt may be disclosed."""

    DRAW = "draw"
    FLOOR = "floor"
    WHOLE = "whole"
    CONFIRM = "confirm"


class Outcome(StrEnum):
    """What a replay found."""

    PASS = "PASS"  # noqa: S105  # no password
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


REASONS: Mapping[Outcome, frozenset[str]] = MappingProxyType(
    {
        Outcome.PASS: frozenset({"exact"}),
        Outcome.FAIL: frozenset(
            {"input", "stream", "evidence", "activations", "tokens", "finish", "usage", "settings"}
        ),
        Outcome.INCONCLUSIVE: frozenset({"profile", "withheld", "unavailable", "escrow"}),
    }
)
"""The reason codes of protocol §6.3."""


@dataclass(frozen=True, slots=True)
class EpochOpen(Statement):
    """Opens an epoch: names the beacon's commitments and the rule of selection."""

    TYPE: ClassVar[str] = "epoch-open"

    epoch: Uint
    at: Ms
    first: Uint
    commitments: Annotated[tuple[Bytes32, ...], Count(0, MAX_PARTIES)]
    """Entries of the beacon-commitment statements; their order is that of the reveals."""
    rate_ppm: Ppm
    floor: Annotated[int, Whole(2**32 - 1)]

    def check(self) -> None:
        """Check that no commitment is named twice."""
        self.require(
            len(set(self.commitments)) == len(self.commitments), "names a commitment twice"
        )


@dataclass(frozen=True, slots=True)
class EpochSeal(Statement):
    """Closes an epoch over the log indexes [first, size)."""

    TYPE: ClassVar[str] = "epoch-seal"

    epoch: Uint
    at: Ms
    open: Bytes32
    first: Uint
    size: Uint
    root: Bytes32
    nodes: Annotated[dict[Bytes32, Bytes32], Count(0, 8192)]
    """Key bundle → SHA-256 of its receipts' entries in this epoch (`selection.draw.node_hash`)."""

    def check(self) -> None:
        """Check the range."""
        self.require(self.first <= self.size, "ends before it begins")


@dataclass(frozen=True, slots=True)
class Draw(Statement):
    """The epoch's sample. Anyone can recompute it."""

    TYPE: ClassVar[str] = "draw"

    epoch: Uint
    seal: Bytes32
    reveals: Annotated[tuple[Bytes32, ...], Count(0, MAX_PARTIES)]
    """Entries of the beacon-reveal statements in the order of the commitments, without missing ones."""
    whole: Boolean
    seed: Bytes32
    drawn: Annotated[tuple[Uint, ...], Count(0, 2**18)]
    """Log indexes of the drawn receipts, rising; all of the epoch's receipts when `whole`."""

    def check(self) -> None:
        """Check the order of the indexes."""
        rising = all(a < b for a, b in pairwise(self.drawn))
        self.require(rising, "does not list its indexes in rising order")


@dataclass(frozen=True, slots=True)
class DisclosureRequest(Statement):
    """The audit authority asks custodians to release one receipt's shares to one worker."""

    TYPE: ClassVar[str] = "disclosure-request"

    receipt: Bytes32
    index: Uint
    draw: Bytes32
    reason: DrawReason
    recipient: Bytes32
    """Key id of the worker's HPKE key."""
    deadline: Ms


@dataclass(frozen=True, slots=True)
class DisclosureRelease(Statement):
    """A custodian's account of one release."""

    TYPE: ClassVar[str] = "disclosure-release"

    request: Bytes32
    receipt: Bytes32
    custodian: Name
    share: Bytes32
    """SHA-256 of the sealed share."""


@dataclass(frozen=True, slots=True)
class Verdict(Statement):
    """What one worker found about one receipt."""

    TYPE: ClassVar[str] = "verdict"

    receipt: Bytes32
    request: Bytes32
    worker: Name
    outcome: Outcome
    reason: Annotated[str, Text(32, 1, pattern=_REASON)]
    evidence: Bytes32
    numeric_profile: Bytes32
    at: Ms
    confirms: Bytes32 | None = None
    """Entry of another worker's FAIL that this one agrees with."""

    def check(self) -> None:
        """Check that the reason is one of the outcome's."""
        self.require(
            self.reason in REASONS[self.outcome],
            f"gives {self.reason!r} as reason for {self.outcome}",
        )
