"""The audit of this run's receipts as an auditor sees it. Pure, over the query API's answers."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Item = Mapping[str, Any]
WITHHOLDING = frozenset({"withheld", "profile"})
"""Reasons of an INCONCLUSIVE verdict that blame the node (protocol §6.3.1)."""


@dataclass(frozen=True, slots=True)
class AuditView:
    """Receipts of one run, which of them were drawn, and their verdicts."""

    receipts: Sequence[Item]
    drawn: frozenset[int]
    """Log indexes of this run's drawn receipts."""
    covered: int
    """Receipts whose epoch has been drawn."""
    verdicts: Sequence[Item]
    confirmed: frozenset[str] = field(default_factory=frozenset)
    """Receipts with a verdict against the node that a second worker confirmed."""

    @classmethod
    def of(
        cls, receipts: Sequence[Item], epochs: Iterable[Item], verdicts: Iterable[Item]
    ) -> "AuditView":
        """Combine the answers."""
        epochs = list(epochs)
        seals = {e["entry"]: e["payload"] for e in epochs if e["type"] == "epoch-seal"}
        draws = [e["payload"] for e in epochs if e["type"] == "draw"]
        # An epoch that waits for a reveal may be drawn after the next one.
        drawn = [seals[draw["seal"]] for draw in draws if draw["seal"] in seals]
        indexes = {receipt["log_index"] for receipt in receipts}
        entries = {receipt["entry"] for receipt in receipts}
        ours = [verdict for verdict in verdicts if verdict["receipt"] in entries]
        return cls(
            receipts=receipts,
            drawn=frozenset(i for draw in draws for i in draw["drawn"] if i in indexes),
            covered=sum(
                any(seal["first"] <= receipt["log_index"] < seal["size"] for seal in drawn)
                for receipt in receipts
            ),
            verdicts=ours,
            confirmed=frozenset(v["receipt"] for v in ours if v["confirms"] is not None),
        )

    @property
    def blamed(self) -> frozenset[str]:
        """Receipts with a verdict against the node: a FAIL, or evidence that it withheld."""
        return frozenset(verdict["receipt"] for verdict in self.verdicts if _charges(verdict))

    @property
    def judged(self) -> frozenset[str]:
        """Receipts with any verdict."""
        return frozenset(verdict["receipt"] for verdict in self.verdicts)

    @property
    def complete(self) -> bool:
        """Whether every receipt's epoch was drawn, every drawn one judged, and every blame confirmed or refuted."""
        # Of a chain, one auditor may charge a receipt several times: from each that it was given of that chain.
        refuted = {verdict["receipt"] for verdict in self.verdicts if not _charges(verdict)}
        drawn = {
            receipt["entry"] for receipt in self.receipts if receipt["log_index"] in self.drawn
        }
        return (
            self.covered == len(self.receipts)
            and drawn <= self.judged  # of a chain, others may be judged as well
            and self.blamed <= self.confirmed | refuted
        )

    @property
    def superseded(self) -> list[Item]:
        """Receipts that are not payable because another attempt of their request is (protocol §8.3, step 4)."""
        best: dict[tuple[str, int], tuple[bool, int]] = {}
        left = [r for r in self.receipts if r["entry"] not in self.confirmed]
        for receipt in left:
            request = receipt["tenant"], receipt["number"]
            best[request] = max(best.get(request, (False, -1)), _rank(receipt))
        return [r for r in left if _rank(r) < best[r["tenant"], r["number"]]]

    def unpaid(self, heads: frozenset[str]) -> list[Item]:
        """Return the receipts of these nodes' chains that are not payable because a place of the chain was convicted."""
        chains = {
            (r["tenant"], r["number"], r["attempt"])
            for r in self.receipts
            if r["entry"] in self.confirmed and r["node"] in heads
        }
        gone = [r for r in self.superseded if r["node"] in heads]
        return [
            r
            for r in self.receipts
            if (r["tenant"], r["number"], r["attempt"]) in chains
            and r["node"] in heads
            and r not in gone
        ]

    def by_node(self) -> dict[str, Counter[str]]:
        """Return, per node, receipts, drawn ones, verdicts by outcome, and confirmed ones."""
        nodes: dict[str, Counter[str]] = {}
        for receipt in self.receipts:
            count = nodes.setdefault(receipt["node"], Counter())
            count["receipts"] += 1
            count["output_tokens"] += receipt["output_tokens"]
            count["drawn"] += receipt["log_index"] in self.drawn
            count["confirmed"] += receipt["entry"] in self.confirmed
        for verdict in self.verdicts:
            if verdict["confirms"] is None:
                nodes[verdict["node"]][verdict["outcome"]] += 1
        return nodes

    def named(self) -> frozenset[str]:
        """Return the nodes against which a verdict was confirmed."""
        return frozenset(r["node"] for r in self.receipts if r["entry"] in self.confirmed)


def _charges(verdict: Item) -> bool:
    """Whether a verdict is one against the node."""
    return bool(verdict["outcome"] == "FAIL" or verdict["reason"] in WITHHOLDING)


def _rank(receipt: Item) -> tuple[bool, int]:
    return receipt["finish"] in {"stop", "length"}, receipt["attempt"]
