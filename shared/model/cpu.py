"""The CPU backend: every arithmetic that the native kernels have (native/kernels.h), with whatever instructions there are."""

from collections.abc import Sequence
from ctypes import Array, sizeof
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from shared.model import arithmetic as arithmetics
from shared.model import functions, rope
from shared.model.arithmetic import ARITHMETICS, CHAIN_1, KINDS, PAIRS_32, Kind, kind_of, pointer
from shared.model.backend import Cache, Layers, Look, Packed, Rows
from shared.model.config import ModelConfig
from shared.model.fused import FUSED, check_given
from shared.model.layout import Layout
from shared.model.native import library
from shared.model.native.library import VARIANTS, kernels
from shared.model.weights import Weights, compute_dtype, computed_in
from shared.runtime.errors import Code, CounterfoilError

KV_BLOCK = 64
"""Positions of one block, as the kernels define it."""
SHORT = 4096
"""Positions whose angles are computed at the start."""


def arithmetics_for(dtype: str) -> tuple[str, ...]:
    """Return the arithmetics that are defined for a checkpoint's dtype."""
    return tuple(kind.arithmetic for kind in KINDS if kind.dtype == computed_in(dtype))


def own_arithmetic(dtype: str) -> str:
    """Return the arithmetic of this machine's own matrix unit, in which it computes a checkpoint's dtype fastest."""
    with_tiles = VARIANTS[kernels().best] == "amx" and PAIRS_32 in arithmetics_for(dtype)
    return PAIRS_32 if with_tiles else CHAIN_1


class KVCache:
    """Keys and values of a range of layers.

    Keys are (blocks, kv heads, head width, 64) and values (blocks, kv heads, 64, head width) in units of four bytes: two
    neighbouring elements of the head (keys) or positions (values) share a unit in bfloat16. The head width is padded to whole
    lanes. What the kernels store is finite.
    """

    def __init__(self, kind: Kind, config: ModelConfig, blocks: int, layers: int) -> None:
        shape = (blocks + 1, config.kv_heads, kind.filled(config.head_dim) * KV_BLOCK)
        self.keys: list[Tensor] = [torch.zeros(shape, dtype=kind.dtype) for _ in range(layers)]
        self.values: list[Tensor] = [torch.zeros(shape, dtype=kind.dtype) for _ in range(layers)]
        self.blocks = blocks


class CpuLayers:
    """Layers [first, last), packed, with the angles and the workspace that they need."""

    def __init__(
        self, kind: Kind, config: ModelConfig, weights: Weights, first: int, last: int
    ) -> None:
        self._kind = kind
        self._width, self._positions = config.hidden_size, config.max_positions
        self._frequencies = rope.inverse_frequencies(config.head_dim, config.rope)
        self._shape = library.Shape(
            kind=kind.number,
            hidden=kind.filled(config.hidden_size),
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_dim=kind.filled(config.head_dim),
            inner=kind.filled(config.intermediate_size),
            eps=kind.check_eps(config.rms_norm_eps),
            scale=config.head_dim**-0.5,
            own_hidden=config.hidden_size,
            own_head_dim=config.head_dim,
        )
        self._reach(min(self._positions, SHORT))
        self._kept: list[arithmetics.Packed | Tensor] = []
        self._layers = (library.Layer * (last - first))(
            *(self._layer(weights, config, index) for index in range(first, last))
        )
        self._workspace = torch.empty(0, dtype=torch.uint8)
        self._bound: KVCache | None = None

    def _reach(self, positions: int) -> None:
        """Make the angles of this many positions, not of all at once: for a long context they are gigabytes."""
        self._angles = functions.angles(self._frequencies, positions)
        self._shape.cosines, self._shape.sines = (table.ctypes.data for table in self._angles)

    def _layer(self, weights: Weights, config: ModelConfig, index: int) -> library.Layer:
        prefix, kind = f"model.layers.{index}.", self._kind

        def packed(*names: str, out: int, into: int, biased: bool = False) -> library.Matrix:
            """Join weights; `out` and `into` are the widths that make up their axes, each padded separately."""
            parts = [
                kind.fill(weights[f"{prefix}{n}.weight"].to(kind.dtype), 0, out) for n in names
            ]
            biases = [kind.fill(weights[f"{prefix}{n}.bias"], 0, out) for n in names if biased]
            joined = kind.fill(torch.cat(parts), 1, into)
            matrix = arithmetics.Packed(kind, joined, torch.cat(biases) if biased else None)
            self._kept.append(matrix)
            return matrix.matrix

        def norm(name: str, width: int) -> int | None:
            own = kind.check(weights[f"{prefix}{name}.weight"].float().contiguous())
            vector = kind.fill(own, 0, width)
            self._kept.append(vector)
            return pointer(vector)

        hidden, head, inner = config.hidden_size, config.head_dim, config.intermediate_size
        attention = [f"self_attn.{name}_proj" for name in "qkv"]
        return library.Layer(
            qkv=packed(*attention, out=head, into=hidden, biased=config.qkv_bias),
            o=packed("self_attn.o_proj", out=hidden, into=head),
            gate=packed("mlp.gate_proj", out=inner, into=hidden),
            up=packed("mlp.up_proj", out=inner, into=hidden),
            down=packed("mlp.down_proj", out=hidden, into=inner),
            norm_in=norm("input_layernorm", hidden),
            norm_out=norm("post_attention_layernorm", hidden),
            norm_q=norm("self_attn.q_norm", head) if config.qk_norm else None,
            norm_k=norm("self_attn.k_norm", head) if config.qk_norm else None,
            window=config.layer_windows[index],
        )

    def __call__(
        self, states_RD: Tensor, rows: Sequence[Rows], cache: Cache, look: Look | None = None
    ) -> Tensor:
        """Return the states after the layers, as `backend.Layers` says; in place where possible."""
        assert isinstance(cache, KVCache)
        layout = Layout.of(rows, positions=self._positions, blocks=cache.blocks, block=KV_BLOCK)
        assert states_RD.dtype == torch.float32
        assert states_RD.shape == (layout.rows, self._width)
        self._bind(cache)
        if layout.reach > len(self._angles[0]):
            self._reach(min(self._positions, 2 * layout.reach))
        starts = layout.blocks.ctypes.data + 4 * (np.cumsum(layout.held) - layout.held)
        firsts = np.cumsum(layout.counts) - layout.counts
        spans = np.stack([firsts, layout.counts, layout.positions, starts], axis=1)
        batch = library.Batch(layout.rows, len(spans), spans.ctypes.data)
        needed = kernels().workspace(self._shape, len(self._layers), batch)
        if needed > len(self._workspace):
            self._workspace = torch.empty(needed + needed // 4, dtype=torch.uint8)
        states_RD = self._kind.fill(states_RD, 1, self._width)
        stops = () if look is None else look.after
        for first, last in pairwise((0, *stops, len(self._layers))):
            if look is not None:
                look.at(first, states_RD[:, : self._width])
            kernels().layers(
                self._shape,
                self._part(first, last),
                last - first,
                batch,
                pointer(states_RD),
                pointer(self._workspace),
                len(self._workspace),
            )
        return states_RD[:, : self._width].contiguous()

    def _part(self, first: int, last: int) -> "Array[library.Layer]":
        """Return layers [first, last) of the range, as they are in it."""
        part = library.Layer * (last - first)
        return part.from_buffer(self._layers, first * sizeof(library.Layer))

    def _bind(self, cache: KVCache) -> None:
        if cache is self._bound:
            return
        assert len(cache.keys) == len(self._layers), "the cache belongs to another range of layers"
        for layer, keys, values in zip(self._layers, cache.keys, cache.values, strict=True):
            layer.keys, layer.values = pointer(keys), pointer(values)
        self._bound = cache


class CpuBackend:
    """This process's processors, in one arithmetic; `threads` sets how many of its threads passes use, for the whole process.

    CONFIGURATION for an arithmetic that no kernel computes and, once something is to be computed (or threads are to be set),
    where the kernels were not built.
    """

    name = device = "cpu"
    block = KV_BLOCK

    def __init__(self, threads: int | None = None, arithmetic: str = CHAIN_1) -> None:
        if arithmetic not in ARITHMETICS:
            raise CounterfoilError(
                Code.CONFIGURATION,
                f"there is no arithmetic {arithmetic[:40]!r}",
                remedy=f"Choose one of {', '.join(ARITHMETICS)}.",
            )
        self.arithmetic = arithmetic
        if threads is not None:
            kernels().threads(threads)

    def _kind(self, dtype: torch.dtype) -> Kind:
        return kind_of(self.arithmetic, dtype)

    def pack(self, weight: Tensor, bias: Tensor | None = None) -> Packed:
        """Lay a weight out in panels of sixteen outputs."""
        return arithmetics.Packed(self._kind(weight.dtype), weight, bias)

    def to_device(self, tensor: Tensor) -> Tensor:
        """Return the tensor; it is not copied. UNSUPPORTED for weights that are not defined."""
        if self.arithmetic in FUSED:
            check_given(tensor)
        return tensor.contiguous()

    def cache(self, config: ModelConfig, blocks: int, *, layers: int | None = None) -> Cache:
        """Make a cache; it is all zeros."""
        kind = self._kind(compute_dtype(config))
        return KVCache(kind, config, blocks, config.layers if layers is None else layers)

    def block_bytes(self, config: ModelConfig, *, layers: int | None = None) -> int:
        """Return the bytes of a block's keys and values."""
        kind = self._kind(compute_dtype(config))
        wide = 2 * (config.layers if layers is None else layers) * config.kv_heads
        return wide * kind.filled(config.head_dim) * KV_BLOCK * kind.dtype.itemsize

    def layers(self, config: ModelConfig, weights: Weights, first: int, last: int) -> Layers:
        """Pack layers; queries, keys and values become one matrix."""
        return CpuLayers(self._kind(compute_dtype(config)), config, weights, first, last)

    def embed(self, table: Packed | Tensor, tokens_R: Tensor) -> Tensor:
        """Look rows up; bfloat16 is widened exactly."""
        if isinstance(table, Tensor):
            return table[tokens_R].float()
        return _own(table).embed(tokens_R)

    def norm(self, states_RD: Tensor, weight_D: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        """Return x · (1 / sqrt(mean of squares + eps)) · weight."""
        kind = self._kind(dtype)
        rows, width = states_RD.shape
        shape = _norm_shape(kind, width, eps)
        states_RD, weight_D = kind.fill(states_RD, 1, width), kind.fill(weight_D, 0, width)
        out = torch.empty(states_RD.shape, dtype=dtype)
        kernels().norm(shape, pointer(states_RD), pointer(weight_D), rows, pointer(out))
        return out[:, :width].contiguous()

    def linear(self, x_RD: Tensor, weight: Packed) -> Tensor:
        """Return the sum of products for each element, and the bias after it."""
        return _own(weight).linear(x_RD)

    def logits(self, hidden_RD: Tensor, head: Packed) -> Tensor:
        """Return `linear`: it is on the host already."""
        return self.linear(hidden_RD, head)

    def to_host(self, tensor: Tensor) -> bytes:
        """Return the tensor's bytes; this processor is little-endian, as are all that the kernels run on."""
        return tensor.contiguous().view(torch.uint8).numpy().tobytes()


@cache
def _norm_shape(kind: Kind, width: int, eps: float) -> library.Shape:
    """Return what the norm's kernel reads of a shape. Cached: making one is noticeable in a step of one row."""
    return library.Shape(
        kind=kind.number, hidden=kind.filled(width), own_hidden=width, eps=kind.check_eps(eps)
    )


def _own(weight: Packed) -> arithmetics.Packed:
    assert isinstance(weight, arithmetics.Packed), "another backend packed it"
    return weight
