"""The folder layout of one machine's platform, and its participants."""

import json
import socket
from dataclasses import dataclass, field
from pathlib import Path

ORIGIN = "counterfoil.local/log"
TENANT = "acme"
WITNESS = "witness-1"
CUSTODIANS = tuple(f"custodian-{number}" for number in range(1, 6))
THRESHOLD = 3
"""How many custodians together can open a request."""
WORKERS = ("worker-a", "worker-b")
"""The first worker holds the selection authority's key."""
SERVICES = ("audit-grpc", "audit-parties", "audit-http", WITNESS)
VERSION = 2
"""Of an installation's configurations: from 2 on, parties have certificates."""
MODEL = Path(__file__).parents[1] / "model" / "checkpoints" / "counterfoil-mini"
"""The checkpoint that the project ships."""


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One node of the installation and the operator that runs it."""

    name: str
    operator: str
    wrapper: tuple[str, ...] = ()
    """What replaces `counterfoil node` for this node's `serve` and `invoice`."""
    arithmetic: str = "auto"
    """What it serves under; `auto`: the arithmetic of this machine's own matrix unit."""
    head: str | None = None
    """The name of the node of whose chain it is a stage (docs/pool.md); of a chain's stages, the order is the plan's."""
    part: str = ""
    """The layers that it computes as such, FIRST:LAST without LAST."""
    trip_ms: int = 0
    """The round trip to it, which a relay makes."""

    @property
    def link(self) -> str | None:
        """The name of the relay through which it is called, if there is one."""
        return f"{self.name}-link" if self.trip_ms else None

    @property
    def issuer(self) -> str:
        """Its name among all operators' nodes."""
        return f"{self.operator}/{self.name}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What `up` installs and runs."""

    folder: Path
    nodes: tuple[NodePlan, ...]
    model: Path = MODEL
    epoch_seconds: float = 600.0
    reveal_seconds: float = 20.0
    rate_ppm: int = 100_000
    floor: int = 1
    strict_floor: int = 10
    """The floor of nodes that are suspended or watched."""
    disclosure_seconds: float = 86_400.0
    publish_interval_ms: int = 250
    """How often the log publishes a checkpoint while statements come in."""
    reflection: bool = False

    @property
    def installed(self) -> Path:
        """Written when the installation is complete."""
        return self.folder / "installed.json"

    @property
    def up_to_date(self) -> bool:
        """Whether the installation is complete, and of a version whose configurations this one reads."""
        if not self.installed.exists():
            return False
        told = json.loads(self.installed.read_text(encoding="utf-8"))
        return bool(told["version"] >= VERSION)

    @property
    def operators(self) -> dict[str, tuple[NodePlan, ...]]:
        """The nodes of each operator."""
        return {
            name: tuple(node for node in self.nodes if node.operator == name)
            for name in dict.fromkeys(node.operator for node in self.nodes)
        }

    def chain(self, head: NodePlan) -> tuple[NodePlan, ...]:
        """Return the stages of a node's chain, in order."""
        return tuple(node for node in self.nodes if node.head == head.name)

    @property
    def custodians(self) -> tuple[str, ...]:
        """The custodians' names. An installation keeps those that it began with: before there were five, the first alone."""
        if not self.installed.exists():
            return CUSTODIANS
        told = json.loads(self.installed.read_text(encoding="utf-8"))
        return tuple(told.get("custodians", CUSTODIANS[:1]))

    @property
    def database_log(self) -> Path:
        """Postgres' own log."""
        return self.path("postgres", "postgres.log")

    def path(self, *parts: str) -> Path:
        """Return a path below the folder."""
        return self.folder.joinpath(*parts)


@dataclass(frozen=True, slots=True)
class Ports:
    """Loopback addresses, chosen once and kept, because key bundles and configurations name them."""

    addresses: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, service: str) -> str:
        return self.addresses[service]


def parties_of(node: NodePlan) -> str:
    """Return the name of the address where audit workers call a node."""
    return f"{node.name}-parties"


def as_installed(folder: Path, nodes: tuple[NodePlan, ...]) -> tuple[NodePlan, ...]:
    """Return the nodes of an installation: those that it began with, or `nodes` if it is a new one. Of those that are among
    `nodes`, what stands in for them is theirs.
    """
    installed = folder / "installed.json"
    if not installed.exists():
        return nodes
    kept = json.loads(installed.read_text(encoding="utf-8")).get("nodes")
    if kept is None:  # from before any installation had a chain: all have had the same nodes
        return tuple(node for node in nodes if node.head is None)
    known = {node.name: node for node in nodes}
    return tuple(known.get(node.name, node) for node in (NodePlan(**told) for told in kept))


def free_ports(services: tuple[str, ...]) -> Ports:
    """Choose a free loopback port for each service."""
    sockets = {name: socket.socket() for name in services}
    try:
        for each in sockets.values():
            each.bind(("127.0.0.1", 0))
        return Ports({name: f"127.0.0.1:{s.getsockname()[1]}" for name, s in sockets.items()})
    finally:
        for each in sockets.values():
            each.close()
