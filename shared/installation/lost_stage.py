"""What breaks in `up --demo --pipeline`: a process that computes layers for a node is killed while the node answers."""

import time
from typing import Final

from shared.installation.audit_view import AuditView
from shared.installation.facts import Fact
from shared.installation.faults import Share
from shared.installation.platform import Platform

DIES_AT: Final = 0.3
"""The share of the demonstration's prompts that are answered when it is killed."""


class LostStage:
    """Kills the last stage of the node that has any, and brings it back."""

    def __init__(self, platform: Platform, answered: Share) -> None:
        self._platform, self._answered = platform, answered
        self._node = next(node for node in platform.plan.nodes if node.stages)
        self.killed_at = 0

    async def strike(self) -> None:
        """Return once it is back."""
        victim = self._node.stages[-1]
        await self._answered.reached(DIES_AT)
        say = self._platform.commands.say
        say("fault", f"{victim.name}, which computes layers {victim.layers}, is killed")
        self.killed_at = time.time_ns() // 1_000_000
        await self._platform.supervisor.take_down(victim.name)
        await self._platform.supervisor.bring_back(victim.name)

    def facts(self, view: AuditView) -> list[Fact]:
        """Return what must hold of it, by the log."""
        own = [receipt for receipt in view.receipts if receipt["node"] == self._node.name]
        through = [r for r in own if r["started"] < self.killed_at < r["ended"]]
        bad = [r for r in own if r["finish"] not in {"stop", "length"}]
        parts = len(self._node.stages) + 1
        drawn = sum(receipt["log_index"] in view.drawn for receipt in own)
        return [
            Fact(
                f"{self._node.name} serves from {parts} processes {self._node.trip_ms} ms apart, none with the whole model,"
                " and the auditors find the bits of one",
                drawn > 0 and not any(r["entry"] in view.blamed for r in own),
                f"{len(own)} receipts, {drawn} drawn, none blamed",
            ),
            Fact(
                "the answers that a stage was computing when it was killed ran to their end",
                bool(through) and not bad,
                f"{len(through)} were under way, {len(bad)} of all {len(own)} did not end",
            ),
        ]
