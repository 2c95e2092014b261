"""A chain in simulated time: a head that keeps as many steps under way as a gauge says, and stages behind hops."""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from execution_layer.pipeline.boundary import Spent
from execution_layer.pipeline.depth import Cost
from execution_layer.pipeline.gauge import Gauge

Said = Callable[[int, Spent], Spent]
"""What a stage says of what it has spent."""

ENDS = Cost(0.0005, 0.00002)


@dataclass
class Simulated:
    """Sequences that decode forever, on stages that cost what they cost; each hop takes `hop_s`, the last one back too."""

    costs: Sequence[Cost]
    hop_s: float
    sequences: int
    ends: Cost = ENDS
    said: Said = lambda _place, spent: spent
    now: float = 0.0
    depths: list[int] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def run(self, gauge: Gauge, seconds: float) -> float:
        """Return the tokens per second of the latter half."""
        free = [0.0] * len(self.costs)
        coming: list[tuple[float, int, int, float, list[Spent]]] = []
        ready, number, tokens, begun = self.sequences, 0, 0, self.now
        while self.now < begun + seconds:
            depth = gauge.depth(self.sequences, 0)
            self.depths.append(depth)
            if ready and len(coming) < depth:
                rows = min(ready, -(-self.sequences // depth))
                ready -= rows
                self.now += self.ends.of(rows) / 2
                heapq.heappush(coming, self._through(free, rows, number))
                number += 1
                continue
            arrived, _, rows, sent, spent = heapq.heappop(coming)
            self.now = max(self.now, arrived) + self.ends.of(rows) / 2
            gauge.came(rows, arrived - sent, spent, self.ends.of(rows))
            ready += rows
            tokens += rows if self.now > begun + seconds / 2 else 0
        return tokens / (seconds / 2)

    def _through(
        self, free: list[float], rows: int, number: int
    ) -> tuple[float, int, int, float, list[Spent]]:
        at, spent = self.now, []
        for place, cost in enumerate(self.costs):
            at += self.hop_s
            begun = max(at, free[place])
            free[place] = begun + cost.of(rows)
            spent.append(self.said(place, Spent(begun - at, cost.of(rows))))
            at = free[place]
        return at + self.hop_s, number, rows, self.now, spent
