"""CUDA graphs of passes that only decode: such a pass is hundreds of launches, which cost the host more time than the card.

A graph is recorded for a number of rows and of segments, both rounded up, the first time that it is needed. The rows that a pass
has fewer belong to no sequence: they write to the null block. Passes with chunks, and all passes without CUDA, run as they are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from shared.model.cuda.tables import Tables
from shared.model.cuda.tiles import power

ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""For how many rows there are graphs; passes of more run without."""

Memory = TypeVar("Memory")
"""A cache."""


@dataclass(frozen=True, slots=True)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    states: Tensor
    """Where the graph finds the states, and leaves them."""
    tables: Tables


class Graphs(Generic[Memory]):
    """The graphs of one function, which overwrites states given tables and a cache."""

    def __init__(
        self, function: Callable[[Tensor, Tables, Memory], None], device: torch.device
    ) -> None:
        self._function, self._device = function, device
        self._recorded: dict[tuple[int, int], _Recorded] = {}
        self._memory: Memory | None = None
        self._records = device.type == "cuda"

    def clear(self) -> None:
        """Forget all graphs, because something that they read has moved."""
        self._recorded.clear()

    def run(self, states: Tensor, tables: Tables, memory: Memory) -> Tensor:
        """Return the function's states; those given may be overwritten."""
        count = len(states)
        rows = next((most for most in ROWS if count <= most), 0)
        if not self._records or not rows or len(tables.tiles):
            self._function(states, tables, memory)
            return states
        if memory is not self._memory:
            self.clear()
            self._memory = memory
        key = rows, power(tables.segments)
        if key not in self._recorded:
            self._recorded[key] = self._record(*key, states.shape[1], memory)
        found = self._recorded[key]
        found.states[:count].copy_(states)
        missing = rows - count
        found.tables.positions.copy_(functional.pad(tables.positions, (0, missing)))
        found.tables.blocks.copy_(functional.pad(tables.blocks, (0, missing)))
        shorter = found.tables.table.shape[1] - tables.table.shape[1]
        found.tables.table.copy_(functional.pad(tables.table, (0, shorter, 0, missing)))
        found.graph.replay()
        return found.states[:count].clone()

    def _pool(self) -> Any:
        """Return the memory that all graphs share: only one runs at a time, and none leaves anything there for later."""
        first = next(iter(self._recorded.values()), None)
        return None if first is None else first.graph.pool()

    def _record(self, rows: int, segments: int, width: int, memory: Memory) -> _Recorded:
        """Record a pass of rows that all belong to no sequence; it runs once before, so that every kernel is compiled."""

        def zeros(*size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.int32, device=self._device)

        tables = Tables(
            positions=zeros(rows),
            blocks=zeros(rows),
            table=zeros(rows, segments),
            decoded=torch.arange(rows).repeat(2, 1).T.to(zeros(rows, 2)).contiguous(),
            tiles=zeros(0, 4),
            segments=segments,
        )
        states = torch.zeros(rows, width, device=self._device)
        self._function(states, tables, memory)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool(), capture_error_mode="thread_local"):
            self._function(states, tables, memory)
        return _Recorded(graph, states, tables)
