"""The demonstration: the whole job once, on real input, through the public commands and APIs only."""

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import private_folder, write_atomic
from shared.runtime.up.audit_view import AuditView
from shared.runtime.up.commands import CLI, environment, json_of
from shared.runtime.up.commands import run as run_command
from shared.runtime.up.layout import MODEL, NodePlan, Plan
from shared.runtime.up.platform import Platform, running
from shared.runtime.up.query import Query
from shared.runtime.up.report import Report, facts_of, render
from shared.runtime.up.serve import Narrator

PROMPTS = Path(__file__).with_name("prompts.jsonl")
WRAPPER = Path(__file__).parents[3] / "tests" / "adversaries" / "int8_node.py"
"""Where the repository keeps the dishonest node; it is no part of the product."""
CONCURRENCY = 16
AUDIT_TIMEOUT_S = 120.0


@dataclass(slots=True)
class Demo:
    """One demonstration while it runs."""

    platform: Platform
    console: Console
    query: Query
    began: float = field(default_factory=time.monotonic)

    @property
    def plan(self) -> Plan:
        """The plan of the platform."""
        return self.platform.plan

    @property
    def client(self) -> Path:
        """The client's configuration."""
        return self.plan.path("client", "client.toml")

    async def infer(self, prompts: Path) -> list[dict[str, Any]]:
        """Order, seal and send every prompt, spread over all nodes; return one answer each."""
        total = sum(1 for line in prompts.read_text(encoding="utf-8").splitlines() if line.strip())
        process = await asyncio.create_subprocess_exec(
            *(*CLI, "infer", "--config", str(self.client), "--file", str(prompts)),
            *("--spread", "--concurrency", str(CONCURRENCY), "--json"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(),
            limit=1 << 22,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        answers: list[dict[str, Any]] = []
        try:
            with self._progress() as progress:
                task = progress.add_task("sealed requests answered and checked", total=total)
                async for line in process.stdout:
                    answers.append(json.loads(line))
                    progress.update(task, completed=len(answers))
            complaint = (await process.stderr.read()).decode("utf-8", "replace").strip()
            if await process.wait():
                raise CounterfoilError(
                    Code.UNAVAILABLE, f"`counterfoil infer` failed: {complaint[-600:]}"
                )
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return answers

    async def proofs(self) -> dict[str, Any]:
        """Wait until the client has a witnessed proof of every receipt."""
        with self._progress() as progress:
            progress.add_task("receipts witnessed, proofs upgraded", total=None)
            told: dict[str, Any] = await json_of(
                "client", "proofs", "--config", self.client, "--timeout", "60", "--json"
            )
        return told

    async def audit(self, after: int, expected: int) -> AuditView:
        """Wait until every receipt of this run has been through selection, replay and confirmation."""
        deadline = time.monotonic() + AUDIT_TIMEOUT_S
        with self._progress() as progress:
            task = progress.add_task("drawn requests disclosed, replayed, judged", total=None)
            while True:
                try:
                    receipts = await self.query.all("/v1/receipts", after=after)
                    epochs = await self.query.all("/v1/epochs")
                    verdicts = await self.query.all("/v1/verdicts", after=after)
                except CounterfoilError as error:
                    if not error.code.value.retryable or time.monotonic() > deadline:
                        raise
                    await asyncio.sleep(0.5)
                    continue
                view = AuditView.of(receipts, epochs, verdicts)
                progress.update(task, total=len(view.drawn) or None, completed=len(view.judged))
                if (view.complete and len(receipts) >= expected) or time.monotonic() > deadline:
                    return view
                await asyncio.sleep(0.5)

    async def costs(self) -> dict[str, Any]:
        """Have each operator write its invoice from its own meters, then rate, reconcile and export."""
        plan, dsn = self.plan, ("--dsn-file", self.platform.server_dsn)
        folder = plan.path("invoices")
        private_folder(folder)
        invoices, meters = {}, {}
        for node in plan.nodes:
            config = ("--config", plan.path(node.name, "node.toml"))
            program = (sys.executable, *node.wrapper) if node.wrapper else (*CLI, "node")
            stamp = f"{int(time.time())}"
            invoices[node.operator] = folder / f"{node.operator}-{stamp}.json"
            meters[node.operator] = folder / f"{node.operator}-{stamp}.meter.json"
            await run_command("invoice", *config, "--out", invoices[node.operator], program=program)
            await run_command("node", "invoice", *config, "--out", meters[node.operator])
        await run_command("cost", "rate", *dsn)
        reconciled = {
            operator: await json_of("cost", "reconcile", path, *dsn, "--json")
            for operator, path in invoices.items()
        }
        focus = plan.path("focus.csv")
        exported = await json_of("cost", "export", "--out", focus, *dsn, "--json")
        return {
            "invoices": {name: str(path) for name, path in invoices.items()},
            "meters": {name: json.loads(path.read_text("utf-8")) for name, path in meters.items()},
            "claims": {
                name: json.loads(path.read_text("utf-8")) for name, path in invoices.items()
            },
            "reconciled": reconciled,
            "focus": exported,
        }

    async def check_log(self) -> dict[str, Any]:
        """Recompute everything with `fsck`, and read the checkpoint's numbers."""
        config = ("--config", self.platform.audit_config, "--json")
        try:
            fsck = await json_of("log", "fsck", *config)
        except CounterfoilError as error:
            fsck = {"error": str(error)}
        return {"fsck": fsck, "status": await self.query.get("/v1/status")}

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("         [bold]{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
        )


async def run(
    *,
    folder: Path,
    model: Path | None,
    prompts: Path | None,
    wrapper: Path | None,
    json_file: Path | None,
    stop: asyncio.Event,
) -> int:
    """Run the demonstration; return 0 when every fact holds."""
    console = Console(stderr=False)
    wrapper = (wrapper or WRAPPER).absolute()
    if not wrapper.exists():
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"there is no dishonest node at {wrapper}",
            remedy="Run the demonstration from the repository, or give --dishonest-node.",
        )
    nodes = (
        NodePlan("node-a", "operator-a"),
        NodePlan("node-b", "operator-b"),
        NodePlan("node-c", "operator-c", wrapper=(str(wrapper),)),
    )
    plan = Plan(
        folder,
        nodes,
        model or MODEL,
        epoch_seconds=8.0,
        rate_ppm=500_000,
        reflection=True,
    )
    work = asyncio.ensure_future(_demonstrate(plan, prompts or PROMPTS, console, json_file))
    ended = asyncio.ensure_future(stop.wait())
    done, _ = await asyncio.wait({work, ended}, return_when=asyncio.FIRST_COMPLETED)
    ended.cancel()
    if work in done:
        return await work
    console.print("stopping …")
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    return 130


async def _demonstrate(plan: Plan, prompts: Path, console: Console, json_file: Path | None) -> int:
    narrator = Narrator(console)
    console.rule("[bold]Counterfoil[/]: starting every part as a process of its own")
    begun = time.monotonic()
    async with running(plan, narrator) as platform:
        up = time.monotonic()
        query = Query(
            platform.ports["audit-http"],
            plan.path("ca", "ca.pem"),
            plan.path("audit", "auditor.token"),
        )
        demo = Demo(platform, console, query)
        before = (await query.get("/v1/status"))["size"] - 1
        console.rule("Sealed requests to three nodes")
        answers = await demo.infer(prompts)
        answered = time.monotonic()
        proofs = await demo.proofs()
        console.rule("Audit: an unforeseeable sample is disclosed and replayed")
        view = await demo.audit(before, len(answers))
        console.rule("Costs: three invoices against receipts")
        costs = await demo.costs()
        log = await demo.check_log()
        report = Report(
            plan=plan,
            answers=answers,
            prompts=sum(1 for line in prompts.read_text("utf-8").splitlines() if line.strip()),
            proofs=proofs,
            view=view,
            costs=costs,
            log=log,
            deaths=list(narrator.deaths),
            seconds={
                "start": up - begun,
                "answers": answered - up,
                "all": time.monotonic() - begun,
            },
            addresses=dict(platform.ports.addresses),
        )
        console.print(render(report))
    facts = facts_of(report)
    if json_file is not None:
        write_atomic(json_file, json.dumps(report.to_json(facts), indent=1).encode())
    return 0 if all(fact.holds for fact in facts) else 1
