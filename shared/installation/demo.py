"""The demonstration: the whole job once, on real input, through public commands and APIs only."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from shared.installation.audit_view import AuditView
from shared.installation.cheat import Cheat, choose_cheat
from shared.installation.commands import CLI, Commands, last_words, started
from shared.installation.facts import Fact, Report, facts_of
from shared.installation.faults import Faults, Share, survived
from shared.installation.layout import MODEL, NodePlan, Plan, as_installed
from shared.installation.lost_stage import LostStage
from shared.installation.platform import Platform, running
from shared.installation.query import Query
from shared.installation.report import render, what_to_try
from shared.installation.serve import Narrator, console_of
from shared.runtime.cli import EXIT_CODES, INTERRUPTED
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import private_folder, write_atomic, write_result

EVERYWHERE = "chain-1"
"""The arithmetic that is any processor's own."""
TRIP_MS: Final = 60
CHEATS: Final = "stage-2"


def pipeline(cheat: Cheat) -> tuple[NodePlan, ...]:
    """Return the stages of the second node's chain under `--pipeline`: of two operators, one of them dishonest."""
    return tuple(
        NodePlan(
            name,
            operator,
            wrapper=cheat.program if name == CHEATS else (),
            arithmetic=EVERYWHERE,
            head="node-b",
            part=part,
            trip_ms=TRIP_MS,
        )
        for name, operator, part in (
            ("stage-1", "operator-b", "2:3"),
            (CHEATS, "operator-d", "3:4"),
            ("stage-3", "operator-b", "4:5"),
            ("stage-4", "operator-d", "5:6"),
        )
    )


PROMPTS = Path(__file__).with_name("prompts.jsonl")
CONCURRENCY = 16
BURST = 48
"""How many of the prompts a node is asked that is to be killed in mid-stream."""
SENDINGS = 4
"""How often a request that gets no answer is sent."""
AUDIT_TIMEOUT_S = 240.0
DISCLOSURE_S = 30.0
"""How long a node may take to hand out evidence. It is asked at once, so that this matters only to one that withholds it."""


@dataclass(slots=True)
class Demo:
    """One demonstration while it runs."""

    platform: Platform
    console: Console
    query: Query
    refusals: list[dict[str, Any]] = field(default_factory=list)
    """What the client said of answers that it refused, each with the node's name."""
    began: float = field(default_factory=time.monotonic)
    answered: Share = field(default_factory=Share)
    sendings: int = 0
    """How often a client was run on a file of requests."""

    @property
    def plan(self) -> Plan:
        """The platform's plan."""
        return self.platform.plan

    @property
    def client(self) -> Path:
        """The client's configuration."""
        return self.plan.path("client", "client.toml")

    async def infer(self, prompts: Sequence[str]) -> list[dict[str, Any]]:
        """Order, seal and send every prompt, spread over all nodes; return one answer per prompt.
        A request with no answer because a process died is sent again. One for which the client refuses the dishonest node's
        answer goes to an honest node, as a user would do; any other refusal stands.
        """
        answers: dict[int, dict[str, Any]] = {}
        with self._progress() as progress:
            task = progress.add_task("sealed requests answered and checked", total=len(prompts))

            async def send(places: Sequence[int], *options: str) -> None:
                async for answer in self.send([prompts[place] for place in places], *options):
                    answers[places[answer["line"]]] = answer
                    checked = sum(a["checked"] for a in answers.values())
                    self.answered.grow(checked / len(prompts))
                    progress.update(task, completed=checked)

            for attempt in range(SENDINGS):
                left = [place for place in range(len(prompts)) if _unsettled(answers.get(place))]
                if not left:
                    break
                if attempt:
                    self.platform.commands.say("client", f"{len(left)} requests are sent again")
                await send(left, "--spread")
            lies = {place: node for place in answers if (node := self._liar(answers[place]))}
            if lies:
                self.refusals += [{**answers[place], "node": name} for place, name in lies.items()]
                other = next(
                    node.issuer for node in self.plan.nodes if not (node.wrapper or node.head)
                )
                said = f"{len(lies)} answers are refused, and {other} is asked instead"
                self.platform.commands.say("client", said)
                await send(sorted(lies), "--node", other)
        self.answered.grow(1.0)
        return [answers[place] for place in sorted(answers)]

    def _liar(self, answer: Mapping[str, Any]) -> str | None:
        """Return the dishonest node's name if this is the client's refusal of its answer."""
        cheating = {node.issuer: node.name for node in self.plan.nodes if node.wrapper}
        return None if answer["checked"] else cheating.get(answer.get("node", ""))

    async def send(self, prompts: Sequence[str], *options: str) -> AsyncIterator[dict[str, Any]]:
        """Run the client once; UNAVAILABLE repeats its message if it failed on its own."""
        self.sendings += 1
        file = self.plan.path("client", f"requests-{self.sendings}.jsonl")
        write_atomic(file, "\n".join(prompts).encode())
        command = (*CLI, "infer", "--config", str(self.client), "--file", str(file))
        how = (*options, "--concurrency", str(CONCURRENCY), "--json")
        async with started((*command, *how)) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            complaint = asyncio.ensure_future(process.stderr.read())
            async for line in process.stdout:
                yield json.loads(line)
            said, code = last_words(await complaint), await process.wait()
        if code < 0:
            self.platform.commands.say("client", f"`counterfoil infer` died by signal {-code}")
        elif code in {EXIT_CODES[Code.UNAVAILABLE], 1}:
            if said:
                self.platform.commands.say("client", said)
            await asyncio.sleep(1.0)
        elif code:
            raise CounterfoilError(Code.UNAVAILABLE, f"`counterfoil infer` failed: {said}")

    async def proofs(self) -> dict[str, Any]:
        """Wait until the client has a witnessed proof of every receipt."""
        with self._progress() as progress:
            progress.add_task("receipts witnessed, proofs upgraded", total=None)
            told: dict[str, Any] = await self.platform.commands.json(
                "client", "proofs", "--config", self.client, "--timeout", "60", "--json"
            )
        return told

    async def audit(self, after: int, expected: int) -> AuditView:
        """Wait until every receipt of this run has passed selection, replay and confirmation."""
        deadline = time.monotonic() + AUDIT_TIMEOUT_S
        with self._progress() as progress:
            task = progress.add_task("drawn requests disclosed, replayed, judged", total=None)
            while True:
                receipts = await self.query.all("/v1/receipts", after=after)
                epochs = await self.query.all("/v1/epochs")
                verdicts = await self.query.all("/v1/verdicts", after=after)
                view = AuditView.of(receipts, epochs, verdicts)
                progress.update(task, total=len(view.drawn) or None, completed=len(view.judged))
                if (view.complete and len(receipts) >= expected) or time.monotonic() > deadline:
                    return view
                await asyncio.sleep(0.5)

    async def costs(self) -> dict[str, Any]:
        """Have each operator write its invoice from its own meters, if it has any; then rate, reconcile and export."""
        plan, finance = self.plan, self.platform.finance
        commands = self.platform.commands
        folder = plan.path("invoices")
        private_folder(folder)
        invoices, meters = {}, {}
        for operator, nodes in plan.operators.items():
            config = [
                part for node in nodes for part in ("--config", plan.path(node.name, "node.toml"))
            ]
            lying = nodes[0].wrapper if len(nodes) == 1 else ()
            program = (sys.executable, *lying) if lying else (*CLI, "node")
            stamp = f"{int(time.time())}"
            meter = folder / f"{operator}-{stamp}.meter.json"
            try:
                await commands.run("node", "invoice", *config, "--out", meter)
            except CounterfoilError as error:
                if error.metadata.get("exit_code") == str(EXIT_CODES[Code.NOT_FOUND]):
                    continue  # nobody sent it anything: there is nothing to bill
                raise
            meters[operator] = meter
            invoices[operator] = folder / f"{operator}-{stamp}.json"
            await commands.run("invoice", *config, "--out", invoices[operator], program=program)
        await commands.run("cost", "rate", *finance)
        reconciled = {
            operator: await commands.json("cost", "reconcile", path, *finance, "--json")
            for operator, path in invoices.items()
        }
        focus = plan.path("focus.csv")
        exported = await commands.json("cost", "export", "--out", focus, *finance, "--json")
        return {
            "invoices": {name: str(path) for name, path in invoices.items()},
            "meters": {name: json.loads(path.read_text("utf-8")) for name, path in meters.items()},
            "claims": {
                name: json.loads(path.read_text("utf-8")) for name, path in invoices.items()
            },
            "reconciled": reconciled,
            "focus": exported,
            "payable": await commands.json("cost", "report", *finance, "--json"),
        }

    async def survived(self, breaking: Faults, view: AuditView, after: int) -> list[Fact]:
        """Return what holds of the faults, by what the log has of this run."""
        disclosures = await self.query.all("/v1/disclosures", after=after)
        return survived(breaking.struck, view.receipts, disclosures)

    async def status(self) -> dict[str, Any]:
        """Return what the status command says of each node that is not the ordinary program."""
        return {
            node.name: await self.platform.commands.json(
                "node", "status", "--config", self.plan.path(node.name, "node.toml"), "--json"
            )
            for node in self.plan.nodes
            if node.wrapper
        }

    async def check_log(self) -> dict[str, Any]:
        """Recompute everything with `fsck`, and read the checkpoint's size and root."""
        config = ("--config", self.platform.audit_config, "--json")
        try:
            fsck = await self.platform.commands.json("log", "fsck", *config)
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
    cheat: str | None,
    arithmetic: str | None,
    faults: bool,
    pipelined: bool,
    json_file: Path | None,
    stop: asyncio.Event,
) -> int:
    """Run the demonstration; return 0 if every fact holds."""
    console = console_of()
    narrator = Narrator(console)
    cheating = await choose_cheat(Commands(narrator), wrapper, cheat)
    shown, other = (arithmetic, EVERYWHERE) if arithmetic else ("auto", "auto")
    nodes = (
        NodePlan("node-a", "operator-a", arithmetic=shown),
        NodePlan("node-b", "operator-b", arithmetic=EVERYWHERE if pipelined else other),
        *(
            ()
            if pipelined
            else (NodePlan("node-c", "operator-c", wrapper=cheating.program, arithmetic=shown),)
        ),
    )
    wanted = (*nodes, *(pipeline(cheating) if pipelined else ()))
    placed = as_installed(folder, wanted)
    if [node.name for node in placed] != [node.name for node in wanted]:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"{folder} was installed {'without a' if pipelined else 'with the'} chain of --pipeline",
            remedy="Choose another --folder.",
        )
    plan = Plan(
        folder,
        placed,
        model or MODEL,
        epoch_seconds=8.0,
        rate_ppm=500_000,
        disclosure_seconds=DISCLOSURE_S,
        reflection=True,
    )
    chosen = prompts or PROMPTS
    lines = [line for line in chosen.read_text(encoding="utf-8").splitlines() if line.strip()]
    work = asyncio.ensure_future(
        _demonstrate(plan, cheating, lines, narrator, json_file, faults=faults, pipelined=pipelined)
    )
    ended = asyncio.ensure_future(stop.wait())
    await asyncio.wait({work, ended}, return_when=asyncio.FIRST_COMPLETED)
    ended.cancel()
    if work.done():
        return await work
    console.print("stopping …")
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    return INTERRUPTED


async def _demonstrate(
    plan: Plan,
    cheat: Cheat,
    prompts: Sequence[str],
    narrator: Narrator,
    json_file: Path | None,
    *,
    faults: bool,
    pipelined: bool,
) -> int:
    console = narrator.console
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
        await query.selecting(AUDIT_TIMEOUT_S)
        before = (await query.get("/v1/status"))["size"] - 1
        console.rule("Sealed requests to the nodes")
        others = ", ".join(node.name for node in plan.nodes if not node.wrapper)
        liars = ", ".join(node.name for node in plan.nodes if node.wrapper)
        console.print(f"         {liars} {cheat.does}; {others} are honest", markup=False)
        breaking, losing = None, LostStage(platform, demo.answered) if pipelined else None
        if faults:
            breaking = Faults(platform, demo.answered, demo.send, prompts[:BURST])
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(demo.infer(prompts))
            if breaking is not None:
                group.create_task(breaking.strike())
            if losing is not None:
                group.create_task(losing.strike())
        answers = asked.result()
        answered = time.monotonic()
        proofs = await demo.proofs()
        console.rule("Audit: an unforeseeable sample is disclosed and replayed")
        expected = _receipts(plan, answers)
        expected += 0 if breaking is None else breaking.struck.receipts
        view = await demo.audit(before, expected)
        console.rule("Costs: the operators' invoices against receipts")
        costs = await demo.costs()
        status, log = await demo.status(), await demo.check_log()
        report = Report(
            plan=plan,
            cheat=cheat,
            answers=answers,
            refusals=demo.refusals,
            prompts=len(prompts),
            proofs=proofs,
            view=view,
            costs=costs,
            status=status,
            log=log,
            deaths=list(narrator.deaths),
            seconds={
                "start": up - begun,
                "answers": answered - up,
                "all": time.monotonic() - begun,
            },
            addresses=dict(platform.ports.addresses),
            faults=(
                *(() if breaking is None else await demo.survived(breaking, view, before)),
                *(() if losing is None else losing.facts(view)),
            ),
        )
        console.print(render(report))
        console.print(what_to_try(report), markup=False, soft_wrap=True)  # lines can be copied
    facts = facts_of(report)
    if json_file is not None:
        write_result(json_file, json.dumps(report.to_json(facts), indent=1).encode())
    return 0 if all(fact.holds for fact in facts) else 1


def _receipts(plan: Plan, answers: Sequence[Mapping[str, Any]]) -> int:
    """Return how many receipts answers have: one of each place of a chain."""
    stages = {node.issuer: len(plan.chain(node)) for node in plan.nodes}
    return sum(1 + stages.get(answer.get("node", ""), 0) for answer in answers)


def _unsettled(answer: Mapping[str, Any] | None) -> bool:
    """Return whether a request must be sent again: it has no answer, or one that says to try later."""
    if answer is None:
        return True
    return not answer["checked"] and Code[answer["error"]].value.retryable
