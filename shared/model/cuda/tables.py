"""What one pass asks of attention, as the kernels read it: where its rows are, and which blocks hold their sequences."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.model.fused import SEGMENT
from shared.model.layout import Layout

Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Tables:
    """All int32. A sequence with one row is decoded, one with several is a chunk: both give the same bits."""

    positions: Tensor
    """Of each row (R,)."""
    blocks: Tensor
    """The block of each row's position (R,)."""
    table: Tensor
    """The blocks of each sequence (sequences, stride), filled up with the null block."""
    decoded: Tensor
    """The row and the sequence of each query that is alone (Q, 2)."""
    tiles: Tensor
    """First row, rows, first position and sequence of each tile of a chunk (T, 4)."""
    segments: int
    """Segments that the queries which are alone reach."""

    @classmethod
    def of(cls, layout: Layout, tile: int, device: torch.device) -> Self:
        """Make the tables of a pass whose chunks are cut into tiles of so many rows."""
        counts, starts, held = layout.counts, layout.positions, layout.held
        sequence = np.repeat(np.arange(len(counts)), counts)
        first = np.cumsum(counts) - counts
        position = np.arange(layout.rows) - (first - starts)[sequence]
        needed = -(-(starts + counts) // SEGMENT)
        table = np.zeros((len(counts), int(needed.max())), np.int32)
        for row, (begin, count) in enumerate(zip(np.cumsum(held) - held, needed, strict=True)):
            table[row, :count] = layout.blocks[begin : begin + count]
        alone = np.flatnonzero(counts == 1)
        decoded = np.stack([first[alone], alone], axis=1)
        cut = [
            (first[one] + done, min(tile, counts[one] - done), starts[one] + done, one)
            for one in np.flatnonzero(counts > 1)
            for done in range(0, counts[one], tile)
        ]
        cut.sort(key=lambda each: -(each[1] + each[2]))  # those with most to do begin first
        tiles = np.array(cut, np.int32).reshape(-1, 4)
        parts = [position, table[sequence, position // SEGMENT], table, decoded, tiles]
        positions, blocks, moved, queries, chunks = _moved(parts, device)
        return cls(positions, blocks, moved, queries, chunks, int(needed[alone].max(initial=0)))


def _moved(parts: list[NDArray[np.int64] | Ints], device: torch.device) -> list[Tensor]:
    """Return arrays as tensors of a device, in one copy."""
    flat = torch.from_numpy(np.concatenate([part.ravel().astype(np.int32) for part in parts]))
    moved = flat.to(device).split([part.size for part in parts])
    return [each.view(part.shape) for each, part in zip(moved, parts, strict=True)]
