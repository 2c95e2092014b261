"""A marked prompt and its answer are nowhere on disk after a run with crashes, only sealed.

One platform audits every request of one tenant, while client, node, workers and replay processes die. Then everything
that all parties left on the disk is searched for the prompt, the answers and their tokens: files, databases row by row,
logs, temporary files (also those without a name, as long as a process holds them), and core dumps.
"""

import asyncio
import contextlib
import json
import os
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from audit_layer.storage.dsn import read_dsn_file
from shared.installation.commands import CLI
from shared.installation.layout import WORKERS, NodePlan, Plan
from shared.installation.platform import Platform, running
from shared.installation.query import Query
from shared.statements.request import Message, RequestBody, SamplingSettings
from shared.text.prompt import prompt_ids
from shared.text.tokenizer import Tokenizer
from tests.demo.running import Victim, below, kill
from tests.plaintext.places import files, found, held_open, rows
from tests.plaintext.spelling import numbered, spelled

CORE = "4b1f90c7d2a86e35"
MARK = f'Zügelmarke "{CORE}" über'
PROMPT = " ".join([f"Where does the fox live, {MARK}?"] * 3)
"""More than once, so that no page boundary can cut every copy."""
NODE, WORKER = "node-a", WORKERS[1]
LIMIT_S = 240.0
TELLING = 20
"""Characters of an answer below which it could be found by chance."""
HOLDERS = ("shared.runtime ", "audit_layer.replay.child")


@pytest.fixture
def folder(monkeypatch) -> Iterator[Path]:
    """A folder that holds everything: data, temporary files, and what is written where the processes run."""
    with tempfile.TemporaryDirectory(prefix="cf-marked-", ignore_cleanup_errors=True) as made:
        place = Path(made)
        place.chmod(0o711)
        (place / "tmp").mkdir(mode=0o711)
        monkeypatch.setenv("TMPDIR", str(place / "tmp"))
        monkeypatch.chdir(place)
        soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(
            resource.RLIMIT_CORE, (hard, hard)
        )  # nothing but the programs forbids it
        try:
            yield place
        finally:
            resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_after_crashes_prompt_and_answers_are_on_no_disk(folder):
    plan = Plan(
        folder / "data",
        (NodePlan(NODE, "operator-a"),),
        epoch_seconds=4.0,
        reveal_seconds=10.0,
        rate_ppm=1_000_000,
        disclosure_seconds=60.0,
    )
    said: list[str] = []
    async with running(plan, lambda who, what: said.append(f"{who}: {what}")) as platform:
        answers = await with_crashes(platform)
        needles = needles_of(plan.model, answers)
        assert len(needles) > 60
        holders = holders_of_plaintext_or_keys()
        assert any(HOLDERS[1] in one.command for one in holders)
        assert [one for one in holders if core_limit(one.pid) != 0] == []
        open_files = [
            place for one in below(os.getpid())[1:] for place in held_open(one.pid, folder)
        ]
        assert found(open_files, needles) == []
        assert found(files(folder), needles) == []
        admin = read_dsn_file(plan.path("postgres", "secrets", "admin.dsn"))
        kept = list(rows(admin))
        assert {"counterfoil", "counterfoil_broker"} <= {name.split(":")[0] for name, _ in kept}
        assert any("kombu_message" in name for name, _ in kept)
        assert found(kept, needles) == []
    left = list(files(folder))
    assert any(name.startswith(str(plan.path("postgres", "data"))) for name, _ in left)
    assert found(left, needles) == []
    assert [name for name, _ in left if Path(name).name.startswith("core")] == []
    assert any(text.startswith(f"{WORKER}: died by signal 6") for text in said), said
    found_by_a_plant(folder, needles)


def found_by_a_plant(folder: Path, needles: dict[str, bytes]) -> None:
    """The same search of the same folder finds the prompt once it is there."""
    (folder / "data" / "logs" / "planted.log").write_text(json.dumps({"prompt": PROMPT}))
    assert found(files(folder), needles)


async def with_crashes(platform: Platform) -> list[str]:
    """Have marked requests answered and audited while one after the other dies; return the answers' texts."""
    plan, supervisor = platform.plan, platform.supervisor
    await auditor(platform).selecting(LIMIT_S)
    client = ("--config", plan.path("client", "client.toml"))
    async with asking(plan, seed=1) as (asked, _):
        asked.kill()
    async with asking(plan, seed=2) as (asked, began):
        await supervisor.take_down(NODE)
        await supervisor.bring_back(NODE)
        out, _ = await asked.communicate()
        answers = [(began + out).decode()]
    os.kill((await replay_process()).pid, signal.SIGABRT)
    answers.append((await infer(platform, seed=3))["text"])
    kill(await replay_process())
    os.kill(supervisor.pid(WORKER), signal.SIGABRT)
    answers.append((await infer(platform, seed=4))["text"])
    os.kill(supervisor.pid(WORKERS[0]), signal.SIGKILL)
    await platform.commands.run("client", "resume", *client)
    await platform.commands.run("client", "proofs", *client, "--timeout", "60")
    await audited(platform, 4)
    return answers


@contextlib.asynccontextmanager
async def asking(plan: Plan, seed: int) -> AsyncIterator[tuple[asyncio.subprocess.Process, bytes]]:
    """Run a client that prints its answer as it arrives; give it when the first of it has, and that part."""
    config = str(plan.path("client", "client.toml"))
    asked = await asyncio.create_subprocess_exec(
        *(*CLI, "infer", "--config", config, "--max-tokens", "512", "--seed", str(seed), PROMPT),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert asked.stdout is not None
    try:
        yield asked, await asked.stdout.read(1)
    finally:
        with contextlib.suppress(ProcessLookupError):
            asked.kill()
        await asked.communicate()


async def infer(platform: Platform, seed: int) -> Any:
    config = platform.plan.path("client", "client.toml")
    options = ("--config", config, "--json", "--seed", str(seed))
    return await platform.commands.json("infer", *options, PROMPT)


def auditor(platform: Platform) -> Query:
    plan = platform.plan
    token = plan.path("audit", "auditor.token")
    return Query(platform.ports["audit-http"], plan.path("ca", "ca.pem"), token)


async def audited(platform: Platform, count: int) -> None:
    """Wait until so many receipts have verdicts: each was disclosed and replayed, and passed."""
    query = auditor(platform)
    deadline = time.monotonic() + LIMIT_S
    while True:
        receipts = {receipt["entry"] for receipt in await query.all("/v1/receipts")}
        verdicts = await query.all("/v1/verdicts")
        if len(receipts) >= count and receipts <= {verdict["receipt"] for verdict in verdicts}:
            break
        assert time.monotonic() < deadline, (receipts, verdicts)
        await asyncio.sleep(0.5)
    assert {verdict["outcome"] for verdict in verdicts} == {"PASS"}


def needles_of(model: Path, answers: list[str]) -> dict[str, bytes]:
    """Return what is searched: the mark, its core, a part of each answer, and tokens of prompt and answers."""
    tokenizer = Tokenizer.from_folder(model)
    body = RequestBody(SamplingSettings(max_tokens=1), messages=(Message("user", PROMPT),))
    prompt = prompt_ids(tokenizer, body)
    texts = {"mark": MARK, "core": CORE}
    tokens = {"prompt": prompt[len(prompt) // 2 :][:12]}
    telling = [answer.strip() for answer in answers if len(answer.strip()) >= TELLING]
    assert telling, answers
    for at, answer in enumerate(telling):
        texts[f"answer {at}"] = answer[:40]
        texts[f"end of answer {at}"] = answer[-40:]
        if len(said := tokenizer.encode_prompt(answer)) >= 12:
            tokens[f"answer {at}"] = said[2:10]
    return {
        f"{what} as {how}": form
        for forms in (
            {what: spelled(text) for what, text in texts.items()},
            {f"tokens of {what}": numbered(ids) for what, ids in tokens.items()},
        )
        for what, spellings in forms.items()
        for how, form in spellings.items()
    }


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def replay_process() -> Victim:
    """Return a replay process as soon as there is one: it has just been handed a case."""
    seen: list[Victim] = []

    def there() -> bool:
        seen[:] = [one for one in holders_of_plaintext_or_keys() if HOLDERS[1] in one.command]
        return bool(seen)

    await until(there)
    return seen[0]


def holders_of_plaintext_or_keys() -> list[Victim]:
    """Return every process below this one but the database's, its guards', and those of other programs."""
    return [
        one
        for one in below(os.getpid())[1:]
        if any(part in one.command for part in HOLDERS) and "process_guard" not in one.command
    ]


def core_limit(pid: int) -> int:
    """Return how large a core dump a process may leave; none if it is gone."""
    try:
        return resource.prlimit(pid, resource.RLIMIT_CORE)[0]
    except ProcessLookupError:
        return 0
