"""What the judge receives: one disclosed request, as a message between the worker and its replay process."""

from dataclasses import dataclass
from typing import Self

from shared.codec import cbor
from shared.codec.fields import Reader
from shared.envelope.delivered import MAX_DELIVERED
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.orders import MAX_TOKENS
from shared.statements.verdicts import Outcome, Reason

MAX_CASE_BYTES = MAX_DELIVERED + 2**20
"""The most that can be delivered for one request, with its receipt."""
MAX_CASE_ITEMS = MAX_TOKENS + 64
"""A frame has at least one token."""


@dataclass(frozen=True, slots=True, repr=False)
class Case:
    """One disclosed request. `secret` is the transcript secret (32 bytes); everything else is as it was signed."""

    receipt: bytes
    """The receipt statement; its signature was verified when it entered the trail and again by the worker."""
    envelope: bytes
    frames: tuple[bytes, ...]
    final_record: bytes
    secret: bytes

    def to_bytes(self) -> bytes:
        """Encode for the pipe."""
        return cbor.encode(
            {
                "receipt": self.receipt,
                "envelope": self.envelope,
                "frames": list(self.frames),
                "final_record": self.final_record,
                "secret": self.secret,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode what `to_bytes` wrote."""
        read = Reader(cbor.decode(data, max_bytes=MAX_CASE_BYTES, max_items=MAX_CASE_ITEMS), "case")
        case = cls(
            receipt=read.bytes("receipt"),
            envelope=read.bytes("envelope"),
            frames=tuple(read.list_of("frames", bytes)),
            final_record=read.bytes("final_record"),
            secret=read.bytes("secret", length=32),
        )
        read.done()
        return case


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the judge found: outcome and reason code of protocol §6.3, and facts that contain no prompt text."""

    reason: Reason
    facts: dict[str, int | str]

    @property
    def outcome(self) -> Outcome:
        """The outcome that the reason implies."""
        return self.reason.outcome

    def to_bytes(self) -> bytes:
        """Encode for the pipe; its SHA-256 is the verdict's `evidence`."""
        return cbor.encode(
            {
                "outcome": self.outcome.value,
                "reason": self.reason.value,
                "facts": dict(self.facts),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode what `to_bytes` wrote; MALFORMED for anything else."""
        read = Reader(cbor.decode(data), "judgement")
        facts: dict[str, int | str] = {}
        for key, value in read.map("facts").items():
            if not isinstance(key, str) or not isinstance(value, int | str):
                raise CounterfoilError(
                    Code.MALFORMED, "a judgement's facts are numbers and strings"
                )
            facts[key] = value
        outcome, reason = read.text("outcome", 16), read.text("reason", 32)
        read.done()
        if reason not in set(Reason) or Reason(reason).outcome != outcome:
            raise CounterfoilError(
                Code.MALFORMED, "a judgement has an outcome and a reason of the protocol"
            )
        return cls(Reason(reason), facts)
