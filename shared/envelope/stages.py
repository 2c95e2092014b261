"""The secrets of a chain's boundaries, and how stages get those on their two sides (protocol §4.10)."""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.codec.hashing import framing, hkdf_expand, hkdf_extract, labelled_hash, labelled_mac
from shared.envelope.header import Header, HeaderStage
from shared.envelope.hpke import Opener, open_sealed, seal
from shared.envelope.opaque import unreadable
from shared.runtime.errors import Code, CounterfoilError

HOP_NONCE_BYTES: Final = 32
_SALT: Final = b"counterfoil/v1/stages"
_BYTES: Final = 32


@dataclass(frozen=True, slots=True, repr=False)
class BoundarySecret:
    """The secret of boundary `index`: what a place sends to the next one is sealed and committed to under it."""

    index: int
    secret: bytes

    @classmethod
    def derive(cls, ts: bytes, index: int) -> Self:
        """Return the secret that follows from a transcript secret."""
        prk = hkdf_extract(_SALT, ts)
        return cls(index, hkdf_expand(prk, "boundary", _BYTES, bytes([index])))

    def leaf(self, block: int, block_hash: bytes) -> bytes:
        """Return the leaf entry of one block of 32 positions."""
        key = hkdf_expand(self.secret, "boundary-leaf", _BYTES)
        return labelled_mac(key, "boundary", block.to_bytes(4, "big"), block_hash)

    def __repr__(self) -> str:
        return f"BoundarySecret({self.index}, …)"


@dataclass(frozen=True, slots=True)
class ChainStage:
    """A stage for which a request is sealed."""

    entry: bytes
    """Entry of its key bundle."""
    hpke_key: bytes


def header_stages(ts: bytes, entries: Sequence[bytes]) -> tuple[HeaderStage, ...]:
    """Return what a header says of stages, given the entries of their key bundles in order."""
    return tuple(
        HeaderStage(entry, _commitment(place, entry, *_sides(ts, place)))
        for place, entry in enumerate(entries, start=1)
    )


def seal_stages(
    ts: bytes, stages: Sequence[ChainStage], ctx: bytes, kc: bytes
) -> tuple[bytes, ...]:
    """Seal for each stage the secrets of the boundaries on its two sides."""
    return tuple(
        seal(stage.hpke_key, _info(stage.entry, ctx, kc), b"".join(_sides(ts, place)))
        for place, stage in enumerate(stages, start=1)
    )


def open_stage(
    header: Header, kc: bytes, place: int, wrap: bytes, hpke_private: Opener
) -> tuple[BoundarySecret, BoundarySecret]:
    """Return a stage's boundary secrets, before and behind it; UNREADABLE unless they are those to which the header commits.

    STALE_KEY if the header has no stage at this place.
    """
    stages = header.stages or ()
    if not 1 <= place <= len(stages):
        raise CounterfoilError(
            Code.STALE_KEY, f"the envelope's chain has no stage at place {place}"
        )
    named = stages[place - 1]
    opened = open_sealed(hpke_private, _info(named.bundle, header.ctx, kc), wrap)
    if len(opened) != 2 * _BYTES:
        raise unreadable()
    before, behind = opened[:_BYTES], opened[_BYTES:]
    if not hmac.compare_digest(_commitment(place, named.bundle, before, behind), named.keys):
        raise unreadable()
    return BoundarySecret(place - 1, before), BoundarySecret(place, behind)


class HopSealer:
    """Seals the states that one connection carries over a boundary for one order, in order."""

    def __init__(self, boundary: BoundarySecret, ctx: bytes, hop_nonce: bytes) -> None:
        self._hop = _Hop(boundary, ctx, hop_nonce)

    def seal(self, position: int, count: int, states: bytes | memoryview) -> bytes:
        """Seal the states of `count` positions from `position` on."""
        hop = self._hop
        sealed = hop.aead.encrypt(hop.nonce, states, hop.bound(position, count))
        hop.advance(sealed)
        return sealed


class HopOpener:
    """Opens them on the other side."""

    def __init__(self, boundary: BoundarySecret, ctx: bytes, hop_nonce: bytes) -> None:
        self._hop = _Hop(boundary, ctx, hop_nonce)

    def open(self, position: int, count: int, sealed: bytes) -> bytes:
        """Return the states; UNREADABLE for anything but the next record."""
        hop = self._hop
        try:
            states = hop.aead.decrypt(hop.nonce, sealed, hop.bound(position, count))
        except InvalidTag as error:
            raise unreadable() from error
        hop.advance(sealed)
        return states


class _Hop:
    """What both sides keep of a connection's records."""

    def __init__(self, boundary: BoundarySecret, ctx: bytes, hop_nonce: bytes) -> None:
        if len(hop_nonce) != HOP_NONCE_BYTES:
            raise CounterfoilError(
                Code.MALFORMED, f"a hop nonce has {HOP_NONCE_BYTES} bytes, not {len(hop_nonce)}"
            )
        self.aead = AESGCM(hkdf_expand(boundary.secret, "hop", 32, hop_nonce))
        self._h = labelled_hash("hop", ctx, bytes([boundary.index]), hop_nonce)
        self._count = 0

    @property
    def nonce(self) -> bytes:
        return bytes(4) + self._count.to_bytes(8, "big")

    def bound(self, position: int, count: int) -> bytes:
        return self._h + position.to_bytes(4, "big") + count.to_bytes(4, "big")

    def advance(self, sealed: bytes) -> None:
        self._h = labelled_hash("hop-record", self._h, sealed)
        self._count += 1


def _sides(ts: bytes, place: int) -> tuple[bytes, bytes]:
    before, behind = (BoundarySecret.derive(ts, index) for index in (place - 1, place))
    return before.secret, behind.secret


def _commitment(place: int, entry: bytes, before: bytes, behind: bytes) -> bytes:
    return labelled_hash("stage-keys", bytes([place]), entry, before, behind)


def _info(entry: bytes, ctx: bytes, kc: bytes) -> bytes:
    return framing("wrap/stage", entry, ctx, kc)
