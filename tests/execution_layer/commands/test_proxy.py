"""`counterfoil proxy`: what `init` writes serves, and keys come and go."""

import asyncio
import json

import pytest

from execution_layer.commands.proxy import proxy as proxy_group
from execution_layer.proxy.settings import ProxySettings
from execution_layer.wiring.proxy import serve_proxy
from shared.runtime.cli import run
from shared.runtime.config import load
from tests.execution_layer.world import MODEL_ROOT


def command(capsys, *words):
    """Return (exit code, what was printed)."""
    code = run(proxy_group, [str(word) for word in words])
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    return code, shown.out + shown.err


async def test_init_writes_what_serve_reads_and_the_ready_file_says_where(world, capsys):
    world.policy()
    client, folder = world.folder / "client" / "client.toml", world.folder / "proxy"
    words = ("init", "--folder", folder, "--config", client, "--address", "127.0.0.1:0", "--json")
    code, printed = await asyncio.to_thread(command, capsys, *words)
    assert code == 0
    facts = json.loads(printed)
    assert facts["models"] == ["default"]
    settings = load(ProxySettings, folder / "proxy.toml")
    assert settings.models == {"default": MODEL_ROOT.hex()}
    stop, ready = asyncio.Event(), folder / "ready.json"
    stop.set()
    await serve_proxy(settings, ready, stop)
    assert json.loads(ready.read_text())["http"].startswith("127.0.0.1:")


@pytest.mark.parametrize("words", [("--cert", "a.pem"), ("--model", "gpt"), ("--address", "x")])
async def test_init_says_what_is_missing(world, capsys, words):
    world.policy()
    client = world.folder / "client" / "client.toml"
    started = ("init", "--folder", world.folder / "proxy", "--config", client, *words)
    code, _ = await asyncio.to_thread(command, capsys, *started)
    assert code == 2


async def test_a_key_is_shown_once_listed_without_its_secret_and_revoked(world, capsys):
    world.policy()
    client, folder = world.folder / "client" / "client.toml", world.folder / "proxy"

    def shell(*words):
        return command(capsys, *words)

    def key(name, *words):
        return shell("key", name, *words, "--config", folder / "proxy.toml", "--json")

    def scenario():
        assert shell("init", "--folder", folder, "--config", client)[0] == 0
        made = json.loads(key("add", "shop", "--cost-centre", "sales", "--tag", "team=web")[1])
        assert made["key"].startswith("cf-")
        code, printed = key("revoke", made["id"])
        assert (code, json.loads(printed)["revoked"]) == (0, True)
        (listed,) = json.loads(key("list")[1])
        assert listed["tags"] == {"cost_centre": "sales", "proxy_key": made["id"], "team": "web"}
        assert listed["revoked"]
        assert made["key"] not in json.dumps(listed)
        assert key("revoke", "none")[0] == 4

    await asyncio.to_thread(scenario)
