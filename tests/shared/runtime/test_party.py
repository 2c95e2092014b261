"""Parties as certificates name them: whom a certificate is for, and what a party without one is told."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from fastapi import Depends, FastAPI, Request
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shared.parties.permissions import NODE_GRPC
from shared.runtime.access import by_parties
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import build_server, secure_aio_channel
from shared.runtime.http import serve_https
from shared.runtime.http_access import HttpAccess
from shared.runtime.party import (
    Party,
    PartyCallers,
    PartyFiles,
    PartyListener,
    PartyRole,
    check_callers,
    check_party,
    party_in,
)
from shared.runtime.tls import LIFE, LocalCA, client_context

NODE = Party(PartyRole.NODE, "operator-a/node-a")
WORKER = Party(PartyRole.WORKER, "worker-a")


@pytest.fixture
def authority(tmp_path: Path) -> LocalCA:
    return LocalCA.load_or_create(tmp_path / "ca")


def test_a_party_is_who_its_certificate_names_and_a_server_is_nobody(
    authority: LocalCA, tmp_path: Path
):
    for party in (NODE, WORKER, Party(PartyRole.AUDIT, "log.example/2026")):
        files = authority.issue_party(party, folder=tmp_path / party.role)
        assert party_in(files.cert.read_bytes()) == party
        assert files.key.stat().st_mode & 0o077 == 0
        assert authority.issue_party(party, folder=tmp_path / party.role) == files
    server = authority.issue("server", ["worker-a", "localhost"])
    assert party_in(server.cert.read_bytes()) is None
    assert party_in(authority.ca_file.read_bytes()) is None
    assert party_in(b"junk") is None


@pytest.mark.parametrize(
    "uris",
    [
        [WORKER.uri, NODE.uri],
        [WORKER.uri, "counterfoil://other"],
        [WORKER.uri, "COUNTERFOIL://party/node/x/y"],
        ["counterfoil://party/worker/"],
        ["counterfoil://party/worker/a/b/c"],
        ["counterfoil://party/auditor/worker-a"],
        ["counterfoil://party/worker/worker-a/"],
        ["counterfoil://party/worker/worker-a?x"],
        ["counterfoil://party/worker/worker%2da"],
        ["https://party/worker/worker-a"],
        ["spiffe://x"],
        [],
    ],
)
def test_a_name_that_is_not_exactly_one_partys_is_nobodys(authority: LocalCA, uris: list[str]):
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    names = names or [x509.DNSName("x")]
    key = LocalCA.load_or_create(authority.folder)._key
    certificate = authority._sign(
        key.public_key(), "x", names, [ExtendedKeyUsageOID.CLIENT_AUTH], datetime.now(UTC)
    )
    assert party_in(certificate.public_bytes(Encoding.DER)) is None


def test_a_name_that_no_certificate_can_carry_is_refused_when_it_is_asked_for(authority: LocalCA):
    for name in ("", "a b", "../x", "a/b/c", "é", "-x", "x" * 65):
        with pytest.raises(CounterfoilError) as found:
            authority.issue_party(Party(PartyRole.NODE, name))
        assert found.value.code is Code.CONFIGURATION


def test_a_certificate_is_replaced_when_its_party_or_its_last_third_changes(authority: LocalCA):
    files = authority.issue_party(WORKER)
    first = files.cert.read_bytes()
    authority.issue_party(WORKER, now=datetime.now(UTC) + LIFE / 2)
    assert files.cert.read_bytes() == first
    authority.issue_party(NODE)
    assert party_in(files.cert.read_bytes()) == NODE
    authority.issue_party(WORKER)
    second = files.cert.read_bytes()
    authority.issue_party(WORKER, now=datetime.now(UTC) + LIFE - timedelta(days=20))
    assert files.cert.read_bytes() not in {first, second}


def test_a_configuration_from_before_is_refused_with_the_command_that_mends_it(
    authority: LocalCA,
):
    with pytest.raises(CounterfoilError) as found:
        check_party(None, PartyRole.NODE, NODE.name, "counterfoil node init")
    assert found.value.code is Code.CONFIGURATION
    assert "counterfoil node init" in str(found.value)
    assert NODE.uri in str(found.value)
    own, others = authority.issue_party(WORKER), PartyRole.NODE
    assert check_party(own, PartyRole.WORKER, WORKER.name, "x") is own
    for role, name in ((others, WORKER.name), (PartyRole.WORKER, "worker-b")):
        with pytest.raises(CounterfoilError) as found:
            check_party(own, role, name, "x")
        assert "the certificate of worker worker-a" in found.value.detail
    server = authority.issue("server")
    with pytest.raises(CounterfoilError) as found:
        check_party(PartyFiles(**server.model_dump()), PartyRole.WORKER, WORKER.name, "x")
    assert "not a party's certificate" in found.value.detail


def test_a_server_says_how_its_callers_are_checked_or_does_not_serve(authority: LocalCA):
    for kept in (PartyCallers(ca=authority.ca_file), PartyCallers(behind_proxy=True)):
        assert check_callers(kept, "custodian.toml", "counterfoil audit custodian init") is kept
    both = PartyCallers(ca=authority.ca_file, behind_proxy=True)
    for unclear in (None, PartyCallers(), both):
        with pytest.raises(CounterfoilError) as found:
            check_callers(unclear, "custodian.toml", "counterfoil audit custodian init")
        assert found.value.code is Code.CONFIGURATION
        assert "counterfoil audit custodian init" in str(found.value)
        assert "behind_proxy" in str(found.value)


async def test_a_caller_shows_the_certificate_that_replaced_its_own(
    authority: LocalCA, tmp_path: Path
):
    """Both sides run on; the caller's files are replaced by those of another party, and then of its authority."""
    tls = authority.issue("server", ["127.0.0.1"])
    own = authority.issue_party(WORKER, folder=tmp_path / "own")
    rule = by_parties(PartyRole.WORKER)
    app = FastAPI(dependencies=[Depends(HttpAccess({"GET /who": rule}))])

    @app.get("/who")
    def who(request: Request) -> str:
        return str(request.state.party)

    https = await serve_https(app, tls, "127.0.0.1:0", callers_ca=authority.ca_file)
    rules = {**NODE_GRPC, "/grpc.health.v1.Health/Check": rule}
    listener = PartyListener(**own.model_dump())
    rpc = build_server(tls=tls, address="127.0.0.1:0", services=[], rules=rules, parties=listener)
    await rpc.start()
    assert rpc.party_address is not None
    context = client_context(tls.ca, own)
    async with secure_aio_channel(rpc.party_address, tls.ca, own) as channel:

        async def served() -> tuple[str | None, bool]:
            async with httpx.AsyncClient(verify=context, trust_env=False) as client:
                answer = await client.get(f"https://{https.address}/who")
            name = answer.json() if answer.status_code == 200 else None
            stub: Any = health_pb2_grpc.HealthStub(channel)  # its types lack Check
            try:
                await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
            except grpc.RpcError:
                return name, False
            return name, True

        assert await served() == ("worker worker-a", True)
        authority.issue_party(Party(PartyRole.WORKER, "worker-b"), folder=tmp_path / "own")
        assert await served() == ("worker worker-b", True)
        authority.issue_party(NODE, folder=tmp_path / "own")
        assert await served() == (None, False)
        authority.issue_party(WORKER, folder=tmp_path / "own")
        assert await served() == ("worker worker-a", True)
    await asyncio.gather(https.stop(), rpc.stop(grace_s=0))
