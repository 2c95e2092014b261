"""A node's genuine answer, and the same answer with one thing altered and re-signed by the node itself."""

from dataclasses import dataclass, replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from execution_layer.client.response_check import Response, Sent, StreamReader
from shared.envelope.sealing import OpenedRequest
from shared.proto.counterfoil.execution.v1 import execution_pb2
from shared.runtime.keys import public_bytes
from shared.statements.cose import entry_of, open_as, sign
from shared.statements.receipts import Receipt
from tests.execution_layer.asking import Request, ask, make_request
from tests.execution_layer.waiting import until


@dataclass(frozen=True)
class Answer:
    """What went over the wire for one request, and what the client knows of it."""

    request: Request
    sent: Sent
    accepted: execution_pb2.Accepted
    frames: tuple[execution_pb2.Frame, ...]
    final: bytes
    final_signature: bytes
    node_key: Ed25519PrivateKey
    issuer: str

    def reader(self, said=None):
        """Return a reader that has accepted the stream's beginning."""
        return StreamReader(self.sent, self.accepted.node_nonce, self.accepted.signature, said)

    def response(self, said=None):
        """Read the whole stream."""
        reader = self.reader(said)
        for frame in self.frames:
            reader.frame(frame.index, frame.ciphertext, frame.signature)
        return Response.of(self.sent, reader, reader.final(self.final, self.final_signature))

    @property
    def receipt(self):
        """The receipt as the node signed it."""
        return open_as(Receipt, self.response().final.receipt, None)[0]

    def with_receipt(self, *, key=None, issuer=None, **changes):
        """Return the response with another receipt, signed by the node unless `key` says otherwise."""
        response = self.response()
        statement = sign(
            replace(self.receipt, **changes),
            key=key or self.node_key,
            issuer=issuer or self.issuer,
        )
        return replace(response, final=replace(response.final, receipt=statement))


async def real_answer(world, node, **wanted):
    """Ask a node and return its answer."""
    request = make_request(world, node, **wanted)
    messages = await ask(world, node, request.order, request.envelope)
    keys = node.ring.current()
    sealed = request.sealed
    opened = OpenedRequest(
        header=sealed.header,
        ctx=sealed.ctx,
        kc=sealed.kc,
        keys=sealed.keys,
        body=request.body,
        ts=sealed.ts,
        envelope_hash=sealed.envelope_hash,
    )
    await until(lambda: not node.load.in_flight)
    return Answer(
        request=request,
        sent=Sent(
            request.value,
            entry_of(request.order),
            opened,
            keys.bundle,
            keys.entry,
            public_bytes(world.tenant_key),
        ),
        accepted=messages[0].accepted,
        frames=tuple(message.frame for message in messages[1:-1]),
        final=messages[-1].final_record.ciphertext,
        final_signature=messages[-1].final_record.signature,
        node_key=node.ring.signing_key,
        issuer=keys.bundle.issuer,
    )
