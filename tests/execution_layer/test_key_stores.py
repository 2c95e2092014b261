"""Node and client with their keys under a passphrase, or with a plug-in: everything goes on as with plain files."""

import asyncio
import json

import pytest

from execution_layer.client.client import AsyncCounterfoilClient
from execution_layer.commands.client_key import key as tenant_command
from execution_layer.commands.node import node as node_command
from execution_layer.commands.operator_key import operator_key as operator_command
from shared.runtime import age, held_keys, key_store
from shared.runtime.cli import run
from shared.runtime.config import to_toml
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.key_store import KeyStoreSettings, open_store
from shared.runtime.keys import load_ed25519, public_bytes, write_private
from shared.runtime.protecting import kind_of, protect
from tests.shared.runtime.key_holder import KIND, DoubleOfAHolder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(age, "WORK", 4)


@pytest.fixture
def under(tmp_path):
    """A key store under a passphrase."""
    path = tmp_path / "passphrase"
    write_private(path, b"correct horse\n")
    return KeyStoreSettings(kind="passphrase", passphrase_from=f"file:{path}")


def kinds(folder, *patterns):
    return {kind_of(path.read_bytes()) for name in patterns for path in folder.rglob(name)}


async def call(command, *words):
    return await asyncio.to_thread(run, command, [str(word) for word in words])


async def test_keys_get_a_passphrase_between_two_runs_and_rotate_under_it(world, under, capsys):
    async with world.node() as node, world.client() as client:
        assert (await client.generate(prompt="hello", max_tokens=3)).text
        first = node.ring.newest().entry
    policy = world.policy()
    own = [policy.tenant_key_file, *(world.folder / "node-1" / "keys").glob("*.*")]
    for path in own:
        if path.suffix in {".pem", ".hpke", ".key"}:
            protect(path, b"correct horse")
    with pytest.raises(CounterfoilError) as caught:
        AsyncCounterfoilClient(policy)
    assert caught.value.code is Code.CONFIGURATION
    assert "counterfoil key unprotect" in caught.value.remedy
    policy = policy.model_copy(update={"key_store": under})
    config = world.folder / "client" / "client.toml"
    write_private(config, to_toml(policy).encode())
    async with world.node(key_store=under) as node, AsyncCounterfoilClient(policy) as client:
        assert first in node.ring._bundles  # its HPKE key was opened
        assert (await client.generate(prompt="hello", max_tokens=3)).text
        assert await call(tenant_command, "rotate", "--config", config, "--json") == 0
        facts = json.loads(capsys.readouterr().out)
        assert await call(tenant_command, "end", facts["replaces"], "--config", config) == 0
    async with world.node(key_store=under), AsyncCounterfoilClient(policy) as client:
        assert (await client.generate(prompt="hello", max_tokens=3)).text
    assert kinds(world.folder / "node-1" / "keys", "*.pem", "*.hpke", "*.key") == {"passphrase"}
    assert kinds(world.folder / "client", "tenant*.pem") == {"passphrase"}


async def test_an_operator_whose_key_a_plug_in_holds_signs_rotates_and_ends_keys(
    world, monkeypatch, capsys
):
    holder = DoubleOfAHolder()
    for module in (held_keys, key_store):
        monkeypatch.setattr(module, "installed", lambda: {KIND: lambda: holder})
    folder = world.folder / "honest"
    words = ("operator-init", "--folder", folder, "--operator", "honest", "--json")
    assert await call(node_command, *words, "--key-store", KIND, "--key-store-option", "prefix=a-") == 0  # fmt: skip
    capsys.readouterr()
    held = KeyStoreSettings(kind=KIND, options={"prefix": "a-"})
    async with world.node(operator_key_store=held), world.client() as client:
        assert (await client.generate(prompt="hello", max_tokens=3)).text
        place = (
            *("--operator-folder", folder, "--audit-target", world.audit_target),
            *("--audit-ca", world.ca.ca_file, "--json"),
        )
        assert await call(operator_command, "rotate", *place) == 0
        facts = json.loads(capsys.readouterr().out)
        own = load_ed25519(folder / "operator.pem", open_store(held))
        assert public_bytes(own).hex() == facts["key"] != facts["replaces"]
        assert await call(operator_command, "end", facts["replaces"], *place) == 0
    assert len(holder.keys) == 2
    assert kinds(folder, "operator*.pem") == {KIND}
    holder.failing = ConnectionError("the device is gone")
    with pytest.raises(CounterfoilError) as caught:
        world.settings(operator_key_store=held)
    assert "does not start" in caught.value.detail
