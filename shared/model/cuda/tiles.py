"""Which tiles the kernels work in. A tile decides how fast a product is, never its bits."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from types import MappingProxyType
from typing import Final, Self

WIDTH: Final = 64
"""What widths of products are padded to multiples of: the least depth and width of a tile that every one can have."""
ANY: Final = 1 << 30


class Way(IntEnum):
    """How a product goes through its operands."""

    PLAIN = 0
    SWAPPED = 1
    """The weight is the left factor: for few rows."""
    COPIED = 2
    """The card's copy engine fetches the tiles: for many rows, on cards that have one."""


class Epilogue(IntEnum):
    """What becomes of a product's sums."""

    PLAIN = 0
    ADDED = 1
    """They are added to what is there."""
    GATED = 2
    """Outputs alternate between gate and up, and each pair becomes one gated value in bfloat16."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile of a product."""

    rows: int
    outputs: int
    depth: int
    """Inputs of one step."""
    stages: int
    """Steps whose operands are on their way at once."""
    warps: int
    way: Way = Way.PLAIN

    @property
    def memory(self) -> int:
        """Bytes of shared memory for the operands."""
        return 2 * self.stages * self.depth * (self.rows + self.outputs)


TILES: Mapping[int, Mapping[str, Tile]] = MappingProxyType(
    {
        16: {
            "": Tile(16, 32, 256, 6, 4),
            "qkv": Tile(16, 32, 256, 4, 2),
            "gate_up": Tile(16, 64, 128, 4, 4),
            "head": Tile(16, 64, 128, 4, 4, Way.SWAPPED),
        },
        32: {
            "": Tile(32, 64, 128, 6, 4, Way.SWAPPED),
            "gate_up": Tile(32, 64, 128, 4, 4),
            "head": Tile(32, 64, 128, 4, 4, Way.SWAPPED),
        },
        64: {
            "": Tile(64, 32, 128, 6, 4, Way.COPIED),
            "qkv": Tile(64, 64, 128, 5, 4, Way.COPIED),
            "gate_up": Tile(64, 128, 64, 4, 4),
            "head": Tile(64, 128, 128, 4, 4, Way.COPIED),
        },
        ANY: {
            "": Tile(128, 256, 64, 4, 8, Way.COPIED),
            "o": Tile(256, 128, 64, 4, 8, Way.COPIED),
            "head": Tile(128, 128, 64, 4, 4, Way.COPIED),
        },
    }
)
"""Up to how many rows → the tile of each product, "" for all others. Hopper's best in the spike (docs/benchmarks-gpu.md)."""


SHARED: Mapping[int, int] = MappingProxyType({9: 227 << 10, 10: 227 << 10})
"""Major compute capability → bytes of shared memory of one program; 163 KiB on 8.0, and 99 KiB on all others."""
FIRST_TO_COPY: Final = 9
"""The major compute capability from which on cards have a copy engine for tiles."""


@dataclass(frozen=True, slots=True)
class Table:
    """The tiles of one card."""

    memory: int = 227 << 10
    """Bytes of shared memory that one program may have."""
    copies: bool = True
    """The card has a copy engine for tiles."""
    tiles: Mapping[int, Mapping[str, Tile]] = field(default_factory=lambda: TILES)

    @classmethod
    def of(cls, capability: tuple[int, int]) -> Self:
        """Return the tiles for a compute capability."""
        major, _ = capability
        memory = (163 << 10) if capability == (8, 0) else SHARED.get(major, 99 << 10)
        return cls(memory, major >= FIRST_TO_COPY)

    def product(self, name: str, rows: int, outputs: int, inputs: int) -> Tile:
        """Return the tile of a product, cut to its padded widths and to the card's memory."""
        named = next(tiles for most, tiles in self.tiles.items() if rows <= most)
        tile = named.get(name, named[""])
        tile = replace(
            tile, outputs=_dividing(tile.outputs, outputs), depth=_dividing(tile.depth, inputs)
        )
        if tile.way == Way.COPIED and not self.copies:
            tile = replace(tile, way=Way.PLAIN)
        while tile.memory > self.memory:
            if tile.stages > 2:
                tile = replace(tile, stages=tile.stages - 1)
            else:
                tile = replace(tile, depth=tile.depth // 2)
        return tile

    def chunk(self, head: int) -> tuple[int, int, int]:
        """Return the queries, stages and warps of a tile of `chunk_kernel` for a padded head width."""
        if self.memory >= 200 << 10 and head <= 128:
            return 128, 2, 8
        return (64, 1, 4) if self.memory >= 160 << 10 or head <= 128 else (32, 1, 4)


def _dividing(size: int, width: int) -> int:
    """Return the largest part of a power of two that divides a width."""
    while width % size:
        size //= 2
    return size


def filled(width: int, to: int = WIDTH) -> int:
    """Return a width with its padding."""
    return -(-width // to) * to


def power(width: int, least: int = 1) -> int:
    """Return the next power of two."""
    return max(least, 1 << (width - 1).bit_length())


def rows_each(width: int) -> int:
    """Return how many rows of a narrow width one program takes."""
    return max(1, min(16, 2048 // power(width)))
