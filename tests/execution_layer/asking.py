"""Asking a node by hand, below the client: every part of a request can be made wrong."""

import os
from dataclasses import dataclass, replace

import grpc
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.codec.hashing import framing
from shared.codec.moment import now_ms
from shared.envelope.body import Audit, AuditPolicy, encode_body
from shared.envelope.header import Envelope, envelope_hash
from shared.envelope.hpke import seal
from shared.envelope.padding import pad
from shared.envelope.sealing import Candidate, SealedRequest, seal_request
from shared.envelope.secrets import TranscriptKeys
from shared.proto.counterfoil.execution.v1 import execution_pb2, execution_pb2_grpc
from shared.runtime.grpc import error_from_rpc, secure_aio_channel
from shared.statements.cose import entry_of, sign
from shared.statements.orders import Order, input_bound
from shared.statements.request import RequestBody, SamplingSettings
from shared.statements.resumption import sign_resumption
from tests.execution_layer.world import MODEL_ROOT


@dataclass
class Request:
    """An order and an envelope as they go on the wire."""

    order: bytes
    envelope: bytes
    value: Order
    sealed: SealedRequest
    body: RequestBody


def make_request(
    world,
    node,
    prompt="hello",
    *,
    max_tokens=6,
    number=None,
    attempt=0,
    key=None,
    tenant="acme",
    body=None,
    envelope=None,
    hpke_key=None,
    bundle=None,
    model_root=MODEL_ROOT,
    budget=None,
    expires_in_ms=60_000,
    order_changes=None,
):
    """Seal and order a request for a node; every argument is a way to get it wrong."""
    keys = node.ring.current()
    now = now_ms()
    number = next(world.numbers) if number is None else number
    body = body or RequestBody(SamplingSettings(max_tokens), prompt=prompt)
    sealed = seal_request(
        body,
        tenant=tenant,
        candidates=[Candidate(bundle or keys.entry, hpke_key or keys.bundle.hpke_key)],
        custodians=[world.custodian.public_bytes],
        threshold=1,
        model_root=model_root,
        max_output_tokens=budget or body.settings.max_tokens,
        policy=AuditPolicy(Audit.SAMPLED),
        expiry_ms=now + expires_in_ms,
    )
    raw = sealed.envelope_bytes if envelope is None else envelope(sealed)
    parsed = Envelope.from_bytes(raw)
    order = Order(
        tenant=tenant,
        number=number,
        attempt=attempt,
        ctx=parsed.header.ctx,
        kc=parsed.kc,
        envelope=envelope_hash(raw),
        bundle=bundle or keys.entry,
        created=now - 1000,
        expiry=now + 60_000,
        max_input_tokens=input_bound(body),
        max_output_tokens=sealed.header.max_output_tokens,
        rate_card=world.cards["honest"],
    )
    order = replace(order, **(order_changes or {}))
    signed = sign(order, key=key or world.tenant_key, issuer=tenant)
    return Request(signed, raw, order, sealed, body)


def seal_by_hand(
    node,
    sealed,
    *,
    header=None,
    kc=None,
    padded=None,
    ts=None,
    wrap_ts=None,
    wrap_kc=None,
    body=None,
):
    """Return an envelope resealed around changed parts, so that only they are wrong."""
    keys_of_node = node.ring.current()
    original = Envelope.from_bytes(sealed.envelope_bytes)
    header = header or original.header
    ts = ts or sealed.ts
    keys = TranscriptKeys.derive(ts, header.ctx)
    kc = kc or keys.kc
    info = framing("wrap/node", keys_of_node.entry, header.ctx, wrap_kc or kc)
    wrap = seal(keys_of_node.bundle.hpke_key, info, wrap_ts or ts)
    if body is None:
        body = AESGCM(keys.request_key).encrypt(keys.request_nonce, padded, header.ctx + kc)
    return replace(original, header=header, kc=kc, wraps=(wrap,), body=body).to_bytes()


def padded_body(body):
    """Return the padded plaintext of a body."""
    return pad(encode_body(body), 256)


async def ask(world, node, order, envelope, *, timeout=10.0):
    """Send a request and return all messages of the answer; raises what the node raised."""
    async with secure_aio_channel(node.address, world.ca.ca_file) as channel:
        stub = execution_pb2_grpc.InferenceStub(channel)
        message = execution_pb2.GenerateRequest(order=order, envelope=envelope)
        try:
            return [answer async for answer in stub.Generate(message, timeout=timeout)]
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error


async def resume(world, node, request, frames=0, *, key=None, order=None, timeout=10.0, **changes):
    """Resume a stream and return its messages; raises what the node raised. Every part can be made wrong."""
    entry = entry_of(request.order) if order is None else order
    signed = {"order": entry, "frames": frames, "at": now_ms()}
    values = {**signed, **changes}
    signature = sign_resumption(*signed.values(), key or world.tenant_key)
    message = execution_pb2.ResumeRequest(**{"signature": signature, **values})
    async with secure_aio_channel(node.address, world.ca.ca_file) as channel:
        try:
            call = execution_pb2_grpc.InferenceStub(channel).Resume(message, timeout=timeout)
            return [answer async for answer in call]
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error


async def cancel(world, node, order, signature):
    """Send a cancellation for an order's entry; raises what the node raised."""
    async with secure_aio_channel(node.address, world.ca.ca_file) as channel:
        message = execution_pb2.CancelRequest(order=order, signature=signature)
        try:
            await execution_pb2_grpc.InferenceStub(channel).Cancel(message, timeout=10)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error


async def raw_error(world, node, order, envelope):
    """Send a request that must fail; return everything that a peer can see of the failure."""
    async with secure_aio_channel(node.address, world.ca.ca_file) as channel:
        stub = execution_pb2_grpc.InferenceStub(channel)
        message = execution_pb2.GenerateRequest(order=order, envelope=envelope)
        try:
            async for _ in stub.Generate(message, timeout=10):
                pass
        except grpc.aio.AioRpcError as error:
            sent = tuple(error.initial_metadata()), tuple(error.trailing_metadata())
            return error.code(), error.details(), sent
    raise AssertionError("the request was not refused")


def random32():
    """Return 32 random bytes."""
    return os.urandom(32)
