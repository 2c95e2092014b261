"""Verdicts and their reason codes (protocol §6.3)."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar

from shared.statements.schema import Bytes32, Ms, Name, Statement


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
    CHAIN = "chain"
    """Another node of the same chain, which a verdict about its own receipt names."""
    AUDIT = "audit"


class Reason(StrEnum):
    """The reason codes of protocol §6.3: the one list that judge, worker, disclosure, statements and books share."""

    EXACT = "exact"
    ORDER = "order"
    MODEL = "model"
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
    IMPLAUSIBLE = "implausible"
    PROFILE = "profile"
    WITHHELD = "withheld"
    UNAVAILABLE = "unavailable"
    UNREPLAYABLE = "unreplayable"
    ESCROW = "escrow"
    BOUNDARY = "boundary"

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
        Reason.MODEL: (Outcome.FAIL, Blame.NODE),
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
        Reason.IMPLAUSIBLE: (Outcome.FAIL, Blame.NODE),
        Reason.PROFILE: (Outcome.INCONCLUSIVE, Blame.NODE),
        Reason.WITHHELD: (Outcome.INCONCLUSIVE, Blame.NODE),
        Reason.UNAVAILABLE: (Outcome.INCONCLUSIVE, Blame.AUDIT),
        Reason.UNREPLAYABLE: (Outcome.INCONCLUSIVE, Blame.AUDIT),
        Reason.ESCROW: (Outcome.INCONCLUSIVE, Blame.TENANT),
        Reason.BOUNDARY: (Outcome.INCONCLUSIVE, Blame.CHAIN),
    }
)


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
