"""The head's side of accountable chains: whose rows go out and come back, and what they commit to (protocol §4.10)."""

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from execution_layer.pipeline.boundary import Boundary
from execution_layer.pipeline.hops import Carried, HopIn, HopOut
from execution_layer.pipeline.ledger import Block, Ledger, Track
from execution_layer.pipeline.parts import Part, Roots
from shared.envelope.boundary import boundary_root
from shared.envelope.stages import BoundarySecret
from shared.proto.counterfoil.execution.v1 import stages_pb2
from shared.runtime.errors import Code, CounterfoilError


@dataclass(slots=True, eq=False)
class Answer:
    """One request that a chain answers. Belongs to the event loop in which it was made, but for what the lock guards."""

    part: Part
    """The head's own: `before` is the boundary from which states come back, `behind` the one to the first stage."""
    onward: tuple[bytes, ...]
    """Entries of the stages' orders, and last of the head's."""
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    track: Track = field(default_factory=Track)
    under_way: int = 0
    """Rows that have gone out and not come back."""


class Answers:
    """The requests that a head's chain answers. Safe to call from several threads."""

    def __init__(self, size: int, width: int) -> None:
        """Blocks of keys and values have `size` positions, states `width` numbers."""
        self.width, self._size = width, size
        self._answers: dict[str, Answer] = {}
        self._hops: HeadHops | None = None
        """Those of the newest connection."""
        self._lock = threading.Lock()

    def open(
        self,
        request: str,
        order: bytes,
        ctx: bytes,
        secrets: tuple[BoundarySecret, BoundarySecret],
        stages: Sequence[bytes],
    ) -> None:
        """Note a request that is about to be computed: the entry of its order, the secrets of the boundaries before and
        behind the head, and the entries of the stages' orders.
        """
        answer = Answer(Part(order, ctx, "", *secrets, 0), (*stages, order))
        answer.idle.set()
        with self._lock:
            self._answers[request] = answer

    def forget(self, request: str) -> None:
        """Forget a request, none of whose rows is under way (`settled`)."""
        with self._lock:
            self._answers.pop(request, None)
            hops = self._hops
        if hops is not None:
            hops.forget(request)

    async def settled(self, request: str) -> None:
        """Return once none of a request's rows is under way, so that no stage computes any more of it."""
        answer = self._answers.get(request)
        if answer is not None:
            await answer.idle.wait()

    def roots(self, request: str, positions: int) -> Roots:
        """Return what the head commits to; CONFLICT unless so many positions have come back."""
        answer = self._answers.get(request)
        found = 0 if answer is None else answer.track.positions
        if answer is None or found < positions:
            raise CounterfoilError(
                Code.CONFLICT, f"{found} of {positions} positions have come back of the chain"
            )
        sent, received = answer.track.rows(positions)
        return Roots(
            boundary_root(answer.part.before, received),
            boundary_root(answer.part.behind, sent),
            0,
        )

    def connection(self) -> "HeadHops":
        """Return the hops of a new connection."""
        self._hops = HeadHops(self, Ledger(self._size))
        return self._hops

    def lost(self) -> None:
        """Note that nothing that is under way will come back."""
        with self._lock:
            for answer in self._answers.values():
                answer.under_way = 0
                _tell(answer)

    def find(self, request: str) -> Answer:
        """Return a request that is open; NO_ORDER for another."""
        with self._lock:
            answer = self._answers.get(request)
        if answer is None:
            raise CounterfoilError(Code.NO_ORDER, f"request {request} has no chain")
        return answer

    def went(self, request: str, count: int) -> None:
        """Note rows that go out, or, negative, come back."""
        with self._lock:
            answer = self._answers.get(request)
            if answer is None:
                return
            answer.under_way = max(0, answer.under_way + count)
            if answer.under_way:
                answer.loop.call_soon_threadsafe(answer.idle.clear)
            else:
                _tell(answer)


def _tell(answer: Answer) -> None:
    if not answer.loop.is_closed():
        answer.loop.call_soon_threadsafe(answer.idle.set)


@dataclass(frozen=True, slots=True)
class _Out:
    request: str
    track: Track
    blocks: list[Block]


class HeadHops:
    """One connection of a head: seals what goes to the first stage, opens what the last one returns."""

    def __init__(self, answers: Answers, ledger: Ledger) -> None:
        self._answers, self._ledger = answers, ledger
        self._in, self._out = HopIn(answers.width, self._find), HopOut()
        self._going: dict[str, Carried] = {}
        self._coming: dict[bytes, Carried] = {}
        self._steps: deque[list[_Out]] = deque()
        """What is under way."""

    def encode(self, boundary: Boundary) -> stages_pb2.StageStep:
        """Return a step as the first stage gets it. Called in the steps' order."""
        carried = [self._carry(request) for request in boundary.requests]
        step, hashes = self._out.seal(boundary, carried)
        self._steps.append(
            [
                _Out(request, its.track, self._ledger.enter(its.track, span, digests))
                for request, its, span, digests in zip(
                    boundary.requests, carried, boundary.rows, hashes, strict=True
                )
            ]
        )
        return step

    def decode(self, step: stages_pb2.StageStep) -> Boundary:
        """Return what the last stage sent. Called in the steps' order; MALFORMED or UNREADABLE for anything else."""
        opened = self._in.open(step)
        if not self._steps:
            raise CounterfoilError(Code.MALFORMED, "a step comes back that never went out")
        outs = self._steps.popleft()
        rows = opened.boundary.rows
        if [out.track for out in outs] != [its.track for its in opened.carried] or [
            len(out.blocks) for out in outs
        ] != [span.count for span in rows]:
            raise CounterfoilError(Code.MALFORMED, "other rows come back than went out")
        for out, hashes in zip(outs, opened.hashes, strict=True):
            self._ledger.leave(out.blocks, hashes)
            self._answers.went(out.request, -len(hashes))
        return opened.boundary

    def forget(self, request: str) -> None:
        """Forget a request that is over."""
        carried = self._going.pop(request, None)
        if carried is not None:
            order = carried.part.order
            self._coming.pop(order, None)
            self._in.forget(order)
            self._out.forget(order)

    def _carry(self, request: str) -> Carried:
        """Return what is carried for a request on this connection; what an earlier one has carried of it counts no more."""
        known = self._going.get(request)
        if known is None:
            answer = self._answers.find(request)
            answer.track = Track()
            known = Carried(answer.part, answer.track, answer.onward)
            self._going[request] = self._coming[answer.part.order] = known
        return known

    def _find(self, order: bytes, onward: tuple[bytes, ...]) -> Carried:
        known = self._coming.get(order)
        if known is None or onward:
            raise CounterfoilError(Code.NO_ORDER, "rows come back of an order that never went out")
        return known
