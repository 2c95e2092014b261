"""Epochs, draws, disclosure and verdicts (protocol §6)."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from types import MappingProxyType
from typing import Annotated, ClassVar

from shared.statements.rules import Count, Whole
from shared.statements.schema import Boolean, Bytes32, Ms, Name, Ppm, Statement, Uint

MAX_PARTIES = 64


class DrawReason(StrEnum):
    """Why a receipt may be disclosed."""

    DRAW = "draw"
    FLOOR = "floor"
    WHOLE = "whole"
    CONFIRM = "confirm"


class Outcome(StrEnum):
    """The outcome of a replay."""

    PASS = "PASS"  # noqa: S105  # not a password
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


class Blame(StrEnum):
    """Who is responsible for a reason; if it is not the node, the node loses nothing."""

    NOBODY = "nobody"
    NODE = "node"
    TENANT = "tenant"
    AUDIT = "audit"


class Reason(StrEnum):
    """The reason codes of protocol §6.3: the one list that judge, worker, statements and books share."""

    EXACT = "exact"
    ORDER = "order"
    INPUT = "input"
    STREAM = "stream"
    EVIDENCE = "evidence"
    SETTINGS = "settings"
    ACTIVATIONS = "activations"
    TOKENS = "tokens"
    LOGPROBS = "logprobs"
    TEXT = "text"
    FINISH = "finish"
    USAGE = "usage"
    PROFILE = "profile"
    WITHHELD = "withheld"
    UNAVAILABLE = "unavailable"
    UNREPLAYABLE = "unreplayable"
    ESCROW = "escrow"

    @property
    def outcome(self) -> Outcome:
        """The outcome that the code stands for."""
        return _MEANING[self][0]

    @property
    def blame(self) -> Blame:
        """Who is responsible."""
        return _MEANING[self][1]


_MEANING: Mapping[Reason, tuple[Outcome, Blame]] = MappingProxyType(
    {
        Reason.EXACT: (Outcome.PASS, Blame.NOBODY),
        Reason.ORDER: (Outcome.FAIL, Blame.NODE),
        Reason.INPUT: (Outcome.FAIL, Blame.NODE),
        Reason.STREAM: (Outcome.FAIL, Blame.NODE),
        Reason.EVIDENCE: (Outcome.FAIL, Blame.NODE),
        Reason.SETTINGS: (Outcome.FAIL, Blame.NODE),
        Reason.ACTIVATIONS: (Outcome.FAIL, Blame.NODE),
        Reason.TOKENS: (Outcome.FAIL, Blame.NODE),
        Reason.LOGPROBS: (Outcome.FAIL, Blame.NODE),
        Reason.TEXT: (Outcome.FAIL, Blame.NODE),
        Reason.FINISH: (Outcome.FAIL, Blame.NODE),
        Reason.USAGE: (Outcome.FAIL, Blame.NODE),
        Reason.PROFILE: (Outcome.INCONCLUSIVE, Blame.NODE),
        Reason.WITHHELD: (Outcome.INCONCLUSIVE, Blame.NODE),
        Reason.UNAVAILABLE: (Outcome.INCONCLUSIVE, Blame.AUDIT),
        Reason.UNREPLAYABLE: (Outcome.INCONCLUSIVE, Blame.AUDIT),
        Reason.ESCROW: (Outcome.INCONCLUSIVE, Blame.TENANT),
    }
)


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

    @property
    def subject(self) -> str:
        """The epoch."""
        return f"epoch-{self.epoch}"

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

    @property
    def subject(self) -> str:
        """The epoch."""
        return f"epoch-{self.epoch}"

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
    """Log indexes of the drawn receipts, ascending; all of the epoch's receipts if `whole`."""

    @property
    def subject(self) -> str:
        """The epoch."""
        return f"epoch-{self.epoch}"

    def check(self) -> None:
        """Check the order of the indexes."""
        rising = all(a < b for a, b in pairwise(self.drawn))
        self.require(rising, "does not list its indexes in ascending order")


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
class Verdict(Statement):
    """One worker's result for one receipt."""

    TYPE: ClassVar[str] = "verdict"

    receipt: Bytes32
    request: Bytes32
    worker: Name
    outcome: Outcome
    reason: Reason
    evidence: Bytes32
    """SHA-256 of the judgement that the worker keeps (protocol §6.3)."""
    numeric_profile: Bytes32
    at: Ms
    confirms: Bytes32 | None = None
    """Entry of another worker's verdict that blames the node, if this one confirms it."""

    @property
    def subject(self) -> str:
        """The receipt."""
        return self.receipt.hex()

    def check(self) -> None:
        """Check that the reason belongs to the outcome."""
        self.require(
            self.reason.outcome is self.outcome,
            f"gives {self.reason.value!r} as the reason for {self.outcome}",
        )
        self.require(
            self.confirms is None or self.reason.blame is Blame.NODE,
            f"confirms another with {self.reason.value!r}, which does not blame the node",
        )
