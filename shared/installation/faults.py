"""What breaks in `up --demo --faults` while requests are under way, and what must hold of it nevertheless.

Processes are killed by SIGKILL. A node comes back at once, the audit server after questions have been asked without it, and
two custodians of five stay away for good.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from shared.installation.facts import Fact, Item
from shared.installation.layout import CUSTODIANS
from shared.installation.platform import Platform
from shared.runtime.errors import Code, CounterfoilError

AUDIT_SERVER: Final = "audit"
LOST: Final = CUSTODIANS[-2:]
"""The custodians that die: as many as a threshold of three of five can do without."""
QUESTIONS: Final = (
    "What does the owl eat?",
    "Where does the fox live?",
    "What does a candle cost?",
)
"""Asked by a client that starts while the audit server is away."""


DIES_AT: Final = 0.25
"""The share of its answers that a node has given when it is killed."""
SLOT_MS: Final = "100"
"""Answers in time slots take a while, however fast the node is: so some are under way when it dies."""

Send = Callable[..., AsyncIterator[Item]]


class Share:
    """How much of the prompts is answered, from 0 to 1, and a way to wait for more."""

    def __init__(self) -> None:
        self._value = 0.0
        self._grew = asyncio.Event()

    def grow(self, value: float) -> None:
        """Say how much is answered now."""
        self._value = max(self._value, value)
        self._grew.set()

    async def reached(self, value: float) -> None:
        """Return once this much is answered."""
        while self._value < value:
            self._grew.clear()
            await self._grew.wait()


@dataclass(slots=True)
class Struck:
    """What was done, and when (ms since 1970)."""

    node: str
    killed_at: int = 0
    rolled: Mapping[str, Any] = field(default_factory=dict)
    """What `counterfoil node roll` said."""
    asked: list[Item] = field(default_factory=list)
    """Answers to what was asked besides the demonstration's prompts."""
    unaudited: list[Item] = field(default_factory=list)
    """Answers to what was asked without an audit server."""

    @property
    def receipts(self) -> int:
        """How many receipts the log gets for all of this, at least."""
        return sum("receipt" in answer for answer in (*self.asked, *self.unaudited))

    @property
    def failed(self) -> list[str]:
        """Why requests failed that were asked besides the prompts."""
        return [_why(answer) for answer in self.asked if "receipt" not in answer]


class Faults:
    """Breaks things in turn, as the share of answered prompts grows."""

    def __init__(
        self, platform: Platform, answered: Share, send: Send, burst: Sequence[str]
    ) -> None:
        """`send` has a client send lines of requests with further options; `burst` is what the node that dies is asked."""
        self._platform = platform
        self._answered = answered
        self._send = send
        self._burst = burst
        honest = [node.name for node in platform.plan.nodes if not node.wrapper]
        self._rolls, self._dies = honest[0], honest[-1]
        self.struck = Struck(self._dies)

    async def strike(self) -> None:
        """Do it all; returns when what comes back is back."""
        await self._answered.reached(0.05)
        await self._roll_keys()
        await self._without_audit_server()
        await self._lose_custodians()
        await self._kill_node()

    async def _roll_keys(self) -> None:
        self._say(f"{self._rolls} takes a new key bundle")
        config = self._platform.plan.path(self._rolls, "node.toml")
        self.struck.rolled = await self._platform.commands.json(
            "node", "roll", "--config", config, "--json"
        )
        self.struck.asked.append(await self._answer(QUESTIONS[0]))

    async def _without_audit_server(self) -> None:
        supervisor = self._platform.supervisor
        self._say("the audit server is killed, and stays away")
        await supervisor.take_down(AUDIT_SERVER)
        for question in QUESTIONS:
            self.struck.unaudited.append(await self._answer(question))
        self._say(f"{len(QUESTIONS)} questions were asked without it; it comes back")
        await supervisor.bring_back(AUDIT_SERVER)

    async def _lose_custodians(self) -> None:
        for name in LOST:
            self._say(f"{name} is killed, and stays away")
            await self._platform.supervisor.take_down(name)

    async def _kill_node(self) -> None:
        """Kill a node while it answers many requests, and bring it back."""
        supervisor, share = self._platform.supervisor, Share()
        asking = asyncio.create_task(self._ask_many(self._burst, share))
        await share.reached(DIES_AT)
        self._say(f"{self._dies} is killed in mid-stream")
        self.struck.killed_at = time.time_ns() // 1_000_000
        await supervisor.take_down(self._dies)
        await supervisor.bring_back(self._dies)
        answers = await asking
        self.struck.asked += [answer for answer in answers if not _later(answer)]
        refused = [self._burst[answer["line"]] for answer in answers if _later(answer)]
        if refused:  # nobody was there to accept them: a user sends them again, too
            self._say(f"{len(refused)} requests that it had not accepted are sent again")
            self.struck.asked += await self._ask_many(refused, Share())

    async def _ask_many(self, prompts: Sequence[str], share: Share) -> list[Item]:
        """Send many requests to the node that is to die; return what the client says of each."""
        try:
            answers = []
            async for answer in self._send(prompts, "--node", self._dies, "--slots", SLOT_MS):
                answers.append(answer)
                share.grow(len(answers) / len(prompts))
            return answers
        finally:
            share.grow(1.0)

    async def _answer(self, question: str) -> Item:
        """Ask an honest node by a client of its own; return what it printed, or why it failed."""
        client = self._platform.plan.path("client", "client.toml")
        options = ("--config", client, "--node", self._rolls, "--json")
        try:
            answer: Item = await self._platform.commands.json("infer", *options, question)
        except CounterfoilError as error:
            return {"error": str(error)}
        return answer

    def _say(self, text: str) -> None:
        self._platform.commands.say("fault", text)


def survived(struck: Struck, receipts: Sequence[Item], disclosures: Sequence[Item]) -> list[Fact]:
    """Return what must hold of the faults, by what is in the log. Pure."""
    return [
        _rolled(struck, receipts),
        _unaudited(struck),
        _lost(disclosures),
        _killed(struck, receipts),
    ]


def _rolled(struck: Struck, receipts: Sequence[Item]) -> Fact:
    old, new = (
        sum(receipt["bundle"] == struck.rolled.get(name) for receipt in receipts)
        for name in ("replaces", "bundle")
    )
    return Fact(
        "a node's keys rolled while it served, and requests went on under the new key bundle",
        new > 0,
        f"{old} receipts of {struck.rolled.get('node')} under the old one, {new} under the new one",
    )


def _unaudited(struck: Struck) -> Fact:
    failed = [_why(answer) for answer in struck.unaudited if "receipt" not in answer]
    answered = len(struck.unaudited) - len(failed)
    return Fact(
        "a client that started while the audit server was away got its answers, and checked them",
        answered == len(QUESTIONS),
        "; ".join([f"{answered} of {len(QUESTIONS)}", *failed[:1]]),
    )


def _later(answer: Item) -> bool:
    """Return whether a client says of a request that it may be sent again."""
    return "receipt" not in answer and Code[answer["error"]].value.retryable


def _why(answer: Item) -> str:
    return str(answer.get("detail") or answer.get("error") or "no receipt")


def _lost(disclosures: Sequence[Item]) -> Fact:
    """Two dead custodians change nothing: everything that was asked for was disclosed by the three that live."""
    asked = {item["entry"] for item in disclosures if item["type"] == "disclosure-request"}
    released: dict[str, set[str]] = {entry: set() for entry in asked}
    for item in disclosures:
        if item["type"] == "disclosure-release":
            released.setdefault(item["payload"]["request"], set()).add(item["issuer"])
    without = [names for names in released.values() if names and not names & set(LOST)]
    return Fact(
        f"{' and '.join(LOST)} died for good, and the other three custodians went on disclosing",
        bool(without) and all(len(names) >= 3 for names in without),
        f"{len(without)} of {len(asked)} disclosures were theirs alone",
    )


def _killed(struck: Struck, receipts: Sequence[Item]) -> Fact:
    under_way = [
        receipt
        for receipt in receipts
        if receipt["node"] == struck.node
        and receipt["started"] < struck.killed_at < receipt["ended"]
    ]
    whole = [receipt for receipt in under_way if receipt["finish"] in {"stop", "length"}]
    found = f"{len(under_way)} answers were under way, {len(whole)} of them ran to their end"
    return Fact(
        f"{struck.node} was killed in mid-stream, and went on with its answers where they were",
        bool(whole) and len(whole) == len(under_way) and not struck.failed,
        "; ".join([found, *struck.failed[:1]]),
    )
