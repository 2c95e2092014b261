"""A backend with the CPU's bits in KV blocks of another size, as another device might have them."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from shared.model.backend import Cache, Layers, Look, Rows
from shared.model.config import ModelConfig
from shared.model.cpu import CpuBackend
from shared.model.weights import Weights


class Paged(CpuBackend):
    """Each of its blocks is two of the kernels' own, one after the other."""

    block = 2 * CpuBackend.block

    def cache(self, config: ModelConfig, blocks: int, *, layers: int | None = None) -> Cache:
        return super().cache(config, 2 * blocks, layers=layers)

    def block_bytes(self, config: ModelConfig, *, layers: int | None = None) -> int:
        return 2 * super().block_bytes(config, layers=layers)

    def layers(self, config: ModelConfig, weights: Weights, first: int, last: int) -> Layers:
        return PagedLayers(super().layers(config, weights, first, last))


class PagedLayers:
    """The CPU's layers, given their own blocks."""

    def __init__(self, layers: Layers) -> None:
        self._layers = layers

    def __call__(
        self, states: Tensor, rows: Sequence[Rows], cache: Cache, look: Look | None = None
    ) -> Tensor:
        own = [
            replace(each, blocks=[part for n in each.blocks for part in (2 * n - 1, 2 * n)])
            for each in rows
        ]
        return self._layers(states, own, cache, look)
