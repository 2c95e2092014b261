"""A signed refusal closes its number: kept, verified, handed in to the log until the log has answered, and proved."""

import asyncio
import json
import logging
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from execution_layer.client.accusations import REFUSED, accusations
from execution_layer.client.archive import State
from execution_layer.client.closing import Closing
from execution_layer.client.verify import export
from execution_layer.commands.client import client as client_group
from execution_layer.node import refusing
from execution_layer.node.drafts import ReceiptSigner
from execution_layer.node.intake import Intake
from shared.runtime.cli import run
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import entry_of, read_as, sign
from shared.statements.orders import Order
from shared.statements.refusals import Refusal, RefusalReason
from shared.verification.bundle_check import verify_bundle
from shared.verification.trust import Trust
from tests.execution_layer.waiting import until

TYPO = {"prompt": "x" * 600, "max_tokens": 4}
"""Longer than the node's context."""


async def refused(client, **wanted):
    with pytest.raises(CounterfoilError) as caught:
        await client.generate(**{**TYPO, **wanted})
    return caught.value


def logged(world):
    """Return the refusals that the log has."""
    return [
        read_as(Refusal, raw) for raw in world.audit.statements if b"counterfoil.refusal" in raw
    ]


async def test_a_typo_closes_its_number_and_the_next_request_takes_the_next(world):
    async with world.node(), world.client() as client:
        error = await refused(client)
        assert error.code is Code.INVALID_ARGUMENT
        assert error.metadata["node"] == "honest/node-1"
        assert error.metadata["refused_for"] == "request"
        answer = await client.generate(prompt="hello", max_tokens=2)
        assert (answer.number, answer.attempt) == (1, 0)
        await until(lambda: logged(world), 10)
        await world.audit.wait_for_receipts(1)
        assert [(item.number, item.reason) for item in logged(world)] == [
            (0, RefusalReason.REQUEST)
        ]
        kept = client.archive.find(error.metadata["refusal"])
        assert (kept.state, kept.number) == (State.REFUSED, 0)
        assert read_as(Order, world.audit.orders[kept.refusal_entry]).number == 0
        report = await client.upgrade_proofs(10)
        assert report.missing == 0
        kept = client.archive.get(kept.id)
        assert kept.proof is not None
        report = verify_bundle(export(client.archive, kept, client._policy), Trust())
        assert (report.verified, report.facts["type"]) == (True, "refusal")


async def test_what_the_log_did_not_hear_is_handed_in_by_the_next_process(world):
    """Nothing but the archive remembers it, so a process that is killed loses nothing."""
    async with world.node():
        async with world.client() as client:
            await client.nodes()
            world.audit.away = True
            await refused(client)
        assert logged(world) == []
        world.audit.away = False
        world.audit.loses_answers = 1
        async with world.client() as client:
            answer = await client.generate(prompt="hello", max_tokens=2)
            assert answer.number == 1
            await until(lambda: logged(world), 10)
        async with (
            world.client() as client
        ):  # the answer was lost: the same again, which changes nothing
            report = await client.upgrade_proofs(10)
            assert report.missing == 0
            assert client.archive.closing(before_ms=2**62, limit=9) == []
        assert len(logged(world)) == 1


async def test_a_refused_attempt_that_is_followed_by_another_needs_no_entry(world):
    """Its number is that of the attempt that was answered."""
    async with world.node() as first, world.node(name="node-2"), world.client() as client:
        entry = (await client.nodes())[0].entry
        del first.ring._bundles[entry]  # what it named is not known any more: unsigned
        answer = await client.generate(prompt="hello", max_tokens=2)
        assert (answer.number, answer.attempt) == (0, 1)
        assert client.archive.closing(before_ms=2**62, limit=9) == []


async def test_a_log_that_rejects_a_refusal_frees_its_number(world):
    world.audit.refusals["refusal"] = Code.STALE_KEY
    async with world.node(), world.client() as client:
        await refused(client)
        await until(lambda: client.archive.latest(1)[0].rejected, 10)
        answer = await client.generate(prompt="hello", max_tokens=2)
        assert (answer.number, answer.attempt) == (0, 1)
        assert (await client.upgrade_proofs(10)).missing == 0


async def test_a_log_without_room_is_asked_again(world):
    world.audit.refusals["refusal"] = Code.OVERLOADED
    async with world.node(), world.client() as client:
        await refused(client)
        del world.audit.refusals["refusal"]
        assert (await client.upgrade_proofs(10)).missing == 0
        assert [item.number for item in logged(world)] == [0]


def forging(monkeypatch, change):
    """Have the node sign other refusals than it should: `change` takes refusal and signer, and returns the statement."""
    honest = ReceiptSigner.refusal

    def forged(signer, refusal):
        return change(refusal, signer, honest)

    monkeypatch.setattr(ReceiptSigner, "refusal", forged)


def with_fields(**fields):
    return lambda refusal, signer, honest: honest(signer, replace(refusal, **fields))


FORGERIES = {
    "by a stranger's key": lambda refusal, _signer, _honest: sign(
        refusal, key=Ed25519PrivateKey.generate(), issuer="honest/node-1"
    ),
    "in another node's name": lambda refusal, signer, _honest: sign(
        refusal, key=signer._key, issuer="honest/node-2"
    ),
    "of another order": with_fields(order=bytes(32)),
    "of another number": with_fields(number=7),
    "of another attempt": with_fields(attempt=7),
    "of another tenant": with_fields(tenant="bolt"),
    "of another key bundle": with_fields(bundle=bytes(32)),
    "for an unknown reason": lambda refusal, signer, honest: honest(signer, refusal).replace(
        b"request", b"whatevr"
    ),
    "that is none": lambda *_: b"\xd2",
    "that is endless": lambda refusal, signer, honest: honest(signer, refusal) + bytes(5000),
}


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_a_forged_refusal_is_worth_no_more_than_none(world, monkeypatch, forgery, caplog):
    """It is not kept and closes nothing: the number goes to the next request."""
    forging(monkeypatch, FORGERIES[forgery])
    caplog.set_level(logging.WARNING)
    async with world.node(), world.client() as client:
        error = await refused(client)
        assert "refusal" not in error.metadata
        assert "a refusal that does not count" in caplog.text
        assert client.archive.latest(1)[0].refusal is None
        monkeypatch.undo()
        answer = await client.generate(prompt="hello", max_tokens=2)
        assert (answer.number, answer.attempt) == (0, 1)
        assert logged(world) == []


async def test_a_refusal_replayed_for_the_next_order_does_not_count(world, monkeypatch):
    signed = []

    def first_one_again(refusal, signer, honest):
        signed.append(honest(signer, refusal))
        return signed[0]

    forging(monkeypatch, first_one_again)
    async with world.node(), world.client() as client:
        assert "refusal" in (await refused(client)).metadata
        assert "refusal" not in (await refused(client)).metadata
        assert [item.state for item in client.archive.latest(2)] == [State.REFUSED] * 2
        assert [item.refusal is None for item in client.archive.latest(2)] == [True, False]


async def test_a_node_that_refuses_what_it_accepted_is_disbelieved_and_the_log_told(
    world, monkeypatch, capsys
):
    """Both signatures are kept: over h_0, and over the refusal."""
    honest = Intake.take

    async def two_faced(intake, order, envelope, parts):
        session = await honest(intake, order, envelope, parts)
        value = read_as(Order, order)
        refusal = refusing.refuse_order(value, entry_of(order), RefusalReason.MODEL, value.created)
        real = session.events

        async def events():
            async for event in real():
                yield event
                error = CounterfoilError(Code.UNKNOWN_MODEL, "after all")
                error.statement = intake._parts.signer.refusal(refusal)
                raise error

        session.events = events
        return session

    monkeypatch.setattr(Intake, "take", two_faced)
    async with world.node(), world.client() as client:
        await refused(client, prompt="hello")
        kept = client.archive.latest(1)[0]
        assert kept.state is State.DISBELIEVED
        assert kept.accepted_signature
        assert kept.refusal
        await until(lambda: logged(world), 10)
        await world.audit.wait_for_receipts(1)  # the node's own spool convicts it
        (one,) = accusations(client.archive)
        assert (one.kind, one.convicts) == (REFUSED, False)
        assert [item.statement for item in await client.hand_in_accused()] == ["refusal"]
        receipt = world.audit.receipts()[0]
        await client.archive._journal.write(
            lambda db: db.execute(
                "UPDATE transcripts SET receipt = ?, receipt_entry = ? WHERE id = ?",
                (receipt.raw, receipt.entry, kept.id),
            )
        )
        (one,) = accusations(client.archive)
        assert one.convicts
    code, told = await evidence_command(world, capsys, "--hand-in", "--json")
    assert code == 3
    (row,) = told["evidence"]
    assert (row["against"], row["number"]) == ("honest/node-1", 0)
    handed_in = {item["statement"]: item["index"] for item in told["handed_in"]}
    assert handed_in.keys() == {"receipt", "refusal"}
    assert None not in handed_in.values()


async def test_evidence_shows_nothing_where_there_is_nothing(world, capsys):
    async with world.node(), world.client() as client:
        await refused(client)
        await client.generate(prompt="hello", max_tokens=2)
    assert await evidence_command(world, capsys, "--json") == (0, [])


async def evidence_command(world, capsys, *options):
    """Run `counterfoil client evidence`; return its exit code and its JSON."""
    config = str(world.folder / "client" / "client.toml")
    code = await asyncio.to_thread(run, client_group, ["evidence", "--config", config, *options])
    return code, json.loads(capsys.readouterr().out)


async def test_closing_hands_in_once_more_for_what_came_while_it_was_busy():
    started, may_go, runs = asyncio.Event(), asyncio.Event(), []

    async def hand_in():
        runs.append(len(runs))
        started.set()
        await may_go.wait()
        return 1

    closing = Closing(hand_in)
    await closing.close()  # nothing has begun
    closing.wake()
    await started.wait()
    closing.wake()
    closing.wake()
    may_go.set()
    await closing.close()
    assert runs == [0, 1]
