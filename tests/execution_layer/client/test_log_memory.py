"""The client is shown one history of the log that only grows, and keeps proof of any other."""

import os
import time

import pytest

from execution_layer.client import directory
from execution_layer.client.log_memory import check_age
from shared.codec.moment import now_ms
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import sign
from shared.statements.keys import Revocation
from shared.translog.checkpoint import Checkpoint
from shared.translog.policy import Witnessed
from shared.translog.signed_checkpoint import sign as sign_checkpoint
from shared.translog.tlog_proof import parse_tlog_proof, verify_tlog_proof
from tests.execution_layer.fakes import ORIGIN

PROMPT = "hello"


async def refused(client, **wanted):
    with pytest.raises(CounterfoilError) as caught:
        await client.generate(**{"prompt": PROMPT, "max_tokens": 4, **wanted})
    return caught.value


def seen(world, size, index=0):
    """Return a witnessed checkpoint of a size, as in a proof by the log."""
    audit = world.audit
    policy = world.policy().log.policy()
    leaves = audit.leaves()
    text = audit.proof(index, size)
    proof = parse_tlog_proof(text)
    entry = next(entry for entry, at in audit.index.items() if at == index)
    if audit.forked and index == 0:
        entry = b"another".ljust(32)
    assert len(leaves) >= size
    assert proof.claimed.size == size
    return verify_tlog_proof(text, entry, policy).witnessed


def revoke(world, bundle, *, issuer="honest", signer=None, at=None):
    """Put a revocation into the log."""
    value = Revocation(bundle=bundle, reason="key lost", at=now_ms() - 1000 if at is None else at)
    world.audit.append(sign(value, key=world.operator(signer or issuer)[0].key, issuer=issuer))


def fill(world, count):
    """Put irrelevant statements into the log."""
    for _ in range(count):
        revoke(world, os.urandom(32), issuer="nobody")


async def test_a_larger_checkpoint_extends_the_one_before_and_a_smaller_one_is_its_beginning(world):
    async with world.node(), world.client() as client:
        fill(world, 5)
        memory = client._memory()
        for size in (3, 5, 4, 3, 5, 6):
            await memory.accept(seen(world, size))
        assert client.archive.largest_checkpoint(ORIGIN).size == 6
        assert client.archive.suspects() == []


@pytest.mark.parametrize("size", [3, 5, 6])
async def test_another_history_is_a_fork_whatever_its_size_and_is_kept_as_evidence(world, size):
    async with world.node(), world.client() as client:
        fill(world, 5)
        memory = client._memory()
        kept = seen(world, 5)
        await memory.accept(kept)
        world.audit.forked = True
        other = seen(world, size)
        with pytest.raises(CounterfoilError) as caught:
            await memory.accept(other)
        assert caught.value.code is Code.FORK
        assert client.archive.largest_checkpoint(ORIGIN).size == 5
        (suspect,) = client.archive.suspects()
        assert (suspect.size, suspect.root) == (size, other.checkpoint.root)
        assert (suspect.note, suspect.kept) == (other.note.encode(), kept.note.encode())


async def test_a_log_that_is_away_is_not_a_fork(world):
    async with world.node(), world.client() as client:
        fill(world, 5)
        first, second = seen(world, 3), seen(world, 5)
        memory = client._memory()
        await memory.accept(first)
        world.audit.away = True
        with pytest.raises(CounterfoilError) as caught:
            await memory.accept(second)
        assert caught.value.code is Code.UNAVAILABLE
        assert client.archive.suspects() == []


async def test_a_directory_at_an_older_state_than_was_seen_is_not_believed(world):
    async with world.node(), world.client() as client:
        await client.generate(prompt=PROMPT, max_tokens=3)
        await client._memory().accept(seen(world, len(world.audit.statements)))
        grown = len(world.audit.statements)
        fill(world, 1)
        await client._memory().accept(seen(world, grown + 1))
        del world.audit.statements[-1]  # as if restored from a backup
        client._directory._known.clear()
        error = await refused(client)
        assert error.code in {Code.NOT_WITNESSED, Code.FORK}


# -- age ------------------------------------------------------------------------------------------------------------


async def test_a_checkpoint_that_was_witnessed_too_long_ago_proves_no_nodes_keys(
    world, monkeypatch
):
    monkeypatch.setattr(directory, "PATIENCE_S", 0.0)
    async with world.node(), world.client() as client:
        world.audit.clock = lambda: time.time() - 1000
        error = await refused(client)
        assert "s ago; the policy accepts 900 s" in error.detail
        world.audit.clock = time.time
        await client.generate(prompt=PROMPT, max_tokens=3)


async def test_a_witness_whose_clock_is_ahead_is_named(world):
    checkpoint = Checkpoint(ORIGIN, 7, bytes(32))
    witnessed = Witnessed(
        checkpoint, sign_checkpoint(checkpoint, world.audit.log_signers, time_s=1), {"w": 2000}
    )
    check_age(witnessed, 900, now_s=2100)
    check_age(witnessed, 900, now_s=1800)
    with pytest.raises(CounterfoilError, match="from now by this machine's clock"):
        check_age(witnessed, 900, now_s=1600)
    with pytest.raises(CounterfoilError, match="901 s ago"):
        check_age(witnessed, 900, now_s=2901)


# -- revocations ------------------------------------------------------------------------------------------------------


async def test_a_caller_who_names_a_node_that_is_refused_is_told_why(world):
    async with world.node() as node, world.node(name="node-2"), world.client() as client:
        revoke(world, node.ring.current().entry)
        error = await refused(client, node="node-1")
        assert error.code is Code.NOT_FOUND
        assert "there are: honest/node-2" in error.detail
        assert "the key bundle of honest/node-1 is revoked" in error.detail
        assert "revoked" not in (await refused(client, node="node-9")).detail


async def test_what_nobody_signed_ends_no_bundle(world):
    async with world.node() as node, world.client() as client:
        world.audit.flagged.add(node.ring.current().entry)
        await client.generate(prompt=PROMPT, max_tokens=3)


# -- standing ---------------------------------------------------------------------------------------------------------


async def test_a_suspended_node_gets_no_requests_unless_the_policy_accepts_it(world):
    async with world.node():
        world.audit.standing = "suspended"
        async with world.client() as client:
            error = await refused(client)
            assert "honest/node-1 is suspended, and the policy demands at least watched" in str(
                error
            )
        async with world.client(min_standing="suspended") as client:
            await client.generate(prompt=PROMPT, max_tokens=3)


@pytest.mark.parametrize(
    ("said", "demanded", "served"),
    [
        ("watched", "watched", True),
        ("watched", "new", False),
        ("new", "new", True),
        ("new", "good", False),
        ("good", "good", True),
        ("", "new", True),  # a server that does not say
        ("excellent", "good", False),
    ],
)
async def test_the_policy_demands_a_standing(world, said, demanded, served):
    world.audit.standing = said
    async with world.node(), world.client(min_standing=demanded) as client:
        if served:
            (node,) = await client.nodes()
            assert node.name == "honest/node-1"
        else:
            await refused(client)


async def test_a_proved_revocation_ends_a_bundle_forever_whatever_is_listed_later(world):
    async with world.node() as node, world.client() as client:
        revoke(world, node.ring.current().entry)
        assert "is revoked" in (await refused(client)).detail
        world.audit.hides_revocations = True
        client._directory._known.clear()
        assert "is revoked" in (await refused(client)).detail
    async with world.client() as another_process:
        assert "is revoked" in (await refused(another_process)).detail


async def test_a_revocation_by_somebody_else_ends_nothing(world):
    async with world.node() as node, world.client() as client:
        entry = node.ring.current().entry
        revoke(world, entry, issuer="other")
        revoke(world, entry, issuer="honest", signer="other")
        await client.generate(prompt=PROMPT, max_tokens=3)


async def test_a_revocation_holds_from_its_time_on(world):
    async with world.node() as node, world.client() as client:
        revoke(world, node.ring.current().entry, at=now_ms() + 3_600_000)
        await client.generate(prompt=PROMPT, max_tokens=3)
