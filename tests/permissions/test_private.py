"""Nothing that a party writes can be read or written by other users of its machine, whatever umask it was started under."""

import asyncio
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_layer.commands.audit import audit
from audit_layer.commands.parties import custodian, witness
from audit_layer.commands.worker import worker
from audit_layer.custodian.store import ReleaseStore
from audit_layer.log.folder_store import write_durably
from audit_layer.log.second_place import SecondPlace
from audit_layer.monitor.store import MonitorStore
from audit_layer.witness.store import WitnessStore
from execution_layer.commands.client_key import key as tenant_key
from execution_layer.commands.node import node as node_command
from shared.installation.layout import NodePlan, Plan
from shared.installation.platform import running
from shared.parties.reveal_memory import RevealMemory
from shared.runtime.cli import run
from shared.runtime.keys import public_bytes
from shared.runtime.party import PartyRole
from tests.execution_layer.fakes import ORIGIN
from tests.execution_layer.world import small_world
from tests.parties import shown_by
from tests.permissions.modes import open_to_others

CERTIFICATES = "a certificate is shown to whoever connects; its key lies beside it, and is private"
PUBLIC = {
    "*ca/ca.pem": "the local authority's certificate: by it others check every server",
    "*ca/*.pem": CERTIFICATES,
    "*/tls/*.pem": CERTIFICATES,
    "*/party.pem": CERTIFICATES,
    "node-1/node-1.pem": CERTIFICATES,
    "audit/audit.pem": CERTIFICATES,
    "*.cose": "a signed price list, written for customers to read",
    "log/*": "the published log: for everybody, and often served by another user's web server",
    "log": "likewise",
    "*/log/*": "likewise",
    "*/log": "likewise",
}


@pytest.fixture
def no_umask() -> Iterator[None]:
    """Everything is open to everybody unless a program sees to it."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


async def test_every_party_s_files_are_its_own_whatever_the_umask(no_umask, tmp_path):
    place = tmp_path / "all" / "parties"
    place.mkdir(parents=True, mode=0o700)
    async with small_world(place) as world, world.node() as node, world.client() as client:
        assert (await client.generate(prompt="hello", max_tokens=3)).text
        await client.upgrade_proofs(10)
        words = ("rotate", "--config", str(place / "client" / "client.toml"))
        assert await asyncio.to_thread(run, tenant_key, list(words)) == 0
        await asyncio.to_thread(initialise, world, node)
        stores = [
            WitnessStore(place / "new" / "witness" / "state.sqlite"),
            RevealMemory(place / "new" / "witness" / "reveals.sqlite"),
            ReleaseStore(place / "new" / "custodian" / "state.sqlite"),
            MonitorStore(place / "new" / "monitor" / "state.sqlite", ORIGIN),
        ]
        SecondPlace(place / "new" / "second" / "checkpoint", []).read()
        write_durably(place / "new" / "second" / "stopped", b"note", public=False)
        write_durably(place / "log" / "tile" / "0" / "000", b"tile")
        beside = {path.name for path in place.rglob("*.sqlite-*")}
        assert {"node.sqlite-wal", "node.sqlite-shm", "archive.sqlite-wal"} <= beside
        assert open_to_others(place, PUBLIC) == {}
        for store in stores:
            store.close()
    assert open_to_others(place, PUBLIC) == {}
    assert (
        place / "log" / "tile"
    ).stat().st_mode & 0o777 == 0o755  # as public as it is meant to be
    made = {"operator.pem", "tenant.pem", "tenant.keys", "signing.pem", "storage.key", "hpke.key"}
    made |= {"witness.toml", "custodian.toml", "worker.toml", "audit.toml", "log-ed25519"}
    assert made <= names_in(place)


def initialise(world, node):
    """Run the commands by which the parties of the audit layer are set up."""
    place, ca = world.folder, world.ca
    own = ca.issue("server", folder=place / "server" / "tls")
    tls = ("--cert", own.cert, "--key", own.key, "--ca", own.ca)
    log = {"origin": ORIGIN, "vkeys": world.audit.log_keys, "witnesses": world.audit.witnesses}
    trust = place / "trust.json"
    trust.write_text(json.dumps({"log": log, "authority": public_bytes(world.authority).hex()}))
    trust.chmod(0o600)

    def call(command, *words):
        assert run(command, [str(word) for word in words]) == 0

    for command, name in ((witness, "witness"), (custodian, "custodian")):
        folder = place / "made" / name
        call(command, "keys", "--folder", folder, "--name", name)
        serving = ("--address", "127.0.0.1:0", "--trust", trust, "--party-ca", own.ca)
        call(command, "init", "--config-folder", folder, "--name", name, *tls, *serving)
    folder, empty = place / "made" / "worker", place / "empty.json"
    empty.write_text("{}")
    empty.chmod(0o600)
    call(worker, "keys", "--folder", folder, "--name", "worker", "--authority")
    shown = ("--dsn-file", trust, "--broker-url-file", trust, "--audit-server", "127.0.0.1:1")
    more = ("--model", place, "--trust", empty, "--origin", ORIGIN)
    call(worker, "init", "--folder", folder, "--name", "worker", *tls, *shown, *more)
    party = shown_by(PartyRole.AUDIT, ORIGIN, ca.ca_file)
    parties = ("--party-cert", party.cert, "--party-key", party.key, "--party-ca", party.ca)
    addresses = ("--grpc", "127.0.0.1:1", "--http", "127.0.0.1:2", "--party-grpc", "127.0.0.1:3")
    known = ("--folder", place / "made" / "audit", "--origin", ORIGIN, "--dsn-file", trust)
    call(audit, "init", *known, *tls, *parties, *addresses)
    call(node_command, "operator-init", "--folder", place / "made" / "op", "--operator", "op")
    call(node_command, "status", "--config", node._settings.spool.parent / "node.toml", "--json")


@pytest.fixture
def place(monkeypatch) -> Iterator[Path]:
    """A folder for everything, temporary files too, that the database's own account can pass."""
    with tempfile.TemporaryDirectory(prefix="cf-modes-", ignore_cleanup_errors=True) as made:
        Path(made).chmod(0o711)
        (Path(made) / "tmp").mkdir(mode=0o711)
        monkeypatch.setenv("TMPDIR", str(Path(made) / "tmp"))
        yield Path(made)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_nothing_of_a_whole_installation_is_open_to_others(place, no_umask):
    """Every process of it, its database, its logs and its temporary files, while it runs and afterwards."""
    plan = Plan(place / "new" / "data", (NodePlan("node-a", "operator-a"),), epoch_seconds=5.0)
    async with running(plan, lambda *_: None) as platform:
        config = plan.path("client", "client.toml")
        await platform.commands.run("infer", "--config", config, "--max-tokens", "8", "hello")
        await platform.commands.run("client", "proofs", "--config", config, "--timeout", "60")
        assert open_to_others(place, PUBLIC) == {}
    assert open_to_others(place, PUBLIC) == {}
    assert {"checkpoint", "node.sqlite", "archive.sqlite", "postgres.log"} <= names_in(place)


def names_in(folder):
    return {path.name for path in folder.rglob("*")}


def test_what_is_open_to_others_is_found(tmp_path):
    tmp_path.chmod(0o711)
    for name, mode in (("private", 0o600), ("loose", 0o640), ("public", 0o644), ("worse", 0o666)):
        (tmp_path / name).write_bytes(b"")
        (tmp_path / name).chmod(mode)
    (tmp_path / "link").symlink_to("loose")
    public = {"public": "a reason", "worse": "nothing is written by everybody"}
    assert open_to_others(tmp_path, public) == {"loose": "0640", "worse": "0666"}
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o711
