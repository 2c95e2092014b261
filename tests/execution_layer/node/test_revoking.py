"""Revoking: signed by the operator's identity key, in the log, and honoured by clients from then on."""

import asyncio
import json

import pytest

from execution_layer.commands.node import status as status_command
from execution_layer.commands.node_keys import revoke as command
from shared.runtime.cli import run
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import public_bytes
from shared.statements.cose import open_as, sign
from shared.statements.keys import Revocation


async def revoke(world, bundle, *more):
    arguments = [
        bundle,
        *("--operator-folder", world.folder / "honest", "--reason", "key lost", "--json"),
        *("--audit-target", world.audit_target, "--audit-ca", world.ca.ca_file, *more),
    ]
    return await asyncio.to_thread(run, command, [str(item) for item in arguments])


async def test_the_command_revokes_a_bundle_and_clients_seal_nothing_for_it_any_more(world, capsys):
    async with world.node() as node, world.client() as client:
        bundle = node.ring.current().entry
        await client.generate(prompt="hello", max_tokens=3)
        assert await revoke(world, bundle.hex()) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["bundle"] == bundle.hex()
        raw = world.audit.statements[facts["log_index"]]
        value, statement = open_as(Revocation, raw, public_bytes(world.operator()[0].key))
        assert (value.bundle, value.reason) == (bundle, "key lost")
        assert statement.entry.hex() == facts["revocation"]
        client._directory._known.clear()
        with pytest.raises(CounterfoilError, match="is revoked"):
            await client.generate(prompt="hello", max_tokens=3)


async def test_status_tells_the_operator_that_the_bundle_is_revoked(world, capsys):
    async with world.node() as node:
        status = ["--config", str(world.settings().spool.parent / "node.toml"), "--json"]

        async def told():
            assert await asyncio.to_thread(run, status_command, status) == 0
            return json.loads(capsys.readouterr().out)

        foreign = Revocation(bundle=node.ring.current().entry, reason="of another", at=1)
        world.audit.append(sign(foreign, key=world.operator("other")[0].key, issuer="honest"))
        assert "bundle_revoked_from" not in await told()
        await revoke(world, node.ring.current().entry.hex())
        facts = json.loads(capsys.readouterr().out)
        assert (await told())["bundle_revoked_from"] == facts["revoked_from"]


async def test_a_refusal_by_the_log_is_reported(world, capsys):
    async with world.node():
        world.audit.refusals["revocation"] = Code.NOT_FOUND
        assert await revoke(world, "ab" * 32) != 0
        assert "refused by the test" in capsys.readouterr().err
