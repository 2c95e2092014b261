"""The same chain over TLS: of one operator, whose states travel whole, and accountable, whose states travel sealed."""

import asyncio
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch

from benchmarks.pipeline.chain import BACKEND, Modelled, ends, gauge, serve
from benchmarks.pipeline.orders import opened
from benchmarks.pipeline.processes import PROFILE, ROOT, ROWS, Network, network
from execution_layer.pipeline.boundary import Boundary
from execution_layer.pipeline.depth import Cost
from execution_layer.pipeline.line import Arrived, Line
from execution_layer.pipeline.remote import Ask, Place, RemoteLine
from execution_layer.pipeline.service import MOST_STEPS
from execution_layer.pipeline.steps import ChainSteps
from execution_layer.pipeline.wire import to_message
from shared.model.backend import Rows
from shared.proto.counterfoil.execution.v1 import stages_pb2
from shared.runtime.grpc import secure_channel

STAGES: Final = 4
SEQUENCES: Final = (1, 64)
ROUNDS: Final = 3
"""Plain and accountable by turns, so that what else the machine does hits both."""


@dataclass(frozen=True, slots=True)
class Link:
    """A kind of row: what stages take, and the round trip."""

    kind: str
    cost: Cost
    trip_ms: int

    @property
    def hop_s(self) -> float:
        """Half a round trip."""
        return self.trip_ms / 2000


class _Counted:
    """A codec that notes how large steps of single rows are."""

    def __init__(self, codec: Any, sizes: list[float]) -> None:
        self._codec, self._sizes = codec, sizes

    def encode(self, boundary: Boundary) -> stages_pb2.StageStep:
        step: stages_pb2.StageStep = self._codec.encode(boundary)
        _note(boundary, step, self._sizes)
        return step

    def decode(self, step: stages_pb2.StageStep) -> Boundary:
        boundary: Boundary = self._codec.decode(step)
        _note(boundary, step, self._sizes)
        return boundary


def _note(boundary: Boundary, step: stages_pb2.StageStep, sizes: list[float]) -> None:
    if all(span.count == 1 for span in boundary.rows):
        sizes.append(step.ByteSize() / len(boundary.rows))


@dataclass
class Networked:
    """A chain over a network; the first stage is where the engine is."""

    net: Network
    cost: Cost
    accountable: bool
    made: ChainSteps | None = None
    broken: Callable[[], None] = lambda: None
    sizes: list[float] = field(default_factory=list)
    """Bytes of a token on its first hop, and on its last one if it is sealed."""

    def steps(self, blocks: int, wake: Callable[[], None]) -> ChainSteps:
        """Return what computes an engine's steps."""
        width, addresses = ends().config.hidden_size, self.net.addresses
        stages = STAGES - 1
        places = [
            Place(
                address, number, number + 1, spares=tuple(addresses[stages:]) * (number == stages)
            )
            for number, address in enumerate(addresses[:stages], start=1)
        ]
        ask = Ask(ROOT, PROFILE, width, blocks, ROWS, MOST_STEPS, accountable=self.accountable)
        files = self.net.files
        reach = partial(secure_channel, ca_file=files.ca, party=files.head)
        order = range(1, STAGES)
        answers = opened(BACKEND.block, width, order) if self.accountable else None

        def connect(out: Arrived) -> Line:
            codec = None if answers is None else _Counted(answers.connection(), self.sizes)
            own = Modelled(0, 1, self.cost)
            return RemoteLine.connect(own, places, ask, reach, out, codec)

        self.made = ChainSteps(ends(), connect, gauge(None, STAGES), wake, answers=answers)
        return self.made


def compared(link: Link, tokens: int = 8, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Return a row for every number of sequences: both chains, their ratio, and what a hop costs beyond its delay."""
    rows = []
    with TemporaryDirectory() as folder:
        started = partial(network, count=STAGES - 1, cost=link.cost, hop_s=link.hop_s)
        with (
            started(Path(folder) / "plain", accountable=False) as plain,
            started(Path(folder) / "accountable", accountable=True) as accountable,
        ):
            for sequences in SEQUENCES:
                sizes: list[float] = []
                found: dict[str, list[dict[str, Any]]] = {"plain": [], "accountable": []}
                for _ in range(rounds):
                    for name, net in (("plain", plain), ("accountable", accountable)):
                        chain = Networked(net, link.cost, name == "accountable", sizes=sizes)
                        found[name].append(asdict(asyncio.run(serve(chain, sequences, tokens))))
                rows.append(_row(link, sequences, found, sizes))
    return rows


def _row(
    link: Link, sequences: int, found: dict[str, list[dict[str, Any]]], sizes: list[float]
) -> dict[str, Any]:
    middle = {
        name: sorted(runs, key=lambda run: float(run["tokens_per_s"]))[len(runs) // 2]
        for name, runs in found.items()
    }
    return {
        **asdict(link),
        "stages": STAGES,
        "sequences": sequences,
        **middle,
        "ratio": middle["accountable"]["tokens_per_s"] / middle["plain"]["tokens_per_s"],
        "bytes": statistics.median(sizes),
        "bytes_plain": plain_bytes(),
        "width": ends().config.hidden_size,
        "hop_ms": {name: _hop_ms(link, run) for name, run in middle.items()}
        if sequences == 1
        else None,
    }


def plain_bytes() -> int:
    """Return the bytes of one row that travels whole."""
    width = ends().config.hidden_size
    return to_message(Boundary(100, (Rows(1, 40, (1,)),), torch.ones(1, width))).ByteSize()


def _hop_ms(link: Link, run: dict[str, Any]) -> float:
    """Return what a hop takes beyond its delay, for one sequence: whatever of a token's time is no stage's and not the head's."""
    besides = run["token_s"] - STAGES * link.cost.of(1) - run["head_s"]
    return float(1000 * (besides / STAGES - link.hop_s))


def failed(link: Link, sequences: int = 8, tokens: int = 16, prompt: int = 64) -> dict[str, Any]:
    """Return how long it took until chains were connected again and until there was a token: after the way to the last stage
    was cut, plain and accountable, and after the last stage was killed and a spare took over.
    """
    found: dict[str, Any] = {**asdict(link), "stages": STAGES, "sequences": sequences}
    found |= {"prompt": prompt}
    for name, accountable, spare in (
        ("cut", False, False),
        ("cut, accountable", True, False),
        ("killed, spare", False, True),
    ):
        with (
            TemporaryDirectory() as folder,
            network(
                Path(folder),
                STAGES - 1,
                link.cost,
                link.hop_s,
                accountable=accountable,
                spare=spare,
            ) as net,
        ):
            chain = Networked(net, link.cost, accountable, broken=net.kill if spare else net.cut)
            served = asyncio.run(serve(chain, sequences, tokens, prompt=prompt, breaks=True))
            found[name] = asdict(served)
    return found
