"""An accountable chain in this process: a head and stages that pass on sealed steps, and whom they work for."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from execution_layer.pipeline.answers import Answers
from execution_layer.pipeline.boundary import Boundary
from execution_layer.pipeline.line import Arrived, Computing, Line, StageLike, StageLine, noted
from execution_layer.pipeline.parts import Computed, Counts, Offered, Part, Roots
from execution_layer.pipeline.sealed import SealedStage, Tracks
from execution_layer.pipeline.steps import ChainSteps
from execution_layer.pipeline.wire import add_spent
from shared.codec.hashing import labelled_hash
from shared.envelope.boundary import boundary_root, row_hashes
from shared.envelope.stages import BoundarySecret
from shared.model.backend import Rows, Span, blocks_for
from shared.model.decoder import Decoder
from shared.proto.counterfoil.execution.v1 import stages_pb2
from shared.runtime.errors import CounterfoilError

HEAD = "acme/head"
Wrapped = Callable[[int, StageLike], StageLike]
Changed = Callable[[int, stages_pb2.StageStep], stages_pb2.StageStep]


def order(request: str, place: int) -> bytes:
    return labelled_hash("test order", request.encode(), bytes([place]))


def secret(request: str, index: int) -> BoundarySecret:
    return BoundarySecret.derive(labelled_hash("test secret", request.encode()), index)


@dataclass
class KnownParts:
    """Double of a stage's node: every order that is here was accepted; it signs nothing."""

    place: int
    head: str = HEAD
    positions: int = 4096
    known: dict[bytes, Part] = field(default_factory=dict)
    accepted: list[Offered] = field(default_factory=list)
    closed: dict[bytes, Roots] = field(default_factory=dict)

    def note(self, request: str) -> None:
        entry = order(request, self.place)
        ctx = labelled_hash("test ctx", request.encode())
        before, behind = secret(request, self.place - 1), secret(request, self.place)
        self.known[entry] = Part(entry, ctx, self.head, before, behind, self.positions)

    async def accept(self, offered: Offered, caller: str) -> bytes:
        assert caller == self.head
        self.accepted.append(offered)
        self.note(offered.order.decode())
        return b"bundle"

    def find(self, entry: bytes) -> Part | None:
        return self.known.get(entry)

    async def close(self, entry: bytes, counts: Counts, caller: str, computed: Computed) -> bytes:
        assert caller == self.head
        self.closed[entry] = computed(self.known[entry], counts.positions)
        return b"receipt of " + entry


@dataclass
class SealedChain:
    """Connects chains of these stages; the first one is the head's own, if `own`."""

    decoder: Decoder
    stages: Sequence[StageLike]
    requests: Sequence[str]
    own: bool = False
    depth: int = 3
    changed: Changed = lambda _place, step: step
    """What becomes of a step in front of a place; that of the head is 0."""
    breaks: list[Callable[[Arrived], Arrived]] = field(default_factory=list)
    """What stands in the way of what the first connection returns, the second, …; the rest is whole."""
    connected: int = 0
    steps: ChainSteps | None = None

    def __post_init__(self) -> None:
        self.others = self.stages[1:] if self.own else self.stages
        self.parts = [KnownParts(place) for place in range(1, len(self.others) + 1)]
        self.tracks = [Tracks() for _ in self.others]
        width, size = self.decoder.config.hidden_size, self.decoder.backend.block
        self.answers = Answers(size, width)
        self.errors: list[Exception] = []
        self._opened = False

    def open(self) -> None:
        """Let the head and all stages accept all requests."""
        last = len(self.others)
        for request in self.requests:
            ctx = labelled_hash("test ctx", request.encode())
            places = [order(request, place) for place in range(1, last + 1)]
            secrets = secret(request, last), secret(request, 0)
            self.answers.open(request, order(request, 0), ctx, secrets, places)
            for part in self.parts:
                part.note(request)

    def __call__(self, blocks: int, wake: Callable[[], None]) -> ChainSteps:
        self.open()

        def connect(out: Arrived) -> Line:
            self.connected += 1
            return _Line(self, blocks, self.breaks.pop(0)(out) if self.breaks else out)

        self.steps = ChainSteps(self.decoder, connect, self.depth, wake, answers=self.answers)
        return self.steps

    def roots(self, request: str, positions: int) -> list[Roots]:
        """Return what head and stages commit to, in order of place."""
        found = [self.answers.roots(request, positions)]
        for part, tracks in zip(self.parts, self.tracks, strict=True):
            its = part.find(order(request, part.place))
            assert its is not None
            found.append(tracks.roots(its, positions))
        return found


class _Line:
    """One connection."""

    def __init__(self, chain: SealedChain, blocks: int, out: Arrived) -> None:
        config, rows = chain.decoder.config, 512
        hops = chain.answers.connection()
        self._lines: list[StageLine[Any]] = []

        def back(step: stages_pb2.StageStep | Exception) -> None:
            came: Boundary | Exception
            try:
                came = step if isinstance(step, Exception) else hops.decode(chain.changed(0, step))
            except CounterfoilError as error:
                came = error
            if isinstance(came, Exception):
                chain.errors.append(came)
            out(came)

        take: Callable[[stages_pb2.StageStep | Exception], None] = back
        for stage, parts, tracks in reversed(
            list(zip(chain.others, chain.parts, chain.tracks, strict=True))
        ):
            work = SealedStage(
                stage,
                blocks=blocks,
                width=config.hidden_size,
                limit=rows,
                size=chain.decoder.backend.block,
                parts=parts,
                tracks=tracks,
                head=HEAD,
            )

            def changing(step, work=work, place=parts.place):
                return work(chain.changed(place, step))

            line = StageLine("sealed", changing, take, add_spent)
            self._lines.append(line)
            take = line.send

        first = take

        def into(arrived: Boundary | Exception) -> None:
            first(hops.encode(arrived) if isinstance(arrived, Boundary) else arrived)

        self._into: Arrived = into
        if chain.own:
            computing = Computing(chain.stages[0], blocks, config.hidden_size, rows)
            own = StageLine[Boundary]("own", computing, into, noted)
            self._lines.append(own)
            self._into = own.send

    def send(self, boundary: Boundary) -> None:
        self._into(boundary)

    def close(self) -> None:
        for line in reversed(self._lines):
            line.close()


def honest(
    decoder: Decoder, cuts: Sequence[StageLike], request: str, tokens: Sequence[int], *, own: bool
) -> list[bytes]:
    """Return the roots of boundaries 0, 1, … of one sequence: behind the embedding, if the first stage is not the head's
    own, and behind each of the stages.
    """
    count = len(tokens)
    blocks = tuple(range(1, blocks_for(count, decoder.backend.block) + 1))
    states = decoder.embed([Span(tokens, 0, blocks)])
    found = [] if own else [row_hashes(states.numpy().tobytes(), count)]
    for stage in cuts:
        states = stage(states.clone(), [Rows(count, 0, blocks)], stage.cache(len(blocks)))
        found.append(row_hashes(states.numpy().tobytes(), count))
    return [boundary_root(secret(request, index), hashes) for index, hashes in enumerate(found)]


async def settle(chain: SealedChain) -> None:
    for request in chain.requests:
        await asyncio.wait_for(chain.answers.settled(request), 10)
