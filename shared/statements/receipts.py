"""Receipts: what a node signs about one inference."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from shared.statements.keys import MAX_STAGES
from shared.statements.rules import Count, Whole
from shared.statements.schema import U32, Bytes32, Bytes64, Ms, Name, Record, Statement, Uint

NO_RECEIPT = bytes(32)
"""`previous` of a node's first receipt."""


class EnergyQuality(StrEnum):
    """How the energy was obtained. Unmeasured is not zero: there is no number then."""

    MEASURED = "measured"
    ESTIMATED = "estimated"
    UNMEASURED = "unmeasured"


class Finish(StrEnum):
    """Why a sequence ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Usage(Record):
    """What is charged for: tokens, and if known, compute time and energy."""

    input: Uint
    cached: Uint
    """How many of the input tokens came from the prefix cache."""
    output: Uint
    energy_quality: EnergyQuality
    compute_ms: Uint | None = None
    energy_mj: Uint | None = None
    """Millijoules; absent exactly when the energy is unmeasured."""

    def check(self) -> None:
        """Check the relations between the numbers."""
        self.require(self.cached <= self.input, "counts more cached tokens than input tokens")
        measured = self.energy_quality is not EnergyQuality.UNMEASURED
        self.require(
            measured == (self.energy_mj is not None), "has an energy that contradicts its quality"
        )


@dataclass(frozen=True, slots=True)
class Chain(Record):
    """What passed through one place of a chain (protocol §4.10)."""

    place: Annotated[int, Whole(MAX_STAGES)]
    """0 for the head, then the stages."""
    sent: Bytes32
    """Root of the boundary after this place."""
    received: Bytes32
    """Root of the one before it; for the head, of what the last stage returned."""
    stages: Annotated[tuple[Bytes32, ...], Count(1, MAX_STAGES)] | None = None
    """Entries of the stages' receipts in order, in the head's receipt only."""

    def check(self) -> None:
        """Check that the head, and nobody else, lists stages."""
        self.require(
            (self.place == 0) == (self.stages is not None),
            "lists stages without being the head's, or is the head's and lists none",
        )
        self.require(len(set(self.stages or ())) == len(self.stages or ()), "lists a receipt twice")


@dataclass(frozen=True, slots=True)
class Receipt(Statement):
    """One inference. If a request failed early, the fields that would have nothing to commit to are absent."""

    TYPE: ClassVar[str] = "receipt"
    CRITICAL: ClassVar[frozenset[str]] = frozenset({"chain"})

    order: Bytes32
    bundle: Bytes32
    ctx: Bytes32
    kc: Bytes32
    envelope: Bytes32
    node_nonce: Bytes32
    h_final: Bytes32
    model_root: Bytes32
    numeric_profile: Bytes32
    usage: Usage
    finish: Finish
    started: Ms
    ended: Ms
    node_sequence: Uint
    previous: Bytes32
    """Entry of the node's receipt before this one; 32 zero bytes for its first."""
    rate_card: Bytes32
    tenant: Name
    number: Uint
    attempt: U32
    settings: Bytes32 | None = None
    activation_root: Bytes32 | None = None
    input: Bytes32 | None = None
    output: Bytes32 | None = None
    evidence: Bytes32 | None = None
    """SHA-256 of the sealed evidence."""
    cancel: Bytes64 | None = None
    """The tenant's signature over `cancel_message`: its own wish that the answer end. Only where `finish` is CANCELLED."""
    chain: Chain | None = None
    """Without it, the node alone is accountable for the answer."""

    @property
    def subject(self) -> str:
        """The order that it answers."""
        return self.order.hex()

    def check(self) -> None:
        """Check times and the chain's start."""
        self.require(self.started <= self.ended, "ended before it started")
        self.require(
            (self.node_sequence == 0) == (self.previous == NO_RECEIPT),
            "has a predecessor exactly when it is not the node's first",
        )
        self.require(
            self.cancel is None or self.finish is Finish.CANCELLED,
            "has a signature that cancels it, but was not cancelled",
        )
