"""One connection's two hops at a place of a chain: what comes in is opened, what goes out is sealed (protocol §4.10.2)."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from execution_layer.pipeline.boundary import Boundary, malformed
from execution_layer.pipeline.ledger import Track
from execution_layer.pipeline.parts import Part
from execution_layer.pipeline.wire import to_spent, with_states
from shared.envelope.boundary import row_hashes
from shared.envelope.stages import HOP_NONCE_BYTES, HopOpener, HopSealer
from shared.proto.counterfoil.execution.v1 import stages_pb2
from shared.statements.keys import MAX_STAGES

_NUMBER_BYTES: Final = 4


@dataclass(frozen=True, slots=True, eq=False)
class Carried:
    """A part whose states pass through a place, and what has passed of it."""

    part: Part
    track: Track
    onward: tuple[bytes, ...]
    """Entries of the orders at the places that follow, the head's last."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A step as it was before it was sealed; the part of each span, and the hashes of its rows."""

    boundary: Boundary
    carried: tuple[Carried, ...]
    hashes: tuple[list[bytes], ...]


Find = Callable[[bytes, tuple[bytes, ...]], Carried]
"""Returns what is carried for an order, given the orders at the places that follow; raises what is wrong with that."""


@dataclass(slots=True)
class HopIn:
    """Opens what the place before sends, for as long as the connection lasts."""

    width: int
    find: Find
    _slots: dict[int, tuple[Carried, HopOpener]] = field(default_factory=dict)

    def open(self, step: stages_pb2.StageStep) -> Opened:
        """Return a step; MALFORMED, UNREADABLE, or what `find` raises."""
        for begun in step.begun:
            self._begin(begun)
        if step.states:
            raise malformed("rows that are not sealed")
        carried, plain, hashes = [], bytearray(), []
        for span in step.spans:
            known = self._slots.get(span.slot)
            if known is None:
                raise malformed(f"rows that belong to part {span.slot}, which has not begun")
            size = _NUMBER_BYTES * self.width * span.count
            if not span.count or len(span.sealed) > size + 64:
                raise malformed(f"rows that have {len(span.sealed)} bytes for {span.count} rows")
            part = known[1].open(span.position, span.count, span.sealed)
            if len(part) != size:
                raise malformed(
                    f"rows that have {len(part)} bytes for {span.count} rows of {self.width}"
                )
            carried.append(known[0])
            hashes.append(row_hashes(part, span.count))
            plain += part
        return Opened(with_states(step, plain, self.width), tuple(carried), tuple(hashes))

    def forget(self, order: bytes) -> None:
        """Forget a part that is over."""
        for slot, (carried, _) in list(self._slots.items()):
            if carried.part.order == order:
                del self._slots[slot]

    def _begin(self, begun: stages_pb2.StageBegin) -> None:
        orders = tuple(begun.orders)
        if begun.slot in self._slots or not 0 < len(orders) <= MAX_STAGES + 1:
            raise malformed(f"rows that begin part {begun.slot} twice, or for no order")
        carried = self.find(orders[0], orders[1:])
        opener = HopOpener(carried.part.before, carried.part.ctx, begun.hop_nonce)
        self._slots[begun.slot] = (carried, opener)


@dataclass(slots=True)
class HopOut:
    """Seals what goes to the place behind."""

    _slots: dict[bytes, tuple[int, HopSealer]] = field(default_factory=dict)
    _next: int = 0

    def seal(
        self, boundary: Boundary, carried: Sequence[Carried]
    ) -> tuple[stages_pb2.StageStep, tuple[list[bytes], ...]]:
        """Return a step as it is sent, and the hashes of each span's rows."""
        step = stages_pb2.StageStep(number=boundary.number, spent=to_spent(boundary.spent))
        states = memoryview(boundary.states.contiguous().numpy().tobytes())
        size = len(states) // len(boundary.states)
        hashes, first = [], 0
        for span, its in zip(boundary.rows, carried, strict=True):
            slot, sealer = self._slots.get(its.part.order) or self._begin(its, step)
            plain = states[first * size : (first + span.count) * size]
            first += span.count
            hashes.append(row_hashes(plain, span.count))
            step.spans.add(
                count=span.count,
                position=span.position,
                blocks=span.blocks,
                slot=slot,
                sealed=sealer.seal(span.position, span.count, plain),
            )
        return step, tuple(hashes)

    def forget(self, order: bytes) -> None:
        """Forget a part that is over."""
        self._slots.pop(order, None)

    def _begin(self, carried: Carried, step: stages_pb2.StageStep) -> tuple[int, HopSealer]:
        nonce = os.urandom(HOP_NONCE_BYTES)
        slot, part = self._next, carried.part
        self._next += 1
        step.begun.add(slot=slot, orders=carried.onward, hop_nonce=nonce)
        begun = self._slots[part.order] = (slot, HopSealer(part.behind, part.ctx, nonce))
        return begun
