"""What a call returns."""

from dataclasses import dataclass

from shared.statements.logprobs import TokenLogprobs
from shared.statements.receipts import Finish, Receipt, Usage


@dataclass(frozen=True, slots=True)
class CheckedReceipt:
    """A node's receipt that passed every check of protocol §4.3."""

    value: Receipt
    statement: bytes
    entry: bytes
    """The log entry, by which to query the log."""


@dataclass(frozen=True, slots=True)
class StageReceipt:
    """A stage's receipt that passed every check of protocol §4.10.4."""

    node: str
    """operator/node"""
    statement: bytes
    entry: bytes


@dataclass(frozen=True, slots=True)
class Timings:
    """As seen by the client, in milliseconds since the request was sent."""

    first_token_ms: float | None
    total_ms: float

    def tokens_per_s(self, tokens: int) -> float:
        """Return the rate over the whole request."""
        return 1000 * tokens / self.total_ms if self.total_ms > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Contribution:
    """A part of an answer that one attempt wrote."""

    attempt: int
    node: str
    """operator/node"""
    transcript_id: int
    """Row of the archive."""
    tokens: int
    """How many of the answer's tokens are its."""
    receipt: CheckedReceipt | None
    """None if the attempt broke off before it came: the node owes it to the log all the same."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer, returned only after its receipt was checked."""

    text: str
    token_ids: tuple[int, ...]
    receipt: CheckedReceipt
    usage: Usage
    finish: Finish
    timings: Timings
    transcript_id: int
    """Row of the archive."""
    number: int
    attempt: int
    node: str
    """operator/node"""
    text_verified: bool = False
    """Whether the client itself checked that the tokens have this text; otherwise it is the node's word until an audit."""
    choice: int = 0
    """Which of several answers to the same request this is."""
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One per token if the settings ask for them: log-probabilities in micro-nats."""
    stages: tuple[StageReceipt, ...] = ()
    """What the stages of a chain signed of their parts, in order; none if the node has the whole model."""
    contributions: tuple[Contribution, ...] = ()
    """The attempts that wrote the answer, in order. `usage`, `finish` and `receipt` are those of the last one, whose input
    includes what came before."""
