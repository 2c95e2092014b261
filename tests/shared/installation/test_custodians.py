"""Five custodians, any three of which open a request: parties of their own, and light ones."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from shared.installation import processes
from shared.installation.commands import Commands
from shared.installation.install import Identities, Installer
from shared.installation.layout import CUSTODIANS, THRESHOLD, WORKERS, NodePlan, Plan

WORKER = {"name": "w", "signing_key": "01", "hpke_key": "02", "authority_key": "03"}
PARTIES = Identities(
    witness={"name": "witness-1", "signing_key": "witness", "vkeys": []},
    custodians=[
        {"name": name, "signing_key": f"sign {name}", "hpke_key": f"hpke {name}"}
        for name in CUSTODIANS
    ],
    workers=[{**WORKER, "name": name} for name in WORKERS],
    operators={"operator-a": {"operator_key": "04"}},
)
LOG: dict[str, Any] = {"origin": "log", "vkeys": [], "witnesses": [], "quorum": 1}


class Recorded(Commands):
    """Commands that run nothing and remember what they were asked to run."""

    def __init__(self) -> None:
        super().__init__(lambda _who, _what: None)
        self.asked: list[tuple[str, ...]] = []

    async def run(self, *arguments: str | Path, program: tuple[str, ...] = ()) -> str:
        self.asked.append(tuple(map(str, arguments)))
        return json.dumps({"tenant_key": "05"})


def installer(folder: Path) -> tuple[Installer, Recorded]:
    commands = Recorded()
    return Installer(Plan(folder, (NodePlan("node-a", "operator-a"),)), commands), commands


def told(folder: Path, name: str) -> Any:
    return json.loads((folder / "trust" / f"{name}.json").read_text("utf-8"))


async def test_clients_seal_for_five_custodians_of_whom_three_suffice(tmp_path):
    setup, _ = installer(tmp_path)
    [node] = setup._plan.nodes
    await setup._client(LOG, PARTIES, [(node, {"model_root": "06", "rate_card": "07"})])
    facts = told(tmp_path, "client")
    assert [each["name"] for each in facts["custodians"]] == list(CUSTODIANS)
    assert len({each["hpke_key"] for each in facts["custodians"]}) == 5
    assert facts["threshold"] == THRESHOLD == 3


async def test_workers_know_the_address_and_key_of_each_custodian(tmp_path):
    setup, _ = installer(tmp_path)
    shown = setup.credentials.party_certificates()[WORKERS[1]]
    await setup._worker(WORKERS[1], shown, LOG, PARTIES)
    custodians = told(tmp_path, WORKERS[1])["custodians"]
    assert [(each["name"], each["hpke_key"]) for each in custodians] == [
        (name, f"hpke {name}") for name in CUSTODIANS
    ]
    assert len({each["url"] for each in custodians}) == 5


async def test_a_custodian_pins_the_other_parties_of_the_beacon(tmp_path):
    setup, commands = installer(tmp_path)
    await setup._party("custodian", CUSTODIANS[1], setup.credentials.certificates(), LOG, PARTIES)
    others = told(tmp_path, CUSTODIANS[1])["parties"]
    assert set(others) == {"witness-1", *CUSTODIANS} - {CUSTODIANS[1]}
    assert others[CUSTODIANS[0]] == f"sign {CUSTODIANS[0]}"
    assert commands.asked[0][:3] == ("audit", "custodian", "init")


def test_each_is_a_process_with_a_folder_of_its_own(tmp_path):
    plan = Plan(tmp_path, (NodePlan("node-a", "operator-a"),))
    commands = {
        spec.name: spec.command for spec in processes.services(plan) if spec.name in CUSTODIANS
    }
    assert set(commands) == set(CUSTODIANS)
    for name, command in commands.items():
        assert str(tmp_path / name / "custodian.toml") in command


def test_an_installation_keeps_the_custodians_that_it_began_with(tmp_path):
    plan = Plan(tmp_path, ())
    assert plan.custodians == CUSTODIANS
    plan.installed.write_text(json.dumps({"version": 1}))  # from before there were five
    assert plan.custodians == ("custodian-1",)
    plan.installed.write_text(json.dumps({"version": 1, "custodians": ["a", "b"]}))
    assert plan.custodians == ("a", "b")


def test_a_custodian_needs_neither_torch_nor_a_database(tmp_path):
    heavy = {"torch", "numpy", "sqlalchemy", "celery", "grpc", "rich", "psycopg"}
    code = f"import sys, audit_layer.wiring.parties; print(*({heavy!r} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.split() == []
