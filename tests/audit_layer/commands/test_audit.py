"""The commands: set-up that can be repeated, administration, queries, checks; and a light `--help`."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from audit_layer.commands.access import token
from audit_layer.commands.audit import audit
from audit_layer.commands.log import log
from audit_layer.wiring.audit_settings import load_settings
from audit_layer.wiring.log_keys import log_policy
from shared.runtime.cli import run
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.tls import LocalCA
from shared.translog.notes import SignatureType, Signer
from shared.translog.policy import verify_witnessed
from shared.translog.policy_file import read_policy_file
from shared.translog.tlog_proof import verify_tlog_proof
from tests.audit_layer.api import statements as made
from tests.audit_layer.served import World, command, initialise, until
from tests.postgres import Database


def vkey(name: str) -> str:
    return Signer.generate(name, SignatureType.COSIGNATURE_ED25519).verifier.vkey()


def test_init_again_keeps_keys_and_witnesses_and_refuses_another_logs_keys(
    database: Database, tmp_path: Path
):
    tls = LocalCA.load_or_create(tmp_path / "ca").issue("server")
    first = initialise(tmp_path / "audit", database, tls)
    config = first["config"]
    with pytest.raises(CounterfoilError) as unwitnessed:
        log_policy(load_settings(Path(config)))
    assert unwitnessed.value.code is Code.CONFIGURATION
    for name, quorum in (("one", "1"), ("two", "2"), ("one", "2")):
        command("audit", "trust", "--config", config, "--name", name, "--url", "https://w:1",
                "--vkey", vkey(name), "--quorum", quorum)  # fmt: skip
    assert initialise(tmp_path / "audit", database, tls) == first
    settings = load_settings(Path(config))
    assert [witness.name for witness in settings.witnesses] == ["two", "one"]
    assert settings.quorum == log_policy(settings).threshold == 2
    assert settings.keys_folder == tmp_path / "audit" / "keys"
    arguments = ["trust", "--config", config, "--name", "one", "--url", "https://w:1"]
    assert run(audit, [*arguments, "--vkey", vkey("other")]) == 2
    assert run(audit, [*arguments, "--vkey", "junk"]) == 3
    foreign = Signer.generate("another", SignatureType.ED25519).secret_text()
    (settings.keys_folder / "log-ed25519").write_text(foreign)
    with pytest.raises(CounterfoilError) as other:
        initialise(tmp_path / "audit", database, tls)
    assert other.value.code is Code.CONFLICT


def test_parties_tenants_and_tokens_are_administered(database: Database, tmp_path: Path):
    tls = LocalCA.load_or_create(tmp_path / "ca").issue("server")
    at = ("--config", initialise(tmp_path / "audit", database, tls)["config"], "--json")
    key = made.public("alpha").hex()
    added = command("audit", "party", "add", "alpha", "--role", "operator", "--key", key, *at)
    assert added == {"name": "alpha", "role": "operator", "key": key}
    command("tenant", "add", "acme", "--key", made.public("acme").hex(), *at)
    assert [row["name"] for row in command("audit", "party", "list", *at)] == ["alpha", "acme"]
    (acme,) = command("tenant", "list", *at)
    assert acme["disabled_at"] is None
    command("tenant", "disable", "acme", *at)
    assert command("tenant", "list", *at)[0]["disabled_at"] is not None
    out = tmp_path / "auditor.token"
    made_one = command("token", "create", "--role", "auditor", "--out", str(out), *at)
    assert out.stat().st_mode & 0o777 == 0o600
    assert "token" not in made_one
    other = command("token", "create", "--role", "tenant", "--scope", "acme", *at)
    assert len(other["token"]) == 43
    assert command("token", "revoke", str(made_one["id"]), *at)["revoked"] is not None
    listed = command("token", "list", *at)
    assert [(row["role"], row["scope"]) for row in listed] == [
        ("auditor", None),
        ("tenant", "acme"),
    ]
    shown = CliRunner().invoke(token, ["list", *at[:2]], env={"COLUMNS": "200"}).output
    times = re.findall(r" 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ ", shown)
    assert len(times) == 5  # both were made and expire, one was revoked
    renewed = command("token", "renew", str(other["id"]), "--expires", "12h", *at)
    assert len(renewed["token"]) == 43
    assert (renewed["scope"], renewed["expires"] - renewed["created"]) == ("acme", 12 * 3_600_000)
    assert run(token, ["renew", str(made_one["id"]), *at]) == 6  # revoked
    for life in ("367d", "0s", "1y", "-1d", "90"):
        assert run(token, ["create", "--role", "auditor", "--expires", life, *at]) == 2, life
    assert run(token, ["revoke", "999", *at]) == 4
    assert run(token, ["create", "--role", "auditor", "--scope", "acme", *at]) == 2
    assert run(audit, ["party", "add", "x", "--role", "worker", "--key", "00", *at]) == 2


async def test_queries_and_checks_answer_from_the_command_line(world: World, tmp_path: Path):
    out = tmp_path / "t"
    at = ("--config", str(world.config), "--json")
    command("token", "create", "--role", "auditor", "--out", str(out), *at)
    asked = ("--url", world.url, "--token-file", str(out), "--ca", str(world.ca), "--json")

    async def ask(*arguments: str) -> object:
        return await asyncio.to_thread(command, *arguments)

    entry = world.filled.receipts["acme"][0]

    async def proof() -> dict[str, str]:
        found = await ask("log", "proof", entry.hex(), *at)
        assert isinstance(found, dict)
        return found

    found = await until(proof, Code.NOT_WITNESSED)
    verify_tlog_proof(found["tlog_proof"], entry, log_policy(load_settings(world.config)))
    assert await ask("log", "proof", entry.hex()[:12], *at) == found
    receipts = await ask("audit", "receipts", "--tenant", "acme", "--from", "2020-01-01", *asked)
    assert isinstance(receipts, dict)
    newest_first = [row["log_index"] for row in receipts["items"]]
    assert newest_first == sorted(newest_first, reverse=True)
    assert len(newest_first) == 3
    oldest_first = await ask("audit", "receipts", "--tenant", "acme", "--oldest-first", *asked)
    assert isinstance(oldest_first, dict)
    assert [row["log_index"] for row in oldest_first["items"]] == newest_first[::-1]
    shown = receipts["items"][0]
    of_node = await ask(
        "audit", "receipts", "--node", f"{shown['operator']}/{shown['node']}", *asked
    )
    assert isinstance(of_node, dict)
    assert shown in of_node["items"]
    for name in ("verdicts", "epochs", "disclosures"):
        page = await ask("audit", name, *asked)
        assert isinstance(page, dict)
        assert page["items"], name
    for name in (entry.hex(), entry.hex()[:12], f"{entry.hex()[:16]}…"):
        shown = await ask("audit", "statement", name, *asked)
        assert isinstance(shown, dict)
        assert (shown["type"], shown["entry"]) == ("receipt", entry.hex())
    for text_form in (("audit", "receipts"), ("audit", "statement", entry.hex())):
        assert "acme" in str(await ask(*text_form, *asked[:-1]))
    status = await ask("audit", "status", *at)
    assert isinstance(status, dict)
    assert status["witnessed_size"] == status["size"]
    await ask("log", "policy", "--out", str(tmp_path / "log.policy"), *at)
    policy = read_policy_file(tmp_path / "log.policy").policy()
    checkpoint = await ask("log", "checkpoint", *at)
    assert isinstance(checkpoint, dict)
    assert verify_witnessed(checkpoint["note"], policy).checkpoint.size == checkpoint["size"]
    assert checkpoint["size"] == status["size"]
    missing = ["statement", "0" * 64, *asked]
    assert await asyncio.to_thread(run, audit, missing) == 4
    out.write_text("x" * 43)
    assert await asyncio.to_thread(run, audit, missing) == 4


async def test_fsck_finds_no_difference_until_a_column_is_not_what_was_signed(
    world: World, database: Database
):
    at = ["fsck", "--config", str(world.config), "--json"]
    checkpoint = ("log", "checkpoint", "--config", str(world.config))
    await until(lambda: asyncio.to_thread(command, *checkpoint), Code.NOT_WITNESSED)
    runner = CliRunner()
    clean = await asyncio.to_thread(runner.invoke, log, at, standalone_mode=False)
    assert clean.return_value == 0, clean.output
    with database.engine("owner").begin() as connection:
        connection.execute(text("UPDATE trail_receipts SET output_tokens = output_tokens + 1"))
        connection.execute(text("UPDATE log_entries SET issuer_seq = 77 WHERE issuer_seq = 2"))
    broken = await asyncio.to_thread(runner.invoke, log, at, standalone_mode=False)
    assert broken.return_value == 3
    assert "output_tokens" in broken.output
    assert "issuer" in broken.output


@pytest.mark.parametrize(
    "module",
    [
        "access",
        "audit",
        "bundle",
        "completeness",
        "cost",
        "cost_client",
        "cost_invoices",
        "cost_keeping",
        "database",
        "erasure",
        "log",
        "monitor",
        "parties",
        "query",
        "worker",
    ],
)
def test_help_imports_nothing_heavy(module: str):
    code = (
        f"import sys, audit_layer.commands.{module}\n"
        "heavy = {'sqlalchemy', 'fastapi', 'grpc', 'httpx', 'torch', 'rich', 'pydantic'}\n"
        "sys.exit(' '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize(
    "content", [b"\xff", b"{", b"{}", b"1", b"[1]", b'[{"name": "x"}]', b"[" * 100_000]
)
def test_a_list_of_parties_that_cannot_be_read_is_wrong_usage(tmp_path, capsys, content):
    file = tmp_path / "parties.json"
    file.write_bytes(content)
    assert run(audit, ["party", "import", str(file), "--config", str(file)]) == 2
    assert f"{file} is not a UTF-8 JSON list" in capsys.readouterr().err
