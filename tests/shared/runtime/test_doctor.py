"""`counterfoil doctor`: what is wrong is said, with a remedy, and the exit code follows."""

import json
import socket
from importlib import metadata

import pytest
from click.testing import CliRunner

from shared.runtime import doctor as room
from shared.runtime.doctor import doctor, installation, machine
from shared.runtime.keys import write_private


def findings(folder, *options: str) -> tuple[int, list[dict]]:
    result = CliRunner().invoke(
        doctor, ["--folder", str(folder), "--json", *options], standalone_mode=False
    )
    return result.return_value, json.loads(result.stdout)


def by_name(found) -> dict[str, room.Finding]:
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


def test_a_secret_that_others_may_read_is_wrong(tmp_path):
    (tmp_path / "installed.json").write_text("{}")
    (tmp_path / "ports.json").write_text("{}")
    (tmp_path / "audit").mkdir()
    write_private(tmp_path / "audit" / "auditor.token", b"secret")
    assert by_name(installation(tmp_path))["secrets"].status == "ok"
    (tmp_path / "audit" / "auditor.token").chmod(0o644)
    secrets = by_name(installation(tmp_path))["secrets"]
    assert secrets.status == "wrong"
    assert "auditor.token" in secrets.found


def test_a_service_that_is_down_is_a_note_and_another_program_on_its_port_is_wrong(tmp_path):
    from shared.runtime.tls import LocalCA

    LocalCA.load_or_create(tmp_path / "ca")
    (tmp_path / "installed.json").write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = "{}:{}".format(*server.getsockname())
        (tmp_path / "ports.json").write_text(json.dumps({"audit-http": address}))
    assert by_name(installation(tmp_path))["audit-http"].status == "note"


@pytest.mark.parametrize("content", ["{", "\xff"])
def test_an_unreadable_installation_is_wrong(tmp_path, content):
    (tmp_path / "installed.json").write_text("{}")
    (tmp_path / "ports.json").write_bytes(content.encode("latin-1"))
    assert by_name(installation(tmp_path))["addresses"].status == "wrong"
