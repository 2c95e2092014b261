"""The processes of one machine, as the supervisor starts them."""

import sys
from collections.abc import Iterator
from pathlib import Path

from shared.installation.commands import CLI, environment
from shared.installation.layout import WITNESS, WORKERS, NodePlan, Plan, parties_of
from shared.runtime.keys import private_folder
from shared.runtime.supervisor import ProcessSpec

RELAY = "shared.installation.relay"
POSTGRES, AUDIT, BEAT = "postgres", "audit", "beat"


def postgres(plan: Plan) -> ProcessSpec:
    """Return the embedded database."""
    arguments = ("db", "serve", "--folder", str(plan.path("postgres")))
    return _spec(plan, POSTGRES, (*CLI, *arguments), kill_after_s=20.0)


def services(plan: Plan) -> list[ProcessSpec]:
    """Return everything else, in an order that dependencies allow."""
    audit = ("audit", "serve", "--config", str(plan.path("audit", "audit.toml")))
    parties = [
        _spec(
            plan,
            name,
            (*CLI, "audit", group, "serve", "--config", str(plan.path(name, f"{group}.toml"))),
        )
        for group, name in (
            ("witness", WITNESS),
            *(("custodian", name) for name in plan.custodians),
        )
    ]
    workers = [
        _spec(
            plan,
            name,
            (*CLI, "audit", "worker", "serve", "--config", str(plan.path(name, "worker.toml"))),
            after=(AUDIT,),
        )
        for name in WORKERS
    ]
    beat = ("audit", "beat", "serve", "--config", str(plan.path(WORKERS[0], "worker.toml")))
    return [
        *parties,
        _spec(plan, AUDIT, (*CLI, *audit), after=(POSTGRES, WITNESS)),
        *(spec for node in plan.nodes for spec in _link(plan, node)),
        *(_node(plan, node) for node in plan.nodes),
        *workers,
        _spec(plan, BEAT, (*CLI, *beat), after=(WORKERS[0],)),
    ]


def _link(plan: Plan, node: NodePlan) -> Iterator[ProcessSpec]:
    """Yield what makes the way to a stage long, if anything."""
    if node.link is not None:
        where = ("--ports", str(plan.path("ports.json")), "--delay-ms", str(node.trip_ms / 2))
        ends = ("--listen", node.link, "--to", parties_of(node))
        yield _spec(plan, node.link, (sys.executable, "-m", RELAY, *where, *ends))


def _node(plan: Plan, node: NodePlan) -> ProcessSpec:
    program = (sys.executable, *node.wrapper) if node.wrapper else (*CLI, "node")
    command = (*program, "serve", "--config", str(plan.path(node.name, "node.toml")))
    return _spec(plan, node.name, command, after=(AUDIT,))


def _spec(
    plan: Plan,
    name: str,
    command: tuple[str, ...],
    *,
    after: tuple[str, ...] = (),
    kill_after_s: float = 10.0,
) -> ProcessSpec:
    ready: Path = plan.path("run", f"{name}.ready.json")
    private_folder(ready.parent)
    return ProcessSpec(
        name=name,
        command=(*command, "--ready-file", str(ready)),
        log_file=plan.path("logs", f"{name}.log"),
        env={**environment(), "COUNTERFOIL_LOG_NAME": name},
        after=after,
        ready_file=ready,
        kill_after_s=kill_after_s,
    )
