"""After a rotation, whoever holds only the newer keys goes on with everything, and whoever holds an older one with nothing."""

import asyncio
import json
from dataclasses import replace

import pytest

from execution_layer.client import calls
from execution_layer.client.archive import Archive
from execution_layer.client.policy import ClientPolicy
from execution_layer.client.share import share_of, verify_share
from execution_layer.client.verify import export, trust_of, verify_entry
from execution_layer.commands.client_key import key as tenant_command
from execution_layer.commands.operator_key import operator_key as operator_command
from execution_layer.node import identities, registration
from execution_layer.node.identity import request_roll
from shared.runtime.cli import run
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import key_id, load_or_create_ed25519, public_bytes
from shared.statements.cose import parse_statement
from shared.verification.bundle import parse_bundle
from shared.verification.bundle_check import verify_bundle
from shared.verification.share import parse_share
from shared.verification.trust import Role, Trust
from tests.execution_layer.asking import ask, make_request, resume
from tests.execution_layer.client.test_resuming import BROKEN, Heard, cuts, engine
from tests.execution_layer.test_identity_keys import change, end, of_operator, of_tenant
from tests.execution_layer.waiting import until

from shared.statements.identities import Holder  # isort: skip

__all__ = ["cuts"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(registration, "CHECK_S", 0.05)
    monkeypatch.setattr(registration, "PROOF_POLL_S", 0.02)
    monkeypatch.setattr(identities, "AT_MOST_EVERY_S", 0.0)
    monkeypatch.setattr(calls, "FIRST_PAUSE_S", 0.01)


async def call(command, *words):
    assert await asyncio.to_thread(run, command, [str(word) for word in words]) == 0


async def rotate(command, options, capsys):
    """Rotate and end the old key; return both public keys in hex."""
    await call(command, "rotate", *options)
    facts = json.loads(capsys.readouterr().out)
    await call(command, "end", facts["replaces"], *options)
    capsys.readouterr()
    return facts["replaces"], facts["key"]


def forget_earlier_keys(folder):
    """Leave only the current private key, as on a machine that got nothing else."""
    for path in (*folder.glob("tenant-*.pem"), *folder.glob("tenant.keys")):
        path.unlink()


async def test_a_client_with_only_the_newer_key_resumes_and_reads_what_the_older_one_ordered(
    world, cuts, capsys
):
    assert BROKEN.code is Code.UNAVAILABLE
    folder = world.folder / "client"
    async with world.node(engine()):
        async with world.client() as client:
            before = await client.generate(prompt="hello", max_tokens=3)
        cuts.append(4)
        async with world.client(resume_patience_s=0, max_attempts=1) as client:
            with pytest.raises(CounterfoilError):
                await client.generate(**Heard().options)
        old, new = await rotate(tenant_command, of_tenant(world), capsys)
        forget_earlier_keys(folder)
        async with world.client() as client:
            assert public_bytes(client._terms.key).hex() == new
            (open_one,) = client.archive.unfinished()
            assert parse_statement(open_one.order_statement).kid == key_id(bytes.fromhex(old))
            answer = await client.resume(open_one.order_entry.hex())
            assert answer.usage.output == 8
            after = await client.generate(prompt="hello", max_tokens=3)
            assert (await client.upgrade_proofs(20)).missing == 0
    for item in (before, answer, after):
        steps = verify_entry(folder / "client.toml", item.receipt.entry.hex())
        assert [step.title for step in steps if not step.holds] == []


async def test_a_stream_is_resumed_by_any_live_key_of_its_tenant_and_by_no_ended_one(world):
    """Attack: whoever has a tenant's revoked key reads on in, or cuts off, what that key had ordered."""
    second, thief = (load_or_create_ed25519(world.folder / f"{name}.pem") for name in ("2", "x"))

    async def refused(key):
        with pytest.raises(CounterfoilError) as caught:
            await resume(world, node, request, key=key)
        return caught.value.code

    async with world.node() as node:
        request = make_request(world, node)
        first = await ask(world, node, request.order, request.envelope)
        assert await refused(second) is Code.NOT_FOUND
        change(world, Holder.TENANT, "acme", world.tenant_key, second)
        whole = await resume(world, node, request, key=second)  # at once: the node asks the log
        assert len(whole) == len(first)
        assert await resume(world, node, request, key=world.tenant_key) == whole
        end(world, Holder.TENANT, "acme", second, world.tenant_key)
        assert await refused(thief) is Code.NOT_FOUND  # whoever asks, the node has looked by now
        assert await refused(world.tenant_key) is Code.NOT_FOUND
        assert await resume(world, node, request, key=second) == whole


async def test_bundles_and_shares_lead_from_first_keys_to_those_that_signed(world, capsys):
    """A verifier that pins what both parties began with needs nothing else, and is told nothing by a bundle that leaves it out."""
    began = {
        Role.OPERATOR: {"honest": (public_bytes(world.operator()[0].key),)},
        Role.TENANT: {"acme": (public_bytes(world.tenant_key),)},
    }
    async with world.node() as node:
        first = node.ring.current()
        await rotate(operator_command, of_operator(world), capsys)
        request_roll(node._settings.keys)
        await until(lambda: node.ring.current() is not first)
        world.policy()
        await rotate(tenant_command, of_tenant(world), capsys)
        async with world.client() as client:
            answer = await client.generate(prompt="a secret prompt", max_tokens=3)
            assert (await client.upgrade_proofs(20)).missing == 0
    policy = ClientPolicy.load(world.folder / "client" / "client.toml")
    archive = Archive(policy.archive)
    try:
        kept = archive.by_entry(answer.receipt.entry)
        bundle, share = export(archive, kept, policy), share_of(archive, kept, policy)
    finally:
        archive.close()
    theirs = Trust(policy.log.policy(), began)
    assert len(bundle.identities) == 4
    assert parse_bundle(bundle.encode().encode()) == bundle
    report = verify_bundle(bundle, theirs)
    assert report.verified, report.as_text()
    opened = verify_share(parse_share(share.encode()), theirs)
    assert opened.report.verified, opened.report.as_text()
    assert opened.shown["prompt"] == "a secret prompt"
    assert not verify_bundle(replace(bundle, identities=()), theirs).verified
    assert verify_bundle(bundle, trust_of(policy)).verified
