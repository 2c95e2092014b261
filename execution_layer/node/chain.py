"""A head's side of orders for parts: stages accept them before an answer begins, and sign receipts at its end (protocol §4.10)."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import grpc

from execution_layer.pipeline.answers import Answers
from execution_layer.pipeline.parts import Roots
from shared.envelope.header import Envelope, Header
from shared.envelope.stages import BoundarySecret
from shared.proto.counterfoil.execution.v1 import stages_pb2, stages_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import error_from_rpc
from shared.statements.cose import open_as, parse_statement, verify_signature
from shared.statements.keys import KeyBundle
from shared.statements.orders import Order
from shared.statements.receipts import Chain, Receipt, Usage

CALL_S: Final = 20.0
"""How long a stage may take to accept an order, or to sign."""
Reach = Callable[[str], grpc.aio.Channel]
"""Returns a channel to a stage at host:port."""


@dataclass(frozen=True, slots=True)
class StageAt:
    """A stage of this node's chain: its name (`operator/node`), and host:port."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class Part:
    """An order for a stage, as the client sent it."""

    statement: bytes
    entry: bytes
    order: Order


@dataclass(frozen=True, slots=True)
class Closed:
    """What a chain's stages have signed for an answer, and what the head says of it."""

    chain: Chain
    receipts: tuple[bytes, ...]


def check_parts(
    order: Order, entry: bytes, header: Header, raw: Sequence[bytes]
) -> tuple[Part, ...]:
    """Return the orders for the stages that an order's header names; NO_ORDER unless they are this order's own.

    Whether their signature is their tenant's is for the stages to say.
    """
    stages = header.stages or ()
    if len(raw) != len(stages):
        raise CounterfoilError(
            Code.NO_ORDER, f"{len(raw)} orders for {len(stages)} stages came with the order"
        )
    parts = []
    for place, (statement, stage) in enumerate(zip(raw, stages, strict=True), start=1):
        part, signed = open_as(Order, statement, None, new=True)
        own = replace(order, part=part.part, bundle=part.bundle, rate_card=part.rate_card)
        named = part.part is not None and (part.part.head, part.part.place) == (entry, place)
        if not named or part != own or part.bundle != stage.bundle:
            raise CounterfoilError(
                Code.NO_ORDER, f"the order for the stage at place {place} is not a part of this one"
            )
        parts.append(Part(statement, signed.entry, part))
    return tuple(parts)


class HeadChain:
    """The stages of one node's chain."""

    def __init__(self, answers: Answers, stages: Sequence[StageAt], reach: Reach) -> None:
        self.stages = tuple(stages)
        self._answers, self._reach = answers, reach
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._keys: dict[bytes, bytes] = {}
        """Signing keys of the stages' key bundles, by entry."""

    async def accept(self, envelope: bytes, head_bundle: bytes, parts: Sequence[Part]) -> None:
        """Have all stages accept their orders; raises what the first of them says that does not, or UNAVAILABLE."""
        sealed = Envelope.from_bytes(envelope)
        header = sealed.header.to_cbor()
        wraps = sealed.stage_wraps or ()
        asked = [
            stages_pb2.AcceptRequest(
                order=part.statement,
                header=header,
                kc=sealed.kc,
                wrap=wrap,
                head_bundle=head_bundle,
            )
            for part, wrap in zip(parts, wraps, strict=True)
        ]
        answers = await asyncio.gather(
            *(
                self._call(stage, "Accept", request)
                for stage, request in zip(self.stages, asked, strict=True)
            )
        )
        for stage, part, answer in zip(self.stages, parts, answers, strict=True):
            self._learn(stage, part, answer.bundle)

    def open(
        self, request: str, ctx: bytes, ts: bytes, order: bytes, parts: Sequence[Part]
    ) -> None:
        """Let a request be computed, under the transcript secret of its envelope and the entry of its order."""
        last = len(parts)
        secrets = BoundarySecret.derive(ts, last), BoundarySecret.derive(ts, 0)
        self._answers.open(request, order, ctx, secrets, [part.entry for part in parts])

    async def close(self, request: str, usage: Usage, parts: Sequence[Part]) -> Closed:
        """Have all stages sign their receipts; raises what the first of them says that does not.

        MALFORMED if one of them is not its stage's receipt for this answer, CONFLICT if what one place sent is not what
        the next one received.
        """
        await self._answers.settled(request)
        own = self._answers.roots(request, usage.input + usage.output - 1)
        receipts = await asyncio.gather(
            *(
                self._signed(stage, place, part, usage)
                for place, (stage, part) in enumerate(zip(self.stages, parts, strict=True), start=1)
            )
        )
        entries = tuple(entry for _, entry, _ in receipts)
        ring = [own, *(roots for _, _, roots in receipts)]
        for place, (before, its) in enumerate(zip(ring[-1:] + ring[:-1], ring, strict=True)):
            if before.sent != its.received:
                raise CounterfoilError(
                    Code.CONFLICT,
                    f"place {place} of the chain has not received what place {(place - 1) % len(ring)} sent",
                )
        chain = Chain(place=0, sent=own.sent, received=own.received, stages=entries)
        return Closed(chain, tuple(statement for statement, _, _ in receipts))

    async def give_up(self, request: str, parts: Sequence[Part]) -> None:
        """Tell the stages, as far as they can be told, that nothing more is wanted of a request; none of its
        rows is under way then, which would break the chain for everybody.
        """
        await self._answers.settled(request)
        self._answers.forget(request)
        await asyncio.gather(
            *(
                self._call(stage, "Close", stages_pb2.CloseRequest(order=part.entry))
                for stage, part in zip(self.stages, parts, strict=True)
            ),
            return_exceptions=True,
        )

    def forget(self, request: str) -> None:
        """Forget a request that has its receipts."""
        self._answers.forget(request)

    async def stop(self) -> None:
        """Close the connections."""
        for channel in self._channels.values():
            await channel.close()

    async def _signed(
        self, stage: StageAt, place: int, part: Part, usage: Usage
    ) -> tuple[bytes, bytes, Roots]:
        """Return a stage's receipt, its entry and its roots."""
        asked = stages_pb2.CloseRequest(
            order=part.entry, input=usage.input, cached=usage.cached, output=usage.output
        )
        answer = await self._call(stage, "Close", asked)
        signed = parse_statement(answer.receipt, expected=Receipt.TYPE)
        verify_signature(signed, self._keys[part.order.bundle])
        receipt = signed.read(Receipt, new=True)
        chain = receipt.chain
        its = receipt.usage
        same = (
            receipt.order == part.entry
            and chain is not None
            and chain.place == place
            and (its.input, its.cached, its.output) == (usage.input, usage.cached, usage.output)
        )
        if not same or chain is None:
            raise CounterfoilError(
                Code.MALFORMED, f"{stage.name} has signed something else than this answer's part"
            )
        return answer.receipt, signed.entry, Roots(chain.received, chain.sent, 0)

    def _learn(self, stage: StageAt, part: Part, bundle: bytes) -> None:
        """Keep the key of a stage's key bundle, which the order names by its entry."""
        if part.order.bundle in self._keys:
            return
        statement = parse_statement(bundle, expected=KeyBundle.TYPE)
        found = statement.read(KeyBundle)
        if statement.entry != part.order.bundle or found.issuer != stage.name:
            raise CounterfoilError(
                Code.MALFORMED, f"{stage.name} shows another key bundle than the order's"
            )
        self._keys[statement.entry] = found.signing_key

    async def _call(self, stage: StageAt, method: str, request: Any) -> Any:
        channel = self._channels.get(stage.address)
        if channel is None:
            channel = self._channels[stage.address] = self._reach(stage.address)
        call = getattr(stages_pb2_grpc.StagesStub(channel), method)
        try:
            return await call(request, timeout=CALL_S)
        except grpc.RpcError as error:
            raise error_from_rpc(error, f"stage {stage.name}") from error
