"""The CUDA backend: one card, in the arithmetic of its matrix unit, by the kernels of `kernels`."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from shared.model import functions, rope
from shared.model.backend import Cache, Layers, Look, Packed, Rows
from shared.model.config import ModelConfig
from shared.model.cuda import operations
from shared.model.cuda.graphs import Graphs
from shared.model.cuda.operations import Heads, Weight, padded
from shared.model.cuda.shape import Shape
from shared.model.cuda.tables import Tables
from shared.model.cuda.tiles import Epilogue, Table, filled
from shared.model.fused import FUSED, SEGMENT, check_eps, check_given, check_tensor
from shared.model.layout import Layout
from shared.model.weights import Weights, compute_dtype
from shared.runtime.errors import Code, CounterfoilError

KV_BLOCK = SEGMENT
"""Positions of one block: a segment of attention."""
SHORT = 4096
"""Positions whose angles are computed at the start."""


class KVCache:
    """Keys and values of a range of layers, each (blocks, kv heads, 128, padded head width) in bfloat16.

    What is not written is zero, and what is written is limited (protocol §7.2.4, rule 8), so what other sequences left in a block
    cannot matter.
    """

    def __init__(self, shape: Shape, blocks: int, layers: int, device: torch.device) -> None:
        size = (blocks + 1, shape.kv_heads, KV_BLOCK, shape.head_filled)
        self.keys = [torch.zeros(size, dtype=torch.bfloat16, device=device) for _ in range(layers)]
        self.values = [
            torch.zeros(size, dtype=torch.bfloat16, device=device) for _ in range(layers)
        ]
        self.blocks = blocks


class CudaPacked:
    """A weight (out, in) on the card, padded with zeros."""

    def __init__(self, weight: Tensor, bias: Tensor | None, device: torch.device) -> None:
        self.rows, self.columns = weight.shape
        self.weight = _weight(weight, bias, device)


def _weight(weight: Tensor, bias: Tensor | None, device: torch.device) -> Weight:
    """Pad both axes of a weight; UNSUPPORTED for magnitudes that are not defined."""
    for tensor in (weight, bias):
        if tensor is not None:
            check_tensor(tensor)
    rows, columns = (filled(width) for width in weight.shape)
    data = padded(weight.to(device), columns, rows)
    if bias is None:
        return Weight(data)
    return Weight(data, padded(bias.float().to(device)[None], rows)[0])


class CudaLayers:
    """Layers [first, last) on the card."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        first: int,
        last: int,
        device: torch.device,
        table: Table,
    ) -> None:
        check_eps(config.rms_norm_eps)
        self._shape, self._config, self._device, self._table = (
            Shape.of(config),
            config,
            device,
            table,
        )
        self._frequencies = rope.inverse_frequencies(config.head_dim, config.rope)
        self._layers = [
            _Layer(config, self._shape, weights, index, device) for index in range(first, last)
        ]
        self._windows = config.layer_windows[first:last]
        self._graphs = Graphs(self._pass, device)
        self._reach(min(config.max_positions, SHORT))

    def _reach(self, positions: int) -> None:
        """Make the angles of this many positions, not of all at once: for a long context they are gigabytes."""
        self._angles = tuple(
            torch.from_numpy(each).to(self._device)
            for each in functions.angles(self._frequencies, positions)
        )
        self._graphs.clear()

    def __call__(
        self, states_RD: Tensor, rows: Sequence[Rows], cache: Cache, look: Look | None = None
    ) -> Tensor:
        """Return the states after the layers, as `backend.Layers` says; in place where possible."""
        assert isinstance(cache, KVCache)
        assert len(cache.keys) == len(self._layers), "the cache belongs to another range of layers"
        config, shape = self._config, self._shape
        layout = Layout.of(
            rows, positions=config.max_positions, blocks=cache.blocks, block=KV_BLOCK
        )
        assert states_RD.dtype == torch.float32
        assert states_RD.shape == (layout.rows, shape.hidden)
        if layout.reach > len(self._angles[0]):
            self._reach(min(config.max_positions, 2 * layout.reach))
        most, _, _ = self._table.chunk(shape.head_filled)
        tables = Tables.of(layout, most, self._device)
        states = padded(states_RD, shape.hidden_filled)
        if look is None:
            states = self._graphs.run(states, tables, cache)
            return states[:, : shape.hidden].contiguous()
        for first, last in pairwise((0, *look.after, len(self._layers))):
            look.at(first, states[:, : shape.hidden])
            self._pass(states, tables, cache, slice(first, last))
        return states[:, : shape.hidden].contiguous()

    def _pass(
        self, states: Tensor, tables: Tables, cache: KVCache, which: slice = slice(None)
    ) -> None:
        """Run layers over padded states, in place. Everything else that a pass needs is in the tables."""
        shape, eps = self._shape, self._config.rms_norm_eps
        rows, (cosines, sines) = len(states), self._angles

        def product(
            name: str, x: Tensor, weight: Weight, out: Tensor, epilogue: Epilogue
        ) -> Tensor:
            return operations.product(self._table, name, x, weight, out, epilogue)

        for layer, window, keys, values in zip(
            self._layers[which],
            self._windows[which],
            cache.keys[which],
            cache.values[which],
            strict=True,
        ):
            x = operations.norm(states, layer.norm_in, eps)
            qkv = product("qkv", x, layer.qkv, states.new_empty((rows, shape.qkv)), Epilogue.PLAIN)
            how = Heads(layer.norms, cosines, sines, eps)
            queries = operations.heads(qkv, shape, how, keys, values, tables)
            attended = operations.attend(self._table, queries, shape, keys, values, tables, window)
            product("o", attended, layer.o, states, Epilogue.ADDED)
            x = operations.norm(states, layer.norm_out, eps)
            gated = x.new_empty((rows, shape.inner))
            product("gate_up", x, layer.gate_up, gated, Epilogue.GATED)
            product("down", gated, layer.down, states, Epilogue.ADDED)


class _Layer:
    """The weights of one layer, as the kernels read them."""

    def __init__(
        self, config: ModelConfig, shape: Shape, weights: Weights, index: int, device: torch.device
    ) -> None:
        def tensor(name: str) -> Tensor:
            return weights[f"model.layers.{index}.{name}"]

        def weight(name: str) -> Tensor:
            return tensor(f"{name}.weight").to(compute_dtype(config))

        def norm(name: str) -> Tensor:
            vector = tensor(f"{name}.weight").float().contiguous()
            check_tensor(vector)
            return vector.to(device)

        attention = [f"self_attn.{name}_proj" for name in "qkv"]
        biases = (
            torch.cat([tensor(f"{name}.bias") for name in attention]) if config.qkv_bias else None
        )
        self.qkv = _weight(torch.cat([weight(name) for name in attention]), biases, device)
        by_heads = weight("self_attn.o_proj").unflatten(1, (config.heads, config.head_dim))
        wider = functional.pad(by_heads, (0, shape.head_filled - shape.head))
        self.o = _weight(wider.flatten(1), None, device)
        missing = shape.inner - config.intermediate_size
        pairs = torch.stack([weight("mlp.gate_proj"), weight("mlp.up_proj")], dim=1)
        self.gate_up = _weight(
            functional.pad(pairs, (0, 0, 0, 0, 0, missing)).flatten(0, 1), None, device
        )
        self.down = _weight(weight("mlp.down_proj"), None, device)
        self.norm_in, self.norm_out = norm("input_layernorm"), norm("post_attention_layernorm")
        names = ("self_attn.q_norm", "self_attn.k_norm")
        self.norms = (norm(names[0]), norm(names[1])) if config.qk_norm else None


class CudaBackend:
    """One card, in its own arithmetic. `device.open_card` makes one, with everything checked.

    UNSUPPORTED, when something is packed, for what the fused arithmetics do not define and for widths that the kernels cannot have.
    """

    name = device = "cuda"
    block = KV_BLOCK

    def __init__(
        self, arithmetic: str, device: torch.device | None = None, table: Table | None = None
    ) -> None:
        assert arithmetic in FUSED
        self.arithmetic = arithmetic
        self._device = device or torch.device("cuda")
        self._table = table or Table()

    def pack(self, weight: Tensor, bias: Tensor | None = None) -> Packed:
        """Pad a weight with zeros, on the card."""
        self._check(weight.dtype)
        return CudaPacked(weight, bias, self._device)

    def to_device(self, tensor: Tensor) -> Tensor:
        """Return the tensor on the card; UNSUPPORTED for weights that are not defined."""
        check_given(tensor)
        return tensor.to(self._device).contiguous()

    def cache(self, config: ModelConfig, blocks: int, *, layers: int | None = None) -> Cache:
        """Make a cache; it is all zeros."""
        self._check(compute_dtype(config))
        return KVCache(
            Shape.of(config), blocks, config.layers if layers is None else layers, self._device
        )

    def block_bytes(self, config: ModelConfig, *, layers: int | None = None) -> int:
        """Return the bytes of a block's keys and values."""
        shape = Shape.of(config)
        wide = 2 * (config.layers if layers is None else layers) * shape.kv_heads
        return wide * KV_BLOCK * shape.head_filled * torch.bfloat16.itemsize

    def layers(self, config: ModelConfig, weights: Weights, first: int, last: int) -> Layers:
        """Move layers to the card; queries, keys and values become one matrix, gate and up another."""
        self._check(compute_dtype(config))
        return CudaLayers(config, weights, first, last, self._device, self._table)

    def embed(self, table: Packed | Tensor, tokens_R: Tensor) -> Tensor:
        """Look rows up."""
        assert tokens_R.dtype == torch.int64
        tokens = tokens_R.to(self._device)
        if isinstance(table, Tensor):
            return operations.embed(table, tokens, table.shape[1])
        return operations.embed(_own(table).weight.data, tokens, table.columns)

    def norm(self, states_RD: Tensor, weight_D: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        """Return the norm of states."""
        self._check(dtype)
        check_eps(eps)
        return operations.norm(states_RD.contiguous(), weight_D, eps)

    def linear(self, x_RD: Tensor, weight: Packed) -> Tensor:
        """Return the products, and the bias after them."""
        return self._product("linear", x_RD, weight)

    def logits(self, hidden_RD: Tensor, head: Packed) -> Tensor:
        """Return `linear`, copied to the host."""
        return self._product("head", hidden_RD, head).cpu()

    def to_host(self, tensor: Tensor) -> bytes:
        """Return the tensor's bytes: cards are little-endian."""
        return tensor.contiguous().view(torch.uint8).cpu().numpy().tobytes()

    def _product(self, name: str, x_RD: Tensor, weight: Packed) -> Tensor:
        packed = _own(weight)
        assert x_RD.dtype == torch.bfloat16
        outputs, inputs = packed.weight.data.shape
        x = padded(x_RD, inputs)
        out = torch.empty((len(x), outputs), dtype=torch.float32, device=x.device)
        operations.product(self._table, name, x, packed.weight, out, Epilogue.PLAIN)
        return out[:, : packed.rows].contiguous()

    def _check(self, dtype: torch.dtype) -> None:
        if dtype != torch.bfloat16:
            raise CounterfoilError(
                Code.UNSUPPORTED,
                f"the arithmetic {self.arithmetic} is not defined for {str(dtype).removeprefix('torch.')}",
            )


def _own(weight: Packed) -> CudaPacked:
    assert isinstance(weight, CudaPacked), "another backend packed it"
    return weight
