"""Key bundles roll while everything runs: clients learn of the new one when it is witnessed, and no request fails."""

import asyncio
import contextlib
import json
import time

import grpc
import pytest

from execution_layer.client import directory
from execution_layer.commands.node_keys import roll as command
from execution_layer.node import registration
from execution_layer.node.identity import OVERLAP_MS, RENEWAL_MS, request_roll
from shared.codec.moment import now_ms
from shared.proto.counterfoil.execution.v1 import execution_pb2, execution_pb2_grpc
from shared.runtime.cli import run
from shared.runtime.errors import Code
from shared.runtime.grpc import error_from_rpc, secure_aio_channel
from shared.statements.cose import entry_of, parse_statement, sign
from shared.statements.keys import Revocation
from tests.execution_layer.asking import ask, make_request
from tests.execution_layer.waiting import until

MINUTE_MS = 60_000


class Clock:
    """Moves the clock of everything in this process; what is measured by the monotonic clock goes on as it was."""

    def __init__(self, monkeypatch):
        self.ahead_s = 0
        self.true, self.true_ns = time.time, time.time_ns
        monkeypatch.setattr(time, "time", lambda: self.true() + self.ahead_s)
        monkeypatch.setattr(time, "time_ns", lambda: self.true_ns() + self.ahead_s * 10**9)

    def move_to(self, ms):
        self.ahead_s = (ms - self.true_ns() // 10**6) // 1000 + 1


@pytest.fixture
def clock(monkeypatch, world):
    monkeypatch.setattr(registration, "CHECK_S", 0.02)
    monkeypatch.setattr(registration, "PROOF_POLL_S", 0.02)
    monkeypatch.setattr(registration, "LONGEST_PAUSE_S", 0.1)
    monkeypatch.setattr(directory, "FRESH_S", 0.02)
    clock = Clock(monkeypatch)
    world.audit.clock = time.time
    return clock


@contextlib.asynccontextmanager
async def load(client):
    """Ask without a pause until the context exits; yields the answers so far. Any failure is raised."""
    answers, stop = [], asyncio.Event()

    async def ask_on():
        while not stop.is_set():
            answers.append(await client.generate(prompt="hello", max_tokens=3))

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(ask_on())
        try:
            yield answers
        finally:
            stop.set()


def sealed_for(answer):
    return answer.receipt.value.bundle


async def answered_under(answers, bundle):
    """Wait until a request is answered that was sealed for this key bundle, and a few more."""
    await until(lambda: any(sealed_for(answer) == bundle for answer in answers))
    count = len(answers)
    await until(lambda: len(answers) >= count + 3)


async def told_by(world, node):
    """Return the entry and the proof of the key bundle that the node tells to whoever asks it."""
    async with secure_aio_channel(node.address, world.ca.ca_file) as channel:
        stub = execution_pb2_grpc.InferenceStub(channel)
        try:
            answer = await stub.GetKeyBundle(execution_pb2.GetKeyBundleRequest(), timeout=10)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
    return entry_of(answer.statement), answer.tlog_proof


async def test_no_request_fails_while_a_bundle_rolls_and_ends(world, clock):
    async with world.node() as node, world.client(max_attempts=1) as client:
        first = node.ring.current()
        clock.move_to(first.bundle.not_after - RENEWAL_MS - MINUTE_MS)
        async with load(client) as answers:
            await answered_under(answers, first.entry)
            clock.move_to(first.bundle.not_after - RENEWAL_MS)
            await until(lambda: node.ring.current() is not first)
            second = node.ring.current()
            await answered_under(answers, second.entry)
            before = make_request(world, node, bundle=first.entry, hpke_key=first.hpke.public_bytes)
            assert await ask(
                world, node, before.order, before.envelope
            )  # sealed by a slower client
        clock.move_to(first.bundle.not_after - MINUTE_MS)
        late = make_request(world, node, bundle=first.entry, hpke_key=first.hpke.public_bytes)
        assert await ask(world, node, late.order, late.envelope)
        async with load(client) as answers:
            clock.move_to(first.bundle.not_after)
            await until(lambda: node.ring.known(first.entry) is None)
            count = len(answers)
            await until(lambda: len(answers) >= count + 3)
        assert {sealed_for(answer) for answer in answers} == {second.entry}


async def test_a_client_that_still_holds_an_ended_bundle_reads_the_directory_once(
    world, clock, monkeypatch
):
    async def none_revoked(_):
        return False

    monkeypatch.setattr(registration.Registration, "_heed_revocations", none_revoked)
    async with (
        world.node() as node,
        world.client() as client,
    ):  # only the client reads the directory
        first = node.ring.current()
        await client.nodes()
        monkeypatch.setattr(directory, "FRESH_S", 1e9)
        monkeypatch.setattr(registration, "CHECK_S", 1e9)
        clock.move_to(first.bundle.not_after - RENEWAL_MS)
        await until(lambda: node.ring.current() is not first)
        clock.move_to(first.bundle.not_after)
        behind = lambda: now_ms() - 5 * MINUTE_MS  # noqa: E731  # the client's clock, in its directory
        monkeypatch.setattr(directory, "now_ms", behind)
        told, listed = [], world.audit.listed
        answer = await client.generate(
            prompt="hello", max_tokens=3, on_retry=lambda *facts: told.append(facts)
        )
        assert [error.code for _, error in told] == [Code.STALE_KEY]
        assert told[0][1].metadata["bundle"] == node.ring.current().entry.hex()
        assert sealed_for(answer) == node.ring.current().entry
        assert world.audit.listed == listed + 1
        await client.generate(prompt="hello", max_tokens=3)
        assert world.audit.listed == listed + 1


async def test_an_audit_server_away_at_the_hour_of_the_roll_delays_it_and_fails_no_request(
    world, clock, monkeypatch
):
    """The node tells nobody of a bundle that is not witnessed, and the old one serves meanwhile."""
    monkeypatch.setattr(directory, "FRESH_S", 1e9)  # a client that reads again only when it must
    async with world.node() as node, world.client(max_attempts=1) as client:
        first = node.ring.current()
        await client.nodes()
        world.audit.away = True
        async with load(client) as answers:
            clock.move_to(first.bundle.not_after - RENEWAL_MS)
            await until(lambda: node.ring.newest() is not first)
            assert await told_by(world, node) == (first.entry, first.proof)
            await answered_under(answers, first.entry)
        clock.move_to(first.bundle.not_after - OVERLAP_MS - MINUTE_MS)  # three hours later
        assert (await client.generate(prompt="hello", max_tokens=3)).text
        assert await told_by(world, node) == (first.entry, first.proof)
        world.audit.away = False
        second = node.ring.newest()
        await until(lambda: second.proof)
        assert await told_by(world, node) == (second.entry, second.proof)
        monkeypatch.setattr(directory, "FRESH_S", 0.02)
        async with load(client) as answers:
            await answered_under(answers, second.entry)


async def test_a_bundle_that_the_log_refuses_keeps_no_other_from_its_proof(world, clock):
    async with world.node() as node:
        first, refused, true = node.ring.current(), [], world.audit._submit

        def submit(item):
            entry = entry_of(item.statement)
            if parse_statement(item.statement).type == "key-bundle" and entry != first.entry:
                refused.append(entry)  # the first new one, however often it is submitted
            world.audit.refusals = {"key-bundle": Code.UNSUPPORTED} if entry in refused[:1] else {}
            return true(item)

        world.audit._submit = submit
        request_roll(node._settings.keys)
        await until(lambda: refused)
        request_roll(node._settings.keys)
        await until(lambda: node.ring.current() is not first)
        assert node.ring.current().entry != refused[0]
        assert refused[0] in {keys.entry for keys in node.ring.unproved()}


async def test_the_command_rolls_a_running_node_and_says_what_replaces_what(world, clock, capsys):
    async with world.node() as node, world.client() as client:
        first = node.ring.current()
        config = str(node._settings.spool.parent / "node.toml")
        arguments = ["--config", config, "--timeout", "10", "--json"]
        async with load(client) as answers:
            assert await asyncio.to_thread(run, command, arguments) == 0
            facts = json.loads(capsys.readouterr().out)
            second = node.ring.current()
            assert (facts["replaces"], facts["bundle"]) == (first.entry.hex(), second.entry.hex())
            await answered_under(answers, second.entry)
        world.audit.away = True
        arguments[3] = "0.3"
        assert await asyncio.to_thread(run, command, arguments) != 0
        assert "no new witnessed key bundle" in capsys.readouterr().err
        assert node.ring.current() is second
    assert await asyncio.to_thread(run, command, arguments) != 0
    assert "is not running" in capsys.readouterr().err


async def test_a_node_whose_bundle_is_revoked_drops_it_and_goes_on_under_a_new_one(
    world, clock, monkeypatch
):
    async with world.node() as node, world.client() as client:
        await client.nodes()
        monkeypatch.setattr(directory, "FRESH_S", 1e9)
        first = node.ring.current()
        stale = make_request(world, node)
        strangers = Revocation(bundle=first.entry, reason="a stranger's", at=now_ms())
        world.audit.append(sign(strangers, key=world.operator("other")[0].key, issuer="honest"))
        soon = now_ms() + MINUTE_MS // 2
        ours = Revocation(bundle=first.entry, reason="key lost", at=soon)
        world.audit.append(sign(ours, key=world.operator()[0].key, issuer="honest"))
        listed = world.audit.listed
        await until(lambda: world.audit.listed > listed + 1)
        assert node.ring.current() is first  # not yet
        clock.move_to(soon)
        await until(lambda: node.ring.known(first.entry) is None and node.ring.newest().proof)
        with pytest.raises(Exception, match="not in use here"):
            await ask(world, node, stale.order, stale.envelope)
        told = []
        answer = await client.generate(
            prompt="hello", max_tokens=3, on_retry=lambda *facts: told.append(facts)
        )
        assert [error.code for _, error in told] == [Code.STALE_KEY]
        assert sealed_for(answer) == node.ring.current().entry
