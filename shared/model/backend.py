"""The seam between a decoder and what computes it: a backend does one arithmetic (protocol §7.2) on one kind of device.

A backend computes everything that determines a bit of a state or of a logit; whatever needs one is given it: decoder, engine,
replay, probe. How weights, keys and values are laid out in memory, and where, is up to the backend. `cpu` is the first one.

*States* are what goes from layer to layer: float32 (R, D), a row for each token of a pass. *Hidden states* are those after the
final norm, in the compute dtype (`weights.compute_dtype`); commitments hash them. Both stay on the backend's device until they
are asked for. Elsewhere only torch's bookkeeping (cutting, joining, choosing rows), which changes no bit, is done to them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

from shared.model.config import ModelConfig
from shared.model.weights import Weights

NULL_BLOCK: Final = 0
"""The block that belongs to nobody; those of a cache are 1 … `Cache.blocks`."""


def blocks_for(positions: int, block: int) -> int:
    """Return how many blocks of `block` positions hold this many."""
    return -(-positions // block)


@dataclass(frozen=True, slots=True)
class Rows:
    """Consecutive rows of one sequence in a pass: all that layers know about them."""

    count: int
    position: int
    """The first one's, from 0."""
    blocks: Sequence[int]
    """What holds the sequence's keys and values, from position 0 to the last row's or beyond."""


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of one sequence: the first one's position, and the blocks that hold the sequence's keys and values."""

    tokens: Sequence[int]
    position: int
    blocks: Sequence[int]

    @property
    def rows(self) -> Rows:
        """The same without the tokens."""
        return Rows(len(self.tokens), self.position, self.blocks)


class Packed(Protocol):
    """A weight (out, in) as one backend's products read it, with its bias; nothing else looks inside."""

    @property
    def rows(self) -> int:
        """How many outputs there are."""

    @property
    def columns(self) -> int:
        """How many inputs there are."""


class Cache(Protocol):
    """Keys and values of a range of layers, in blocks, as one backend keeps them."""

    @property
    def blocks(self) -> int:
        """How many blocks there are besides the null block."""


@dataclass(frozen=True, slots=True)
class Look:
    """Where a pass is looked into on its way. It changes no bit."""

    after: Sequence[int]
    """Numbers of layers of the range, rising."""
    show: Callable[[int, Tensor], None]
    """Called with each of them and the states (R, D) after so many layers, which are overwritten once it returns."""

    def within(self, layers: int) -> "Look":
        """Return what is to be seen between this many layers."""
        return Look([count for count in self.after if 0 < count < layers], self.show)

    def at(self, count: int, states_RD: Tensor) -> None:
        """Show the states after so many layers, if they are to be seen."""
        if count in self.after:
            self.show(count, states_RD)


class Layers(Protocol):
    """A contiguous range of layers with their weights. Not for use by two threads at once."""

    def __call__(
        self, states_RD: Tensor, rows: Sequence[Rows], cache: Cache, look: Look | None = None, /
    ) -> Tensor:
        """Return the states after the layers, whose keys and values go to the cache's layers 0, 1, …

        `look` sees states between layers. The states that are given may be overwritten. A row's result depends on its own
        sequence alone. ValueError, before
        anything is computed, for rows outside the model's positions, the cache's blocks or their own.
        """


class Backend(Protocol):
    """One arithmetic on one kind of device. A backend may be shared by many decoders; only it can use what it makes."""

    @property
    def name(self) -> str:
        """What an operator calls it."""

    @property
    def arithmetic(self) -> str:
        """Name of the written definition of every operation; part of the numeric profile."""

    @property
    def device(self) -> str:
        """Kind of device; not part of the numeric profile."""

    @property
    def block(self) -> int:
        """Positions of one KV block: a multiple of the commitment blocks of 32."""

    def pack(self, weight: Tensor, bias: Tensor | None = None) -> Packed:
        """Lay a weight (out, in) of the compute dtype out for `linear` and `logits`; a bias (out,) is kept in float32.

        UNSUPPORTED for a dtype that the arithmetic does not define.
        """

    def to_device(self, tensor: Tensor) -> Tensor:
        """Return a tensor where this backend's operations read it: a norm's weight, a table of embeddings, states of another node.

        It is not copied if it is there already.
        """

    def cache(self, config: ModelConfig, blocks: int, *, layers: int | None = None) -> Cache:
        """Make room for this many usable blocks and the null block, for a number of layers (None: all)."""

    def block_bytes(self, config: ModelConfig, *, layers: int | None = None) -> int:
        """Return the bytes that one block takes for a number of layers (None: all)."""

    def layers(self, config: ModelConfig, weights: Weights, first: int, last: int) -> Layers:
        """Pack layers [first, last). Only their tensors are read, by Hugging Face's names; UNSUPPORTED as for `pack`."""

    def embed(self, table: Packed | Tensor, tokens_R: Tensor) -> Tensor:
        """Return states (R, in): a packed weight's rows or a table's. Tokens are int64, on the host, and in the vocabulary."""

    def norm(self, states_RD: Tensor, weight_D: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        """Return the root-mean-square norm of states, in a dtype of the arithmetic's; the weight is float32."""

    def linear(self, x_RD: Tensor, weight: Packed) -> Tensor:
        """Return x · weightᵀ + bias as float32 (R, out), on the device; x is of the weight's dtype."""

    def logits(self, hidden_RD: Tensor, head: Packed) -> Tensor:
        """Return `linear` of hidden states on the host, where samplers run: float32 (R, V)."""

    def to_host(self, tensor: Tensor) -> bytes:
        """Return states, hidden states or what `linear` gave as bytes: little-endian, row by row, as commitments hash them."""
