"""Whatever arrives, the proxy answers in the API's own shape, tells strangers nothing, and goes on."""

import asyncio
import stat
import subprocess
import sys

import openai
import pytest

from execution_layer.proxy.api_errors import answer_error, upstream_status
from execution_layer.proxy.api_keys import ApiKeys
from shared.runtime import http
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.traffic import Traffic
from tests.execution_layer.fakes import FakeEngine
from tests.execution_layer.proxy.serving import MODEL, live
from tests.execution_layer.waiting import until

HELLO = [{"role": "user", "content": "hello"}]
CHAT = "chat/completions"


def told(response, status, code):
    """Check an error's shape, and return its message."""
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    return error["message"]


async def test_nothing_is_answered_without_a_key_that_is_known_and_not_revoked(world):
    async with live(world) as proxy:
        shown = (
            "",
            "Bearer",
            "Bearer cf- x",
            "Basic eDp5",
            "Bearer cf-wrong",
            "Bearer " + "x" * 5000,
        )
        async with proxy.http() as client:
            for path in ("models", f"models/{MODEL}", "counterfoil/receipts/" + "0" * 64):
                for wrong in shown:
                    response = await client.get(path, headers={"authorization": wrong})
                    told(response, 401, "invalid_api_key")
            response = await client.post(CHAT, headers={"authorization": "Bearer no"}, content=b"{")
            told(response, 401, "invalid_api_key")
            assert (await client.get("models")).status_code == 200
            proxy.revoke()
            told(await client.get("models"), 401, "invalid_api_key")
        async with proxy.openai() as client:
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"a": ' * 50_000, "malformed"),
        (b'{"model": "\xff"}', "malformed"),
        (b"x" * 4096, "malformed"),
        ({"model": MODEL, "messages": HELLO * 10_000}, "malformed"),
        ({"model": MODEL, "messages": HELLO * 300}, "invalid_argument"),
        ({"model": MODEL, "messages": HELLO, "tools": [{"type": "function"}]}, "unsupported"),
        ({"model": MODEL, "messages": HELLO, "temperature": 1e308}, "invalid_argument"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_a_hostile_body_is_400_in_the_apis_shape(world, body, code):
    async with live(world, max_body_bytes=2**18 + 2**16) as proxy:
        assert told(await proxy.post(CHAT, body), 400, code)


async def test_an_unknown_model_or_route_is_404_and_a_wrong_method_405(world):
    async with live(world) as proxy:
        body = {"model": "gpt-unknown", "messages": HELLO}
        assert MODEL in told(await proxy.post(CHAT, body), 404, "model_not_found")
        told(await proxy.post("responses", {}), 404, "not_found")
        told(await proxy.post("models", {}), 405, "invalid_argument")
        async with proxy.openai() as client:
            with pytest.raises(openai.NotFoundError):
                await client.models.retrieve("gpt-unknown")


async def test_who_calls_too_often_is_told_so_in_the_apis_shape(world):
    async with live(world, traffic=Traffic(calls_per_s=0.001)) as proxy, proxy.http() as client:
        assert (await client.get("models")).status_code == 200
        response = await client.get("models")
        told(response, 429, "rate_limit_exceeded")
        assert response.headers["x-should-retry"] == "true"


async def test_a_node_that_is_not_there_is_503(world):
    async with world.node():
        pass
    async with live(world, policy={"max_attempts": 1}) as proxy:
        body = {"model": MODEL, "messages": HELLO}
        assert (await proxy.post(CHAT, body)).status_code == 503


async def test_without_a_certificate_only_this_machine_is_served(monkeypatch):
    monkeypatch.setattr(http, "is_loopback", lambda host: host != "127.0.0.1")
    with pytest.raises(CounterfoilError) as caught:
        await http.serve_near(answer_error, None, "127.0.0.1:0", answer=answer_error)
    assert caught.value.code is Code.CONFIGURATION
    assert "other machines" in caught.value.detail


def test_what_a_node_did_wrong_is_never_the_callers_fault():
    for code in Code:
        status = upstream_status(code)
        assert status >= 429 or code in {
            Code.INVALID_ARGUMENT,
            Code.UNSUPPORTED,
            Code.UNKNOWN_MODEL,
        }


def test_an_opaque_error_tells_no_detail():
    response = answer_error(CounterfoilError(Code.INTERNAL, "secret state"))
    assert b"secret" not in response.body
    assert response.headers["x-should-retry"] == "false"


def test_keys_are_kept_as_hashes_in_a_file_of_their_owner_alone(tmp_path):
    path = tmp_path / "keys.sqlite"
    with ApiKeys(path) as keys:
        made, secret = keys.add("shop", {"cost_centre": "sales"})
        other, _ = keys.add("shop", {})
        assert keys.of(f"bearer {secret}") == made
        assert keys.revoke(other.id).revoked is not None
        assert [key.id for key in keys.all() if key.revoked is None] == [made.id]
        for wrong in (lambda: keys.revoke("zzz"), lambda: keys.add("a\x00", {})):
            with pytest.raises(CounterfoilError):
                wrong()
        with pytest.raises(CounterfoilError):
            keys.add("forged", {"proxy_key": made.id})
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert secret.encode() not in file.read_bytes()


def test_the_proxy_needs_neither_torch_nor_the_node():
    program = (
        "import sys, execution_layer.wiring.proxy, execution_layer.commands.proxy;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'execution_layer.node')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


async def test_many_who_go_away_at_once_leave_every_place_free(world):
    engine = FakeEngine(holds_after=0)
    async with world.node(engine), live(world, answers=4) as proxy, proxy.openai() as client:
        create = client.chat.completions.create
        asking = [asyncio.create_task(create(model=MODEL, messages=HELLO)) for _ in range(4)]
        await until(lambda: len(engine.generations) == 4)
        for task in asking:
            task.cancel()
        engine.holds_after = None
        async with asyncio.timeout(20):
            while True:
                try:
                    assert (await create(model=MODEL, messages=HELLO, n=4)).choices
                except openai.RateLimitError:
                    continue
                break
