"""A party's question for a proof waits until the next checkpoint is published; a stranger's is answered at once."""

import asyncio
from typing import Any

import pytest

from audit_layer.api import grpc_services
from audit_layer.api.grpc_services import LogServicer
from shared.proto.counterfoil.audit.v1 import audit_pb2
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.party import Party, PartyRole
from shared.translog.tlog_proof import TlogProof

ENTRY = bytes(32)


class FakeProofs:
    """A double of the proof service: nothing is witnessed until `witnessed` is set."""

    def __init__(self) -> None:
        self.witnessed = False
        self.asked = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def prove(self, _: bytes) -> TlogProof:
        self._loop.call_soon_threadsafe(self.asked.set)
        if not self.witnessed:
            raise CounterfoilError(Code.NOT_WITNESSED, "not yet", retry_after_s=1.0)
        return TlogProof(7, (), "note")


class Desk:
    """A servicer with its proofs and its publications."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, party: Party | None) -> None:
        self.proofs, self.published = FakeProofs(), asyncio.Event()
        proofs: Any = self.proofs
        self.servicer = LogServicer(proofs, lambda: self.published)
        monkeypatch.setattr(grpc_services, "calling_party", lambda _: party)

    async def ask(self, wait_ms: int) -> audit_pb2.GetProofResponse:
        context: Any = None
        request = audit_pb2.GetProofRequest(entry=ENTRY, wait_ms=wait_ms)
        return await self.servicer.GetProof(request, context)


WORKER = Party(PartyRole.WORKER, "worker-a")


async def test_a_worker_is_answered_as_soon_as_the_checkpoint_is_published(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(grpc_services, "MAX_WAIT_S", 600.0)
    monkeypatch.setattr(grpc_services, "LOOK_S", 600.0)
    desk = Desk(monkeypatch, WORKER)
    waiting = asyncio.create_task(desk.ask(600_000))
    await desk.proofs.asked.wait()
    desk.proofs.witnessed = True
    desk.published.set()
    async with asyncio.timeout(30):
        assert (await waiting).index == 7


async def test_what_another_process_publishes_is_seen_without_being_told(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(grpc_services, "MAX_WAIT_S", 600.0)
    monkeypatch.setattr(grpc_services, "LOOK_S", 0.001)
    desk = Desk(monkeypatch, WORKER)
    waiting = asyncio.create_task(desk.ask(600_000))
    await desk.proofs.asked.wait()
    desk.proofs.witnessed = True
    async with asyncio.timeout(30):
        assert (await waiting).index == 7


@pytest.mark.parametrize(
    ("party", "wait_ms"), [(None, 600_000), (WORKER, 0)], ids=["stranger", "no-wait"]
)
async def test_nobody_else_keeps_a_call_open(
    monkeypatch: pytest.MonkeyPatch, party: Party | None, wait_ms: int
):
    monkeypatch.setattr(grpc_services, "MAX_WAIT_S", 600.0)
    desk = Desk(monkeypatch, party)
    with pytest.raises(CounterfoilError) as refused:
        async with asyncio.timeout(30):
            await desk.ask(wait_ms)
    assert refused.value.code is Code.NOT_WITNESSED


async def test_a_wait_is_bounded_by_the_server(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(grpc_services, "MAX_WAIT_S", 0.01)
    desk = Desk(monkeypatch, WORKER)
    with pytest.raises(CounterfoilError) as refused:
        async with asyncio.timeout(30):
            await desk.ask(4_000_000_000)
    assert refused.value.code is Code.NOT_WITNESSED
