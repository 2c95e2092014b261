"""Response frames: sealed, chained and signed (protocol §4).

A frame's AAD is the running hash of everything before it, so frames cannot be reordered, dropped,
reflected, spliced or read twice. Sealer and opener advance only if a frame was good.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.codec.hashing import framing, labelled_hash
from shared.envelope.opaque import opening, unreadable
from shared.envelope.padding import pad_to, unpad_from
from shared.envelope.secrets import TranscriptKeys
from shared.envelope.shape import CLASSES, MAX_FINAL, MAX_FRAME, TAG, Shape
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.keys import MAX_STAGES
from shared.statements.logprobs import TokenLogprobs
from shared.statements.receipts import Finish, Usage
from shared.statements.rules import Count, Octets, Text
from shared.statements.schema import U32, Record

MAX_FRAME_LOGPROBS = 2**15
"""More than fit into a frame: each takes at least 36 bytes."""
_FRAME, _FINAL = 0, 1

Tokens = Annotated[tuple[U32, ...], Count(0, 2**20)]
R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class StreamContext:
    """The context to which one response is bound."""

    ctx: bytes
    kc: bytes
    bundle: bytes
    """Entry of the node's key bundle."""
    node_nonce: bytes
    attempt: int

    @property
    def h_0(self) -> bytes:
        """The chain's start."""
        attempt = self.attempt.to_bytes(4, "big")
        return labelled_hash("stream", self.ctx, self.kc, self.bundle, self.node_nonce, attempt)


@dataclass(frozen=True, slots=True, repr=False)
class Frame(Record):
    """Some of the response's tokens, and the text that they add."""

    tokens: Tokens
    text: Annotated[str, Text(MAX_FRAME)]
    logprobs: Annotated[tuple[TokenLogprobs, ...], Count(1, MAX_FRAME_LOGPROBS)] | None = None
    """One per token, if the request asked for them."""

    def check(self) -> None:
        """Check that there is one entry per token."""
        self.require(
            self.logprobs is None or len(self.logprobs) == len(self.tokens),
            "has different numbers of logprobs and tokens",
        )

    def answers(self, alternatives: int | None) -> bool:
        """Return whether it has logprobs exactly as a request for `alternatives` (None: no logprobs) requires."""
        if alternatives is None or not self.tokens:
            return self.logprobs is None
        return self.logprobs is not None and all(
            told.fits(token, alternatives)
            for token, told in zip(self.tokens, self.logprobs, strict=True)
        )


@dataclass(frozen=True, slots=True, repr=False)
class FinalRecord(Record):
    """The whole response, its usage, and the node's signed receipt."""

    tokens: Tokens
    text: Annotated[str, Text(MAX_FINAL)]
    usage: Usage
    finish: Finish
    receipt: Annotated[bytes, Octets(2**16, 1)]
    evidence: Annotated[bytes, Octets(MAX_FINAL, 1)] | None = None
    """The sealed evidence; absent exactly when the receipt names none."""
    stages: (
        Annotated[tuple[Annotated[bytes, Octets(2**16, 1)], ...], Count(1, MAX_STAGES)] | None
    ) = None
    """The receipts of a chain's stages, in order; those whose entries the receipt lists."""


def next_hash(h: bytes, ciphertext: bytes) -> bytes:
    """Return h_i from h_{i-1} and frame i's ciphertext."""
    return labelled_hash("frame", h, ciphertext)


def stream_hash(context: StreamContext, frames: Sequence[bytes]) -> bytes:
    """Return h_final of a response's frames; needs no key."""
    h = context.h_0
    for ciphertext in frames:
        h = next_hash(h, ciphertext)
    return h


def stream_signature_message(context: StreamContext, i: int, h: bytes) -> bytes:
    """Return what the node signs for h_i, i = 0 included."""
    place = struct.pack(">Q", i)
    return framing("stream-signature", context.ctx, context.kc, context.bundle, place, h)


def final_signature_message(context: StreamContext, h_final: bytes, ciphertext: bytes) -> bytes:
    """Return what the node signs for the sealed final record, so that nobody can submit another in its name."""
    sealed = labelled_hash("final", h_final, ciphertext)
    return framing("final-signature", context.ctx, context.kc, context.bundle, sealed)


class _Chain:
    """The state of one response: key, number of frames, running hash."""

    def __init__(
        self, keys: TranscriptKeys, context: StreamContext, shape: Shape = CLASSES
    ) -> None:
        key = keys.response_key(context.bundle, context.node_nonce, context.attempt)
        self._aead = AESGCM(key)
        self._h0 = self._h = context.h_0
        self._frames = 0
        self._ended = False
        self.shape = shape
        """How plaintexts are padded: `OpenedRequest.shape` of the request."""

    @property
    def h0(self) -> bytes:
        """The chain's start."""
        return self._h0

    @property
    def h(self) -> bytes:
        """Running hash over all frames so far."""
        return self._h

    @property
    def h_final(self) -> bytes:
        """Hash over every frame, once all have passed."""
        return self._h

    @property
    def frames(self) -> int:
        """Number of frames so far."""
        return self._frames

    def _size(self, kind: int, length: int) -> int:
        return (
            self.shape.frame(length) if kind == _FRAME else self.shape.final(length, self._frames)
        )

    def _nonce(self, kind: int) -> bytes:
        return struct.pack(">IQ", kind, self._frames + 1)

    def _aad(self, kind: int) -> bytes:
        return self._h + bytes([kind])

    def _advance(self, ciphertext: bytes) -> None:
        self._h = next_hash(self._h, ciphertext)
        self._frames += 1


class FrameSealer(_Chain):
    """The node's side of one response."""

    def follow(self, ciphertext: bytes) -> None:
        """Go on behind a frame of this response that was sealed before."""
        self._advance(ciphertext)

    def seal(
        self, tokens: Sequence[int], text: str, logprobs: Sequence[TokenLogprobs] = ()
    ) -> tuple[bytes, bytes]:
        """Seal the next frame; return (ciphertext, h_i). `logprobs` is empty, or has one entry per token."""
        frame = Frame(tuple(tokens), text, tuple(logprobs) or None)
        ciphertext = self._seal(_FRAME, frame, MAX_FRAME)
        self._advance(ciphertext)
        return ciphertext, self._h

    def seal_final(self, record: FinalRecord) -> bytes:
        """Seal the final record, once: its nonce must not serve twice."""
        sealed = self._seal(_FINAL, record, MAX_FINAL)
        self._ended = True
        return sealed

    def _seal(self, kind: int, record: Record, most: int) -> bytes:
        if self._ended:
            raise CounterfoilError(Code.CONFLICT, "the response already has its final record")
        data = record.to_cbor()
        size = self._size(kind, len(data))
        if len(data) >= size or size + TAG > most:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT, f"a record is limited to {min(size, most)} bytes"
            )
        return self._aead.encrypt(self._nonce(kind), pad_to(data, size), self._aad(kind))


class FrameOpener(_Chain):
    """The client's (or the auditor's) side. Every failure is the same UNREADABLE."""

    def open(self, ciphertext: bytes) -> Frame:
        """Open the next frame."""
        frame = self._open(_FRAME, Frame, ciphertext, MAX_FRAME)
        self._advance(ciphertext)
        return frame

    def open_final(self, data: bytes) -> FinalRecord:
        """Open the final record; nothing can follow it."""
        record = self._open(_FINAL, FinalRecord, data, MAX_FINAL)
        self._ended = True
        return record

    def _open(self, kind: int, record: type[R], data: bytes, most: int) -> R:
        if self._ended or len(data) > most:
            raise unreadable()
        try:
            padded = self._aead.decrypt(self._nonce(kind), data, self._aad(kind))
        except (InvalidTag, ValueError) as error:
            raise unreadable() from error
        with opening():
            plain = unpad_from(padded, lambda length: self._size(kind, length))
            return record.from_cbor(plain, max_bytes=most)
