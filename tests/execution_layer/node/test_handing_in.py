"""An operator can hand in a receipt's evidence by itself, running or not, and sees how its node stands."""

import asyncio
import json

import pytest

from execution_layer.commands.node import deposit
from execution_layer.commands.node import status as status_command
from shared.envelope.delivered import Delivered, check_final, check_stream
from shared.runtime.cli import run
from shared.statements.cose import read_as
from shared.statements.keys import KeyBundle
from shared.statements.receipts import Receipt


async def hand_in(world, *arguments):
    config = str(world.settings().spool.parent / "node.toml")
    return await asyncio.to_thread(run, deposit, [*arguments, "--config", config, "--json"])


@pytest.mark.parametrize("digits", [64, 12])
async def test_what_is_handed_in_is_what_the_receipt_covers(world, capsys, digits):
    async with world.node() as node, world.client() as client:
        done = await client.generate(prompt="hello", max_tokens=3)
        bundle = read_as(KeyBundle, node.ring.current().statement)
    assert (
        await hand_in(world, done.receipt.entry.hex()[:digits]) == 0
    )  # after the node has stopped
    told = json.loads(capsys.readouterr().out)
    (request,) = world.audit.deposits
    assert told["receipt"] == done.receipt.entry.hex() == request.receipt.hex()
    sent = Delivered(
        request.envelope,
        request.node_nonce,
        tuple(request.frames),
        request.final_record,
        request.final_signature,
    )
    assert told["bytes"] == sent.size
    receipt = read_as(Receipt, done.receipt.statement)
    check_stream(sent, receipt)
    check_final(sent, receipt, bundle.signing_key)


async def test_what_the_node_never_signed_cannot_be_handed_in(world, capsys):
    async with world.node(), world.client() as client:
        await client.generate(prompt="hello", max_tokens=3)
        assert await hand_in(world, "ab" * 32) != 0
        assert "this node signed no receipt" in capsys.readouterr().err
        assert await hand_in(world, "%" * 12) != 0
    assert world.audit.deposits == []


async def test_status_shows_how_the_node_stands(world, capsys):
    async with world.node():
        world.audit.standing = "watched"
        status = ["--config", str(world.settings().spool.parent / "node.toml"), "--json"]
        assert await asyncio.to_thread(run, status_command, status) == 0
        assert json.loads(capsys.readouterr().out)["standing"] == "watched"
