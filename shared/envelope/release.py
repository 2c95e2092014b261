"""A custodian's answer to a disclosure request: its share, sealed for one worker (protocol §6.2)."""

from dataclasses import dataclass
from typing import Annotated

from shared.codec.hashing import framing
from shared.envelope.header import Header
from shared.envelope.hpke import Opener, open_sealed, seal
from shared.envelope.opaque import opening, unreadable
from shared.envelope.shares import MAX_SHARES, share_commitment
from shared.statements.rules import Whole
from shared.statements.schema import Bytes32, Record


@dataclass(frozen=True, slots=True)
class ReleaseContext:
    """The context to which a released share is bound."""

    request: bytes
    """Entry of the disclosure request."""
    custodian: bytes
    """Key id of the custodian's HPKE key."""
    ctx: bytes
    kc: bytes

    @property
    def info(self) -> bytes:
        """HPKE's info."""
        return framing("release", self.request, self.custodian, self.ctx, self.kc)


@dataclass(frozen=True, slots=True, repr=False)
class _Share(Record):
    i: Annotated[int, Whole(MAX_SHARES, 1)]
    share: Bytes32


def seal_release(recipient: bytes, context: ReleaseContext, index: int, share: bytes) -> bytes:
    """Seal share `index` (from 1) for a worker's raw HPKE key."""
    return seal(recipient, context.info, _Share(index, share).to_cbor())


def open_release(
    private_key: Opener, context: ReleaseContext, header: Header, data: bytes
) -> tuple[int, bytes]:
    """Return (index, share); UNREADABLE unless it is the custodian's share that the header commits to."""
    plaintext = open_sealed(private_key, context.info, data)
    with opening():
        opened = _Share.from_cbor(plaintext, max_bytes=64)
    count = len(header.shares)
    if opened.i > count or header.custodians[opened.i - 1] != context.custodian:
        raise unreadable()
    commitment = share_commitment(opened.i, header.threshold, count, opened.share)
    if commitment != header.shares[opened.i - 1]:
        raise unreadable()
    return opened.i, opened.share
