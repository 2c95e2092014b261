"""Erasing from the command line, and what the query API says about what is gone."""

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from audit_layer.commands.erasure import erasure
from audit_layer.trail.at_rest import DAY_MS
from audit_layer.trail.fsck import check_trail
from audit_layer.trail.service import Accepted, Submission
from audit_layer.wiring.audit_server import open_core
from audit_layer.wiring.audit_settings import load_settings
from shared.codec.moment import to_rfc3339
from shared.runtime.cli import run
from shared.runtime.keys import private_pem, write_private
from tests.audit_layer.api import statements as made
from tests.audit_layer.served import World, serving

YESTERDAY = made.NOW // DAY_MS * DAY_MS - 1000
"""The last second of the previous day: only days that are over can be erased."""


def initialised(config: Path) -> str:
    """Run `erasure init`; return what the key file holds."""
    command = ["init", "--config", str(config), "--json"]
    result = CliRunner().invoke(erasure, command, catch_exceptions=False)
    path = Path(json.loads(result.stdout)["erasure_key_file"])
    assert load_settings(config).erasure_key_file == path
    assert path.stat().st_mode & 0o077 == 0
    return path.read_text()


def stored_yesterday(config: Path, world: World) -> bytes:
    """Submit a receipt that began yesterday; return its entry."""
    with open_core(load_settings(config), application_name="test") as core:
        bundle = made.bundle("alpha", not_after=YESTERDAY + DAY_MS // 2)
        (accepted,) = core.trail.submit([Submission(bundle)])
        assert isinstance(accepted, Accepted)
        number, previous = 3, world.filled.by_operator["alpha"][-1]
        node = made.Node("alpha", accepted.entry, made.some("card"), number, previous, {"acme": 2})
        (held,) = core.trail.submit([node.receipt("acme", started=YESTERDAY)])
        assert isinstance(held, Accepted), held
        return held.entry


async def test_a_day_is_erased_by_command_and_the_api_says_erased_with_entry_and_proof(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    at = ["--config", str(world.config), "--json"]
    held = initialised(world.config)
    assert initialised(world.config) == held  # again changes nothing
    entry = await asyncio.to_thread(stored_yesterday, world.config, world)
    async with serving(world.config, monkeypatch) as addresses:
        world.url = f"https://{addresses['http']}"
        before = (await world.get(f"/v1/statements/{entry.hex()}")).json()
        assert (before["erased"], before["payload"]["number"]) == (False, 2)

        authority = tmp_path / "authority.pem"
        write_private(authority, private_pem(made.key("authority")))
        days = ["--from", to_rfc3339(YESTERDAY)[:10], "--to", to_rfc3339(YESTERDAY + 1000)[:10]]
        why = ["--reason", "asked to", "--requested-by", "acme", "--authority-key", str(authority)]
        asked = ["run", "--tenant", "acme", *days, *why, *at]
        assert await asyncio.to_thread(run, erasure, asked) == 1  # nobody said yes
        done = await asyncio.to_thread(
            CliRunner().invoke, erasure, [*asked, "--yes"], catch_exceptions=False
        )
        assert json.loads(done.stdout)["receipts"] == 1
        assert initialised(world.config) != held  # the key was replaced
        assert await asyncio.to_thread(run, erasure, [*asked, "--yes"]) == 4  # nothing is left

    # A server that starts now remembers nothing.
    async with serving(world.config, monkeypatch) as addresses:
        world.url = f"https://{addresses['http']}"
        after = (await world.get(f"/v1/statements/{entry.hex()}")).json()
        assert (after["erased"], after["raw"], after["payload"]) == (True, None, {})
        assert (after["entry"], after["log_index"]) == (before["entry"], before["log_index"])
        logged = json.loads(done.stdout)["entry"]
        for role, scope, status in (
            ("tenant", "acme", 200),
            ("auditor", None, 200),
            ("tenant", "bolt", 404),
            ("operator", "alpha", 404),
        ):
            answer = await world.get(f"/v1/statements/{logged}", role, scope)
            assert answer.status_code == status, role
        said = (await world.get(f"/v1/statements/{logged}")).json()["payload"]
        assert (said["tenant"], said["statements"], said["reason"]) == ("acme", 1, "asked to")
    with open_core(load_settings(world.config), application_name="test") as core:
        assert check_trail(core.engine) == []
