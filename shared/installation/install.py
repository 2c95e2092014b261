"""First start: certificates, keys, databases, configurations and registrations, through the public commands."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shared.installation.commands import Commands
from shared.installation.credentials import TOKENS, Credentials
from shared.installation.layout import (
    ORIGIN,
    SERVICES,
    TENANT,
    THRESHOLD,
    VERSION,
    WITNESS,
    WORKERS,
    NodePlan,
    Plan,
    Ports,
    free_ports,
    parties_of,
)
from shared.runtime.keys import private_folder, write_atomic
from shared.runtime.party import PartyFiles
from shared.runtime.tls import TlsFiles

Json = dict[str, Any]
PRICES = ("--price-input", "0.30", "--price-cached", "0.03", "--price-output", "0.60")
STAGE_PRICES = ("--price-input", "0.04", "--price-cached", "0.004", "--price-output", "0.08")
"""Of a stage, for its layers."""


@dataclass(slots=True)
class Identities:
    """What the `keys` commands reported for each party."""

    witness: Json
    custodians: list[Json]
    workers: list[Json]
    operators: dict[str, Json]

    @property
    def beacon(self) -> dict[str, str]:
        """Signing keys of the beacon's parties, by name."""
        return {told["name"]: told["signing_key"] for told in (self.witness, *self.custodians)}


class Installer:
    """Installs a plan into its folder. The database must be running, and empty or left by an interrupted attempt."""

    def __init__(self, plan: Plan, commands: Commands) -> None:
        self._plan = plan
        self._run = commands.run
        self._json = commands.json
        self._commands = commands
        self.ports = _ports(plan)
        self.credentials = Credentials(plan, commands)

    async def install(self) -> None:
        """Do everything that a first start needs, then record that it is done."""
        plan, tls = self._plan, self.credentials.certificates()
        shown = self.credentials.party_certificates()
        self._say("creating roles and databases")
        keys = asyncio.create_task(self._identities())
        probe = asyncio.create_task(self._profiles())
        await self._run("db", "init", "--folder", plan.path("postgres"))
        await self._run("db", "upgrade", "--dsn-file", self.dsn("owner"))
        self._say("creating keys and configurations")
        parties = await keys
        log = await self._audit(tls["audit"], shown["audit"], parties, await probe)
        self._say("registering parties; setting up workers, operators and nodes")
        cards = asyncio.gather(
            *(
                self._node(node, tls[node.name], shown[node.name], log, parties)
                for node in plan.nodes
            )
        )
        await asyncio.gather(
            cards,
            self._party("witness", WITNESS, tls, log, parties),
            *(self._party("custodian", name, tls, log, parties) for name in plan.custodians),
            self._register(log, parties, shown),
        )
        self._say("setting up the client")
        await self._client(
            log,
            parties,
            list(zip(plan.nodes, await cards, strict=True)),
        )
        nodes = [_kept(node) for node in plan.nodes]
        done = {"version": VERSION, "custodians": plan.custodians, "nodes": nodes}
        write_atomic(plan.installed, json.dumps(done).encode())

    def _say(self, text: str) -> None:
        self._commands.say("setup", text)

    def dsn(self, role: str) -> Path:
        """Return the file with a role's DSN."""
        return self._plan.path("postgres", "secrets", f"{role}.dsn")

    @property
    def audit_config(self) -> Path:
        """The audit server's configuration."""
        return self.credentials.audit_config

    async def _identities(self) -> Identities:
        plan, audit = self._plan, ("audit",)
        operators = list(plan.operators)
        witness, first, second, *told = await asyncio.gather(
            self._json(
                *audit, "witness", "keys", "--folder", plan.path(WITNESS), "--name", WITNESS
            ),
            self._json(
                *(*audit, "worker", "keys", "--folder", plan.path(WORKERS[0])),
                *("--name", WORKERS[0], "--authority"),
            ),
            self._json(
                *audit, "worker", "keys", "--folder", plan.path(WORKERS[1]), "--name", WORKERS[1]
            ),
            *(
                self._json(*audit, "custodian", "keys", "--folder", plan.path(name), "--name", name)
                for name in plan.custodians
            ),
            *(
                self._json(
                    *("node", "operator-init", "--folder", plan.path("operators", name)),
                    *("--operator", name, "--json"),
                )
                for name in operators
            ),
        )
        custodians, rest = told[: len(plan.custodians)], told[len(plan.custodians) :]
        return Identities(
            witness, custodians, [first, second], dict(zip(operators, rest, strict=True))
        )

    async def _profiles(self) -> list[str]:
        """Return the numeric profiles that this machine's auditors compute for the model, one per arithmetic."""
        command = ("model", "profile", self._plan.model, "--arithmetic", "all", "--json")
        told = await self._json(*command)
        return [each["numeric_profile"] for each in told]

    async def _audit(
        self, tls: TlsFiles, shown: PartyFiles, parties: Identities, profiles: Sequence[str]
    ) -> Json:
        """Write the audit server's configuration; return the log's part of the trust that everybody needs."""
        plan, ports = self._plan, self.ports
        told = await self._json(
            *("audit", "init", "--folder", plan.path("audit"), "--origin", ORIGIN),
            *("--dsn-file", self.dsn("server"), "--grpc", ports["audit-grpc"]),
            *("--http", ports["audit-http"], "--cert", tls.cert, "--key", tls.key, "--ca", tls.ca),
            *("--party-grpc", ports["audit-parties"], *_party_options(shown)),
            *("--publish-interval-ms", str(plan.publish_interval_ms)),
            *(["--reflection"] if plan.reflection else []),
            *(part for profile in profiles for part in ("--numeric-profile", profile)),
        )
        vkeys = parties.witness["vkeys"]
        await self._run(
            *("audit", "trust", "--config", self.audit_config, "--name", WITNESS),
            *("--url", f"https://{ports[WITNESS]}", "--quorum", "1"),
            *(part for vkey in vkeys for part in ("--vkey", vkey)),
        )
        return {"origin": ORIGIN, "vkeys": told["log_vkeys"], "witnesses": vkeys, "quorum": 1}

    async def _party(
        self, group: str, name: str, tls: dict[str, TlsFiles], log: Json, parties: Identities
    ) -> None:
        plan = self._plan
        trust = {
            **_believed(log, parties),
            "limits": {"max_rate_ppm": plan.rate_ppm, "max_floor": plan.strict_floor},
            "parties": {other: key for other, key in parties.beacon.items() if other != name},
            "operators": {name: told["operator_key"] for name, told in parties.operators.items()},
        }
        files = tls[name]
        await self._run(
            *("audit", group, "init", "--config-folder", plan.path(name), "--name", name),
            *("--address", self.ports[name], "--cert", files.cert, "--key", files.key),
            *("--ca", files.ca, "--trust", self._trust(name, trust), "--party-ca", files.ca),
        )

    async def _worker(self, name: str, shown: PartyFiles, log: Json, parties: Identities) -> None:
        plan, ports = self._plan, self.ports
        trust: Json = {
            "custodians": [
                {
                    "name": custodian["name"],
                    "url": f"https://{ports[custodian['name']]}",
                    "hpke_key": custodian["hpke_key"],
                }
                for custodian in parties.custodians
            ],
            "witnesses": [{"name": WITNESS, "url": f"https://{ports[WITNESS]}"}],
            "peers": [
                {key: worker[key] for key in ("name", "signing_key", "hpke_key")}
                for worker in parties.workers
            ],
            "tick_seconds": 0.5,
            "hint_seconds": 2.0,
            "lease_seconds": 30.0,
        }
        if name == WORKERS[0]:
            trust["authority"] = {
                "key_file": str(plan.path(name, "keys", "authority.pem").absolute()),
                "epoch_seconds": plan.epoch_seconds,
                "reveal_seconds": plan.reveal_seconds,
                "rate_ppm": plan.rate_ppm,
                "floor": plan.floor,
                "strict_floor": plan.strict_floor,
                "disclosure_seconds": plan.disclosure_seconds,
            }
        await self._run(
            *("audit", "worker", "init", "--folder", plan.path(name), "--name", name),
            *("--origin", log["origin"], "--dsn-file", self.dsn("worker")),
            *("--broker-url-file", self.dsn("broker"), "--audit-server", ports["audit-parties"]),
            *("--ca", shown.ca, "--cert", shown.cert, "--key", shown.key, "--model", plan.model),
            *("--trust", self._trust(name, trust)),
        )

    async def _register(self, log: Json, parties: Identities, shown: dict[str, PartyFiles]) -> None:
        """Tell the audit layer which keys to trust, then set up its workers and the auditors' tokens."""
        authority = parties.workers[0]["authority_key"]
        members = [
            ("authority", "authority", authority),
            (WITNESS, "witness", parties.witness["signing_key"]),
            *((told["name"], "custodian", told["signing_key"]) for told in parties.custodians),
            *((worker["name"], "worker", worker["signing_key"]) for worker in parties.workers),
            *((name, "operator", told["operator_key"]) for name, told in parties.operators.items()),
        ]
        listed = [{"name": name, "role": role, "key": key} for name, role, key in members]
        config = ("--config", self.audit_config)
        await self._run("audit", "party", "import", self._trust("parties", listed), *config)
        for name in WORKERS:
            await self._worker(name, shown[name], log, parties)
        for role in TOKENS:
            out = self.credentials.token(role)
            await self._run("token", "create", "--role", role, "--out", out, *config)

    async def _node(
        self, node: NodePlan, tls: TlsFiles, shown: PartyFiles, log: Json, parties: Identities
    ) -> Json:
        """Sign the operator's rate card and write the node's configuration; return the card's facts."""
        plan = self._plan
        operator = plan.path("operators", node.operator)
        name, prices = ("standard", PRICES) if node.head is None else (node.name, STAGE_PRICES)
        file = "rate-card.cose" if node.head is None else f"rate-card-{node.name}.cose"
        card = plan.path("operators", node.operator, file)
        facts: Json = await self._json(
            *("node", "rate-card", "--operator-folder", operator, "--model", plan.model),
            *("--name", name, *prices),
            *("--per", "1000", "--currency", "EUR", "--out", card, "--json"),
        )
        await self._run(
            *("node", "init", "--folder", plan.path(node.name), "--operator-folder", operator),
            *("--name", node.name, "--model", plan.model, "--rate-card", card),
            *("--arithmetic", node.arithmetic),
            *self._stage_options(node),
            *("--audit-target", self.ports["audit-parties"], "--address", self.ports[node.name]),
            *("--party-address", self.ports[parties_of(node)], *_party_options(shown)),
            *("--trust", self._trust(node.name, _believed(log, parties))),
            *(
                "--tls-cert",
                tls.cert,
                "--tls-key",
                tls.key,
                "--tls-ca",
                tls.ca,
                "--max-batch",
                "16",
            ),
            *("--reflection" if plan.reflection else "--no-reflection",),
        )
        return facts

    def _stage_options(self, node: NodePlan) -> list[str]:
        """Return what makes a node a chain's head, or a stage of one: whoever calls a stage is a party of its own."""
        if node.head is not None:
            callers = [one for one in self._plan.nodes if node.head in {one.name, one.head}]
            named = [one.issuer for one in callers if one != node]
            return ["--layers", node.part, *(part for one in named for part in ("--caller", one))]
        return [
            part
            for stage in self._plan.chain(node)
            for part in (
                "--stage",
                f"{stage.issuer}@{self.ports[stage.link or parties_of(stage)]}={stage.part}",
            )
        ]

    async def _client(
        self, log: Json, parties: Identities, cards: list[tuple[NodePlan, Json]]
    ) -> None:
        """Create the tenant's key and policy, and register the tenant with the audit layer and the nodes."""
        plan = self._plan
        _, first = cards[0]
        facts = {
            "audit_target": self.ports["audit-grpc"],
            "ca_file": str(plan.path("ca", "ca.pem").absolute()),
            "model_root": first["model_root"],
            "operators": {name: told["operator_key"] for name, told in parties.operators.items()},
            "rate_cards": {
                node.operator if node.head is None else node.issuer: [card["rate_card"]]
                for node, card in cards
            },
            "custodians": [
                {"name": told["name"], "hpke_key": told["hpke_key"]} for told in parties.custodians
            ],
            "threshold": THRESHOLD,
            "log_keys": log["vkeys"],
            "witnesses": log["witnesses"],
            "quorum": log["quorum"],
        }
        if any(
            node.wrapper for node in plan.nodes
        ):  # however it stands after a run: the next one asks it again
            facts["min_standing"] = "suspended"
        told = await self._json(
            *("client", "init", "--folder", plan.path("client"), "--tenant", TENANT),
            *("--facts", self._trust("client", facts), "--json"),
        )
        key = told["tenant_key"]
        await self._run("tenant", "add", TENANT, "--key", key, "--config", self.audit_config)
        for node in plan.nodes:
            await self._run(
                *("node", "add-tenant", "--config", plan.path(node.name, "node.toml")),
                *("--tenant", TENANT, "--key", key),
            )

    def _trust(self, name: str, trust: Any) -> Path:
        path = self._plan.path("trust", f"{name}.json")
        private_folder(path.parent)
        write_atomic(path, json.dumps(trust, indent=1).encode())
        return path


def _believed(log: Json, parties: Identities) -> Json:
    """Return whom the parties trust that release shares or hand out evidence for an audit."""
    return {
        "log": log,
        "authority": parties.workers[0]["authority_key"],
        "workers": [
            {key: worker[key] for key in ("name", "signing_key", "hpke_key")}
            for worker in parties.workers
        ],
    }


def _kept(node: NodePlan) -> Json:
    """Return what is written down of a node: everything but whether a run had something stand in for it."""
    return {name: value for name, value in asdict(node).items() if name != "wrapper"}


def _ports(plan: Plan) -> Ports:
    """Return the installation's addresses, choosing them at first start."""
    path = plan.path("ports.json")
    nodes = (name for node in plan.nodes for name in (node.name, parties_of(node)))
    links = (node.link for node in plan.nodes if node.link is not None)
    services = (*SERVICES, *plan.custodians, *nodes, *links)
    known: dict[str, str] = {}
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
    if missing := tuple(name for name in services if name not in known):
        known = {**known, **free_ports(missing).addresses}
        write_atomic(path, json.dumps(known, indent=1).encode())
    return Ports(known)


def _party_options(shown: PartyFiles) -> tuple[str | Path, ...]:
    return ("--party-cert", shown.cert, "--party-key", shown.key, "--party-ca", shown.ca)
