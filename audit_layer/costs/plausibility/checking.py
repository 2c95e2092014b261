"""Holds an operator's receipts of some days against its declared hardware, a node after another. In the caller's transaction.

What is kept of single receipts are counts and the worst findings. What a node's receipts claim together is seen from all of
them at once, so a node may have `MOST_RECEIPTS` in the time that is asked for.
"""

import heapq
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from audit_layer.trail.models import ReceiptRow
from shared.codec.moment import Period
from shared.runtime.errors import Code, CounterfoilError
from shared.verification.physics import (
    Finding,
    Model,
    Quantity,
    Report,
    Serving,
    Work,
    check_receipt,
)
from shared.verification.physics_node import check_node

MOST_RECEIPTS: Final = 200_000
"""Of one node. 100,000 took 49 MB more and 6 s of one core (Xeon, Python 3.11)."""
SHOWN: Final = 20
"""Findings about single receipts, of each node and quantity: the worst."""
PAGE: Final = 10_000


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What was found about one node."""

    node: str
    receipts: int
    found: Mapping[Quantity, int]
    """Findings about single receipts."""
    worst: Sequence[Finding]
    """Of them, those furthest beyond their bounds."""
    together: Sequence[Finding]
    """About receipts that overlap in time."""
    unmeasured: Mapping[Quantity, int]
    """Receipts without a value: that is not zero, and nothing is said about it."""
    unbounded: Mapping[str, int]
    """Why claims of single receipts had no bound, and how many."""
    unbounded_together: Mapping[str, int]
    """The same of receipts together: how many stretches, or receipts."""

    @property
    def implausible(self) -> bool:
        """Whether there is any finding."""
        return bool(self.found) or bool(self.together)


def check_operator(
    db: Session,
    days: Period,
    operator: str,
    serving: Serving,
    models: Mapping[bytes, Model],
    *,
    node: str | None = None,
) -> list[NodeReport]:
    """Return a report of each node with receipts that overlap these days; INVALID_ARGUMENT where it has too many."""
    query = _query(days, operator, node)
    with closing(db.execute(query, execution_options={"yield_per": PAGE})) as rows:
        return [
            _report(name, (_work(row, models) for row in own), serving, days)
            for name, own in groupby(rows, key=attrgetter("node"))
        ]


def _query(days: Period, operator: str, node: str | None) -> Any:
    query = (
        select(
            ReceiptRow.node,
            ReceiptRow.entry,
            ReceiptRow.started,
            ReceiptRow.ended,
            ReceiptRow.input_tokens,
            ReceiptRow.cached_tokens,
            ReceiptRow.output_tokens,
            ReceiptRow.compute_ms,
            ReceiptRow.energy_mj,
            ReceiptRow.model_root,
            or_(ReceiptRow.part, ReceiptRow.sent.is_not(None)).label("of_chain"),
        )
        .where(
            ReceiptRow.operator == operator,
            ReceiptRow.started < days.end,
            ReceiptRow.ended > days.start,
        )
        .order_by(ReceiptRow.node, ReceiptRow.started, ReceiptRow.log_index)
    )
    return query if node is None else query.where(ReceiptRow.node == node)


def _work(row: Any, models: Mapping[bytes, Model]) -> Work:
    return Work(
        bytes(row.entry).hex(),
        row.started,
        row.ended,
        row.input_tokens,
        row.cached_tokens,
        row.output_tokens,
        row.compute_ms,
        row.energy_mj,
        # A node of a chain computes some of the layers: the whole model bounds nothing that it claims.
        None if row.of_chain else models.get(bytes(row.model_root)),
    )


def _report(node: str, works: Iterator[Work], serving: Serving, days: Period) -> NodeReport:
    singly, kept = _Singly(serving), list[Work]()
    for work in works:
        if len(kept) == MOST_RECEIPTS:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT,
                f"node {node} has more than {MOST_RECEIPTS:,} receipts in that time",
                remedy="Ask for fewer days.",
            )
        singly.look(work)
        kept.append(work)
    whole = check_node(kept, serving, (days.start, days.end))
    return singly.report(node, len(kept), whole)


class _Singly:
    """Looks at receipts one by one and keeps the worst of each quantity."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._found: Counter[Quantity] = Counter()
        self._unbounded: Counter[str] = Counter()
        self._worst: dict[Quantity, list[tuple[float, int, Finding]]] = {}
        self._seen = 0

    def look(self, work: Work) -> None:
        report = check_receipt(work, self._serving)
        self._unbounded.update(report.unbounded)
        for finding in report.findings:
            self._seen += 1
            self._found[finding.quantity] += 1
            worst = self._worst.setdefault(finding.quantity, [])
            item = (_excess(finding), -self._seen, finding)
            (heapq.heappush if len(worst) < SHOWN else heapq.heappushpop)(worst, item)

    def report(self, node: str, receipts: int, whole: Report) -> NodeReport:
        """`whole` is about all of them together: it counts the unmeasured, too."""
        worst = [item for quantity in Quantity for item in self._worst.get(quantity, ())]
        return NodeReport(
            node=node,
            receipts=receipts,
            found=dict(self._found),
            worst=[finding for _, _, finding in sorted(worst, reverse=True, key=_order)],
            together=whole.findings,
            unmeasured=whole.unmeasured,
            unbounded=dict(self._unbounded),
            unbounded_together=whole.unbounded,
        )


def _order(item: tuple[float, int, Finding]) -> tuple[float, int]:
    return item[:2]


def _excess(finding: Finding) -> float:
    low, high = sorted((finding.claimed, finding.bound))
    return math.inf if low == 0 else high / low
