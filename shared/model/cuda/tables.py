"""What one pass asks of attention, as the kernels read it: where its rows are, and which blocks hold their sequences."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.model.cuda.tiles import filled
from shared.model.fused import SEGMENT
from shared.model.layout import Layout

Ints = NDArray[np.int32]
ALIGNED = 4
"""Numbers of 16 bytes."""


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
    """Return arrays as tensors of a device, in one copy.

    Each begins at a multiple of 16 bytes: Triton compiles kernels anew for pointers that are less aligned.
    """
    starts = np.cumsum([0, *(filled(part.size, ALIGNED) for part in parts)])
    flat = np.zeros(starts[-1], np.int32)
    for part, start in zip(parts, starts[:-1], strict=True):
        flat[start : start + part.size] = part.ravel()
    moved = torch.from_numpy(flat).to(device)
    return [
        moved[start : start + part.size].view(part.shape)
        for part, start in zip(parts, starts[:-1].tolist(), strict=True)
    ]
