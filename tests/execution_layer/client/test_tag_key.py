"""The tag key's file: private, made once, never replaced, and refused unless it is one."""

import asyncio
import os
import stat
import sys

import pytest

from execution_layer.client.policy import ClientPolicy
from execution_layer.client.setup import write_client
from execution_layer.client.tag_key import (
    Tagger,
    import_tag_key,
    load_or_create_tag_key,
    tag_key_file,
)
from shared.runtime.config import to_toml
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import open_as
from shared.statements.orders import Order
from shared.statements.tag_key_file import load_tag_key
from tests.execution_layer.client.test_policy import facts

TAGS = {"team": "search"}


@pytest.fixture
def policy(tmp_path):
    return ClientPolicy.load(write_client(tmp_path / "c", "acme", facts(tmp_path))["config"])


def written(path, data):
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def refused(call, *arguments, code=Code.CONFIGURATION):
    with pytest.raises(CounterfoilError) as caught:
        call(*arguments)
    assert caught.value.code is code
    return caught.value.detail


def test_it_is_made_at_the_first_tag_beside_the_identity_key_and_private(policy):
    file = policy.tenant_key_file.with_name("tags.key")
    tagger = Tagger(policy)
    assert tagger.blinded(None) is None
    assert not file.exists()
    first = tagger.blinded(TAGS)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert Tagger(policy).blinded(TAGS) == tagger.blinded(TAGS) == first
    assert first == load_tag_key(file).blind("acme", TAGS)


def test_keys_of_two_clients_differ_until_one_is_imported(tmp_path, policy):
    other = ClientPolicy.load(write_client(tmp_path / "d", "acme", facts(tmp_path))["config"])
    mine, theirs = Tagger(policy).blinded(TAGS), Tagger(other).blinded(TAGS)
    assert mine != theirs
    tag_key_file(other).unlink()
    import_tag_key(other, tag_key_file(policy))
    assert stat.S_IMODE(tag_key_file(other).stat().st_mode) == 0o600
    assert Tagger(other).blinded(TAGS) == mine


def test_an_import_never_replaces_another_key(tmp_path, policy):
    key = load_or_create_tag_key(policy)
    assert import_tag_key(policy, tag_key_file(policy)) == key
    source = written(tmp_path / "other.key", b"ab" * 32)
    assert str(tag_key_file(policy)) in refused(import_tag_key, policy, source, code=Code.CONFLICT)
    assert load_or_create_tag_key(policy) == key


def test_a_file_that_the_policy_names_is_read_and_never_made(tmp_path, policy):
    named = policy.model_copy(update={"tag_key_file": tmp_path / "shared.key"})
    assert "shared.key" in refused(load_or_create_tag_key, named)
    assert not (tmp_path / "shared.key").exists()
    written(tmp_path / "shared.key", b"ab" * 32 + b"\n")
    assert load_or_create_tag_key(named).raw == b"\xab" * 32
    config = written(tmp_path / "client.toml", to_toml(named).encode())
    assert ClientPolicy.load(config).tag_key_file == tmp_path / "shared.key"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"ab" * 31,
        b"ab" * 33,
        b"AB" * 32,
        b"ab" * 32 + b"\n\n",
        b"ab" * 32 + b"\r\n",
        b" " + b"ab" * 32,
        b"\xff" * 64,
        b"\0" * 64,
        b"ab" * 2**20,
    ],
    ids=lambda data: f"{data[:3]!r} x {len(data)}",
)
def test_what_is_not_a_key_is_refused_and_not_shown(tmp_path, data):
    detail = refused(load_tag_key, written(tmp_path / "tags.key", data))
    assert "is not a tag key" in detail
    assert "abab" not in detail


def test_a_key_that_others_can_read_is_refused(tmp_path, policy):
    source = written(tmp_path / "other.key", b"ab" * 32)
    source.chmod(0o644)
    assert "open to other users" in refused(import_tag_key, policy, source)
    assert not tag_key_file(policy).exists()


def test_nothing_that_hangs_or_is_missing_is_read(tmp_path):
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name in ("fifo", "nowhere", "."):
        refused(load_tag_key, tmp_path / name)


def test_a_key_that_cannot_be_written_is_named(policy):
    gone = policy.model_copy(update={"tenant_key_file": policy.tenant_key_file / "tenant.pem"})
    assert "tags.key cannot be written" in refused(import_tag_key, gone, written(
        policy.tenant_key_file.with_name("other.key"), b"ab" * 32
    ))  # fmt: skip


async def blinding_process(config):
    program = (
        "import sys\n"
        "from execution_layer.client.policy import ClientPolicy\n"
        "from execution_layer.client.tag_key import Tagger\n"
        f"print(Tagger(ClientPolicy.load(sys.argv[1])).blinded({TAGS!r}).hex())"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, str(config)), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    return out.strip()


async def test_processes_that_begin_at_once_make_one_key(tmp_path, policy):
    values = await asyncio.gather(*(blinding_process(tmp_path / "c" / "client.toml") for _ in "ab"))
    assert values[0] == values[1]
    assert len(values[0]) == 64


async def infer(config, *arguments):
    words = ("infer", "--config", str(config), "--max-tokens", "2", *arguments, "hello")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shared.runtime", *words), stdout=asyncio.subprocess.DEVNULL
    )
    assert await asyncio.wait_for(process.wait(), 60) == 0


async def test_equal_tags_of_two_client_processes_join_in_their_orders(world):
    async with world.node():
        config = world.policy().tenant_key_file.with_name("client.toml")
        await infer(config, "--tag", "team=search", "--cost-centre", "x")
        await infer(config, "--tag", "cost_centre=x", "--tag", "team=search")
        await infer(config, "--tag", "team=sales")
        await infer(config)
        async with world.client() as client:
            orders = [
                open_as(Order, item.order_statement, None)[0]
                for item in reversed(client.archive.latest(10))
            ]
    first, again, other, untagged = [order.cost_centre for order in orders]
    key = load_tag_key(config.with_name("tags.key"))
    assert first == again == key.blind("acme", {"team": "search", "cost_centre": "x"})
    assert other == key.blind("acme", {"team": "sales"}) != first
    assert untagged is None
