"""How much is measured."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

Tick = Callable[[str, int], None]
"""Called with (what is going on, steps done)."""
WORKLOADS = ("closed", "batches", "bytes", "proofs", "bulk", "growth")
"""In the order in which they run."""


@dataclass(frozen=True, slots=True)
class Size:
    """Every workload is a fixed amount of work, so a run always ends."""

    rounds: int
    connections: int
    """Load processes; each is one connection."""
    closed: dict[int, int]
    """Waiters → calls of one statement."""
    watched: int
    """Statements followed to their witnessed proof."""
    per_call: tuple[int, ...]
    """Statements in one call."""
    calls_in_flight: int
    """For each connection."""
    batched: int
    """Statements for each size of call, kind and round."""
    batch: tuple[int, ...]
    """Entries in one transaction of the store."""
    bare: int
    """Entries for each size of transaction and round, without the trail."""
    admitted: int
    """The same with the trail's rows."""
    proven: int
    """Entries in the log from which proofs are requested."""
    proofs: int
    """Proofs of each kind, and tiles, for each round."""
    growth: tuple[int, ...]
    """Sizes of the log; the others are compared with the first."""
    growth_trail: tuple[int, ...]
    """The same with the trail's rows."""
    growth_batches: int
    """Batches of 1,024 that are timed at each size."""
    growth_proofs: int
    growth_ticks: int

    def with_rounds(self, rounds: int | None) -> Self:
        """Return the size with another number of rounds, if one is given."""
        return self if rounds is None else dataclasses.replace(self, rounds=rounds)

    def further(self) -> Self:
        """Return the size with logs that grow ten times further."""
        return dataclasses.replace(
            self,
            growth=(*self.growth, 10 * self.growth[-1]),
            growth_trail=(*self.growth_trail, 10 * self.growth_trail[-1]),
        )


FULL = Size(
    rounds=3,
    connections=2,
    closed={1: 300, 16: 2_000, 64: 4_000, 256: 6_000},
    watched=20,
    per_call=(64, 256, 1024),
    calls_in_flight=2,
    batched=12_288,
    batch=(64, 256, 1024, 4096),
    bare=32_768,
    admitted=16_384,
    proven=100_000,
    proofs=2_000,
    growth=(10_000, 100_000, 1_000_000),
    growth_trail=(10_000, 100_000),
    growth_batches=20,
    growth_proofs=1_000,
    growth_ticks=10,
)
QUICK = Size(
    rounds=1,
    connections=2,
    closed={1: 20, 16: 100, 64: 200, 256: 512},
    watched=2,
    per_call=(64, 256, 1024),
    calls_in_flight=2,
    batched=2_048,
    batch=(64, 256, 1024, 4096),
    bare=4_096,
    admitted=2_048,
    proven=3_000,
    proofs=100,
    growth=(1_000, 12_000),
    growth_trail=(1_000, 9_000),
    growth_batches=4,
    growth_proofs=100,
    growth_ticks=2,
)
