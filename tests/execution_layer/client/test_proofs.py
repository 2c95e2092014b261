"""A proof is kept only if it verifies under the policy's pins: log keys, witnesses, tree, entry."""

import asyncio
import time

import pytest

from execution_layer.client.archive import State
from execution_layer.commands.client import proofs as proofs_command
from shared.runtime.cli import run
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import entry_of
from shared.translog.checkpoint import Checkpoint
from shared.translog.cosignature import cosign
from shared.translog.notes import Signer
from shared.translog.proofs import lookup_in, root_at
from shared.translog.signed_checkpoint import sign
from shared.translog.tlog_proof import TlogProof, parse_tlog_proof
from shared.translog.tree import leaf_hash
from tests.execution_layer.fakes import ORIGIN


async def answered(world, client, count=1):
    """Give a client answers whose receipts are in the log; return their entries."""
    answers = [await client.generate(prompt="hello", max_tokens=3) for _ in range(count)]
    await world.audit.wait_for_receipts(count)
    return [answer.receipt.entry for answer in answers]


def notes_of(world, *, size=None, root=None, log=None, witnesses=None):
    """Return a signed and cosigned checkpoint of the log, or of a tree that we made up."""
    audit = world.audit
    leaves = [leaf_hash(entry_of(raw)) for raw in audit.statements]
    size = len(leaves) if size is None else size
    root = root or root_at(len(leaves), lookup_in(leaves))
    checkpoint = Checkpoint(ORIGIN, size, root)
    now = int(time.time())
    note = sign(checkpoint, audit.log_signers if log is None else log, time_s=now)
    signers = [audit.witness] if witnesses is None else witnesses
    return note.with_signatures(tuple(cosign(signer, checkpoint, time_s=now) for signer in signers))


def impostor(signer):
    """Return somebody else's key under the same name."""
    return Signer.generate(signer.verifier.name, signer.verifier.kind)


def unwitnessed(world):
    return {"witnesses": []}


def foreign_witness(world):
    return {"witnesses": [impostor(world.audit.witness)]}


def half_signed(world):
    return {"log": world.audit.log_signers[:1]}


def foreign_log(world):
    return {"log": [impostor(signer) for signer in world.audit.log_signers]}


def invented_tree(world):
    return {"root": b"\x5a" * 32}


@pytest.mark.parametrize(
    ("forgery", "code"),
    [
        (unwitnessed, Code.NOT_WITNESSED),
        (foreign_witness, Code.NOT_WITNESSED),
        (half_signed, Code.BAD_SIGNATURE),
        (foreign_log, Code.BAD_SIGNATURE),
        (invented_tree, Code.BAD_PROOF),
    ],
)
async def test_a_checkpoint_without_the_right_signatures_over_the_right_tree_is_refused(
    world, forgery, code
):
    async with world.node(), world.client() as client:
        await answered(world, client)
        true = world.audit.proof

        def forged(index):
            proof = parse_tlog_proof(true(index))
            return TlogProof(index, proof.path, notes_of(world, **forgery(world)).encode()).encode()

        world.audit.proof = forged
        with pytest.raises(CounterfoilError) as caught:
            await client.upgrade_proofs()
        assert caught.value.code is code
        assert client.archive.counts()["proofs"] == 0
        world.audit.proof = true
        assert (await client.upgrade_proofs(10)).proved == 1


async def test_a_forged_inclusion_proof_is_refused(world):
    async with world.node(), world.client() as client:
        await answered(world, client, 3)
        true = world.audit.proof

        def spoiled_path(index):
            proof = parse_tlog_proof(true(index))
            path = (bytes(32), *proof.path[1:])
            return TlogProof(index, path, proof.note).encode()

        def short_path(index):
            proof = parse_tlog_proof(true(index))
            return TlogProof(index, proof.path[:-1], proof.note).encode()

        def anothers_place(index):
            return true(index - 1)

        for forged in (spoiled_path, short_path, anothers_place):
            world.audit.proof = forged
            with pytest.raises(CounterfoilError) as caught:
                await client.upgrade_proofs()
            assert caught.value.code is Code.BAD_PROOF
        world.audit.proof = lambda _: "no proof at all"
        with pytest.raises(CounterfoilError) as caught:
            await client.upgrade_proofs()
        assert caught.value.code is Code.MALFORMED
        counted = {"numbers": 3, "receipts": 3, "proofs": 0, "refusals": 0}
        assert client.archive.counts() == counted


async def test_a_log_that_shows_two_roots_of_one_size_is_a_fork(world):
    async with world.node(), world.client() as client:
        await answered(world, client)
        await client.upgrade_proofs(10)
        size = client.archive.latest(1)[0].log_index + 1
        statements = list(world.audit.statements)
        (other,) = await answered(world, client)
        # the log now shows another history of the same length, and its witness signs that too
        world.audit.statements[:] = [*statements[: size - 1], world.audit.statements[-1]]
        world.audit.index[other] = size - 1
        with pytest.raises(CounterfoilError) as caught:
            await client.upgrade_proofs()
        assert caught.value.code is Code.FORK
        assert client.archive.counts()["proofs"] == 1


async def test_what_has_no_proof_yet_is_waited_for(world):
    async with world.node(), world.client() as client:
        await answered(world, client)
        world.audit.witnessing = False
        assert (await client.upgrade_proofs()).missing == 1
        waiting = asyncio.create_task(client.upgrade_proofs(20))
        await asyncio.sleep(0)
        world.audit.witnessing = True
        assert (await waiting).proved == 1
        kept = client.archive.latest(1)[0]
        assert kept.proof
        assert kept.log_index == world.audit.index[kept.receipt_entry]


async def test_a_receipt_that_its_node_keeps_back_is_handed_in_by_the_client(world):
    async with world.node(), world.client() as client:
        world.audit.refusals["receipt"] = Code.BAD_SIGNATURE  # as if the node never delivered
        answer = await client.generate(prompt="hello", max_tokens=3)
        assert (await client.upgrade_proofs()).missing == 1
        assert await client.hand_in_missing(0.0) == 0  # what the log refuses counts as missing
        world.audit.refusals.clear()
        assert await client.hand_in_missing(3600.0) == 0  # not overdue yet
        assert await client.hand_in_missing(0.0) == 1
        assert (
            world.audit.orders[answer.receipt.entry] == client.archive.latest(1)[0].order_statement
        )
        assert (await client.upgrade_proofs(10)).proved == 1
        assert client.archive.latest(1)[0].handed_in


async def test_evidence_that_a_node_withholds_is_deposited_by_the_client(world):
    async with world.node() as node, world.client() as client:
        answer = await client.generate(prompt="hello", max_tokens=3)
        await client.deposit_evidence(answer.receipt.entry)
        (given,) = world.audit.deposits
        stored = node.store.evidence_of(answer.receipt.entry)
        assert given.receipt == answer.receipt.entry
        assert (given.envelope, tuple(given.frames)) == (stored.envelope, stored.frames)
        assert (given.node_nonce, given.final_record) == (stored.node_nonce, stored.final_record)
        for unknown in (bytes(32), client.archive.latest(1)[0].order_entry[::-1]):
            with pytest.raises(CounterfoilError) as caught:
                await client.deposit_evidence(unknown)
            assert caught.value.code is Code.NOT_FOUND


async def test_the_command_says_what_is_missing_and_hands_it_in(world, capsys):
    async with world.node():
        async with world.client() as client:
            world.audit.refusals["receipt"] = Code.BAD_SIGNATURE
            await client.generate(prompt="hello", max_tokens=3)
            assert client.archive.latest(1)[0].state is State.ANSWERED
        world.audit.refusals.clear()
        config = world.folder / "client" / "client.toml"

        async def proofs(*flags):
            flags = ["--config", str(config), "--timeout", "0", *flags]
            return await asyncio.to_thread(run, proofs_command, flags)

        assert await proofs() == 5
        assert "0 of 1 receipts" in capsys.readouterr().out
        assert await proofs("--hand-in-after", "0") == 5
        assert await proofs() == 0
        assert "1 of 1 receipts are in the witnessed log" in capsys.readouterr().out
