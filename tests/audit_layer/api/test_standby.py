"""Two audit servers on one log: both take statements in, and when one is killed the other carries on."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from audit_layer.trail.fsck_whole import check_all
from audit_layer.wiring.audit_server import open_core, published, second_place
from audit_layer.wiring.audit_settings import load_settings
from audit_layer.wiring.log_keys import log_policy
from shared.proto.counterfoil.audit.v1 import audit_pb2, audit_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import secure_aio_channel
from shared.runtime.party import PartyRole
from shared.statements.cose import entry_of
from shared.translog.policy import LogPolicy
from shared.translog.tlog_proof import verify_tlog_proof
from tests.audit_layer.api import statements as made
from tests.audit_layer.api.test_process import SERVE
from tests.audit_layer.served import call, configured, until
from tests.parties import shown_by
from tests.postgres import Database

TAKEOVER_S = 5.0


class Server:
    """One process, and a way to call it."""

    def __init__(self, config: Path, ready: Path) -> None:
        self._ready = ready
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, "serve", "--config", config, "--ready-file", ready]
        )

    async def address(self) -> str:
        async with asyncio.timeout(60):
            while not self._ready.exists():
                assert self.process.poll() is None
                await asyncio.sleep(0.05)
        return str(json.loads(self._ready.read_text())["party"])


@asynccontextmanager
async def servers(config: Path, folder: Path, count: int) -> AsyncIterator[list[Server]]:
    running = [Server(config, folder / f"ready-{at}.json") for at in range(count)]
    try:
        yield running
    finally:
        for server in running:
            server.process.kill()
            await asyncio.to_thread(server.process.wait)


class Submitter:
    """Submits one node's receipts in order, at whichever server answers; keeps what was acknowledged."""

    def __init__(self, node: made.Node, stubs: Sequence[Any]) -> None:
        self._node = node
        self._stubs = stubs
        self.acknowledged: dict[bytes, int] = {}
        self.halfway = asyncio.Event()

    async def run(self, count: int) -> None:
        for turn in range(count):
            item = self._node.receipt("acme")
            request = audit_pb2.SubmitRequest(
                submissions=[
                    audit_pb2.Submission(statement=item.statement, order=item.order or b"")
                ],
                receipts=True,
            )
            result = await self._until_answered(request, turn)
            self.acknowledged[entry_of(item.statement)] = result.sequenced.index
            assert result.sequenced.receipt
            if turn == count // 2:
                self.halfway.set()

    async def _until_answered(self, request: audit_pb2.SubmitRequest, turn: int) -> Any:
        async with asyncio.timeout(30):
            while True:
                try:
                    return (await call(self._stubs[turn % 2].Submit, request, 5.0)).results[0]
                except CounterfoilError as error:
                    if not error.code.value.retryable:
                        raise
                    turn += 1
                    await asyncio.sleep(0.02)


async def witnessed(stub: Any, entry: bytes, policy: LogPolicy) -> None:
    request = audit_pb2.GetProofRequest(entry=entry)
    proof = await until(lambda: call(stub.GetProof, request), Code.NOT_WITNESSED, TAKEOVER_S)
    verify_tlog_proof(proof.tlog_proof, entry, policy)


@pytest.mark.parametrize("victim", [0, 1])
async def test_a_killed_server_loses_nothing_acknowledged_and_the_other_takes_over_in_seconds(
    database: Database, tmp_path: Path, victim: int
):
    async with AsyncExitStack() as stack:
        config, ca, _ = await stack.enter_async_context(configured(database, tmp_path))
        settings = load_settings(config)
        with open_core(settings, application_name="test") as core:
            made.register(core.trail)
        running = await stack.enter_async_context(servers(config, tmp_path, 2))
        worker = shown_by(PartyRole.WORKER, "worker", ca)
        channels = [
            await stack.enter_async_context(secure_aio_channel(await server.address(), ca, worker))
            for server in running
        ]
        intakes = [audit_pb2_grpc.IntakeStub(channel) for channel in channels]
        nodes = []
        for operator in ("alpha", "beta"):
            raw = [made.bundle(operator), made.rate_card(operator)]
            request = audit_pb2.SubmitRequest(
                submissions=[audit_pb2.Submission(statement=item) for item in raw]
            )
            await call(intakes[0].Submit, request)
            nodes.append(made.Node(operator, entry_of(raw[0]), entry_of(raw[1])))
        submitters = [Submitter(node, intakes) for node in nodes]
        work = asyncio.gather(*(submitter.run(60) for submitter in submitters))
        await asyncio.gather(*(submitter.halfway.wait() for submitter in submitters))
        running[victim].process.kill()
        await work
        policy = log_policy(settings)
        survivor = audit_pb2_grpc.LogStub(channels[1 - victim])
        for submitter in submitters:
            assert len(submitter.acknowledged) == 60
            await witnessed(survivor, list(submitter.acknowledged)[-1], policy)
    engine = database.engine("server")
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT entry, index FROM log_entries").all()
    indexes = {bytes(entry): index for entry, index in found}
    assert sorted(indexes.values()) == list(range(124))
    for submitter in submitters:
        assert submitter.acknowledged.items() <= indexes.items()
    place = second_place(settings, policy)
    assert check_all(engine, policy=policy, files=published(settings), second_place=place) == []
