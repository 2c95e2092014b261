"""`kill -9` of a node at any point: what it accepted has a receipt afterwards, and what it said remains true."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from dataclasses import dataclass

import pytest

from execution_layer.client.archive import State
from execution_layer.node import delivery
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.faults import VARIABLE
from shared.statements.receipts import Finish, Receipt
from tests.execution_layer.asking import ask
from tests.execution_layer.waiting import until

TOKENS = 6


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(delivery, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(delivery, "LONGEST_PAUSE_S", 0.1)


@contextlib.asynccontextmanager
async def node_process(world, *words, fault=""):
    """Start a node's process, wait until it serves, and yield it; it is gone afterwards."""
    ready = world.folder / "ready.json"
    ready.unlink(missing_ok=True)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *words, str(ready)), env={**os.environ, VARIABLE: fault}
    )
    try:
        await until(lambda: ready.exists() or process.returncode is not None, 60)
        assert process.returncode is None, "the node did not start"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def receipts(world):
    return [Receipt.from_payload(item.payload) for item in world.audit.receipts()]


async def asked(client):
    """Ask; return the answer, or the error."""
    try:
        return await client.generate(prompt="hello", max_tokens=TOKENS)
    except CounterfoilError as error:
        return error


async def settled(world, node, count):
    """Wait until nothing is left to deliver and the log has `count` receipts; return them."""
    await world.audit.wait_for_receipts(count)
    await until(lambda: node.spool.counts().delivered == count)
    found = receipts(world)
    assert [receipt.node_sequence for receipt in found] == list(range(count))
    entries = [bytes(32), *(item.entry for item in world.audit.receipts())]
    assert [receipt.previous for receipt in found] == entries[:-1]
    assert len({receipt.order for receipt in found}) == count
    return found


@dataclass
class At:
    """The address of a node that runs elsewhere."""

    address: str


async def command(name, config):
    """Run `counterfoil node NAME --json` off the world's event loop; return what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shared.runtime", "node", name, "--config", str(config), "--json"),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    return json.loads(out)


async def refused_as_replayed(world, node, transcript):
    with pytest.raises(CounterfoilError) as caught:
        await ask(world, node, transcript.order_statement, transcript.envelope)
    return caught.value.code is Code.REPLAYED


@pytest.mark.parametrize(
    ("fault", "state", "frames"),
    [
        ("node.accepted:kill:2", State.REFUSED, 0),
        # the first request has TOKENS frames; the second dies between storing its third and sending it
        (f"node.frame.stored:kill:{TOKENS + 3}", State.BROKEN, 3),
        ("node.receipt.stored:kill:2", State.BROKEN, TOKENS),
    ],
)
async def test_kill_9_before_the_answer_was_out_lets_what_was_accepted_go_on_to_one_receipt(
    world, fault, state, frames
):
    config = world.settings().spool.parent / "node.toml"
    words = ("tests.execution_layer.node.crash_child", str(config))
    async with world.client(max_attempts=1, resume_patience_s=0) as client:
        async with node_process(world, *words, fault=fault) as process:
            whole = await client.generate(prompt="hello", max_tokens=TOKENS)
            await world.audit.wait_for_receipts(1)
            error = await asked(client)
            assert await asyncio.wait_for(process.wait(), 20) == -signal.SIGKILL
        assert error.code is Code.UNAVAILABLE
        cut, first = client.archive.latest(2)
        assert (cut.state, first.state) == (state, State.ANSWERED)
        async with world.node() as node:
            _, owed = await settled(world, node, 2)
            assert owed.order == cut.order_entry
            assert (owed.finish, owed.usage.output) == (Finish.LENGTH, TOKENS)
            stored = node.store.evidence_of(world.audit.receipts()[1].entry)
            assert stored.final_record
            assert cut.frames == stored.frames[: len(cut.frames)]
            assert len(cut.frames) >= frames - 1
            if cut.node_nonce is not None:
                assert cut.node_nonce == owed.node_nonce
            for transcript in (cut, first):
                assert await refused_as_replayed(world, node, transcript)
            async with world.client() as restarted:  # it finds the node's new address
                again = await restarted.generate(prompt="hello", max_tokens=TOKENS)
            assert again.receipt.value.node_sequence == 2
            assert whole.receipt.value == receipts(world)[0]
            await settled(world, node, 3)


async def test_a_node_that_is_asked_to_stop_goes_on_with_its_answer_after_the_restart(world):
    config = world.settings(grace_s=0).spool.parent / "node.toml"
    words = ("tests.execution_layer.node.crash_child", str(config))
    heard = []
    async with world.client(max_attempts=1, resume_patience_s=60) as client:
        async with node_process(world, *words, "3") as process:
            asking = asyncio.create_task(
                client.generate(prompt="hello", max_tokens=TOKENS, on_text=heard.append)
            )
            await until(lambda: len(heard) == 3)
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 30) == 0
        assert receipts(world) == []
        async with node_process(world, *words):
            answer = await asyncio.wait_for(asking, 60)
            await world.audit.wait_for_receipts(1)
    assert "".join(heard) == answer.text
    assert (answer.number, answer.attempt) == (0, 0)
    (receipt,) = receipts(world)
    assert (receipt.finish, receipt.usage.output) == (Finish.LENGTH, TOKENS)


async def test_kill_9_between_delivery_and_its_acknowledgement_delivers_again_and_is_logged_once(
    world,
):
    config = world.settings().spool.parent / "node.toml"
    words = ("tests.execution_layer.node.crash_child", str(config))
    async with world.client(max_attempts=1) as client:
        fault = "node.delivery.answered:kill"
        async with node_process(world, *words, fault=fault) as process:
            await client.nodes()
            world.audit.away = True
            answers = [await asked(client) for _ in range(3)]
            world.audit.away = False
            assert await asyncio.wait_for(process.wait(), 20) == -signal.SIGKILL
        before = world.audit.submissions
        assert len(receipts(world)) == 3
        async with world.node() as node:
            found = await settled(world, node, 3)
            assert world.audit.submissions >= before + 3  # submitted again, recognised as the same
            assert [answer.receipt.value for answer in answers] == found


async def test_kill_9_of_a_real_node_after_an_acknowledged_receipt_delivers_it_and_refuses_the_replay(
    world, tmp_path
):
    from shared.model.root import model_root
    from tests.shared.model import tiny

    model = tiny.write_folder(tmp_path / "model")
    root = model_root(model)
    config = world.settings(model=(model, root)).spool.parent / "node.toml"
    words = ("shared.runtime", "node", "serve", "--config", str(config), "--ready-file")
    policy = {"model_root": root, "max_attempts": 1}
    async with world.client(**policy) as client:
        async with node_process(world, *words) as process:
            await until(lambda: len(world.audit.statements) == 2, 30)  # rate card and key bundle
            await client.nodes()
            world.audit.away = True
            answer = await client.generate(prompt="the engine", max_tokens=TOKENS)
            process.kill()
            assert await process.wait() == -signal.SIGKILL
        assert receipts(world) == []
        world.audit.away = False
        async with node_process(world, *words) as process:
            await world.audit.wait_for_receipts(1, 30)
            assert receipts(world) == [answer.receipt.value]
            assert (await client.upgrade_proofs(10)).missing == 0
            (kept,) = client.archive.latest(1)
            (node,) = await client._directory.nodes(root, since=time.monotonic())

            assert await refused_as_replayed(world, At(node.bundle.endpoint), kept)

            status = await command("status", config)
            assert (status["pid"], status["answers"], status["delivered"]) == (process.pid, True, 1)
            assert (await command("drain", config))["drained"] is True
            with pytest.raises(CounterfoilError) as caught:
                await client.generate(prompt="the engine", max_tokens=TOKENS)
            assert caught.value.code is Code.DRAINING
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 30) == 0
        assert len(receipts(world)) == 1
