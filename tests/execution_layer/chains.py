"""A double of a chain of nodes: a head and its stages in one process, with real keys, over real gRPC. It computes nothing, and
can lie in whatever it signs.
"""

import contextlib
import os
from dataclasses import dataclass, replace
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.codec.moment import now_ms
from shared.envelope.blinded import activation_root, token_bytes
from shared.envelope.body import settings_bytes
from shared.envelope.evidence import Evidence, seal_evidence
from shared.envelope.header import Envelope
from shared.envelope.hpke import generate_hpke_key
from shared.envelope.sealing import open_request
from shared.envelope.stages import open_stage
from shared.envelope.stream import (
    FinalRecord,
    FrameSealer,
    StreamContext,
    final_signature_message,
    stream_signature_message,
)
from shared.proto.counterfoil.execution.v1 import execution_pb2, execution_pb2_grpc
from shared.runtime.grpc import Service, build_server
from shared.runtime.keys import public_bytes
from shared.statements.cose import entry_of, read_as, sign
from shared.statements.keys import HOUR_MS, KeyBundle, Layers, Offer
from shared.statements.orders import Order
from shared.statements.receipts import Chain, EnergyQuality, Finish, Receipt, Usage
from tests.execution_layer.world import MODEL_ROOT, PROFILE_ID


class ChainNode:
    """One place of a chain: its keys, and its key bundle in the log."""

    def __init__(self, world, operator, name, endpoint="127.0.0.1:9", **facts):
        self.operator, card = world.operator(operator)
        world.audit.append(card.read_bytes())
        self.key = Ed25519PrivateKey.generate()
        self.hpke = generate_hpke_key()
        now = now_ms()
        values = {
            "operator": operator,
            "node": name,
            "not_before": now - 60_000,
            "not_after": now + 24 * HOUR_MS,
            "signing_key": public_bytes(self.key),
            "hpke_key": self.hpke.public_bytes,
            "model_roots": (MODEL_ROOT,),
            "numeric_profile": PROFILE_ID,
            "profile": {"arithmetic": "chain-1"},
            "endpoint": endpoint,
            **facts,
        }
        self.bundle = KeyBundle(**values)
        self.statement = sign(self.bundle, key=self.operator.key, issuer=operator)
        self.entry = entry_of(self.statement)
        self.sequence = 0
        world.audit.append(self.statement)

    @property
    def name(self):
        return self.bundle.issuer


@dataclass
class Asked:
    """What came in one call."""

    order: Order
    order_entry: bytes
    parts: tuple
    envelope: Envelope


class FakeChain(execution_pb2_grpc.InferenceServicer):
    """Answers as the head, with its stages' keys. `alter` changes a receipt before it is signed (place 0: the head's), and
    `alter_final` the final record.
    """

    def __init__(self):
        self.head = None
        self.stages = ()
        self.asked = []
        self.finish = Finish.LENGTH
        self.tokens = None
        """How many come, if not as many as are wanted."""
        self.keys = {}
        """Other signing keys, by place."""
        self.on_request = None
        """Called with what comes, before anything is done."""
        self.in_chain = True
        """Whether it says that it is one."""

    def alter(self, place, receipt):
        """Return the receipt to sign."""
        return receipt

    def alter_final(self, record):
        """Return the final record to seal."""
        return record

    async def Generate(self, request, context):
        if self.on_request is not None:
            self.on_request(request)
        order = read_as(Order, request.order)
        envelope = Envelope.from_bytes(request.envelope)
        parts = tuple((read_as(Order, raw), entry_of(raw)) for raw in request.parts)
        self.asked.append(Asked(order, entry_of(request.order), parts, envelope))
        opened = open_request(
            request.envelope,
            bundle_entry=self.head.entry,
            hpke_private=self.head.hpke,
            now_ms=now_ms(),
        )
        for place, (stage, wrap) in enumerate(
            zip(self.stages, envelope.stage_wraps or (), strict=bool(parts)), start=1
        ):
            open_stage(opened.header, opened.kc, place, wrap, stage.hpke)
        started = now_ms()
        nonce = os.urandom(32)
        stream = StreamContext(order.ctx, order.kc, order.bundle, nonce, order.attempt)
        sealer = FrameSealer(opened.keys, stream, opened.shape)
        begun = self.head.key.sign(stream_signature_message(stream, 0, stream.h_0))
        yield execution_pb2.GenerateResponse(
            accepted=execution_pb2.Accepted(node_nonce=nonce, signature=begun)
        )
        wanted = opened.body.settings.max_tokens
        tokens = tuple(range(10, 10 + (wanted if self.tokens is None else self.tokens)))
        for index, token in enumerate(tokens, start=1):
            ciphertext, h = sealer.seal((token,), f"w{token} ", ())
            signature = self.head.key.sign(stream_signature_message(stream, index, h))
            frame = execution_pb2.Frame(index=index, ciphertext=ciphertext, signature=signature)
            yield execution_pb2.GenerateResponse(frame=frame)
        sealed = sealer.seal_final(
            self._final(opened, stream, order, parts, tokens, started, sealer)
        )
        signature = self.head.key.sign(final_signature_message(stream, sealer.h_final, sealed))
        yield execution_pb2.GenerateResponse(
            final_record=execution_pb2.FinalRecord(ciphertext=sealed, signature=signature)
        )

    def _final(self, opened, stream, order, parts, tokens, started, sealer):
        keys, body, failed = opened.keys, opened.body, self.finish is Finish.FAILED
        prompt, text = tuple(body.prompt.encode()), "".join(f"w{token} " for token in tokens)
        usage = Usage(len(prompt), 0, len(tokens), EnergyQuality.UNMEASURED, compute_ms=1)
        blocks = (sha256(b"p").digest(),), (sha256(b"o").digest(),)
        evidence = None
        if not failed:
            evidence = seal_evidence(Evidence(prompt, tokens, *blocks, text), keys, stream)
        roots = [sha256(bytes([b]) + order.ctx).digest() for b in range(len(self.stages) + 1)]
        chained = self.in_chain and not failed and bool(tokens)
        stages = self._stages(parts, usage, roots, started) if chained else ()
        seed = body.seed or keys.sampling_seed
        receipt = Receipt(
            **_common(
                order, entry_of_order=self.asked[-1].order_entry, usage=usage, started=started
            ),
            node_nonce=stream.node_nonce,
            h_final=sealer.h_final,
            finish=self.finish,
            settings=keys.blind("settings", settings_bytes(body, seed)),
            input=keys.blind("input", token_bytes(prompt)),
            output=keys.blind("output", token_bytes(tokens)),
            activation_root=None if failed else activation_root(keys, *blocks),
            evidence=None if failed else sha256(evidence).digest(),
            chain=Chain(0, roots[0], roots[-1], tuple(entry_of(raw) for raw in stages))
            if chained and stages
            else None,
        )
        return self.alter_final(
            FinalRecord(
                tokens=tokens,
                text=text,
                usage=usage,
                finish=self.finish,
                receipt=self._sign(0, self.head, receipt),
                evidence=evidence,
                stages=stages or None,
            )
        )

    def _stages(self, parts, usage, roots, started):
        signed = []
        for place, (stage, (order, entry)) in enumerate(
            zip(self.stages, parts, strict=True), start=1
        ):
            nonce = os.urandom(32)
            stream = StreamContext(order.ctx, order.kc, order.bundle, nonce, order.attempt)
            receipt = Receipt(
                **_common(order, entry_of_order=entry, usage=usage, started=started),
                node_nonce=nonce,
                h_final=stream.h_0,
                finish=Finish.STOP,
                chain=Chain(place, sent=roots[place], received=roots[place - 1]),
            )
            signed.append(self._sign(place, stage, receipt))
        return tuple(signed)

    def _sign(self, place, node, receipt):
        altered = self.alter(place, receipt)
        return sign(altered, key=self.keys.get(place, node.key), issuer=node.name)


def _common(order, *, entry_of_order, usage, started):
    return {
        "order": entry_of_order,
        "bundle": order.bundle,
        "ctx": order.ctx,
        "kc": order.kc,
        "envelope": order.envelope,
        "model_root": MODEL_ROOT,
        "numeric_profile": PROFILE_ID,
        "usage": usage,
        "started": started,
        "ended": now_ms(),
        "node_sequence": 0,
        "previous": bytes(32),
        "rate_card": order.rate_card,
        "tenant": order.tenant,
        "number": order.number,
        "attempt": order.attempt,
    }


CUT = (("farm", 8, 16), ("coop", 16, 24))
"""(operator, first, last) of the stages; the head has the layers before."""


@contextlib.asynccontextmanager
async def chain_of(world, cut=CUT, *, stages=None, head_facts=None, **changes):
    """Serve a chain whose key bundles are in the log. `changes` are facts of stages by their names (`s1`, `s2`, …)."""
    fake = FakeChain()
    package = "counterfoil.execution.v1.Inference"
    adds = execution_pb2_grpc.add_InferenceServicer_to_server
    server = build_server(
        tls=world.ca.issue("head", folder=world.folder / "head"),
        address="127.0.0.1:0",
        services=[Service(package, adds, fake)],
    )
    await server.start()
    try:
        fake.stages = tuple(
            ChainNode(
                world,
                operator,
                f"s{place}",
                **{
                    "layers": Layers(first, last),
                    "offer": Offer(100, 2000, 512, f"region-{place}"),
                    **changes.get(f"s{place}", {}),
                },
            )
            for place, (operator, first, last) in enumerate(cut, start=1)
        )
        names = stages or tuple(stage.name for stage in fake.stages)
        fake.head = ChainNode(
            world, "honest", "head", server.address, **{"stages": names, **(head_facts or {})}
        )
        yield fake
    finally:
        await server.stop(grace_s=0.1)


def relinked(receipt, **changes):
    """Return a receipt whose chain has changes."""
    return replace(receipt, chain=replace(receipt.chain, **changes))
