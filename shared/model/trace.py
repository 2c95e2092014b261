"""A pass as disputes see it (protocol §10.3): every element of every operator, made again when it is asked for.

Products and norms are the backend's; what no kernel gives alone is made by the formulas that the referee uses, one element at a
time. What segments commit to is kept of a few of them, other operators of the last one; the states between layers are kept of all.
"""

import struct
from collections.abc import Sequence
from typing import Final, cast

import numpy as np
import torch
from torch import Tensor

from shared.disputes.binary32 import add, multiply, narrowed, widened
from shared.disputes.claim import Claim, DefinedBy, Definition, Rotation, Type, binary64
from shared.disputes.formulas import EMBEDDING, Segment
from shared.disputes.functions import scale
from shared.disputes.layout import BLOCK, BYTES, Layout, Operator
from shared.disputes.tree import Table, operator_root
from shared.disputes.weights import WeightRow
from shared.model.backend import Look, Span, blocks_for
from shared.model.config import ModelConfig
from shared.model.decoder import Decoder
from shared.model.sampler import Sampler
from shared.model.weights import HEAD, NAMES, Weights, compute_dtype
from shared.model.weights_root import WeightTree, tree_of
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.request import SamplingSettings

Numbers = Sequence[Sequence[float]]
INPUT: Final = {
    "q": "norm_in",
    "k": "norm_in",
    "v": "norm_in",
    "middle": "attended",
    "gate": "norm_out",
    "up": "norm_out",
    "states": "gated",
    "logits": "hidden",
}
"""What each product multiplies."""
KEPT: Final = 64
"""Segments of which what they commit to is kept for a while."""
MATRIX: Final = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "middle": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "states": "mlp.down_proj",
}
NORMS: Final = {
    "norm_in": "input_layernorm",
    "norm_out": "post_attention_layernorm",
    "hidden": None,
}


def definition_of(config: ModelConfig, arithmetic: str) -> Definition:
    """Return the definition of a model's pass; UNSUPPORTED for an arithmetic that no referee here computes."""
    rope, scaled = config.rope, config.rope.kind != "default"
    smooth = config.rope.kind == "llama3"
    return Definition(
        arithmetic=_defined(arithmetic),
        dtype=Type(config.dtype),
        vocab=config.vocab_size,
        hidden=config.hidden_size,
        layers=config.layers,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        inner=config.intermediate_size,
        eps=binary64(config.rms_norm_eps),
        rope=Rotation(rope.kind),
        theta=binary64(rope.theta),
        tied=config.tie_word_embeddings,
        biases=config.qkv_bias,
        norms=config.qk_norm,
        windows=config.layer_windows,
        factor=binary64(rope.factor) if scaled else None,
        low=binary64(rope.low_freq_factor) if smooth else None,
        high=binary64(rope.high_freq_factor) if smooth else None,
        original=rope.original_positions if smooth else None,
    )


def _defined(arithmetic: str) -> DefinedBy:
    try:
        return DefinedBy(arithmetic)
    except ValueError as error:
        raise CounterfoilError(
            Code.UNSUPPORTED, f"no dispute is decided under the arithmetic {arithmetic[:40]}"
        ) from error


def token_table(tokens: Sequence[int]) -> list[bytes]:
    """Return tokens in rows of 32 positions."""
    parts = [tokens[at : at + BLOCK] for at in range(0, len(tokens), BLOCK)]
    return [struct.pack(f"<{len(part)}I", *part) for part in parts]


def tokens_root(tokens: Sequence[int]) -> bytes:
    """Return the root over prompt and output that a claim names."""
    return operator_root("index", token_table(tokens))


def weights_at_hand(config: ModelConfig, weights: Weights, model_root: bytes) -> WeightTree:
    """Return the tree over tensors that are in memory."""

    def rows(name: str) -> tuple[str, Sequence[int], Sequence[bytes]]:
        tensor = weights[name]
        wide = tensor if tensor.dim() > 1 else tensor[None]
        return NAMES[config.dtype], tuple(tensor.shape), _rows_of(wide)

    return tree_of(model_root, [*weights], rows)


class ModelTrace:
    """The pass of one decoder over the tokens of one claim; `weights` are the decoder's."""

    def __init__(
        self,
        decoder: Decoder,
        weights: Weights,
        tree: WeightTree,
        claim: Claim,
        tokens: Sequence[int],
    ) -> None:
        assert len(tokens) == claim.prompt + claim.output
        self.decoder, self.weights, self._tree = decoder, weights, tree
        self.layout, self._tokens = Layout(claim), token_table(tokens)
        self._states: dict[int, Tensor] = {}
        self._pass(list(tokens[:-1]))
        self._committed: dict[int, list[Table]] = {}
        self._latest: tuple[int, list[Table]] | None = None
        self._decoded: dict[tuple[int, str], Numbers] = {}

    def _pass(self, tokens: list[int]) -> None:
        decoder = self.decoder
        blocks = range(1, blocks_for(len(tokens), decoder.backend.block) + 1)

        def show(layers: int, states: Tensor) -> None:
            self._states[layers] = states.detach().cpu().clone()

        look = Look([*range(decoder.config.layers + 1)], show)
        decoder.looked_into([Span(tokens, 0, blocks)], decoder.cache(len(blocks)), look)

    # ---- as disputes ask ----

    def tokens(self) -> Table:
        """Return prompt and output."""
        return self._tokens

    def weight(self, tensor: str, row: int) -> Sequence[float]:
        """Return a row of weights."""
        found = self.weights[tensor]
        values: list[float] = (found[row] if found.dim() > 1 else found).float().tolist()
        return values

    def open_weight(self, tensor: str, row: int) -> WeightRow:
        """Return a row of weights with its paths."""
        return self._tree.open(tensor, row)

    def committed(self, segment: int) -> Sequence[Table]:
        """Return what the operators gave that the segment commits to."""
        if segment not in self._committed:
            found = self._commit(segment)
            if len(self._committed) >= KEPT:
                self._committed.clear()
            self._committed[segment] = found
        return self._committed[segment]

    def operators(self, segment: int) -> Sequence[Table]:
        """Return what all operators of the segment gave."""
        if self._latest is None or self._latest[0] != segment:
            made = _Making(self, segment)
            tables = [made.make(found) for found in self.layout.operators(segment)]
            self._latest = (segment, tables)
        return self._latest[1]

    def _commit(self, segment: int) -> list[Table]:
        made, tables = _Making(self, segment), []
        for found in self.layout.operators(segment):
            if found.name in _SKIPPED:
                continue
            table = self._shown(segment) if found.name == "states" else made.make(found)
            if found.committed:
                tables.append(table)
        return tables

    def _shown(self, segment: int) -> Table:
        """Return the states that the pass has shown."""
        block, stage = self.layout.split(segment)
        first = BLOCK * block
        return _rows_of(self._states[stage][first : first + self.layout.rows(block)])

    def numbers(self, segment: int, name: str) -> Numbers:
        """Return the numbers of an operator that its segment commits to."""
        key = (segment, name)
        if key not in self._decoded:
            if (
                len(self._decoded) > 2 * self.layout.blocks + KEPT
            ):  # keys and values of one layer fit
                self._decoded.clear()
            operators, numbers = self.layout.operators(segment), self.layout.committed(segment)
            place = self.layout.index(segment, name)
            table = self.committed(segment)[numbers.index(place)]
            self._decoded[key] = [widened(row, operators[place].dtype) for row in table]
        return self._decoded[key]


_SKIPPED: Final = frozenset(
    {
        "norm_in.scale",
        "scores",
        "largest",
        "weights",
        "lanes",
        "total",
        "sums",
        "attended",
        "middle",
        "norm_out.scale",
        "norm_out",
        "gate",
        "up",
        "gated",
        "norm.scale",
    }
)
"""What is not needed for what segments commit to, since the pass shows states."""


class _Making:
    """One segment in the making: its operators one after the other, each from those before it."""

    def __init__(self, trace: ModelTrace, segment: int) -> None:
        self._trace, self._segment, self._layout = trace, segment, trace.layout
        self._formulas = Segment(trace.layout, segment, self)
        self._tables: dict[str, Table] = {}
        self._made: dict[str, Numbers] = {}

    def make(self, operator: Operator) -> Table:
        """Return an operator's rows; those before it have been made."""
        if operator.dtype == "digest":
            count = range(len(operator.widths))
            return [cast("bytes", self._formulas.value(operator.name, row, 0)) for row in count]
        rows = self._rows(operator)
        self._made[operator.name] = rows
        if operator.dtype == "index":
            table = [struct.pack(f"<{len(row)}I", *map(int, row)) for row in rows]
        else:
            table = [narrowed(row, operator.dtype) for row in rows]
        self._tables[operator.name] = table
        return table

    def _rows(self, operator: Operator) -> Numbers:
        name = operator.name
        block, stage = self._layout.split(self._segment)
        whole = self._layout.definition.head_dim % self._layout.definition.by().group == 0
        if name in NORMS:
            return self._norm(name)
        if name in INPUT and stage and (whole or name != "middle"):
            return self._products(name)
        if name == "scores":
            return self._scores(operator)
        if name == "largest":
            return [[self._largest(row)] for row in range(len(operator.widths))]
        if name == "draws":
            return [[self._draw(row, at)] for row, at in enumerate(self._layout.drawn(block))]
        return self._elements(operator)

    def _elements(self, operator: Operator) -> Numbers:
        """Return what the formulas give, each element after those before it, of which it may be computed."""
        rows: list[list[float]] = []
        self._made[operator.name] = rows
        for row, width in enumerate(operator.widths):
            own: list[float] = []
            rows.append(own)
            for i in range(width):  # an element may be computed from the one before
                own.append(cast("float", self._formulas.value(operator.name, row, i)))  # noqa: PERF401
        return rows

    def _tensor(self, name: str) -> Tensor:
        return self._trace.weights[name]

    def _norm(self, name: str) -> Numbers:
        decoder = self._trace.decoder
        before = self._made["middle"] if name == "norm_out" else self._before()
        x = torch.tensor(before, dtype=torch.float32)
        end = NORMS[name]
        tensor = f"{self._prefix}{end}.weight" if end else "model.norm.weight"
        backend, config = decoder.backend, decoder.config
        weight = backend.to_device(self._tensor(tensor).float())
        eps, dtype = config.rms_norm_eps, compute_dtype(config)
        found = backend.norm(backend.to_device(x), weight, eps, dtype)
        rows: list[list[float]] = found.cpu().float().tolist()
        return rows

    def _before(self) -> Numbers:
        """Return the states that come into the segment."""
        return self._trace.numbers(self._segment - 1, "states")

    @property
    def _prefix(self) -> str:
        return f"model.layers.{self._layout.split(self._segment)[1] - 1}."

    def _products(self, name: str) -> Numbers:
        decoder = self._trace.decoder
        dtype, config = compute_dtype(decoder.config), decoder.config
        x, bias = self._made[INPUT[name]], None
        if name == "logits":
            tensor = EMBEDDING if config.tie_word_embeddings else HEAD
            x = x[len(x) - len(self._layout.drawn(self._layout.split(self._segment)[0])) :]
        else:
            tensor = f"{self._prefix}{MATRIX[name]}.weight"
            if config.qkv_bias and name in {"q", "k", "v"}:
                bias = self._tensor(f"{self._prefix}{MATRIX[name]}.bias")
        found = self._linear(x, self._tensor(tensor).to(dtype), bias)
        if name == "middle":
            return _sums(self._before(), found)
        return _sums(self._made["middle"], found) if name == "states" else found

    def _linear(self, x: Numbers, weight: Tensor, bias: Tensor | None = None) -> Numbers:
        backend = self._trace.decoder.backend
        wide = backend.to_device(torch.tensor(x, dtype=torch.float32).to(weight.dtype))
        found: list[list[float]] = backend.linear(wide, backend.pack(weight, bias)).cpu().tolist()
        return found

    def _scores(self, operator: Operator) -> Numbers:
        d, by = self._layout.definition, scale(self._layout.definition.head_dim)
        block, stage = self._layout.split(self._segment)
        earlier = [self._trace.numbers(self._layout.at(b, stage), "keys") for b in range(block)]
        keys = [row for rows in [*earlier, self._made["keys"]] for row in rows]
        found: list[list[float]] = [[] for _ in operator.widths]
        dtype = compute_dtype(self._trace.decoder.config)
        for head in range(d.heads):
            own = torch.tensor(keys[head // (d.heads // d.kv_heads) :: d.kv_heads])
            made = self._linear(self._made["queries"][head :: d.heads], own.to(dtype))
            for place, products in enumerate(made):
                row = place * d.heads + head
                seen = self._layout.seen(self._segment, row)
                found[row] = [
                    multiply(products[at], by) if at in seen else 0.0
                    for at in range(operator.widths[row])
                ]
        return found

    def _largest(self, row: int) -> int:
        scores = self._made["scores"][row]
        return max(self._layout.seen(self._segment, row), key=lambda at: (scores[at], -at))

    def _draw(self, row: int, position: int) -> int:
        claim = self._layout.claim
        assert claim.sampling is not None
        settings = SamplingSettings(1, temperature_ppm=claim.sampling.temperature_ppm)
        sampler = Sampler(settings, claim.sampling.seed, claim.sampling.choice)
        place = position - (claim.prompt - 1) + claim.sampling.delivered
        return sampler.choose(np.array(self._made["logits"][row], dtype=np.float32), place)

    # ---- as the formulas ask ----

    def row(self, segment: int, operator: str, row: int) -> Sequence[float]:
        """Return the numbers of a row."""
        if segment == self._segment:
            return self._made[operator][row]
        return self._trace.numbers(segment, operator)[row]

    def item(self, segment: int, operator: str, row: int, element: int) -> float:
        """Return one number."""
        return self.row(segment, operator, row)[element]

    def data(self, segment: int, operator: str, row: int) -> bytes:
        """Return the bytes of a row."""
        return narrowed(self.row(segment, operator, row), self._layout.definition.by().dtype)

    def token(self, position: int) -> int:
        """Return a token."""
        block, at = divmod(position, BLOCK)
        data = self._trace.tokens()[block][BYTES["index"] * at :][:4]
        return int.from_bytes(data, "little")

    def weight(self, tensor: str, row: int) -> Sequence[float]:
        """Return a row of weights."""
        return self._trace.weight(tensor, row)


def _sums(before: Numbers, products: Numbers) -> Numbers:
    return [
        [add(a, b) for a, b in zip(*pair, strict=True)]
        for pair in zip(before, products, strict=True)
    ]


def _rows_of(tensor: Tensor) -> list[bytes]:
    """Return the little-endian bytes of each row."""
    data = tensor.detach().cpu().contiguous().view(torch.uint8).numpy()
    return [row.tobytes() for row in data]
