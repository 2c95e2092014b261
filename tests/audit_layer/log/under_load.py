"""The real server and witness as processes, clients that load them, and an observer that checks the outcome.

The server is `counterfoil audit serve`, the witness `counterfoil audit witness serve`, both over TLS; clients submit
signed statements over gRPC, and a monitor polls the published checkpoint.
"""

import asyncio
import contextlib
import json
import random
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from click.testing import CliRunner
from sqlalchemy import Engine

from audit_layer.commands.parties import witness
from audit_layer.log.fsck import fsck
from audit_layer.trail.fsck_whole import check_all
from audit_layer.trail.service import Accepted, Submission
from audit_layer.wiring import audit_server
from audit_layer.wiring.audit_settings import load_settings
from audit_layer.wiring.log_keys import log_policy
from audit_layer.witness.store import WitnessStore
from shared.proto.counterfoil.audit.v1 import audit_pb2, audit_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import secure_aio_channel
from shared.runtime.party import PartyRole
from shared.runtime.tls import LocalCA, TlsFiles
from shared.statements.cose import entry_of
from tests.audit_layer.api import statements as made
from tests.audit_layer.log.nursery import Child, Nursery
from tests.audit_layer.log.observer import Observer
from tests.audit_layer.served import ORIGIN, DsnFiles, call, command, initialise
from tests.parties import shown_by

BEFORE_LOAD: Final = 4
"""Entries that are appended before the first server runs."""


class Stage:
    """Server and witness of one log, whether they run or not."""

    def __init__(self, forks: Nursery, folder: Path, database: DsnFiles) -> None:
        self._forks = forks
        self._folder = folder
        tls = LocalCA.load_or_create(folder / "ca").issue("server")
        self.ca = LocalCA.load_or_create(folder / "ca").ca_file
        log_keys = initialise(folder / "audit", database, tls)["log_vkeys"]
        address = f"127.0.0.1:{_free_port()}"
        self._witness_config = self._make_witness(tls, address, log_keys)
        self.config = folder / "audit" / "audit.toml"
        given = [part for vkey in self._vkeys for part in ("--vkey", vkey)]
        command("audit", "trust", "--config", str(self.config), "--name", "witness",
                "--url", f"https://{address}", *given)  # fmt: skip
        self.settings = load_settings(self.config)
        self.policy = log_policy(self.settings)
        self.running: dict[str, Child] = {}

    def _make_witness(self, tls: TlsFiles, address: str, log_keys: list[str]) -> Path:
        folder = self._folder / "witness"
        told = _party("keys", "--folder", str(folder), "--name", "witness")
        self._vkeys: list[str] = told["vkeys"]
        trust = self._folder / "trust.json"
        log = {"origin": ORIGIN, "vkeys": log_keys, "witnesses": self._vkeys}
        trust.write_text(json.dumps({"log": log, "authority": made.public("authority").hex()}))
        _party("init", "--config-folder", str(folder), "--name", "witness", "--address", address,
               "--cert", str(tls.cert), "--key", str(tls.key), "--ca", str(tls.ca),
               "--trust", str(trust), "--party-ca", str(tls.ca))  # fmt: skip
        return folder / "witness.toml"

    def start(self, name: str, fault: str | None = None) -> None:
        """Start one of the two, once; the fault is armed for this life only."""
        arguments = {
            "server": ["audit", "serve", "--config", str(self.config)],
            "witness": ["audit", "witness", "serve", "--config", str(self._witness_config)],
        }[name]
        self.running[name] = self._forks.start(
            arguments,
            ready=self._folder / f"{name}.ready",
            log=self._folder / f"{name}.log",
            fault=fault,
        )

    def status(self, name: str) -> int | None:
        """Return None while it runs; its log says what failed to start (a port that is still taken)."""
        return self.running[name].status()

    def grpc_address(self) -> str | None:
        child = self.running.get("server")
        found = child.addresses() if child else None
        return found["party"] if found else None

    def witness_holds(self) -> str | None:
        """Return the note in the witness's store, whether the witness lives or not."""
        path = self._folder / "witness" / "state.sqlite"
        with WitnessStore(path) as store:
            held = store.latest(ORIGIN)
        return held.note if held else None

    def close(self) -> None:
        for child in self.running.values():
            child.kill()


def _party(*arguments: str) -> dict[str, list[str]]:
    result = CliRunner().invoke(witness, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found: dict[str, list[str]] = json.loads(result.stdout)
    return found


def _free_port() -> int:
    """Return a port for the witness, whose address must outlive it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Client:
    """Submits statements until each is acknowledged: resends, reorders, and asks again for what it has."""

    def __init__(
        self,
        source: Iterator[Submission],
        observer: Observer,
        seed: int,
        tolerated: frozenset[Code],
    ) -> None:
        """`tolerated` are the failures of a call after which a client just tries again."""
        self._source = source
        self._observer = observer
        self._rng = random.Random(seed)
        self._waiting: list[Submission] = []
        self._done: list[Submission] = []
        self._tolerated = tolerated
        self.enough = False
        self.failures = 0
        """Calls that were answered with one of `tolerated`."""
        self.answers = 0

    async def run(self, stage: Stage) -> None:
        """Work until `enough` is set and nothing waits any more."""
        while self._waiting or not self.enough:
            address = stage.grpc_address()
            if address is None:
                await asyncio.sleep(0.02)
                continue
            async with secure_aio_channel(
                address, stage.ca, shown_by(PartyRole.WORKER, "worker", stage.ca)
            ) as channel:
                stub = audit_pb2_grpc.IntakeStub(channel)
                while (self._waiting or not self.enough) and stage.grpc_address() == address:
                    await self._call(stub)

    async def _call(self, stub: audit_pb2_grpc.IntakeStub) -> None:
        if not self.enough:
            for _ in range(self._rng.randint(1, 6)):
                item = next(self._source)
                self._observer.sent.add(entry_of(item.statement))
                self._waiting.append(item)
        batch = self._rng.sample(self._waiting, min(len(self._waiting), 40))
        if self._done and self._rng.random() < 0.3:
            batch.append(self._rng.choice(self._done))
        request = audit_pb2.SubmitRequest(
            submissions=[
                audit_pb2.Submission(statement=item.statement, order=item.order or b"")
                for item in batch
            ]
        )
        try:
            response = await call(stub.Submit, request, timeout_s=10.0)
        except CounterfoilError as error:
            if error.code not in self._tolerated:
                raise
            self.failures += 1
            await asyncio.sleep(0.02)
            return
        self.answers += 1
        assert len(response.results) == len(batch)
        for item, result in zip(batch, response.results, strict=True):
            if result.rejected.code in {code.name for code in self._tolerated}:
                continue
            assert result.HasField("sequenced"), result.rejected
            assert result.sequenced.entry == entry_of(item.statement)
            assert item not in self._done or result.sequenced.duplicate
            self._observer.acknowledge(result.sequenced.entry, result.sequenced.index)
            if item in self._waiting:
                self._waiting.remove(item)
                self._done.append(item)
        await asyncio.sleep(0.005)


def receipts(node: made.Node, tenant: str) -> Iterator[Submission]:
    while True:
        yield node.receipt(tenant)


def rate_cards(operator: str) -> Iterator[Submission]:
    """Statements without a number, all different."""
    number = 0
    while True:
        number += 1
        yield Submission(made.rate_card(operator, name=f"list {number}"))


class Round:
    """One log's life under load."""

    def __init__(self, stage: Stage, engine: Engine, seed: int, tolerated: frozenset[Code]) -> None:
        self.stage = stage
        self.engine = engine
        self._files = audit_server.published(stage.settings)
        self._second_place = audit_server.second_place(stage.settings, stage.policy)
        self.observer = Observer(
            engine,
            self._files,
            stage.settings.tiles_folder,
            stage.policy,
            stage.config.with_name("acknowledged"),
        )
        self.clients = [
            Client(source, self.observer, seed * 100 + place, tolerated)
            for place, source in enumerate(self._begin())
        ]

    def _begin(self) -> list[Iterator[Submission]]:
        """Append what clients' statements build on; return the clients' sources."""
        sources: list[Iterator[Submission]] = []
        with audit_server.open_core(self.stage.settings, application_name="test") as core:
            made.register(core.trail)
            for operator, tenant in (("alpha", "acme"), ("beta", "bolt")):
                first = [
                    Submission(made.bundle(operator, not_after=made.NOW + 20 * made.HOUR)),
                    Submission(made.rate_card(operator)),
                ]
                results = core.trail.submit(first)
                bundle, card = (r.entry for r in results if isinstance(r, Accepted))
                self.observer.sent |= {bundle, card}
                sources.append(receipts(made.Node(operator, bundle, card), tenant))
                sources.append(rate_cards(operator))
        return sources

    @contextlib.asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """Load the server during the block; afterwards, wait until all is acknowledged and published, and check it."""
        async with asyncio.TaskGroup() as group, self._watching():
            tasks = [group.create_task(client.run(self.stage)) for client in self.clients]
            yield
            await self.ensure_running()
            for client in self.clients:
                client.enough = True
            await asyncio.wait_for(asyncio.gather(*tasks), 60)
            await self._until_published()
        await self.check()
        assert "Traceback" not in self.log_of("server"), self.log_of("server")
        assert await asyncio.to_thread(self._check_all) == []
        begun = set(self.observer.entries[:BEFORE_LOAD])
        assert set(self.observer.acknowledged()) | begun == self.observer.sent
        assert set(self.observer.entries) == self.observer.sent

    async def ensure_running(self, but: str = "") -> None:
        for name in ("witness", "server"):
            if name == but:
                continue
            child = self.stage.running.get(name)
            if child is None or child.status() is not None:
                self.stage.start(name)
            await self.until_up_or_dead(self.stage.running[name])
            assert self.stage.status(name) is None, self.log_of(name)

    async def until_up_or_dead(self, child: Child) -> None:
        async with asyncio.timeout(30):
            while child.addresses() is None and child.status() is None:  # noqa: ASYNC110  # a process
                await asyncio.sleep(0.01)

    def log_of(self, name: str) -> str:
        path = self.stage.config.parents[1] / f"{name}.log"
        return path.read_text()[-2000:] if path.exists() else f"{name} left no log"

    async def check(self) -> None:
        """Compare everything, whatever is dead or alive at the moment."""
        held = self.stage.witness_holds()
        if held is not None:
            self.observer.show(held)
        kept = self._second_place.read()
        if kept is not None:
            self.observer.show(kept[1])
        await asyncio.to_thread(self.observer.check)
        found = await asyncio.to_thread(
            fsck, self.engine, policy=self.stage.policy, files=self._files,
            second_place=self._second_place,
        )  # fmt: skip
        assert found == [], "\n".join(map(str, found))

    def _check_all(self) -> list[str]:
        return check_all(
            self.engine,
            policy=self.stage.policy,
            files=self._files,
            second_place=self._second_place,
        )

    @contextlib.asynccontextmanager
    async def _watching(self) -> AsyncIterator[None]:
        """Watch the published checkpoint constantly, as monitors do."""

        async def watch() -> None:
            while True:
                self.observer.look_at_checkpoint()
                await asyncio.sleep(0.02)

        task = asyncio.create_task(watch())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _until_published(self) -> None:
        async with asyncio.timeout(30):
            while True:
                await asyncio.to_thread(self.observer.check)
                sizes = [checkpoint.size for checkpoint in self.observer.notes.values()]
                if max(sizes, default=0) == len(self.observer.entries):
                    return
                await asyncio.sleep(0.05)
