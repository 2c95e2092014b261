"""Who may call what by certificate: every method of every gRPC server, and every route of witnesses and custodians.

The expected rows are written by hand here, apart from the table that the servers follow, so each checks the other; a new
method or route without a row fails.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from fastapi import FastAPI

from audit_layer.custodian.app import create_app as custodian_app
from audit_layer.disclosure.parties import CustodianClient
from audit_layer.witness.app import create_app as witness_app
from audit_layer.witness.core import Witness
from audit_layer.witness.store import WitnessStore
from shared.parties.beacon_http import beacon_router
from shared.parties.permissions import (
    AUDIT_GRPC,
    BRINGERS,
    BROUGHT_BY_ANYBODY,
    CUSTODIAN_HTTP,
    NODE_GRPC,
    STAGE_GRPC,
    STAGE_NODE_GRPC,
    WITNESS_HTTP,
)
from shared.proto.counterfoil.audit.v1 import audit_pb2
from shared.proto.counterfoil.execution.v1 import execution_pb2, stages_pb2
from shared.runtime.access import Rules
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import (
    RpcServer,
    Service,
    build_server,
    error_from_rpc,
    secure_aio_channel,
    serves,
)
from shared.runtime.http import serve_https
from shared.runtime.party import Party, PartyFiles, PartyListener, PartyRole
from shared.runtime.tls import LocalCA, TlsFiles, client_context
from shared.runtime.traffic import Traffic
from shared.translog.notes import SignatureType, Signer
from tests.audit_layer.custodian import custody

ANYBODY = {"nobody", "server", "node", "worker", "custodian", "witness", "audit"}
"""Callers with a valid certificate, a server's (which names no party), or none."""
HEALTH = ("/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch")
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
METHODS: dict[str, set[str]] = {
    "/counterfoil.audit.v1.Intake/Submit": ANYBODY,  # each statement is judged by its type and signature
    "/counterfoil.audit.v1.Intake/Deposit": ANYBODY,
    "/counterfoil.audit.v1.Log/GetCheckpoint": ANYBODY,
    "/counterfoil.audit.v1.Log/GetProof": ANYBODY,
    "/counterfoil.audit.v1.Log/GetConsistency": ANYBODY,
    "/counterfoil.audit.v1.Directory/ListKeyBundles": ANYBODY,
    "/counterfoil.audit.v1.Directory/ListIdentityKeys": ANYBODY,
    "/counterfoil.audit.v1.Directory/GetRateCards": ANYBODY,
    "/counterfoil.execution.v1.Inference/GetKeyBundle": ANYBODY,
    "/counterfoil.execution.v1.Inference/Generate": ANYBODY,
    "/counterfoil.execution.v1.Inference/Resume": ANYBODY,
    "/counterfoil.execution.v1.Inference/Cancel": ANYBODY,
    "/counterfoil.execution.v1.Inference/GetModelFiles": ANYBODY,
    "/counterfoil.execution.v1.Evidence/GetEvidence": {"worker"},
    "/counterfoil.execution.v1.Stages/Join": {"node"},
    "/counterfoil.execution.v1.Stages/Push": {"node"},
    "/counterfoil.execution.v1.Stages/Accept": {"node"},
    "/counterfoil.execution.v1.Stages/Close": {"node"},
}
ROUTES: dict[str, dict[str, set[str]]] = {
    "witness": {
        "POST /add-checkpoint": {"audit"},
        "GET /checkpoint/{origin_hash}": ANYBODY,
        "GET /health": ANYBODY,
        "POST /beacon/commitment": {"worker"},
        "POST /beacon/reveal": {"worker"},
    },
    "custodian": {
        "POST /release": {"worker"},
        "POST /share": {"worker"},
        "GET /reports": ANYBODY,
        "GET /health": ANYBODY,
        "POST /beacon/commitment": {"worker"},
        "POST /beacon/reveal": {"worker"},
    },
}
TABLES: dict[str, Rules] = {"witness": WITNESS_HTTP, "custodian": CUSTODIAN_HTTP}
REFUSED = ("nobody", "expired", "foreign")
"""Who comes no further than the handshake where a certificate is demanded."""


@dataclass(frozen=True)
class Callers:
    """A server's certificate, and what each caller shows."""

    tls: TlsFiles
    shown: dict[str, PartyFiles | None]


@pytest.fixture(scope="module")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Callers:
    folder = tmp_path_factory.mktemp("parties")
    ours, foreign = (LocalCA.load_or_create(folder / name) for name in ("ca", "foreign"))
    tls = ours.issue("server", ["127.0.0.1"])
    long_ago = datetime.now(UTC) - timedelta(days=365)
    worker = Party(PartyRole.WORKER, "worker")
    shown: dict[str, PartyFiles | None] = {
        str(role): ours.issue_party(Party(role, "one"), folder=folder / role) for role in PartyRole
    }
    shown |= {
        "nobody": None,
        "server": PartyFiles(cert=tls.cert, key=tls.key, ca=tls.ca),
        "expired": ours.issue_party(worker, folder=folder / "expired", now=long_ago),
        "foreign": foreign.issue_party(worker, folder=folder / "other"),
    }
    return Callers(tls, shown)


def methods_of(descriptor: Any) -> Iterator[str]:
    """Yield the full names of the methods that a proto file defines."""
    for service in descriptor.services_by_name.values():
        for method in service.methods:
            yield f"/{service.full_name}/{method.name}"


def test_every_method_of_every_server_has_a_row_and_a_rule():
    for file, table in (
        (audit_pb2, AUDIT_GRPC),
        (execution_pb2, NODE_GRPC),
        (stages_pb2, STAGE_GRPC),
        (stages_pb2, STAGE_NODE_GRPC),
        (execution_pb2, STAGE_NODE_GRPC),
    ):
        defined = set(methods_of(file.DESCRIPTOR))
        assert defined <= METHODS.keys()
        assert defined <= table.keys()
        for method, rule in table.items():
            allowed = METHODS.get(method, ANYBODY)
            assert (rule.parties or ANYBODY) == allowed, method
            assert not rule.tokens, "no gRPC method is for tokens"
    assert {*HEALTH, REFLECTION} <= AUDIT_GRPC.keys() & NODE_GRPC.keys()


def test_only_nodes_and_workers_bring_what_they_sign_themselves():
    assert set(BRINGERS) == {PartyRole.NODE, PartyRole.WORKER}
    theirs = {"key-bundle", "rate-card", "verdict", "disclosure-request", "draw", "epoch-open"}
    theirs |= {"epoch-seal", "tenant-seal", "period-seal", "beacon-commitment", "beacon-reveal"}
    assert not theirs & BROUGHT_BY_ANYBODY


class Echo:
    """A service of which every method answers with nothing."""

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def add(self, _servicer: object, server: grpc.aio.Server) -> None:
        """Register the methods."""

        async def answer(_request: bytes, _context: Any) -> bytes:
            return b""

        for full in self._names:
            service, _, name = full.removeprefix("/").partition("/")
            handler: Any = grpc.unary_unary_rpc_method_handler(answer)
            server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service, {name: handler}),)
            )


@asynccontextmanager
async def echoing(
    callers: Callers,
    rules: Rules,
    more: tuple[str, ...] = (),
    traffic: Traffic | None = None,
) -> AsyncIterator[RpcServer]:
    """Serve the methods of a table, and others that are in none."""
    names = [name for name in rules if name.startswith("/counterfoil.")]
    echo = Echo([*names, *more])
    address = "127.0.0.1:0"
    listener = PartyListener(**dict(callers.shown["audit"] or {}), address=address)
    server = build_server(
        tls=callers.tls,
        address=address,
        services=[Service("echo", echo.add, echo)],
        rules=rules,
        parties=listener,
        traffic=traffic,
    )
    await server.start()
    try:
        yield server
    finally:
        await server.stop(grace_s=0)


async def called(
    address: str, callers: Callers, caller: str, method: str
) -> CounterfoilError | None:
    """Return the error with which a method answers; None if the call came through."""
    async with secure_aio_channel(address, callers.tls.ca, callers.shown[caller]) as channel:
        try:
            call: Any = channel.unary_unary(method)
            await call(b"", timeout=10)
        except grpc.RpcError as error:
            return error_from_rpc(error)
    return None


@pytest.mark.parametrize(
    "table", [AUDIT_GRPC, NODE_GRPC, STAGE_GRPC], ids=["audit", "node", "stage"]
)
async def test_each_caller_of_each_method_gets_what_its_row_says(callers: Callers, table: Rules):
    async with echoing(callers, table) as server:
        assert server.party_address is not None
        for method, allowed in METHODS.items():
            if method not in table:
                continue
            for caller in sorted(ANYBODY):
                address = server.address if caller == "nobody" else server.party_address
                error = await called(address, callers, caller, method)
                if caller in allowed:
                    assert error is None, (method, caller, error)
                else:
                    assert error is not None, (method, caller)
                    assert error.code is Code.FORBIDDEN
                    assert f"for parties of role {' or '.join(sorted(allowed))}" in error.detail
                    shows = "no party" if caller in {"nobody", "server"} else f"{caller} one"
                    assert shows in error.detail


async def test_a_method_without_a_rule_is_refused_to_everybody(callers: Callers):
    new = "/counterfoil.audit.v1.Intake/Forgotten"
    async with echoing(callers, AUDIT_GRPC, (new,)) as server:
        for caller in ("nobody", "worker"):
            error = await called(server.address, callers, caller, new)
            assert error is not None
            assert error.code is Code.FORBIDDEN


@pytest.mark.parametrize("caller", REFUSED)
async def test_the_address_for_parties_says_why_it_refuses_a_certificate(
    callers: Callers, caller: str
):
    told = {
        "nobody": "none was shown",
        "expired": "expired on ",
        "foreign": "its authority is not among those that the server believes",
    }
    async with echoing(callers, AUDIT_GRPC) as server:
        assert server.party_address is not None
        error = await called(server.party_address, callers, caller, next(iter(METHODS)))
        assert error is not None
        assert error.code is Code.UNAVAILABLE
        assert told[caller] in error.detail


async def test_one_party_that_calls_too_often_is_told_when_to_return_and_others_are_served(
    callers: Callers,
):
    method = "/counterfoil.audit.v1.Intake/Submit"
    traffic = Traffic(party_calls_per_s=0.01)  # one call, and the next after 100 s
    async with echoing(callers, AUDIT_GRPC, traffic=traffic) as server:
        assert server.party_address is not None
        assert await called(server.party_address, callers, "worker", method) is None
        error = await called(server.party_address, callers, "worker", method)
        assert error is not None
        assert (error.code, "worker one" in error.detail) == (Code.OVERLOADED, True)
        assert error.retry_after_s is not None
        assert 50 < error.retry_after_s <= 100
        assert await called(server.party_address, callers, "node", method) is None
        assert await called(server.address, callers, "nobody", method) is None


async def test_health_checks_need_no_certificate_where_clients_call(callers: Callers):
    async with echoing(callers, NODE_GRPC) as server:
        assert server.party_address is not None
        asked = [(server.address, None), (server.party_address, callers.shown["worker"])]
        for address, party in asked:
            assert await asyncio.to_thread(serves, address, callers.tls.ca, party) is True


@asynccontextmanager
async def application(
    kind: str, folder: Path, *, behind_proxy: bool = False
) -> AsyncIterator[FastAPI]:
    """Build a witness's or custodian's application, as they are served."""
    with custody.custodian(folder) as holder:
        beacon = custody.beacon(holder)
        if kind == "custodian":
            yield custodian_app(holder, beacon, behind_proxy=behind_proxy)
            return
        signer = Signer.generate("witness", SignatureType.COSIGNATURE_ED25519)
        with WitnessStore(folder / "witness.db") as store:
            core = Witness(store, [signer], {})
            yield witness_app(
                core, extra_routers=[beacon_router(beacon)], behind_proxy=behind_proxy
            )


async def asked(
    url: str, callers: Callers, caller: str, where: str
) -> httpx.Response | httpx.HTTPError:
    """Return the answer to a request without a body, or how the connection ended."""
    method, _, path = where.partition(" ")
    context = client_context(callers.tls.ca, callers.shown[caller])
    async with httpx.AsyncClient(base_url=url, verify=context, trust_env=False) as client:
        try:
            return await client.request(method, path.replace("{origin_hash}", "00"))
        except httpx.HTTPError as error:
            return error


@pytest.mark.parametrize("kind", ROUTES)
async def test_each_caller_of_each_route_gets_what_its_row_says(
    callers: Callers, kind: str, tmp_path: Path
):
    rows = ROUTES[kind]
    assert rows.keys() == TABLES[kind].keys()
    async with application(kind, tmp_path) as app:
        schema = FastAPI.openapi(app)
        routes = {
            f"{method.upper()} {path}" for path, item in schema["paths"].items() for method in item
        }
        assert routes == rows.keys()
        server = await serve_https(app, callers.tls, "127.0.0.1:0", callers_ca=callers.tls.ca)
        url = f"https://{server.address}"
        for where, allowed in rows.items():
            for caller in sorted(ANYBODY):
                answer = await asked(url, callers, caller, where)
                assert isinstance(answer, httpx.Response)
                refused = answer.status_code == 403 and answer.json()["code"] == "FORBIDDEN"
                assert refused == (caller not in allowed), (where, caller, answer.text)
        for caller in ("expired", "foreign"):
            for where in rows:
                assert isinstance(await asked(url, callers, caller, where), httpx.HTTPError)
        await server.stop()


@pytest.mark.parametrize(
    ("caller", "told"),
    [
        ("nobody", "the call shows no party's certificate"),
        ("node", "the call shows the certificate of node one"),
        ("expired", "expired on "),
        ("foreign", "its authority is not among those that the server believes"),
    ],
)
async def test_a_worker_learns_why_a_custodian_refuses_it(
    callers: Callers, caller: str, told: str, tmp_path: Path
):
    async with application("custodian", tmp_path) as app:
        server = await serve_https(app, callers.tls, "127.0.0.1:0", callers_ca=callers.tls.ca)
        client = CustodianClient(
            "custodian-1", f"https://{server.address}", callers.tls.ca, callers.shown[caller]
        )
        with pytest.raises(CounterfoilError) as found:
            await asyncio.to_thread(client.commitment, 1)
        client.close()
        assert told in found.value.detail
        assert "custodian-1" in found.value.detail
        await server.stop()


async def test_behind_a_proxy_that_checks_them_certificates_are_not_asked_for(
    callers: Callers, tmp_path: Path
):
    async with application("custodian", tmp_path, behind_proxy=True) as app:
        server = await serve_https(app, callers.tls, "127.0.0.1:0")
        answer = await asked(f"https://{server.address}", callers, "nobody", "POST /release")
        assert isinstance(answer, httpx.Response)
        assert answer.json()["code"] == "MALFORMED"  # it got past the rule, and has no body
        await server.stop()
