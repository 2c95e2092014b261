"""Stages that serve over TLS, each in a process of its own, and links that hold everything for a while."""

import asyncio
import contextlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from benchmarks.pipeline.chain import BACKEND, Modelled, config
from benchmarks.pipeline.orders import KnownParts
from execution_layer.pipeline.depth import Cost
from execution_layer.pipeline.service import Offer, StagesService
from shared.installation.relay import Relay
from shared.parties.permissions import STAGE_GRPC
from shared.proto.counterfoil.execution.v1 import stages_pb2_grpc
from shared.runtime.grpc import Service, build_server, secure_aio_channel
from shared.runtime.net import split_address
from shared.runtime.party import Party, PartyFiles, PartyListener, PartyRole
from shared.runtime.tls import LocalCA, TlsFiles

HEAD, STAGE = "acme/head", "acme/stage"
ROOT, PROFILE = bytes(32), bytes(32)
BLOCKS, ROWS = 1024, 1024
ANY: Final = "127.0.0.1:0"
READY_S: Final = 180.0
_SERVER: Final = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload([__name__])  # everybody's imports, once


@dataclass(frozen=True, slots=True)
class Files:
    """Certificates of everybody."""

    tls: TlsFiles
    stage: PartyFiles
    head: PartyFiles
    ca: Path

    @classmethod
    def made(cls, folder: Path) -> "Files":
        """Make an authority, and certificates."""
        authority = LocalCA.load_or_create(folder / "ca")
        stage, head = (
            authority.issue_party(Party(PartyRole.NODE, name), folder=folder / name)
            for name in (STAGE, HEAD)
        )
        return cls(authority.issue("stage", ["127.0.0.1"]), stage, head, authority.ca_file)


@dataclass(frozen=True, slots=True)
class Serving:
    """What one process serves: layer `place` of a modelled chain."""

    place: int
    cost: Cost
    accountable: bool
    files: Files


def serve_stage(serving: Serving, told: Connection) -> None:
    """Serve until the process is killed; tell the address."""
    asyncio.run(_serve_stage(serving, told))


async def _serve_stage(serving: Serving, told: Connection) -> None:
    stage, files = Modelled(serving.place, serving.place + 1, serving.cost), serving.files
    width = config().hidden_size
    callers = {HEAD, STAGE}
    offer = Offer(stage, ROOT, PROFILE, width, BLOCKS, ROWS, callers, size=BACKEND.block)
    parts = KnownParts(serving.place, HEAD) if serving.accountable else None
    reach = partial(secure_aio_channel, ca_file=files.ca, party=files.stage)
    server = build_server(
        tls=files.tls,
        address=ANY,
        services=[
            Service(
                "counterfoil.execution.v1.Stages",
                stages_pb2_grpc.add_StagesServicer_to_server,
                StagesService(offer, reach, parts),
            )
        ],
        rules=STAGE_GRPC,
        parties=PartyListener(**dict(files.stage), address=ANY),
    )
    await server.start()
    told.send(server.party_address)
    await asyncio.Event().wait()


def serve_links(targets: Sequence[str], seconds: float, told: Connection) -> None:
    """Pass on connections to each of these addresses; tell where. The number of a link that is sent cuts all that it carries."""
    asyncio.run(_serve_links(targets, seconds, told))


async def _serve_links(targets: Sequence[str], seconds: float, told: Connection) -> None:
    carried: list[set[asyncio.Task[None]]] = [set() for _ in targets]
    addresses, servers = [], []
    for target, its in zip(targets, carried, strict=True):
        relay = Relay(*split_address(target), seconds)
        server = await asyncio.start_server(_carrying(relay, its), "127.0.0.1", 0)
        servers.append(server)
        addresses.append(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    told.send(addresses)
    while True:
        for task in carried[await asyncio.to_thread(told.recv)]:
            task.cancel()


def _carrying(relay: Relay, carried: set[asyncio.Task[None]]) -> Callable[..., Any]:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        carried.add(task)
        with contextlib.suppress(asyncio.CancelledError):
            await relay.connected(reader, writer)
        carried.discard(task)

    return connected


@dataclass
class Network:
    """Stages 1, 2, … of a chain whose stage 0 is the head's own, behind links."""

    files: Files
    addresses: list[str] = field(default_factory=list)
    """Of the links to them, in order; that of a spare for the last one follows."""
    cut: Callable[[], None] = lambda: None
    """Breaks what the last stage's link carries."""
    kill: Callable[[], None] = lambda: None
    """Kills the last stage."""


@contextmanager
def network(
    folder: Path, count: int, cost: Cost, hop_s: float, *, accountable: bool, spare: bool = False
) -> Iterator[Network]:
    """Start so many stages, and a spare for the last one."""
    files = Files.made(folder)
    places = [*range(1, count + 1), *([count] if spare else [])]
    with ExitStack() as stack:
        stages = [
            _started(stack, serve_stage, Serving(place, cost, accountable, files))
            for place in places
        ]
        targets = [_heard(told) for _, told in stages]
        _, links = _started(stack, serve_links, targets, hop_s)
        victim = stages[count - 1][0]
        yield Network(files, _heard(links), lambda: links.send(count - 1), victim.kill)


def _started(stack: ExitStack, target: Callable[..., None], *arguments: Any) -> tuple[Any, Any]:
    """Start a process that is killed at the end; return it, and the connection to it."""
    told, tells = _SERVER.Pipe()
    process = _SERVER.Process(target=target, args=(*arguments, tells), daemon=True)
    process.start()
    stack.callback(process.join)
    stack.callback(process.kill)
    return process, told


def _heard(told: Connection) -> Any:
    if not told.poll(READY_S):
        raise TimeoutError("a process of the benchmark has not begun to serve")
    return told.recv()
