"""One request of a given shape and everything that its parties do with it, as steps to be timed."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.codec.moment import now_ms
from shared.envelope.body import Audit, AuditPolicy, encode_body
from shared.envelope.hpke import HpkePrivateKey, generate_hpke_key
from shared.envelope.release import ReleaseContext, open_release, seal_release
from shared.envelope.sealing import (
    Candidate,
    SealedRequest,
    open_escrow,
    open_request,
    open_with_secret,
    seal_request,
)
from shared.envelope.shares import combine
from shared.envelope.stream import (
    FrameOpener,
    FrameSealer,
    StreamContext,
    stream_signature_message,
)
from shared.runtime.keys import public_bytes
from shared.statements.cose import open_as, sign, verify_signature
from shared.statements.orders import Order
from shared.statements.request import RequestBody, SamplingSettings

HOUR_MS = 3_600_000
FRAMES = 64
"""Frames of one token that are sealed, and opened, at a time: one alone is too short to be timed."""
TEXT = " token"


@dataclass(frozen=True, slots=True)
class Shape:
    """What is sealed, and for how many."""

    body: int
    """Bytes of the prompt."""
    candidates: int
    threshold: int
    custodians: int

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.body:,} B, {self.candidates} node(s), {self.threshold}-of-{self.custodians}"


Step = Callable[[], object]


class World:
    """The keys of a shape's parties, and one request sealed for them."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.tenant, self.node = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        self.nodes = [generate_hpke_key() for _ in range(shape.candidates)]
        self.bundles = [os.urandom(32) for _ in self.nodes]
        self.custodians = [generate_hpke_key() for _ in range(shape.custodians)]
        self.worker = generate_hpke_key()
        self.body = RequestBody(
            settings=SamplingSettings(max_tokens=FRAMES), prompt="x" * shape.body
        )
        self.sealed = self.seal()
        self.statement = self.order()
        self.context = StreamContext(
            self.sealed.ctx, self.sealed.kc, self.bundles[0], os.urandom(32), 0
        )
        self.frames = self._frames()
        self.request = os.urandom(32)
        self.shares = self._shares()

    def steps(self) -> Mapping[str, tuple[Step, int]]:
        """Return each step, and how many times one call does it."""
        message = stream_signature_message(self.context, 1, self.context.h_0)
        signature, public = self.node.sign(message), self.node.public_key()
        return {
            "seal": (self.seal, 1),
            "order": (self.order, 1),
            "admit": (self._admit, 1),
            "open": (self._open, 1),
            "escrow": (self._escrow, 1),
            "combine": (self._combine, 1),
            "frame": (self._frames, FRAMES),
            "sign": (lambda: self.node.sign(message), 1),
            "read": (self._read, FRAMES),
            "verify": (lambda: public.verify(signature, message), 1),
        }

    def sizes(self) -> dict[str, int]:
        """Return, in bytes, what travels for the plain request and for one frame, and what is added to them."""
        envelope = len(self.sealed.envelope_bytes)
        plain = len(encode_body(self.body))
        return {
            "body": plain,
            "envelope": envelope,
            "order": len(self.statement),
            "added": envelope + len(self.statement) - plain,
            "header": len(self.sealed.header.to_cbor()),
            "frame": len(self.frames[0]),
            "frame_text": len(TEXT),
        }

    def seal(self) -> SealedRequest:
        """Seal the request as a client does."""
        return seal_request(
            self.body,
            tenant="acme",
            candidates=[
                Candidate(entry, key.public_bytes)
                for entry, key in zip(self.bundles, self.nodes, strict=True)
            ],
            custodians=[key.public_bytes for key in self.custodians],
            threshold=self.shape.threshold,
            model_root=bytes(32),
            max_output_tokens=FRAMES,
            policy=AuditPolicy(Audit.SAMPLED),
            expiry_ms=now_ms() + HOUR_MS,
        )

    def order(self) -> bytes:
        """Sign the order for it."""
        now = now_ms()
        order = Order(
            tenant="acme",
            number=0,
            attempt=0,
            ctx=self.sealed.ctx,
            kc=self.sealed.kc,
            envelope=self.sealed.envelope_hash,
            bundle=self.bundles[0],
            created=now,
            expiry=now + HOUR_MS,
            max_input_tokens=1024,
            max_output_tokens=FRAMES,
            rate_card=bytes(32),
        )
        return sign(order, key=self.tenant, issuer="acme")

    def _admit(self) -> None:
        _, statement = open_as(Order, self.statement, None, new=True)
        verify_signature(statement, public_bytes(self.tenant))

    def _open(self) -> None:
        open_request(
            self.sealed.envelope_bytes,
            bundle_entry=self.bundles[0],
            hpke_private=self.nodes[0],
            now_ms=now_ms(),
        )

    def _escrow(self) -> None:
        self._share_of(self.custodians[0])

    def _share_of(self, custodian: HpkePrivateKey) -> tuple[int, bytes]:
        opened = open_escrow(
            self.sealed.envelope_bytes,
            custodian_key_id=custodian.key_id,
            hpke_private=custodian,
        )
        return opened.index, opened.share

    def _shares(self) -> list[tuple[ReleaseContext, bytes]]:
        """Return what k custodians release to the worker."""
        found = []
        for custodian in self.custodians[: self.shape.threshold]:
            context = ReleaseContext(
                self.request, custodian.key_id, self.sealed.ctx, self.sealed.kc
            )
            index, share = self._share_of(custodian)
            found.append((context, seal_release(self.worker.public_bytes, context, index, share)))
        return found

    def _combine(self) -> None:
        shares = dict(
            open_release(self.worker, context, self.sealed.header, sealed)
            for context, sealed in self.shares
        )
        secret = combine(shares, self.shape.threshold)
        open_with_secret(self.sealed.envelope_bytes, secret)

    def _frames(self) -> list[bytes]:
        sealer = FrameSealer(self.sealed.keys, self.context)
        return [sealer.seal([number], TEXT)[0] for number in range(FRAMES)]

    def _read(self) -> None:
        opener = FrameOpener(self.sealed.keys, self.context)
        for frame in self.frames:
            opener.open(frame)


def timed(step: Step, of: int, repetitions: int) -> float:
    """Return the median time of one step in µs; `of` says how many times a call does it."""
    taken = []
    for _ in range(repetitions):
        begun = time.perf_counter_ns()
        step()
        taken.append((time.perf_counter_ns() - begun) / of / 1000)
    return sorted(taken)[len(taken) // 2]
