"""Sealing a request, and opening it as a node, an auditor or a custodian (protocol §3).

The steps are numbered as in the protocol. Anything that does not open, or opens to something that the protocol
does not permit, is the same UNREADABLE; only what anyone can see from outside, and settings that their own author set
out of range, have errors of their own.
"""

import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.codec.hashing import framing
from shared.envelope.body import SMALLEST_BODY, AuditPolicy, decode_body, encode_body
from shared.envelope.header import SMALLEST_ESCROW, Envelope, Header, envelope_hash
from shared.envelope.hpke import Opener, hpke_key_id, open_sealed, seal
from shared.envelope.opaque import opening, unreadable
from shared.envelope.padding import pad, padded_size, unpad
from shared.envelope.secrets import TranscriptKeys
from shared.envelope.shape import Shape
from shared.envelope.shares import (
    MAX_SHARES,
    share_commitment,
    share_commitments,
    split,
)
from shared.envelope.stages import ChainStage, header_stages, seal_stages
from shared.runtime.clocks import untimely
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.request import RequestBody
from shared.statements.rules import Octets, Whole
from shared.statements.schema import Bytes32, Record


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that will be able to read the request."""

    entry: bytes
    """Entry of its key bundle."""
    hpke_key: bytes


@dataclass(frozen=True, slots=True, repr=False)
class SealedRequest:
    """The result of sealing; the tenant must keep `ts`."""

    envelope_bytes: bytes
    header: Header
    ctx: bytes
    kc: bytes
    ts: bytes
    envelope_hash: bytes

    @property
    def keys(self) -> TranscriptKeys:
        """The keys derived from the transcript secret."""
        return TranscriptKeys.derive(self.ts, self.ctx)

    def __repr__(self) -> str:
        return f"SealedRequest(ctx={self.ctx.hex()[:16]}…)"


@dataclass(frozen=True, slots=True, repr=False)
class OpenedRequest:
    """An opened request. Comparing the envelope's hash and `ctx` is up to the caller."""

    header: Header
    ctx: bytes
    kc: bytes
    keys: TranscriptKeys
    body: RequestBody
    ts: bytes
    envelope_hash: bytes

    @property
    def shape(self) -> Shape:
        """Return how the response's records are padded."""
        return Shape(self.body.slots, self.header.padded)

    def __repr__(self) -> str:
        return f"OpenedRequest(ctx={self.ctx.hex()[:16]}…)"


@dataclass(frozen=True, slots=True, repr=False)
class EscrowShare:
    """One custodian's share of one request. `index` counts from 1."""

    index: int
    share: bytes
    policy: AuditPolicy
    header: Header
    ctx: bytes
    kc: bytes
    envelope_hash: bytes

    def __repr__(self) -> str:
        return f"EscrowShare(index={self.index}, ctx={self.ctx.hex()[:16]}…)"


@dataclass(frozen=True, slots=True, repr=False)
class _Escrow(Record):
    i: Annotated[int, Whole(MAX_SHARES, 1)]
    share: Bytes32
    policy: Annotated[bytes, Octets(64)]
    policy_nonce: Bytes32


def seal_request(
    body: RequestBody,
    *,
    tenant: str,
    candidates: Sequence[Candidate],
    custodians: Sequence[bytes],
    threshold: int,
    model_root: bytes,
    max_output_tokens: int,
    policy: AuditPolicy,
    expiry_ms: int,
    request_id: bytes | None = None,
    ts: bytes | None = None,
    policy_nonce: bytes | None = None,
    stages: Sequence[ChainStage] = (),
) -> SealedRequest:
    """Seal a request for nodes and custodians (their raw HPKE keys, in the order of the shares), and for the stages of a chain.

    `request_id`, `ts` and `policy_nonce` are random unless given; one transcript secret serves one header only.
    """
    if body.settings.max_tokens > max_output_tokens:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT, "max_tokens is above the request's token budget"
        )
    ts = os.urandom(32) if ts is None else ts
    policy_nonce = os.urandom(32) if policy_nonce is None else policy_nonce
    plaintext = encode_body(body)
    header = Header(  # 1
        request=os.urandom(16) if request_id is None else request_id,
        tenant=tenant,
        candidates=tuple(candidate.entry for candidate in candidates),
        model_root=model_root,
        max_output_tokens=max_output_tokens,
        policy=policy.commitment(policy_nonce),
        threshold=threshold,
        shares=share_commitments(ts, threshold, len(custodians)),
        custodians=tuple(hpke_key_id(key) for key in custodians),
        expiry=expiry_ms,
        padded=padded_size(len(plaintext), SMALLEST_BODY),
        stages=header_stages(ts, [stage.entry for stage in stages]) or None,
    )
    ctx = header.ctx  # 2
    keys = TranscriptKeys.derive(ts, ctx)
    kc = keys.kc  # 3
    wraps = tuple(  # 4
        seal(candidate.hpke_key, _info("wrap/node", candidate.entry, ctx, kc), ts)
        for candidate in candidates
    )
    escrow = tuple(  # 5
        _seal_share(key, _Escrow(i, share, policy.to_bytes(), policy_nonce), ctx, kc)
        for i, (key, share) in enumerate(
            zip(custodians, split(ts, threshold, len(custodians)), strict=True), start=1
        )
    )
    sealed_body = AESGCM(keys.request_key).encrypt(  # 6
        keys.request_nonce, pad(plaintext, SMALLEST_BODY), ctx + kc
    )
    stage_wraps = seal_stages(ts, stages, ctx, kc) or None
    envelope = Envelope(header, kc, wraps, escrow, sealed_body, stage_wraps).to_bytes()
    return SealedRequest(envelope, header, ctx, kc, ts, envelope_hash(envelope))


def open_request(
    envelope_bytes: bytes, *, bundle_entry: bytes, hpke_private: Opener, now_ms: int
) -> OpenedRequest:
    """Open as a node: steps 1 and 3 to 9 of protocol §3.5. Comparing with the order (step 2) is up to the caller.
    Errors: MALFORMED, EXPIRED, STALE_KEY if the header does not name the key bundle; UNREADABLE otherwise.
    """
    envelope = Envelope.from_bytes(envelope_bytes)  # (1)
    header, ctx = envelope.header, envelope.header.ctx
    if header.expiry <= now_ms:  # (3)
        raise untimely(Code.EXPIRED, "the envelope expired at", header.expiry, now_ms)
    if bundle_entry not in header.candidates:
        raise CounterfoilError(
            Code.STALE_KEY,
            "the envelope is not sealed for this key bundle",
            remedy="Read the key directory again and seal the request for a current key bundle.",
        )
    wrap = envelope.wraps[header.candidates.index(bundle_entry)]
    info = _info("wrap/node", bundle_entry, ctx, envelope.kc)
    ts = open_sealed(hpke_private, info, wrap)  # (4)
    return _open_body(envelope_bytes, envelope, ts)


def open_with_secret(envelope_bytes: bytes, ts: bytes) -> OpenedRequest:
    """Open as an auditor who holds the transcript secret: steps 1 and 5 to 9 of protocol §3.5."""
    envelope = Envelope.from_bytes(envelope_bytes)
    return _open_body(envelope_bytes, envelope, ts)


def open_escrow(
    envelope_bytes: bytes, *, custodian_key_id: bytes, hpke_private: Opener
) -> EscrowShare:
    """Open a custodian's share and check its commitment and the policy's.

    Errors: MALFORMED, NOT_FOUND if the header does not name the custodian; UNREADABLE otherwise.
    """
    envelope = Envelope.from_bytes(envelope_bytes)
    header, ctx = envelope.header, envelope.header.ctx
    if custodian_key_id not in header.custodians:
        raise CounterfoilError(Code.NOT_FOUND, "the envelope holds no share for this custodian")
    place = header.custodians.index(custodian_key_id)
    info = _info("wrap/custodian", custodian_key_id, ctx, envelope.kc)
    opened = open_sealed(hpke_private, info, envelope.escrow[place])
    with opening():
        escrow = _Escrow.from_cbor(unpad(opened, SMALLEST_ESCROW), max_bytes=SMALLEST_ESCROW)
        policy = AuditPolicy.from_bytes(escrow.policy)
    commitment = share_commitment(place + 1, header.threshold, len(header.shares), escrow.share)
    if (
        escrow.i != place + 1
        or commitment != header.shares[place]
        or policy.commitment(escrow.policy_nonce) != header.policy
    ):
        raise unreadable()
    return EscrowShare(
        index=escrow.i,
        share=escrow.share,
        policy=policy,
        header=header,
        ctx=ctx,
        kc=envelope.kc,
        envelope_hash=envelope_hash(envelope_bytes),
    )


def _open_body(envelope_bytes: bytes, envelope: Envelope, ts: bytes) -> OpenedRequest:
    header, kc = envelope.header, envelope.kc
    ctx = header.ctx
    with opening():
        keys = TranscriptKeys.derive(ts, ctx)
    if not hmac.compare_digest(keys.kc, kc):  # (5)
        raise unreadable()
    if share_commitments(ts, header.threshold, len(header.shares)) != header.shares:  # (6)
        raise unreadable()
    stages = header.stages or ()
    if header_stages(ts, [stage.bundle for stage in stages]) != stages:  # (6)
        raise unreadable()
    try:
        padded = AESGCM(keys.request_key).decrypt(
            keys.request_nonce, envelope.body, ctx + kc
        )  # (7)
    except InvalidTag as error:
        raise unreadable() from error
    body = _decoded(padded)  # (8) and (9)
    if body.settings.max_tokens > header.max_output_tokens:
        raise unreadable()
    return OpenedRequest(header, ctx, kc, keys, body, ts, envelope_hash(envelope_bytes))


def _decoded(padded: bytes) -> RequestBody:
    """Return the body. Settings out of range are reported: only the sealer of the body gets that far."""
    try:
        return decode_body(unpad(padded, SMALLEST_BODY))
    except CounterfoilError as error:
        if error.code is Code.INVALID_ARGUMENT:
            raise
        raise unreadable() from error


def _seal_share(custodian: bytes, escrow: _Escrow, ctx: bytes, kc: bytes) -> bytes:
    """Seal one share. The padding hides the audit policy's length, and so the policy, from the node."""
    info = _info("wrap/custodian", hpke_key_id(custodian), ctx, kc)
    return seal(custodian, info, pad(escrow.to_cbor(), SMALLEST_ESCROW))


def _info(label: str, recipient: bytes, ctx: bytes, kc: bytes) -> bytes:
    return framing(label, recipient, ctx, kc)
