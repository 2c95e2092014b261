"""What breaks in `up --demo --pipeline`: a stage is killed while it computes layers of other nodes' answers."""

import time
from typing import Final

from shared.installation.audit_view import AuditView
from shared.installation.facts import Fact
from shared.installation.faults import Share
from shared.installation.platform import Platform

DIES_AT: Final = 0.3
"""The share of the demonstration's prompts that are answered when it is killed."""


class LostStage:
    """Kills the last honest stage of a chain, and brings it back."""

    def __init__(self, platform: Platform, answered: Share) -> None:
        self._platform, self._answered = platform, answered
        plan = platform.plan
        self._head = next(node for node in plan.nodes if plan.chain(node))
        self._stages = plan.chain(self._head)
        self.killed_at = 0

    async def strike(self) -> None:
        """Return once it is back."""
        victim = next(stage for stage in reversed(self._stages) if not stage.wrapper)
        await self._answered.reached(DIES_AT)
        say = self._platform.commands.say
        say("fault", f"{victim.name}, which computes layers {victim.part}, is killed")
        self.killed_at = time.time_ns() // 1_000_000
        await self._platform.supervisor.take_down(victim.name)
        await self._platform.supervisor.bring_back(victim.name)

    def facts(self, view: AuditView) -> list[Fact]:
        """Return what must hold of it, by the log."""
        names = {stage.name for stage in self._stages}
        own = [receipt for receipt in view.receipts if receipt["node"] == self._head.name]
        parts = [receipt for receipt in view.receipts if receipt["node"] in names]
        through = [r for r in own if r["started"] < self.killed_at < r["ended"]]
        bad = [r for r in own if r["finish"] not in {"stop", "length"}]
        operators = {stage.operator for stage in (self._head, *self._stages)}
        trip = max(stage.trip_ms for stage in self._stages)
        return [
            Fact(
                f"{self._head.name} answers with {len(names)} stages {trip} ms apart, of {len(operators)} operators, none with"
                " the whole model, and each signs for its part",
                bool(own) and len(parts) == len(names) * (len(own) - len(bad)),
                f"{len(own)} answers, {len(parts)} receipts of stages",
            ),
            Fact(
                "the answers that a stage was computing when it was killed ran to their end",
                bool(through) and not bad,
                f"{len(through)} were under way, {len(bad)} of all {len(own)} did not end",
            ),
        ]
