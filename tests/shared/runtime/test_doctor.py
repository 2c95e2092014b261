"""`counterfoil doctor`: what is wrong is said, with a remedy, and the exit code follows."""

import asyncio
import errno
import json
import socket
from datetime import UTC, datetime, timedelta
from importlib import metadata

import pytest
from click.testing import CliRunner
from fastapi import FastAPI

from shared.runtime import age
from shared.runtime import doctor as room
from shared.runtime.cards import Card, NoCardsError
from shared.runtime.doctor import doctor, installation, machine
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import build_server
from shared.runtime.http import problem_response, serve_https
from shared.runtime.key_store import PassphraseStore
from shared.runtime.keys import load_or_create_ed25519, write_private
from shared.runtime.tls import LIFE, LocalCA


def findings(folder, *options: str) -> tuple[int, list[dict]]:
    result = CliRunner().invoke(
        doctor, ["--folder", str(folder), "--json", *options], standalone_mode=False
    )
    return result.return_value, json.loads(result.stdout)


def by_name(found) -> dict[str, room.Diagnosis]:
    return {finding.what: finding for finding in found}


def test_a_machine_that_runs_the_tests_is_well(tmp_path):
    code, found = findings(tmp_path / "none")
    assert code == 0
    status = {item["what"]: item["status"] for item in found}
    assert status["Python"] == status["cryptography"] == status["packages of client"] == "ok"
    assert status["installation"] == "note"


def test_a_missing_client_package_is_wrong_and_a_missing_part_is_a_note(tmp_path, monkeypatch):
    real = metadata.version

    def version(name):
        if name in {"grpcio", "torch"}:
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    found = by_name(machine(tmp_path))
    assert found["packages of client"].status == "wrong"
    assert found["packages of node"].status == "note"
    assert "pip install 'counterfoil[node]'" in found["packages of node"].remedy
    assert findings(tmp_path)[0] == 1


HOPPER = Card("NVIDIA H100", (9, 0), 80 << 30)


def gpu(monkeypatch, tmp_path, *found: Card) -> room.Diagnosis:
    monkeypatch.setattr(room, "cards", lambda: [*found])
    return by_name(machine(tmp_path))["GPU"]


def test_a_card_is_described_with_what_it_computes(monkeypatch, tmp_path):
    monkeypatch.setattr(room.util, "find_spec", lambda _name: True)
    found = gpu(monkeypatch, tmp_path, HOPPER, HOPPER)
    assert (found.status, found.remedy) == ("ok", "")
    assert found.found == (
        "NVIDIA H100, 80 GiB, compute capability 9.0; computes fused-16; 1 more, not used; NVML meters energy"
    )


def test_a_card_that_cannot_compute_and_what_is_missing_beside_one_are_notes(monkeypatch, tmp_path):
    monkeypatch.setattr(room.util, "find_spec", lambda _name: None)
    found = gpu(monkeypatch, tmp_path, Card("Tesla T4", (7, 5), 15 << 30))
    assert found.status == "note"
    assert "cannot compute models" in found.found
    found = gpu(monkeypatch, tmp_path, HOPPER)
    assert "Triton is not installed; energy is unmeasured" in found.found
    assert "CUDA build of torch" in found.remedy
    assert "nvidia-ml-py" in found.remedy


def test_a_machine_without_a_card_says_why(monkeypatch, tmp_path):
    def none():
        raise NoCardsError("there is no NVIDIA driver")

    monkeypatch.setattr(room, "cards", none)
    found = by_name(machine(tmp_path))["GPU"]
    assert (found.status, found.found[:32]) == ("note", "none (there is no NVIDIA driver)")


@pytest.mark.parametrize(
    "secret",
    [
        "audit/auditor.token",
        "audit/keys/log-ed25519",
        "audit/tls/audit.key",
        "ca/ca.key",
        "client/archive.sqlite",
        "client/tenant.pem",
        "custodian-1/keys/hpke.key",
        "node-a/keys/signing.pem",
        "operators/operator-a/operator.pem",
        "postgres/secrets/owner.dsn",
        "witness-1/keys/beacon.secret",
    ],
)
def test_a_secret_that_others_may_read_is_wrong(tmp_path, secret):
    installed(tmp_path)
    path = tmp_path / secret
    path.parent.mkdir(parents=True)
    write_private(path, b"secret")
    write_private(public := path.parent / "entry.tlog-proof", b"not secret")
    public.chmod(0o644)
    assert by_name(installation(tmp_path))["secrets"].found.startswith("1 files")
    path.chmod(0o644)
    secrets = by_name(installation(tmp_path))["secrets"]
    assert secrets.status == "wrong"
    assert str(path) in secrets.found


def test_the_kinds_of_key_stores_are_named_with_their_keys(tmp_path, monkeypatch):
    installed(tmp_path)
    monkeypatch.setattr(age, "WORK", 4)
    assert by_name(installation(tmp_path))["key stores"].found == "no keys"
    load_or_create_ed25519(tmp_path / "client" / "tenant.pem")
    load_or_create_ed25519(tmp_path / "witness-1" / "keys" / "sign.pem")
    held = PassphraseStore(b"correct horse")
    load_or_create_ed25519(tmp_path / "operators" / "operator-a" / "operator.pem", held)
    found = by_name(installation(tmp_path))["key stores"]
    assert found.status == "ok"
    assert found.found == "file: 2; passphrase: 1 (operators/operator-a/operator.pem)"


def test_a_service_that_is_down_is_a_note_and_another_program_on_its_port_is_wrong(tmp_path):
    LocalCA.load_or_create(tmp_path / "ca")
    (tmp_path / "installed.json").write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = "{}:{}".format(*server.getsockname())
        (tmp_path / "ports.json").write_text(json.dumps({"audit-http": address}))
    assert by_name(installation(tmp_path))["audit-http"].status == "note"


def test_a_disk_without_room_is_wrong(tmp_path, monkeypatch):
    def full(_descriptor, _data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(room.os, "write", full)
    disk = by_name(machine(tmp_path))["disk"]
    assert disk.status == "wrong"
    assert "No space left" in disk.found
    assert "Free some space" in disk.remedy


async def test_a_service_that_is_down_is_wrong_where_others_are_up(tmp_path):
    tls = LocalCA.load_or_create(tmp_path / "ca").issue("witness-1", folder=tmp_path / "w")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = "{}:{}".format(*closed.getsockname())
    server = await serve_https(FastAPI(), tls, "127.0.0.1:0", grace_s=1.0)
    try:
        installed(tmp_path, **{"node-a": address, "witness-1": server.address})
        found = by_name(await asyncio.to_thread(lambda: list(installation(tmp_path))))
    finally:
        await server.stop()
    assert found["witness-1"].status == "ok"
    assert (found["node-a"].status, found["node-a"].found) == (
        "wrong",
        f"{address}: nothing answers",
    )
    assert str(tmp_path / "logs") in found["node-a"].remedy


async def test_a_server_that_says_it_is_unwell_is_wrong_with_its_reason(tmp_path):
    tls = LocalCA.load_or_create(tmp_path / "ca").issue("audit", folder=tmp_path / "audit" / "tls")
    app = FastAPI()

    @app.get("/healthz")
    def health():
        down = CounterfoilError(
            Code.UNAVAILABLE, "the database went\x1b[2J away", remedy="Start it."
        )
        return problem_response(down, http_status=503)

    server = await serve_https(app, tls, "127.0.0.1:0", grace_s=1.0)
    try:
        installed(tmp_path, **{"audit-http": server.address})
        found = by_name(await asyncio.to_thread(lambda: list(installation(tmp_path))))["audit-http"]
    finally:
        await server.stop()
    assert found.status == "wrong"
    assert found.found.startswith(f"{server.address}: is unhealthy: the database went")
    assert "Start it." in found.remedy


@pytest.mark.parametrize("content", ["{", "\xff"])
def test_an_unreadable_installation_is_wrong(tmp_path, content):
    (tmp_path / "installed.json").write_text("{}")
    (tmp_path / "ports.json").write_bytes(content.encode("latin-1"))
    assert by_name(installation(tmp_path))["addresses"].status == "wrong"


def installed(folder, **addresses: str) -> None:
    (folder / "installed.json").write_text("{}")
    (folder / "ports.json").write_text(json.dumps(addresses))


@pytest.mark.parametrize(
    ("age", "status", "said"),
    [
        (timedelta(0), "ok", "answers over TLS; certificate until"),
        (LIFE - timedelta(days=5), "note", "answers over TLS; certificate until"),
        (LIFE + timedelta(days=5), "wrong", "expired on"),
        (-timedelta(days=5), "wrong", "is not valid before"),
    ],
)
async def test_a_certificate_s_state_is_reported_with_a_remedy(tmp_path, age, status, said):
    now = datetime.now(UTC)
    authority = LocalCA.load_or_create(tmp_path / "ca", now=now - timedelta(days=200))
    files = authority.issue("node-a", folder=tmp_path / "node-a" / "tls", now=now - age)
    server = await serve_https(FastAPI(), files, "127.0.0.1:0", grace_s=1.0)
    try:
        installed(tmp_path, **{"node-a": server.address})
        found = by_name(await asyncio.to_thread(lambda: list(installation(tmp_path))))
    finally:
        await server.stop()
    finding = found["node-a"]
    assert finding.status == status
    assert said in finding.found
    assert ("counterfoil up" in finding.remedy) == (status != "ok")
    assert "Another program" not in finding.remedy
    assert found["certificates"].status == ("ok" if status == "ok" else "note")


async def test_a_server_of_another_installation_is_named_so(tmp_path):
    other = LocalCA.load_or_create(tmp_path / "other").issue("node-a")
    LocalCA.load_or_create(tmp_path / "ca")
    server = await serve_https(FastAPI(), other, "127.0.0.1:0", grace_s=1.0)
    try:
        installed(tmp_path, **{"node-a": server.address})
        found = by_name(await asyncio.to_thread(lambda: list(installation(tmp_path))))
    finally:
        await server.stop()
    assert found["node-a"].status == "wrong"
    assert f"an authority that {tmp_path / 'ca' / 'ca.pem'} does not hold" in found["node-a"].found
    assert "Another program" in found["node-a"].remedy


async def test_a_server_that_takes_no_work_is_wrong(tmp_path):
    tls = LocalCA.load_or_create(tmp_path / "ca").issue("node-a", folder=tmp_path / "node-a")
    server = build_server(tls=tls, address="127.0.0.1:0", services=[])
    (tmp_path / "installed.json").write_text("{}")
    (tmp_path / "ports.json").write_text(json.dumps({"node-a": server.address}))

    async def look():
        return by_name(await asyncio.to_thread(lambda: list(installation(tmp_path))))["node-a"]

    await server.start()
    try:
        assert (await look()).status == "ok"
        await server.set_serving(False)
        found = await look()
        assert (found.status, found.found) == (
            "wrong",
            f"{server.address}: answers, but accepts no work",
        )
        assert "node status" in found.remedy
    finally:
        await server.stop()
