"""What the judge receives: one disclosed request, as a message between the worker and its replay process."""

from dataclasses import dataclass
from typing import Self

from shared.codec import cbor
from shared.codec.fields import Reader
from shared.envelope.delivered import MAX_DELIVERED
from shared.statements.orders import MAX_TOKENS

MAX_CASE_BYTES = MAX_DELIVERED + 2**20
"""The most that can be delivered for one request, with its receipt."""
MAX_CASE_ITEMS = MAX_TOKENS + 64
"""A frame has at least one token."""


@dataclass(frozen=True, slots=True, repr=False)
class Case:
    """One disclosed request. `secret` is the transcript secret (32 bytes); everything else is as it was signed."""

    receipt: bytes
    """The receipt statement; its signature was verified when it entered the trail and again by the worker."""
    order: bytes
    """The order statement that the receipt answers, verified likewise."""
    envelope: bytes
    frames: tuple[bytes, ...]
    final_record: bytes
    secret: bytes

    def to_bytes(self) -> bytes:
        """Encode for the pipe."""
        return cbor.encode(
            {
                "receipt": self.receipt,
                "order": self.order,
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
            order=read.bytes("order"),
            envelope=read.bytes("envelope"),
            frames=tuple(read.list_of("frames", bytes)),
            final_record=read.bytes("final_record"),
            secret=read.bytes("secret", length=32),
        )
        read.done()
        return case
