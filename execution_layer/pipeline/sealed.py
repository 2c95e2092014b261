"""What a stage of an accountable chain does with a step: open, note, compute, note, seal (protocol §4.10)."""

import threading
import time
from collections import OrderedDict
from dataclasses import replace
from typing import Final

from execution_layer.pipeline.hops import Carried, HopIn, HopOut
from execution_layer.pipeline.ledger import Ledger, Track
from execution_layer.pipeline.line import StageLike
from execution_layer.pipeline.parts import Part, Parts, Roots
from shared.envelope.boundary import boundary_root
from shared.proto.counterfoil.execution.v1 import stages_pb2
from shared.runtime.errors import Code, CounterfoilError

AGAIN: Final = 16
"""How often all positions of one order may be computed: a chain that breaks begins again, and so does a sequence that gives up its
memory to others. Without a bound, one order would pay for a head's whole trade."""
COUNTED: Final = 2**16
"""Orders whose rows are counted."""


class Tracks:
    """What has passed of the parts that are open, over all connections. Safe to call from several threads."""

    def __init__(self) -> None:
        self._tracks: dict[bytes, Track] = {}
        self._computed: OrderedDict[bytes, int] = OrderedDict()
        self._lock = threading.Lock()

    def count(self, part: Part, rows: int) -> None:
        """Count rows that are about to be computed, also of a part that is closed; QUOTA above what one order is good for."""
        with self._lock:
            computed = self._computed.pop(part.order, 0) + rows
            self._computed[part.order] = computed
            if len(self._computed) > COUNTED:
                self._computed.popitem(last=False)
        if computed > AGAIN * part.positions:
            raise CounterfoilError(
                Code.QUOTA, f"an order for {part.positions} positions has had {computed} computed"
            )

    def begin(self, order: bytes) -> Track:
        """Return a new track, in the place of one that an earlier connection had."""
        with self._lock:
            track = self._tracks[order] = Track()
            return track

    def forget(self, order: bytes) -> None:
        """Forget a part that is over."""
        with self._lock:
            self._tracks.pop(order, None)

    def roots(self, part: Part, positions: int) -> Roots:
        """Return what a part commits to; CONFLICT unless so many positions have passed."""
        with self._lock:
            track = self._tracks.get(part.order)
        found = 0 if track is None else track.positions
        if track is None or positions < 1 or found < positions:
            raise CounterfoilError(
                Code.CONFLICT,
                f"{found} positions of this order were computed here, not {positions}",
            )
        received, sent = track.rows(positions)
        return Roots(
            boundary_root(part.before, received),
            boundary_root(part.behind, sent),
            round(1000 * track.compute_s),
        )


class SealedStage:
    """One connection's steps through a stage. Called by one thread, but for `forget`."""

    def __init__(
        self,
        stage: StageLike,
        *,
        blocks: int,
        width: int,
        limit: int,
        size: int,
        parts: Parts,
        tracks: Tracks,
        head: str,
    ) -> None:
        """Make a cache of `blocks` blocks of `size` positions; a step has up to `limit` rows of `width` numbers. `head` is
        the node whose connection it is.
        """
        self._stage, self._width, self._limit = stage, width, limit
        self._parts, self._tracks, self._head = parts, tracks, head
        self._cache = stage.cache(blocks)
        self._ledger = Ledger(size)
        self._in, self._out = HopIn(width, self._find), HopOut()
        self._number = 0

    def __call__(self, step: stages_pb2.StageStep) -> stages_pb2.StageStep:
        """Return the step as the next place gets it. What is wrong with it is raised before anything is computed."""
        opened = self._in.open(step)
        boundary = opened.boundary
        boundary.check(self._number, self._width, self._limit)
        entries = []
        for span, carried, hashes in zip(boundary.rows, opened.carried, opened.hashes, strict=True):
            if span.position + span.count > carried.part.positions:
                raise CounterfoilError(
                    Code.INVALID_ARGUMENT,
                    f"position {span.position + span.count - 1} of an order for {carried.part.positions}",
                )
            self._tracks.count(carried.part, span.count)
            entries.append(self._ledger.enter(carried.track, span, hashes))
        begun = time.perf_counter()
        states = self._stage(boundary.states, boundary.rows, self._cache)
        share = (time.perf_counter() - begun) / len(states)
        self._number += 1
        sealed, hashes_out = self._out.seal(replace(boundary, states=states), opened.carried)
        for span, carried, blocks, left in zip(
            boundary.rows, opened.carried, entries, hashes_out, strict=True
        ):
            self._ledger.leave(blocks, left)
            carried.track.compute_s += share * span.count
        return sealed

    def forget(self, order: bytes) -> None:
        """Forget a part that is over."""
        self._in.forget(order)
        self._out.forget(order)

    def _find(self, order: bytes, onward: tuple[bytes, ...]) -> Carried:
        part = self._parts.find(order)
        if part is None:
            raise CounterfoilError(
                Code.NO_ORDER, f"no order {order.hex()[:16]}… was accepted here, or it is closed"
            )
        if part.head != self._head:
            raise CounterfoilError(
                Code.FORBIDDEN, f"order {order.hex()[:16]}… is for a chain of {part.head}"
            )
        return Carried(part, self._tracks.begin(order), onward)
