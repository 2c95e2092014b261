"""Operators' and tenants' keys rotate while everything runs; every step of a rotation can be killed; nothing is disowned."""

import asyncio
import json
from dataclasses import replace

import pytest

from execution_layer.client import directory
from execution_layer.client.verify import export, verify_transcript
from execution_layer.commands.client_key import key as tenant_command
from execution_layer.commands.node import status
from execution_layer.commands.operator_key import operator_key as operator_command
from execution_layer.node import identities, registration
from execution_layer.node.identity import request_roll
from execution_layer.node.tenants import Tenants
from shared.codec.moment import now_ms
from shared.parties.identity_book import IdentityBook
from shared.runtime import faults
from shared.runtime.cli import run
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import key_id, load_ed25519, load_or_create_ed25519, public_bytes
from shared.statements.cose import parse_statement, sign
from shared.statements.identities import Holder, IdentityKey, IdentityKeyEnd, sign_identity_key
from shared.translog.policy import LogPolicy
from shared.verification.bundle_check import verify_bundle
from tests.execution_layer.asking import ask, make_request
from tests.execution_layer.waiting import until


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(registration, "CHECK_S", 0.05)
    monkeypatch.setattr(registration, "PROOF_POLL_S", 0.02)
    monkeypatch.setattr(identities, "AT_MOST_EVERY_S", 0.0)
    monkeypatch.setattr(identities, "EVERY_S", 0.05)
    monkeypatch.setattr(directory, "FRESH_S", 0.0)


async def call(command, *words):
    return await asyncio.to_thread(run, command, [str(word) for word in words])


def of_operator(world):
    return (
        *("--operator-folder", world.folder / "honest", "--audit-target", world.audit_target),
        *("--audit-ca", world.ca.ca_file, "--json"),
    )


def of_tenant(world):
    return ("--config", world.folder / "client" / "client.toml", "--json")


def change(world, holder, name, by, new):
    world.audit.append(sign_identity_key(holder, name, new=new, by=by, now_ms=now_ms()))


def end(world, holder, name, by, key):
    value = IdentityKeyEnd(holder, name, public_bytes(key), now_ms(), "stolen")
    world.audit.append(sign(value, key=by, issuer=name))


async def refusal(world, node, key):
    request = make_request(world, node, key=key)
    with pytest.raises(CounterfoilError) as caught:
        await ask(world, node, request.order, request.envelope)
    return caught.value.code


async def test_a_tenants_key_rotates_by_command_and_no_order_fails(world, capsys):
    file = world.folder / "client" / "tenant.pem"
    async with world.node() as node:
        async with world.client() as running:
            before = await running.generate(prompt="hello", max_tokens=3)
            assert await call(tenant_command, "rotate", *of_tenant(world)) == 0
            facts = json.loads(capsys.readouterr().out)
            assert facts["replaces"] == public_bytes(world.tenant_key).hex()
            assert facts["key"] == public_bytes(load_ed25519(file)).hex()
            assert (await running.generate(prompt="hello", max_tokens=3)).text  # with the old key
        async with world.client() as started:
            after = await started.generate(prompt="hello", max_tokens=3)
            orders = [started.archive.by_entry(item.receipt.entry) for item in (before, after)]
            kids = [parse_statement(item.order_statement).kid.hex() for item in orders]
            assert kids == [
                key_id(bytes.fromhex(facts[name])).hex() for name in ("replaces", "key")
            ]
            assert await call(tenant_command, "end", facts["replaces"], *of_tenant(world)) == 0
            capsys.readouterr()
            for (
                transcript
            ) in orders:  # the end disowns nothing: what was ordered is still checked as its own
                await started.upgrade_proofs(10)
                kept = started.archive.by_entry(transcript.receipt_entry)
                steps = verify_transcript(started.archive, kept, started._policy)
                assert [step.title for step in steps if not step.holds] == []
            assert (await started.generate(prompt="hello", max_tokens=3)).text
        await until(lambda: not node._tenants.has_key("acme", key_id(world.tenant_key)))
        assert await refusal(world, node, world.tenant_key) is Code.UNTRUSTED_KEY
        assert await call(tenant_command, "list", *of_tenant(world)) == 0
        keys = json.loads(capsys.readouterr().out)["keys"]
        assert [(row["state"], row["here"]) for row in keys] == [
            ("ended", "earlier"),
            ("live", "current"),
        ]
    assert not list(file.parent.glob("tenant-*.pem"))  # the private half of an ended key is gone


async def test_an_operators_key_rotates_by_command_and_nodes_and_clients_follow(world, capsys):
    async with world.node() as node, world.client() as client:
        first = node.ring.current()
        assert (await client.generate(prompt="hello", max_tokens=3)).text
        assert await call(operator_command, "rotate", *of_operator(world)) == 0
        facts = json.loads(capsys.readouterr().out)
        request_roll(node._settings.keys)
        await until(lambda: node.ring.current() is not first)
        second = node.ring.current()
        assert (
            parse_statement(second.statement).kid.hex() == key_id(bytes.fromhex(facts["key"])).hex()
        )
        answer = await client.generate(
            prompt="hello", max_tokens=3
        )  # its policy pins the first key
        assert answer.receipt.value.bundle == second.entry
        old = make_request(world, node, bundle=first.entry, hpke_key=first.hpke.public_bytes)
        assert await call(operator_command, "end", facts["replaces"], *of_operator(world)) == 0
        assert await ask(world, node, old.order, old.envelope)  # under a bundle of the ended key
        capsys.readouterr()
        config = ["--config", str(node._settings.spool.parent / "node.toml"), "--json"]
        assert await asyncio.to_thread(run, status, config) == 0
    async with world.node() as again:  # with rate card and bundles that the first key signed
        assert {first.entry, second.entry} <= set(again.ring._bundles)
    async with world.node(), world.client() as fresh:
        answer = await fresh.generate(prompt="hello", max_tokens=3)
        await fresh.upgrade_proofs(10)
        bundle = export(fresh.archive, fresh.archive.by_entry(answer.receipt.entry), fresh._policy)
        assert verify_bundle(bundle, trust(fresh)).verified


def trust(client):
    from execution_layer.client.verify import trust_of

    return trust_of(client._policy)


async def test_a_client_uses_no_bundle_that_a_key_signed_before_it_was_added_or_after_its_end(
    world,
):
    """Attack: a thief of an operator's old key registers a key bundle of its own, in a log that takes it in."""
    operator = world.operator()[0].key
    second, thief = (load_or_create_ed25519(world.folder / f"{name}.pem") for name in ("2", "x"))
    async with world.node() as node, world.client() as client:
        bundle = node.ring.current()
        early = sign(bundle.bundle, key=second, issuer="honest")
        world.audit.append(early)
        change(world, Holder.OPERATOR, "honest", operator, second)
        end(world, Holder.OPERATOR, "honest", second, operator)
        late = sign(bundle.bundle, key=operator, issuer="honest")  # the same bytes: in time
        assert late == bundle.statement
        forged = world.settings("forged")
        facts = replace(node.registration._facts, endpoint="127.0.0.1:9")
        other = type(node)(forged, node._model, None)
        late = other.ring.renew(facts, now_ms()).statement
        other.close()
        world.audit.append(late)
        change(world, Holder.OPERATOR, "honest", operator, thief)  # ended: it adds nothing
        stolen = sign(bundle.bundle, key=thief, issuer="honest")
        world.audit.append(stolen)
        nodes = await client.nodes()
        assert [found.entry for found in nodes] == [bundle.entry]
        refused = "; ".join(client._directory.refused)
        assert "is added only later" in refused
        assert "ended: stolen" in refused
        assert "not signed with the key that is trusted" in refused
        world.audit.hides_identities = True  # what was seen once is remembered
        assert [found.entry for found in await client.nodes()] == [bundle.entry]
    world.audit.away = True


@pytest.mark.parametrize("holder", ["tenant", "operator"])
@pytest.mark.parametrize("point", ["key-made", "signed", "logged", "kept", "switched"])
async def test_a_rotation_that_is_killed_anywhere_is_carried_on_and_no_key_is_lost(
    world, capsys, monkeypatch, holder, point
):
    if holder == "tenant":
        world.policy()
        command, words, folder = tenant_command, of_tenant(world), world.folder / "client"
    else:
        world.operator()
        command, words, folder = operator_command, of_operator(world), world.folder / "honest"
    file = folder / f"{holder}.pem"
    old = public_bytes(load_ed25519(file))
    faults._reached.clear()
    monkeypatch.setenv(faults.VARIABLE, f"rotation.{point}:raise")
    assert await call(command, "rotate", *words) != 0
    capsys.readouterr()
    monkeypatch.delenv(faults.VARIABLE)
    held = {public_bytes(load_ed25519(path)) for path in folder.glob(f"{holder}*.pem")}
    logged = [parse_statement(raw) for raw in world.audit.statements]
    added = {item.read(IdentityKey).key for item in logged if item.type == IdentityKey.TYPE}
    assert {old} | added <= held  # whatever the log believes, its private half is here
    assert await call(command, "rotate", *words) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["replaces"] == old.hex()
    assert facts["key"] == public_bytes(load_ed25519(file)).hex() != old.hex()
    logged = [parse_statement(raw) for raw in world.audit.statements]
    added = [item.read(IdentityKey).key for item in logged if item.type == IdentityKey.TYPE]
    assert added == [bytes.fromhex(facts["key"])]  # one rotation, not two
    assert {path.name for path in folder.glob(f"{holder}*.pem")} == {
        f"{holder}.pem",
        f"{holder}-{key_id(old).hex()[:16]}.pem",
    }


async def test_the_key_in_use_is_not_ended_and_a_refusal_by_the_log_changes_no_file(world, capsys):
    world.policy()
    own = public_bytes(world.tenant_key)
    assert await call(tenant_command, "end", own.hex(), *of_tenant(world)) != 0
    assert "Run `rotate` first" in capsys.readouterr().err
    world.audit.refusals["identity-key"] = Code.UNTRUSTED_KEY
    assert await call(tenant_command, "rotate", *of_tenant(world)) != 0
    assert "refused by the test" in capsys.readouterr().err
    assert public_bytes(load_ed25519(world.folder / "client" / "tenant.pem")) == own


async def test_a_node_takes_orders_of_no_key_that_its_tenant_has_not_got_by_the_log(world):
    second, thief = (load_or_create_ed25519(world.folder / f"{name}.pem") for name in ("2", "x"))
    async with world.node() as node:
        assert await refusal(world, node, second) is Code.UNTRUSTED_KEY
        change(world, Holder.TENANT, "acme", world.tenant_key, second)
        taken = make_request(world, node, key=second)
        assert await ask(world, node, taken.order, taken.envelope)  # at once: it asks the log
        change(world, Holder.TENANT, "acme", thief, thief)
        change(world, Holder.TENANT, "bolt", world.tenant_key, thief)
        assert await refusal(world, node, thief) is Code.UNTRUSTED_KEY
        end(world, Holder.TENANT, "acme", second, world.tenant_key)
        await until(lambda: not node._tenants.has_key("acme", key_id(world.tenant_key)))
        assert await refusal(world, node, world.tenant_key) is Code.UNTRUSTED_KEY
        change(world, Holder.TENANT, "acme", world.tenant_key, thief)
        assert await refusal(world, node, thief) is Code.UNTRUSTED_KEY
    world.audit.away = True
    async with world.node(wait=False) as node:  # it remembers, without the audit server too
        assert await refusal(world, node, world.tenant_key) is Code.UNTRUSTED_KEY
        taken = make_request(world, node, key=second)
        assert await ask(world, node, taken.order, taken.envelope)


async def test_a_node_believes_nothing_about_keys_that_no_quorum_has_witnessed(world, tmp_path):
    second = load_or_create_ed25519(world.folder / "2.pem")
    change(world, Holder.TENANT, "acme", world.tenant_key, second)
    (shown,) = world.audit._identities(lambda _: True)
    log = LogPolicy.from_vkeys(
        logs=world.audit.log_keys, witnesses=world.audit.witnesses, threshold=1
    )
    book = IdentityBook(tmp_path / "book.json", log)
    other = type(world.audit)()
    other.append(shown.statement)
    (foreign,) = other._identities(lambda _: True)
    for statement, proof in (
        (shown.statement, ""),
        (shown.statement, foreign.tlog_proof),
        (shown.statement[:-1], shown.tlog_proof),
        (b"junk", "junk"),
        (world.operator()[1].read_bytes(), shown.tlog_proof),
    ):
        assert not book.learn([(statement, proof)])
    tenants = Tenants(world.tenants_file, book)
    assert tenants.key_of("acme", key_id(second)) == public_bytes(world.tenant_key)
    assert book.learn([(shown.statement, shown.tlog_proof)])
    assert tenants.key_of("acme", key_id(second)) == public_bytes(second)
    again = IdentityBook(tmp_path / "book.json", log)
    assert not again.learn([(shown.statement, shown.tlog_proof)])
    assert Tenants(world.tenants_file, again).has_key("acme", key_id(second))
    (tmp_path / "book.json").write_text("[]")
    with pytest.raises(CounterfoilError) as caught:
        IdentityBook(tmp_path / "book.json", log)
    assert caught.value.code is Code.CORRUPT
