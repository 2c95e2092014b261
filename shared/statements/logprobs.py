"""What a node reports about one output token's probability (protocol §4.2): integers in micro-nats."""

from dataclasses import dataclass
from typing import Annotated

from shared.statements.request import MAX_LOGPROBS
from shared.statements.rules import Count, Whole
from shared.statements.schema import U32, Record

LEAST_LOGPROB = -(10**9)
"""Anything less likely is reported as this: e^-1000."""
MicroNats = Annotated[int, Whole(0, LEAST_LOGPROB)]


@dataclass(frozen=True, slots=True, repr=False)
class TokenLogprobs(Record):
    """A token's own log-probability, and the most likely tokens with theirs, most likely first."""

    logprob: MicroNats
    top_tokens: Annotated[tuple[U32, ...], Count(0, MAX_LOGPROBS)]
    top_logprobs: Annotated[tuple[MicroNats, ...], Count(0, MAX_LOGPROBS)]

    def check(self) -> None:
        """Check the order of the most likely tokens: descending, each token once."""
        self.require(
            len(self.top_tokens) == len(self.top_logprobs), "has arrays of different lengths"
        )
        self.require(len(set(self.top_tokens)) == len(self.top_tokens), "names a token twice")
        falls = all(a >= b for a, b in zip(self.top_logprobs, self.top_logprobs[1:], strict=False))
        self.require(falls, "is not in descending order")

    def fits(self, token: int, alternatives: int) -> bool:
        """Return whether this can be the report on `token` to a request for this many alternatives."""
        if len(self.top_tokens) > alternatives:
            return False
        if token in self.top_tokens:
            return self.top_logprobs[self.top_tokens.index(token)] == self.logprob
        return not self.top_logprobs or self.logprob <= self.top_logprobs[-1]
