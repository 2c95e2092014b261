"""What every element of a pass is computed from, and how (protocol §10.4): the definition of §7.2.5, cut into single elements.

The same formulas decide disputes, say which inputs have to be shown for that, and make what no faster code makes.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from hashlib import sha256
from typing import Final, Protocol

from shared.disputes.arithmetic import by_halves, rotated
from shared.disputes.binary32 import add, multiply
from shared.disputes.claim import Definition, number
from shared.disputes.exponential import exp
from shared.disputes.functions import angle, ln_64, noise, scale
from shared.disputes.layout import BLOCK, Layout
from shared.statements.request import PPM

EMBEDDING: Final = "model.embed_tokens.weight"
CHOSEN: Final = frozenset({"largest", "draws"})
"""Operators whose elements are indexes of the best of a row: of two claims the better one is right."""
PRODUCTS: Final = frozenset({"q", "k", "v", "gate", "up", "logits", "middle", "states"})
"""Operators whose elements are products with rows of weights; `states` are where there is a layer."""


class Inputs(Protocol):
    """What lies before an element, and the weights."""

    def row(self, segment: int, operator: str, row: int) -> Sequence[float]:
        """Return the numbers of a row."""

    def item(self, segment: int, operator: str, row: int, element: int) -> float:
        """Return one number of a row."""

    def data(self, segment: int, operator: str, row: int) -> bytes:
        """Return the bytes of a row."""

    def token(self, position: int) -> int:
        """Return a token."""

    def weight(self, tensor: str, row: int) -> Sequence[float]:
        """Return a row of weights."""


class Segment:
    """The formulas of one segment's elements."""

    def __init__(self, layout: Layout, segment: int, inputs: Inputs) -> None:
        self._layout, self._segment, self._inputs = layout, segment, inputs
        self._d: Definition = layout.definition
        self._by = self._d.by()
        self._block, self._stage = layout.split(segment)
        self._last = segment == layout.segments - 1
        self._prefix = f"model.layers.{self._stage - 1}."

    def value(self, operator: str, row: int, element: int) -> float | bytes:
        """Return an element of an operator that is not of `CHOSEN`: a number, or a digest."""
        if self._last:
            return self._digest(row)
        if operator == "states" and self._stage == 0:
            token = self._inputs.token(BLOCK * self._block + row)
            return self._inputs.weight(EMBEDDING, token)[element]
        return self._formulas[operator](row, element)

    def better(self, operator: str, row: int, one: int, other: int) -> bool:
        """Return whether index `one` is before `other` in an operator of `CHOSEN`; they differ, and both are within the row."""
        if operator == "largest":
            a, b = self._item("scores", row, one), self._item("scores", row, other)
        else:
            a, b = self._drawn(row, one), self._drawn(row, other)
        return a > b or (a == b and one < other)

    @cached_property
    def _formulas(self) -> dict[str, Callable[[int, int], float]]:
        return {
            "norm_in.scale": lambda row, _: self._norm_scale(self._states(row)),
            "norm_in": lambda row, i: self._normed("norm_in", "input_layernorm", row, i),
            "q": lambda row, i: self._projected("q", row, i),
            "k": lambda row, i: self._projected("k", row, i),
            "v": lambda row, i: self._projected("v", row, i),
            "q_norm.scale": lambda row, _: self._norm_scale(self._head("q", row)),
            "k_norm.scale": lambda row, _: self._norm_scale(self._head("k", row)),
            "q_norm": lambda row, i: self._head_normed("q", row, i),
            "k_norm": lambda row, i: self._head_normed("k", row, i),
            "queries": lambda row, i: self._by.rounded(self._rotated("q", row, i)),
            "keys": lambda row, i: self._by.stored(self._rotated("k", row, i)),
            "values": lambda row, i: self._by.stored(self._item("v", i, row)),
            "scores": self._score,
            "weights": self._weight,
            "lanes": self._lane,
            "total": lambda row, _: by_halves(self._tail("lanes", row, 16)),
            "sums": self._sum,
            "attended": self._attended,
            "middle": self._middle,
            "norm_out.scale": lambda row, _: self._norm_scale(self._row("middle", row)),
            "norm_out": lambda row, i: self._normed("norm_out", "post_attention_layernorm", row, i),
            "gate": lambda row, i: self._matrix("norm_out", row, "mlp.gate_proj", i),
            "up": lambda row, i: self._matrix("norm_out", row, "mlp.up_proj", i),
            "gated": lambda row, i: self._by.gated(
                self._item("gate", row, i), self._item("up", row, i)
            ),
            "states": lambda row, i: add(
                self._item("middle", row, i), self._matrix("gated", row, "mlp.down_proj", i)
            ),
            "norm.scale": lambda row, _: self._norm_scale(self._states(row)),
            "hidden": lambda row, i: self._normed("norm", None, row, i),
            "logits": self._logit,
        }

    # ---- inputs ----

    def _row(self, operator: str, row: int) -> Sequence[float]:
        return self._inputs.row(self._segment, operator, row)

    def _item(self, operator: str, row: int, element: int) -> float:
        return self._inputs.item(self._segment, operator, row, element)

    def _states(self, row: int) -> Sequence[float]:
        """Return the states that come into the segment."""
        return self._inputs.row(self._segment - 1, "states", row)

    def _tail(self, operator: str, row: int, count: int) -> list[float]:
        """Return the last elements of a row."""
        operators = self._layout.operators(self._segment)
        width = operators[self._layout.index(self._segment, operator)].widths[row]
        return [self._item(operator, row, i) for i in range(width - count, width)]

    def _weights(self, name: str, row: int) -> Sequence[float]:
        return self._inputs.weight(f"{self._prefix}{name}.weight", row)

    def _position(self, row: int, heads: int) -> int:
        return BLOCK * self._block + row // heads

    # ---- norms, products, heads ----

    def _norm_scale(self, x: Sequence[float]) -> float:
        return self._by.norm_scale(x, number(self._d.eps))

    def _normed(self, operator: str, tensor: str | None, row: int, i: int) -> float:
        if operator == "norm_out":
            x = self._item("middle", row, i)
        else:
            x = self._inputs.item(self._segment - 1, "states", row, i)
        r = self._item(f"{operator}.scale", row, 0)
        of = self._weights(tensor, 0) if tensor else self._inputs.weight("model.norm.weight", 0)
        return self._by.rounded(multiply(multiply(x, r), of[i]))

    def _matrix(self, operator: str, row: int, tensor: str, out: int) -> float:
        return self._by.product(self._row(operator, row), self._weights(tensor, out))

    def _projected(self, name: str, row: int, out: int) -> float:
        tensor = f"self_attn.{name}_proj"
        bias = None
        if self._d.biases:
            bias = self._inputs.weight(f"{self._prefix}{tensor}.bias", 0)[out]
        return self._by.product(self._row("norm_in", row), self._weights(tensor, out), bias)

    def _heads(self, name: str) -> int:
        return self._d.heads if name == "q" else self._d.kv_heads

    def _head(self, name: str, row: int) -> list[float]:
        place, head = divmod(row, self._heads(name))
        first = head * self._d.head_dim
        return [self._item(name, place, i) for i in range(first, first + self._d.head_dim)]

    def _of_head(self, name: str, row: int, i: int) -> float:
        """Return an element of a head as the projection gave it."""
        place, head = divmod(row, self._heads(name))
        return self._item(name, place, head * self._d.head_dim + i)

    def _head_normed(self, name: str, row: int, i: int) -> float:
        r = self._item(f"{name}_norm.scale", row, 0)
        of = self._weights(f"self_attn.{name}_norm", 0)
        return multiply(multiply(self._of_head(name, row, i), r), of[i])

    def _rotated(self, name: str, row: int, i: int) -> float:
        half = self._d.head_dim // 2
        pair = i % half

        def of(j: int) -> float:
            if self._d.norms:
                return self._item(f"{name}_norm", row, j)
            return self._of_head(name, row, j)

        turn = angle(self._d, self._position(row, self._heads(name)), pair)
        return rotated(of(pair), of(pair + half), turn, low=i < half)

    # ---- attention ----

    def _shared(self, row: int) -> int:
        """Return which keys and values a query head reads."""
        return (row % self._d.heads) // (self._d.heads // self._d.kv_heads)

    def _hidden(self, row: int, place: int) -> bool:
        return place not in self._layout.seen(self._segment, row)

    def _score(self, row: int, place: int) -> float:
        if self._hidden(row, place):
            return 0.0
        block, at = divmod(place, BLOCK)
        segment = self._layout.at(block, self._stage)
        key = self._inputs.row(segment, "keys", at * self._d.kv_heads + self._shared(row))
        return multiply(self._by.product(self._row("queries", row), key), scale(self._d.head_dim))

    def _weight(self, row: int, place: int) -> float:
        if self._hidden(row, place):
            return 0.0
        most = self._item("scores", row, int(self._item("largest", row, 0)))
        return self._by.rounded(exp(add(self._item("scores", row, place), -most)))

    def _lane(self, row: int, i: int) -> float:
        part, lane = divmod(i, 16)
        total = self._item("lanes", row, i - 16) if part else 0.0
        for place in (BLOCK * part + lane, BLOCK * part + lane + 16):
            if place <= self._position(row, self._d.heads):
                total = add(total, self._item("weights", row, place))
        return total

    def _sum(self, row: int, i: int) -> float:
        part, e = divmod(i, self._d.head_dim)
        before = self._item("sums", row, i - self._d.head_dim) if part else 0.0
        end = min(BLOCK * (part + 1), self._position(row, self._d.heads) + 1)
        weights = [self._item("weights", row, place) for place in range(BLOCK * part, end)]
        of = self._shared(row) * self._d.head_dim + e
        values = self._inputs.row(self._layout.at(part, self._stage), "values", of)
        return self._by.sum(before, weights, values[: len(weights)])

    def _attended(self, row: int, i: int) -> float:
        head, e = divmod(i, self._d.head_dim)
        own = row * self._d.heads + head
        last = self._block * self._d.head_dim + e
        return self._by.attended(self._item("total", own, 0), self._item("sums", own, last))

    def _middle(self, row: int, i: int) -> float:
        x = self._inputs.item(self._segment - 1, "states", row, i)
        of = self._weights("self_attn.o_proj", i)
        width = self._d.head_dim
        return add(x, self._by.product(self._row("attended", row), of, width=width))

    # ---- head ----

    def _logit(self, row: int, token: int) -> float:
        name = EMBEDDING if self._d.tied else "lm_head.weight"
        first = self._layout.drawn(self._block)[0] - BLOCK * self._block
        return self._by.product(self._row("hidden", first + row), self._inputs.weight(name, token))

    def _drawn(self, row: int, token: int) -> float:
        """Return what a token is drawn by (§7.3)."""
        sampling, claim = self._layout.claim.sampling, self._layout.claim
        assert sampling is not None
        z = self._item("logits", row, token)
        if sampling.temperature_ppm == 0:
            return z
        position = self._layout.drawn(self._block)[row] - (claim.prompt - 1) + sampling.delivered
        e = noise(sampling.seed, sampling.choice, position, token)
        return z * (PPM / sampling.temperature_ppm) - ln_64(e)

    def _digest(self, number: int) -> bytes:
        running = sha256()
        for position in self._layout.digests()[number]:
            block, row = divmod(position, BLOCK)
            segment = self._layout.at(block, self._layout.stages - 1)
            running.update(self._inputs.data(segment, "hidden", row))
        return running.digest()


def formulas(layout: Layout, segment: int, inputs: Inputs) -> Segment:
    """Return the formulas of a segment."""
    return Segment(layout, segment, inputs)


def tensor_shape(d: Definition, name: str) -> tuple[int, ...] | None:
    """Return the shape of a tensor that a pass reads; None for any other name."""
    ends = {EMBEDDING: (d.vocab, d.hidden), "model.norm.weight": (d.hidden,)}
    if not d.tied:
        ends["lm_head.weight"] = (d.vocab, d.hidden)
    if name in ends:
        return ends[name]
    head, _, rest = name.removeprefix("model.layers.").partition(".")
    if not name.startswith("model.layers.") or head not in map(str, range(d.layers)):
        return None
    q, kv = d.heads * d.head_dim, d.kv_heads * d.head_dim
    return {
        "input_layernorm.weight": (d.hidden,),
        "post_attention_layernorm.weight": (d.hidden,),
        "self_attn.q_proj.weight": (q, d.hidden),
        "self_attn.k_proj.weight": (kv, d.hidden),
        "self_attn.v_proj.weight": (kv, d.hidden),
        "self_attn.q_proj.bias": (q,),
        "self_attn.k_proj.bias": (kv,),
        "self_attn.v_proj.bias": (kv,),
        "self_attn.q_norm.weight": (d.head_dim,),
        "self_attn.k_norm.weight": (d.head_dim,),
        "self_attn.o_proj.weight": (d.hidden, q),
        "mlp.gate_proj.weight": (d.inner, d.hidden),
        "mlp.up_proj.weight": (d.inner, d.hidden),
        "mlp.down_proj.weight": (d.hidden, d.inner),
    }.get(rest)
