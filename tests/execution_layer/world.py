"""A small world for tests of node and client: real keys, real TLS, real gRPC; doubles where they say so."""

import contextlib
import itertools
from dataclasses import dataclass, field
from pathlib import Path

from execution_layer.client.client import AsyncCounterfoilClient
from execution_layer.client.policy import ClientPolicy
from execution_layer.client.setup import write_client
from execution_layer.node.admission import ServedModel
from execution_layer.node.energy import Unmetered
from execution_layer.node.node import Node, NodeModel
from execution_layer.node.operators import Operator, price, rate_card
from execution_layer.node.settings import AuditServer, NodeParty, NodeSettings, Quotas
from execution_layer.node.setup import add_tenant, write_node
from shared.envelope.hpke import generate_hpke_key
from shared.parties.settings import LogSettings, WorkerSettings
from shared.proto.counterfoil.audit.v1 import audit_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import RpcServer, Service, build_server
from shared.runtime.keys import load_or_create_ed25519, public_bytes, write_atomic
from shared.runtime.party import PartyRole
from shared.runtime.tls import LocalCA
from tests.execution_layer.fakes import ORIGIN, FakeAudit, FakeEngine
from tests.parties import shown_by

MODEL_ROOT = bytes(range(32))
PROFILE = {"device": "fake", "threads": 1}
PROFILE_ID = b"\x07" * 32
MAX_POSITIONS = 512
MOST_BYTES = 4 * MAX_POSITIONS


def fake_tokenise(body):
    """A double of the tokenizer: one token per byte; then the prefix."""
    text = body.prompt if body.prompt is not None else "|".join(m.content for m in body.messages)
    if not text:
        raise CounterfoilError(Code.INVALID_ARGUMENT, "the prompt is empty")
    return (*text.encode(), *body.prefix)


def fake_model(engine):
    """Return a served model over a FakeEngine."""
    served = ServedModel(MODEL_ROOT, PROFILE_ID, MAX_POSITIONS, fake_tokenise, MOST_BYTES)
    return NodeModel(served, PROFILE, engine)


@dataclass
class World:
    """Folders, operators, one tenant, one custodian, and the double of the audit server."""

    folder: Path
    audit: FakeAudit
    ca: LocalCA
    audit_target: str = ""
    audit_server: RpcServer | None = None
    custodian: object = field(default_factory=generate_hpke_key)
    worker_hpke: object = field(default_factory=generate_hpke_key)
    authority: object = None
    worker: object = None
    cards: dict = field(default_factory=dict)
    numbers: object = field(default_factory=lambda: itertools.count(1000))

    def __post_init__(self):
        self.authority = load_or_create_ed25519(self.folder / "authority.pem")
        self.worker = load_or_create_ed25519(self.folder / "worker.pem")
        self.tenant_key = load_or_create_ed25519(self.folder / "client" / "tenant.pem")
        self.tenants_file = self.folder / "tenants.toml"
        add_tenant(self.tenants_file, "acme", public_bytes(self.tenant_key).hex())

    async def start_audit(self):
        """Serve the double of the audit server, on a port of its own each time."""
        package = "counterfoil.audit.v1"
        self.audit_server = build_server(
            tls=self.ca.issue("audit", folder=self.folder / "audit"),
            address="127.0.0.1:0",
            services=[
                Service(
                    f"{package}.Intake", audit_pb2_grpc.add_IntakeServicer_to_server, self.audit
                ),
                Service(f"{package}.Log", audit_pb2_grpc.add_LogServicer_to_server, self.audit),
                Service(
                    f"{package}.Directory",
                    audit_pb2_grpc.add_DirectoryServicer_to_server,
                    self.audit,
                ),
            ],
        )
        await self.audit_server.start()

    async def stop_audit(self):
        """Stop serving; what the double knows is kept."""
        await self.audit_server.stop(grace_s=0.1)

    def operator(self, name="honest", model_root=MODEL_ROOT):
        """Make an operator with a rate card."""
        operator = Operator.create(self.folder / name, name)
        path = self.folder / name / "card.cose"
        if name not in self.cards:
            prices = price(model_root, fresh="0.30", cached="0.03", output="0.60", per=1000000)
            card = rate_card(operator, "standard", "EUR", (prices,), 1)
            statement, self.cards[name] = operator.sign_rate_card(card)
            write_atomic(path, statement)
        return operator, path

    def settings(self, name="node-1", operator="honest", model=None, **changes):
        """Write a node's folder and return its settings; with a `model`, all that a process needs to serve it."""
        who, card = self.operator(operator, **({} if model is None else {"model_root": model[1]}))
        folder = self.folder / name
        party = None
        if model is not None:
            shown = shown_by(PartyRole.NODE, f"{operator}/{name}", self.ca.ca_file)
            party = NodeParty(**shown.model_dump())
        values = {
            "party": party,
            "operator": operator,
            "node": name,
            "model": folder if model is None else model[0],
            "keys": folder / "keys",
            "operator_key_file": who.key_file,
            "tenants_file": self.tenants_file,
            "rate_card_file": card,
            "spool": folder / "node.sqlite",
            "frame_interval_ms": 5,
            "grace_s": 0.5,
            "tls": self.ca.issue(name, folder=folder),
            "audit": AuditServer(
                target=self.audit_target,
                ca_file=self.ca.ca_file,
                authority_keys=(public_bytes(self.authority).hex(),),
                log=LogSettings(
                    origin=ORIGIN, vkeys=self.audit.log_keys, witnesses=self.audit.witnesses
                ),
                workers=(
                    WorkerSettings(
                        name="worker",
                        signing_key=public_bytes(self.worker).hex(),
                        hpke_key=self.worker_hpke.public_bytes.hex(),
                    ),
                ),
            ),
            "quotas": Quotas(max_output_tokens=256, in_flight_per_tenant=40, in_flight=64),
            **changes,
        }
        settings = NodeSettings(**values)
        write_node(folder, who, settings)
        return settings

    @contextlib.asynccontextmanager
    async def node(self, engine=None, name="node-1", *, wait=True, energy=None, **changes):
        """Run a node over a FakeEngine; by default wait until its key bundle is witnessed."""
        settings = self.settings(name, **changes)
        node = Node(settings, fake_model(engine or FakeEngine()), energy or Unmetered())
        try:
            async with node.running() as server:
                if wait:
                    await node.registration.witnessed.wait()
                node.address = server.address
                yield node
        finally:
            node.close()

    def policy(self, model_root=MODEL_ROOT, **changes):
        """Write a client's folder and return its policy."""
        operators = {name: self.operator(name)[0].public_hex for name in self.cards}
        facts = {
            "audit_target": self.audit_target,
            "ca_file": self.ca.ca_file,
            "model_root": model_root.hex(),
            "operators": operators,
            "rate_cards": {name: (entry.hex(),) for name, entry in self.cards.items()},
            "custodians": [{"name": "c1", "hpke_key": self.custodian.public_bytes.hex()}],
            "threshold": 1,
            "log_keys": self.audit.log_keys,
            "witnesses": self.audit.witnesses,
            "quorum": 1,
            **changes,
        }
        facts = write_client(self.folder / "client", "acme", facts)
        return ClientPolicy.load(facts["config"])

    def client(self, **changes):
        """Return an async client."""
        return AsyncCounterfoilClient(self.policy(**changes))


@contextlib.asynccontextmanager
async def small_world(folder):
    """Start the double of the audit server on real TLS gRPC and yield the world."""
    world = World(folder, FakeAudit(), LocalCA.load_or_create(folder / "ca"))
    await world.start_audit()
    world.audit_target = world.audit_server.address
    try:
        yield world
    finally:
        await world.stop_audit()
