"""The load: processes of their own, so that no caller shares an interpreter with the server or with its clock.

Each process is one connection, one node and one tenant. A job is prepared (statements signed, requests encoded), then all
processes begin on one signal. Times are those of the system's monotonic clock, which processes share.
"""

import asyncio
import multiprocessing
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import grpc
import httpx

from benchmarks.log.statements import Signed, Source
from shared.proto.counterfoil.audit.v1 import audit_pb2, audit_pb2_grpc
from shared.runtime.errors import Code
from shared.runtime.grpc import error_from_rpc, secure_aio_channel
from shared.runtime.party import Party, PartyRole
from shared.runtime.tls import LocalCA, client_context

CALL_S = 60.0
"""Deadline of one call."""
JOB_S = 300.0
"""A process that has not answered by then has failed."""
POLL_S = 0.005
RECEIPTS = "receipts" in audit_pb2.SubmitRequest.DESCRIPTOR.fields_by_name
"""Whether answers can carry transparency receipts."""
Kind = Literal["receipts", "singles"]


@dataclass(frozen=True, slots=True)
class Submit:
    """Submit `calls` × `per_call` statements, `in_flight` calls at a time."""

    kind: Kind
    calls: int
    per_call: int
    in_flight: int
    receipts: bool = False
    """Ask for the transparency receipt of each."""
    keep: int = 0
    """Bring back this many transparency receipts, if there are any."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Submit `count` receipts one after another, each followed to its witnessed proof."""

    count: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """GET these paths, `in_flight` at a time."""

    paths: tuple[str, ...]
    in_flight: int


Job = Submit | Watch | Fetch


@dataclass(slots=True)
class Answer:
    """What one process saw: seconds for each call, and when the first began and the last ended."""

    times: list[float] = field(default_factory=list)
    began: float = 0.0
    ended: float = 0.0
    kept: list[tuple[bytes, bytes]] = field(default_factory=list)
    """(entry, transparency receipt), or (entry, tlog-proof) after `Watch`."""


class LoadError(Exception):
    """A statement was refused or a process failed; the message says why."""


class Loads:
    """The processes, alive until the block ends."""

    def __init__(self, pipes: Sequence["Connection[Any, Any]"]) -> None:
        self._pipes = pipes

    def __len__(self) -> int:
        return len(self._pipes)

    async def run(self, jobs: Sequence[Job]) -> list[Answer]:
        """Let as many processes as there are jobs work at once; return when the last is done."""
        pipes = self._pipes[: len(jobs)]
        for pipe, job in zip(pipes, jobs, strict=True):
            pipe.send(job)
        await asyncio.gather(*(asyncio.to_thread(_answer, pipe) for pipe in pipes))
        for pipe in pipes:
            pipe.send(None)
        return list(await asyncio.gather(*(asyncio.to_thread(_answer, pipe) for pipe in pipes)))


@asynccontextmanager
async def loads(
    addresses: dict[str, str], ca: Path, sources: Sequence[Source]
) -> AsyncIterator[Loads]:
    """Start one process for each source; its key bundle and rate card are in the log when the block begins."""
    spawn = multiprocessing.get_context("spawn")  # a fork would share gRPC's threads and locks
    pipes: list[Connection[Any, Any]] = []
    processes = []
    try:
        for source in sources:
            ours, theirs = spawn.Pipe()
            process = spawn.Process(
                target=_main, args=(theirs, addresses, ca, source.seed, source.place), daemon=True
            )
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        await asyncio.gather(*(asyncio.to_thread(_answer, pipe) for pipe in pipes))
        yield Loads(pipes)
    finally:
        for pipe in pipes:
            pipe.close()  # the process sees the end of its pipe and leaves
        for process in processes:
            await asyncio.to_thread(process.join, 10.0)
            if process.is_alive():
                process.kill()


def shared_out(total: int, among: int) -> list[int]:
    """Divide a number evenly; parts differ by one at most."""
    return [total // among + (place < total % among) for place in range(among)]


def _answer(pipe: "Connection[Any, Any]") -> Any:
    if not pipe.poll(JOB_S):
        raise LoadError(f"a load process did not answer within {JOB_S:.0f} s")
    try:
        answer = pipe.recv()
    except EOFError:
        raise LoadError("a load process ended unexpectedly") from None
    if isinstance(answer, LoadError):
        raise answer
    return answer


# -- inside a process ----------------------------------------------------------------------------------


def _main(
    pipe: "Connection[Any, Any]", addresses: dict[str, str], ca: Path, seed: bytes, place: int
) -> None:
    try:
        asyncio.run(_serve(pipe, addresses, ca, Source(seed, place)))
    except (EOFError, KeyboardInterrupt):
        pass  # the benchmark is over
    except Exception as error:  # noqa: BLE001  # reported to the benchmark, which ends with it
        told: BaseException = error
        while isinstance(told, BaseExceptionGroup):  # the first of the calls that failed
            told = told.exceptions[0]
        if isinstance(told, grpc.RpcError):
            told = error_from_rpc(told)
        pipe.send(LoadError(f"{type(told).__name__}: {told}"))


async def _serve(
    pipe: "Connection[Any, Any]", addresses: dict[str, str], ca: Path, source: Source
) -> None:
    folder = ca.parent
    named = Party(PartyRole.WORKER, "load")
    worker = LocalCA.load_or_create(folder).issue_party(
        named, folder=folder / f"load-{source.place}"
    )
    async with (
        secure_aio_channel(addresses["party"], ca, worker) as channel,
        httpx.AsyncClient(
            base_url=f"https://{addresses['http']}", verify=client_context(ca), trust_env=False
        ) as web,
    ):
        load = _Load(channel, web, source)
        await load.introduce()
        pipe.send(None)
        while True:  # between jobs there is nothing else to do, so the loop may wait in the pipe
            work = load.prepare(pipe.recv())
            pipe.send(None)
            pipe.recv()
            pipe.send(await work())


class _Load:
    """One connection and what it submits."""

    def __init__(self, channel: grpc.aio.Channel, web: httpx.AsyncClient, source: Source) -> None:
        self._intake: Any = audit_pb2_grpc.IntakeStub(channel)
        self._log: Any = audit_pb2_grpc.LogStub(channel)
        self._web = web
        self._source = source

    async def introduce(self) -> None:
        """Submit what receipts refer to."""
        for raw in (self._source.bundle(), self._source.rate_card()):
            await self._submit(_request([(raw, b"")], receipts=False))

    def prepare(self, job: Job) -> Callable[[], Awaitable[Answer]]:
        """Do everything that must not be measured; return the rest."""
        match job:
            case Submit():
                count = job.calls * job.per_call
                made = iter(getattr(self._source, job.kind)(count))
                requests = [
                    _request(list(islice(made, job.per_call)), receipts=job.receipts)
                    for _ in range(job.calls)
                ]
                return lambda: self._submit_all(requests, job)
            case Watch():
                requests = [
                    _request([signed], receipts=False)
                    for signed in self._source.receipts(job.count)
                ]
                return lambda: self._watch(requests)
            case Fetch():
                return lambda: _timed(job.paths, job.in_flight, self._get)

    async def _submit(self, request: Any) -> list[Any]:
        response = await self._intake.Submit(request, timeout=CALL_S)
        for result in response.results:
            if result.WhichOneof("result") != "sequenced":
                raise LoadError(f"refused: {result.rejected.code}: {result.rejected.detail}")
        return [result.sequenced for result in response.results]

    async def _submit_all(self, requests: Sequence[Any], job: Submit) -> Answer:
        kept: list[tuple[bytes, bytes]] = []

        async def one(request: Any) -> None:
            for sequenced in await self._submit(request):
                if RECEIPTS and len(kept) < job.keep:
                    kept.append((sequenced.entry, sequenced.receipt))

        answer = await _timed(requests, job.in_flight, one)
        answer.kept = kept
        return answer

    async def _watch(self, requests: Sequence[Any]) -> Answer:
        kept: list[tuple[bytes, bytes]] = []

        async def one(request: Any) -> None:
            (sequenced,) = await self._submit(request)
            kept.append((sequenced.entry, (await self._proof(sequenced.entry)).encode()))

        answer = Answer(began=time.monotonic(), kept=kept)
        for request in requests:
            await asyncio.sleep(random.random() * 0.25)  # at any moment between two checkpoints
            answer.times += (await _timed([request], 1, one)).times
        answer.ended = time.monotonic()
        return answer

    async def _proof(self, entry: bytes) -> str:
        while True:
            try:
                found = await self._log.GetProof(
                    audit_pb2.GetProofRequest(entry=entry), timeout=CALL_S
                )
            except grpc.RpcError as error:
                told = error_from_rpc(error)
                if told.code is not Code.NOT_WITNESSED:
                    raise told from error
                await asyncio.sleep(POLL_S)
            else:
                return str(found.tlog_proof)

    async def _get(self, path: str) -> None:
        (await self._web.get(path)).raise_for_status()


def _request(signed: Sequence[Signed], *, receipts: bool) -> Any:
    wanted = {"receipts": True} if receipts and RECEIPTS else {}
    return audit_pb2.SubmitRequest(
        submissions=[audit_pb2.Submission(statement=raw, order=order) for raw, order in signed],
        **wanted,
    )


async def _timed(
    items: Sequence[Any], in_flight: int, one: Callable[[Any], Awaitable[None]]
) -> Answer:
    """Do one thing for every item, `in_flight` at a time; return how long each took."""
    answer = Answer()
    waiting: Iterator[Any] = iter(items)

    async def worker() -> None:
        for item in waiting:
            began = time.monotonic()
            await one(item)
            answer.times.append(time.monotonic() - began)

    answer.began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(worker())
    answer.ended = time.monotonic()
    return answer
