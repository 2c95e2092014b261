"""A client goes on without the audit server: with what it kept, and with mirrors that it believes in nothing."""

import asyncio
import contextlib
import json
import time

import pytest

from execution_layer.client import directory
from execution_layer.client.operators import Operators
from execution_layer.client.views import VIEW, encode_evidence, encode_view, facts
from shared.codec.moment import now_ms
from shared.runtime import fetching
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import sign
from shared.statements.keys import Revocation
from shared.statements.orders import Order
from shared.translog.tlog_proof import parse_tlog_proof
from tests.execution_layer.fakes import ORIGIN
from tests.execution_layer.mirrors import FakeMirror, endless, slow

PROMPT = "hello"


async def refused(client, **wanted):
    with pytest.raises(CounterfoilError) as caught:
        await client.generate(**{"prompt": PROMPT, "max_tokens": 3, **wanted})
    return caught.value


async def answered(client):
    return (await client.generate(prompt=PROMPT, max_tokens=3)).text


def revoke(world, bundle):
    """Put the operator's revocation of a key bundle into the log."""
    value = Revocation(bundle=bundle, reason="key lost", at=now_ms() - 1000)
    world.audit.append(sign(value, key=world.operator("honest")[0].key, issuer="honest"))


def fill(world, count):
    """Put orders into the log, which no directory lists."""
    for number in range(count):
        order = Order(
            "acme",
            number,
            0,
            *(bytes(32),) * 4,
            created=1,
            expiry=2,
            max_output_tokens=1,
            rate_card=bytes(32),
        )
        world.audit.append(sign(order, key=world.tenant_key, issuer="acme"))


@contextlib.asynccontextmanager
async def mirrored(world, count=1, **options):
    """Run mirrors that have copied the log; yield them and the client facts that name them."""
    async with contextlib.AsyncExitStack() as stack:
        mirrors, urls = [], []
        for number in range(count):
            mirror = FakeMirror()
            mirror.copy(world.audit, **options)
            mirrors.append(mirror)
            urls.append(await stack.enter_async_context(mirror.serving(world, f"m{number}")))
        yield mirrors, {"mirrors": urls}


def forget(client):
    """Have the next request read the directory."""
    client._directory._known.clear()


# -- without the audit server --------------------------------------------------------------------------------------


async def test_a_client_that_has_met_a_node_goes_on_without_the_audit_server_after_a_restart(world):
    async with world.node():
        async with world.client() as client:
            await client.nodes()
        world.audit.away = True
        async with world.client() as restarted:
            assert await answered(restarted)
            (node,) = await restarted.nodes()
            assert node.source == directory.KEPT


async def test_a_kept_listing_ends_at_the_age_that_the_policy_sets(world, monkeypatch):
    async with world.node():
        async with world.client() as client:
            await client.nodes()
        world.audit.away = True
        async with world.client(max_listing_age_s=0) as client:
            monkeypatch.setattr(time, "time", lambda real=time.time: real() + 2)
            error = await refused(client)
            assert error.code is Code.UNAVAILABLE
            assert "the policy accepts 0 s" in error.detail
        async with world.client(max_listing_age_s=60) as client:
            assert await answered(client)


async def test_a_kept_key_bundle_ends_with_its_life_and_with_a_known_revocation(world, monkeypatch):
    async with world.node() as node, world.client() as client:
        await client.nodes()
        world.audit.away = True
        expiry = node.ring.current().bundle.not_after
        with monkeypatch.context() as later:
            later.setattr(directory, "now_ms", lambda: expiry)
            forget(client)
            assert (await refused(client)).code is Code.UNAVAILABLE
        world.audit.away = False
        revoke(world, node.ring.current().entry)
        forget(client)
        assert "is revoked" in (await refused(client)).detail
        world.audit.away = True
        assert "is revoked" in (await refused(client)).detail


async def test_a_node_that_was_suspended_does_not_come_back_when_nobody_answers(world):
    async with world.node(), mirrored(world) as (_, named), world.client(**named) as client:
        await client.nodes()
        world.audit.standing = "suspended"
        forget(client)
        assert "is suspended" in (await refused(client)).detail
        world.audit.away = True
        assert "is suspended" in (await refused(client)).detail


def readings(monkeypatch):
    """Count the client's readings of the directory; the node reads it as well."""
    seen, ask = [], directory.Directory._ask

    async def counted(self, model_root):
        seen.append(model_root)
        return await ask(self, model_root)

    monkeypatch.setattr(directory.Directory, "_ask", counted)
    return seen


async def test_a_stale_key_leads_to_exactly_one_reading_of_the_directory(world, monkeypatch):
    async with world.node() as node, world.client() as client:
        await client.nodes()

        def stale(*_, **__):
            raise CounterfoilError(Code.STALE_KEY, "the key bundle is not known here")

        monkeypatch.setattr(node._admission, "check", stale)
        seen = readings(monkeypatch)
        assert (await refused(client)).code is Code.STALE_KEY
        assert len(seen) == 1


async def test_many_requests_share_one_reading_of_the_directory(world, monkeypatch):
    async with world.node(), world.client() as client:
        seen = readings(monkeypatch)
        await asyncio.gather(*(client.nodes() for _ in range(20)))
        assert len(seen) == 1
        now = time.monotonic()
        root = client._model_root(None)
        await asyncio.gather(*(client._directory.nodes(root, since=now) for _ in range(20)))
        assert len(seen) == 2


# -- mirrors -------------------------------------------------------------------------------------------------------


async def test_a_client_that_has_met_nobody_finds_nodes_through_a_mirror(world):
    async with world.node(), mirrored(world) as ((mirror,), named):
        world.audit.away = True
        async with world.client(**named) as client:
            assert await answered(client)
            (node,) = await client.nodes()
            assert node.source.startswith("the mirror https://")
            assert mirror.asked == ["directory.json"]


async def test_mirrors_are_not_asked_while_the_audit_server_answers(world):
    async with world.node(), mirrored(world) as ((mirror,), named), world.client(**named) as client:
        assert await answered(client)
        assert mirror.asked == []


async def test_a_mirrors_larger_tree_is_proved_by_its_tiles_to_extend_the_one_kept(world):
    async with world.node(), mirrored(world) as ((mirror,), named), world.client(**named) as client:
        await client.nodes()
        kept = client.archive.largest_checkpoint(ORIGIN).size
        fill(world, 260)
        mirror.copy(world.audit)
        world.audit.away = True
        forget(client)
        assert await answered(client)
        assert client.archive.largest_checkpoint(ORIGIN).size == kept + 260
        assert any(path.startswith("tile/") for path in mirror.asked)


async def test_a_mirror_that_lies_in_tiles_is_left_and_convicts_nobody(world):
    async with (
        world.node(),
        mirrored(world, 2) as ((liar, honest), named),
        world.client(**named) as client,
    ):
        await client.nodes()
        fill(world, 5)
        liar.copy(world.audit)
        true = {path: data for path, data in liar.files.items() if path.startswith("tile/")}
        liar.files |= {path: bytes(len(data)) for path, data in true.items()}
        world.audit.away = True
        forget(client)
        assert await answered(client)  # what was kept
        assert "do not lead to the signed root" in (await mirror_error(client)).detail
        assert client.archive.suspects() == []
        honest.copy(world.audit)
        forget(client)
        (node,) = await client.nodes()
        assert node.source.startswith("the mirror")
        assert client.archive.suspects() == []


async def mirror_error(client):
    """Return why no mirror proves the newest tree that they list."""
    shown, _ = await directory.ask_all(client._mirrors)
    statement = shown[0].listing.bundles[0]
    node = directory.check_bundle(
        statement,
        client._policy,
        Operators(client._policy),
        client._log,
        now_ms(),
        {},
        max_age_s=900,
    )
    with pytest.raises(CounterfoilError) as caught:
        await client._mirrors[0].check(
            client.archive.largest_checkpoint(ORIGIN), node.witnessed.checkpoint
        )
    return caught.value


async def test_a_mirror_of_another_history_proves_the_fork_itself(world):
    async with world.node(), mirrored(world) as ((mirror,), named), world.client(**named) as client:
        await client.nodes()
        world.audit.forked = True
        revoke(world, bytes(32))
        mirror.copy(world.audit)
        world.audit.away = True
        forget(client)
        error = await refused(client)
        assert error.code is Code.FORK
        (suspect,) = client.archive.suspects()
        assert suspect.nodes
        assert suspect.kept is not None


async def test_a_mirror_that_serves_old_key_bundles_is_refused_by_age_and_by_size(world):
    async with world.node(), mirrored(world) as ((mirror,), named):
        world.audit.clock = lambda: time.time() - 3700
        mirror.copy(world.audit)
        world.audit.clock = time.time
        world.audit.away = True
        async with world.client(**named) as client:
            error = await refused(client)
            assert error.code is Code.UNAVAILABLE
            assert "s ago; the policy accepts 3600 s" in error.detail
        world.audit.away = False
        mirror.copy(world.audit)
        async with world.client(**named) as client:
            revoke(world, bytes(32))
            await client.nodes()  # it has seen a larger tree than the mirror shows
            world.audit.away = True
            forget(client)
            (node,) = await client.nodes()
            assert node.source == directory.KEPT
            assert client.archive.suspects() == []  # old, which is no contradiction


async def test_a_smaller_tree_that_was_witnessed_long_after_a_larger_one_is_kept_as_evidence(world):
    async with world.node(), mirrored(world) as ((mirror,), named), world.client(**named) as client:
        revoke(world, bytes(32))
        world.audit.clock = lambda: time.time() - 800
        await client.nodes()
        del world.audit.statements[-1]
        world.audit.clock = time.time
        mirror.copy(world.audit)
        world.audit.append(sign_again(world))
        world.audit.away = True
        forget(client)
        memory = client._memory()
        shown, _ = await directory.ask_all(client._mirrors)
        node = directory.check_bundle(
            shown[0].listing.bundles[0],
            client._policy,
            Operators(client._policy),
            client._log,
            now_ms(),
            {},
            900,
        )
        with pytest.raises(CounterfoilError, match="it had") as caught:
            await memory.refuse_older(node.witnessed, "the mirror")
        assert caught.value.code is Code.NOT_WITNESSED
        (suspect,) = client.archive.suspects()
        assert "s after size" in suspect.reason


def sign_again(world):
    value = Revocation(bundle=bytes(32), reason="key lost", at=now_ms() - 1000)
    return sign(value, key=world.operator("honest")[0].key, issuer="honest")


async def test_one_honest_mirror_shows_the_revocation_that_the_others_omit(world):
    async with world.node() as node:
        revoke(world, node.ring.current().entry)
        async with mirrored(world, 2, omits={"revocation"}) as ((_, honest), named):
            world.audit.away = True
            async with world.client(**named) as client:
                assert await client.nodes()  # nothing here bounds this but the key bundle's life
                honest.copy(world.audit)
                forget(client)
                assert "is revoked" in (await refused(client)).detail
                honest.copy(world.audit, omits={"revocation"})
                assert "is revoked" in (await refused(client)).detail


@pytest.mark.parametrize("answer", [endless, slow])
async def test_a_mirror_that_answers_without_end_is_left(world, monkeypatch, answer):
    defaults = {"timeout_s": 0.5, "token": None}
    monkeypatch.setattr(fetching.HttpsFiles.__init__, "__kwdefaults__", defaults)
    async with world.node(), mirrored(world) as ((mirror,), named):
        mirror.answers["directory.json"] = answer
        world.audit.away = True
        async with world.client(**named) as client:
            error = await refused(client)
            assert error.code is Code.UNAVAILABLE
            assert "was not answered in" in error.detail or "is longer than" in error.detail


@pytest.mark.parametrize(
    "spoil",
    [
        lambda values: values.pop("checkpoint"),
        lambda values: values.update(checkpoint=7),
        lambda values: values.update(statements={}),
        lambda values: values["statements"].extend(values["statements"]),
        lambda values: values["statements"][0].update(index=-1),
        lambda values: values["statements"][0].update(path=["x"]),
        lambda values: values["statements"][0].update(more=1),
        lambda values: values.update(format="counterfoil-directory/v2"),
    ],
)
async def test_a_directory_file_that_is_none_is_refused(world, spoil):
    async with world.node(), mirrored(world) as ((mirror,), named):
        values = json.loads(mirror.files["directory.json"])
        spoil(values)
        mirror.files["directory.json"] = json.dumps(values).encode()
        world.audit.away = True
        async with world.client(**named) as client:
            assert (await refused(client)).code is Code.UNAVAILABLE
        mirror.files["directory.json"] = b"[" * 100_000
        async with world.client(**named) as client:
            assert "directory file" in (await refused(client)).detail


# -- two histories -------------------------------------------------------------------------------------------------


async def test_two_clients_that_are_shown_two_histories_find_out_when_they_compare(world, tmp_path):
    async with world.node(), world.client() as client:
        await client.nodes()
        view = tmp_path / "view.json"
        view.write_bytes(encode_view(client.archive))
        assert (await client.compare_view(view))["common"] == 1
        world.audit.forked = True
        other = parse_tlog_proof(world.audit.proof(0)).note
        view.write_text(json.dumps({"format": VIEW, "checkpoints": [other]}))
        with pytest.raises(CounterfoilError) as caught:
            await client.compare_view(view)
        assert caught.value.code is Code.FORK
        (suspect,) = client.archive.suspects()
        assert facts(suspect)["proved_by"] == "the two notes: two roots of one size"
        told = json.loads(encode_evidence([suspect], client._log))
        assert told["items"][0]["shown"] == other
        assert told["items"][0]["accepted"] != other


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "counterfoil-view/v1", "checkpoints": []}']
)
async def test_a_view_that_is_none_is_refused(world, tmp_path, text):
    view = tmp_path / "view.json"
    view.write_text(text)
    async with world.client() as client:
        with pytest.raises(CounterfoilError) as caught:
            await client.compare_view(view)
        assert caught.value.code is Code.MALFORMED
