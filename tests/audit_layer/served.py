"""A real audit server with a real witness and database, in the test's own loop."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc
import httpx
import pytest
from click.testing import CliRunner

from audit_layer.api.tokens import Role
from audit_layer.commands.access import tenant, token
from audit_layer.commands.audit import audit
from audit_layer.commands.log import log
from audit_layer.trail.service import Accepted, Submission
from audit_layer.wiring import audit_server
from audit_layer.wiring.audit_server import Core, open_core
from audit_layer.wiring.audit_settings import load_settings
from audit_layer.witness.app import create_app
from audit_layer.witness.core import Witness
from audit_layer.witness.store import WitnessStore
from shared.proto.counterfoil.audit.v1 import audit_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import error_from_rpc, secure_aio_channel
from shared.runtime.http import serve_https
from shared.runtime.party import PartyRole
from shared.runtime.tls import LocalCA, TlsFiles, client_context
from shared.statements.cose import entry_of
from shared.translog.notes import SignatureType, Signer, parse_vkey
from tests.audit_layer.api import statements as made
from tests.parties import shown_by
from tests.postgres import Database

ORIGIN = "log.example/api"
COMMANDS = {"audit": audit, "log": log, "tenant": tenant, "token": token}


def command(*arguments: str) -> Any:
    """Run a command of this room; return its output, parsed if it is JSON."""
    result = CliRunner().invoke(COMMANDS[arguments[0]], arguments[1:], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout) if result.stdout[:1] in {"{", "["} else result.stdout


@dataclass
class Filled:
    """Entries of the statements with which the world begins."""

    bundles: dict[str, bytes]
    receipts: dict[str, list[bytes]]
    """By tenant."""
    by_operator: dict[str, list[bytes]]
    verdicts: dict[str, bytes]
    """By tenant."""
    disclosures: dict[str, bytes]
    epoch: bytes
    signed: dict[bytes, Submission]
    """What was submitted for each receipt."""


def fill(core: Core) -> Filled:
    """Three receipts of `acme` and two of `bolt` on two nodes, each tenant's first with a verdict."""

    def put(*submissions: Submission) -> list[bytes]:
        results = core.trail.submit(submissions)
        assert all(isinstance(result, Accepted) for result in results), results
        return [result.entry for result in results if isinstance(result, Accepted)]

    made.register(core.trail)
    filled = Filled({}, {"acme": [], "bolt": []}, {}, {}, {}, b"", {})
    for operator, tenants in {"alpha": ("acme", "bolt", "acme"), "beta": ("acme", "bolt")}.items():
        bundle, card = put(Submission(made.bundle(operator)), Submission(made.rate_card(operator)))
        node = made.Node(operator, bundle, card)
        signed = [node.receipt(name) for name in tenants]
        entries = put(*signed)
        filled.signed.update(zip(entries, signed, strict=True))
        filled.bundles[operator] = bundle
        filled.by_operator[operator] = entries
        for name, entry in zip(tenants, entries, strict=True):
            filled.receipts[name].append(entry)
    for name, entries in filled.receipts.items():
        (filled.disclosures[name],) = put(Submission(made.disclosure_request(entries[0])))
        (filled.verdicts[name],) = put(Submission(made.verdict(entries[0])))
    (filled.epoch,) = put(Submission(made.epoch_open()))
    return filled


class World:
    """One server: its configuration, addresses, and clients."""

    def __init__(self, config: Path, ca: Path, addresses: dict[str, str], filled: Filled) -> None:
        self.config = config
        self.ca = ca
        self.filled = filled
        self.url = f"https://{addresses['http']}"
        self.grpc = addresses["grpc"]
        self.parties = addresses["party"]
        self.worker = shown_by(PartyRole.WORKER, "worker", ca)
        self._tokens: dict[tuple[str, str | None], str] = {}

    def token(self, role: str, scope: str | None = None) -> str:
        if (role, scope) not in self._tokens:
            with self.core() as core:
                self._tokens[role, scope] = core.tokens.create(Role(role), scope)[1]
        return self._tokens[role, scope]

    def core(self) -> Any:
        return open_core(load_settings(self.config), application_name="test")

    async def get(
        self, path: str, role: str | None = "auditor", scope: str | None = None, **query: Any
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.token(role, scope)}"} if role else {}
        async with httpx.AsyncClient(
            base_url=self.url, verify=client_context(self.ca), trust_env=False
        ) as client:
            return await client.get(path, params=query, headers=headers)

    async def ask(
        self, method: str, path: str, role: str, scope: str | None, body: Any
    ) -> httpx.Response:
        """Send a body with a role's token."""
        headers = {"authorization": f"Bearer {self.token(role, scope)}"}
        async with httpx.AsyncClient(
            base_url=self.url, verify=client_context(self.ca), trust_env=False
        ) as client:
            return await client.request(method, path, json=body, headers=headers)

    @asynccontextmanager
    async def stubs(
        self,
    ) -> AsyncIterator[
        tuple[audit_pb2_grpc.IntakeStub, audit_pb2_grpc.LogStub, audit_pb2_grpc.DirectoryStub]
    ]:
        """The services as a worker calls them, who may bring any statement."""
        async with secure_aio_channel(self.parties, self.ca, self.worker) as channel:
            yield (
                audit_pb2_grpc.IntakeStub(channel),
                audit_pb2_grpc.LogStub(channel),
                audit_pb2_grpc.DirectoryStub(channel),
            )


async def call(method: Any, request: Any, timeout_s: float = 10.0) -> Any:
    """Make a call; raise the server's CounterfoilError."""
    try:
        return await method(request, timeout=timeout_s)
    except grpc.RpcError as error:
        raise error_from_rpc(error) from error


async def until(attempt: Callable[[], Awaitable[Any]], code: Code, limit_s: float = 15.0) -> Any:
    """Repeat while `code` is the answer, as a client does when told to retry."""
    async with asyncio.timeout(limit_s):
        while True:
            try:
                return await attempt()
            except CounterfoilError as error:
                if error.code is not code:
                    raise
            await asyncio.sleep(0.05)


class DsnFiles(Protocol):
    """A database as `audit init` needs it."""

    def dsn_file(self, role: str) -> Path:
        """Return the file with a role's connection string."""


def initialise(folder: Path, database: DsnFiles, tls: TlsFiles) -> dict[str, Any]:
    """Run `audit init`."""
    own = shown_by(PartyRole.AUDIT, ORIGIN, tls.ca)
    known: dict[str, Any] = command(
        "audit", "init", "--folder", str(folder), "--origin", ORIGIN,
        "--numeric-profile", made.PROFILE.hex(),
        "--dsn-file", str(database.dsn_file("server")),
        "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0",
        "--cert", str(tls.cert), "--key", str(tls.key), "--ca", str(tls.ca),
        "--party-cert", str(own.cert), "--party-key", str(own.key), "--party-ca", str(own.ca),
        "--publish-interval-ms", "50",
    )  # fmt: skip
    return known


@asynccontextmanager
async def witness(
    folder: Path, tls: TlsFiles, log_vkeys: list[str]
) -> AsyncIterator[tuple[str, list[str]]]:
    """Serve a real witness; yield its address and its vkeys."""
    signers = [
        Signer.generate("witness", kind)
        for kind in (SignatureType.COSIGNATURE_ED25519, SignatureType.COSIGNATURE_MLDSA44)
    ]
    known = {ORIGIN: [parse_vkey(vkey) for vkey in log_vkeys]}
    with WitnessStore(folder / "witness.db") as store:
        app = create_app(Witness(store, signers, known))
        server = await serve_https(app, tls, "127.0.0.1:0", callers_ca=tls.ca)
        try:
            yield server.address, [signer.verifier.vkey() for signer in signers]
        finally:
            await server.stop()


@asynccontextmanager
async def serving(config: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[dict[str, str]]:
    """Run the audit server; yield its addresses once it says that it is ready."""
    ready: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(audit_server, "write_ready", lambda _, found: ready.set_result(dict(found)))
    stop = asyncio.Event()
    task = asyncio.create_task(
        audit_server.serve_audit(load_settings(config), Path("unused"), stop)
    )
    both: set[asyncio.Future[Any]] = {task, ready}
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
    try:
        yield await ready
    finally:
        stop.set()
        await task


@asynccontextmanager
async def configured(
    database: Database, folder: Path
) -> AsyncIterator[tuple[Path, Path, dict[str, Any]]]:
    """Set up a server that trusts a running witness; yield its configuration, its authority's file, and `init`'s output."""
    authority = LocalCA.load_or_create(folder / "ca")
    tls = authority.issue("server")
    known = initialise(folder / "audit", database, tls)
    async with witness(folder, tls, known["log_vkeys"]) as (address, vkeys):
        given = [argument for vkey in vkeys for argument in ("--vkey", vkey)]
        command("audit", "trust", "--config", known["config"], "--name", "witness",
                "--url", f"https://{address}", *given)  # fmt: skip
        yield Path(known["config"]), authority.ca_file, known


@pytest.fixture
async def world(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    async with configured(database, tmp_path) as (config, ca, _):
        with open_core(load_settings(config), application_name="test") as core:
            filled = fill(core)
        async with serving(config, monkeypatch) as addresses:
            yield World(config, ca, addresses, filled)


__all__ = ["World", "call", "command", "entry_of", "initialise", "until"]
