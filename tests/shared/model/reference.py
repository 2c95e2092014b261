"""Protocol §7.2 in numpy, operation by operation, written from its text: no kernels, no torch, nothing fast."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np

from shared.model.config import ModelConfig
from shared.model.rope import Rope
from tests.shared.model.operations import (
    INFINITY,
    NAN,
    Floats,
    Operations,
    bfloat16,
    lanes_of,
    padded,
)

# ---- §7.2.6: functions and tables -----------------------------------------------------------------------------------


def exp_64(x: float) -> float:
    """Return the exponential of a float64 up to 0."""
    if x < -700:
        return 0.0
    k = math.floor(x * float.fromhex("0x1.71547652b82fep+0") + 0.5)
    a = x - k * float.fromhex("0x1.62e42feep-1")
    b = k * float.fromhex("0x1.a39ef35793c76p-33")
    r = a - b
    z = r * r
    inner = 0.0
    for text in (
        "0x1.6376972bea4d0p-25",
        "-0x1.bbd41c5d26bf1p-20",
        "0x1.1566aaf25de2cp-14",
        "-0x1.6c16c16bebd93p-9",
        "0x1.555555555553ep-3",
    ):
        inner = float.fromhex(text) + z * inner
    c = r - z * inner
    return math.ldexp(1.0 - ((b - (r * c) / (2.0 - c)) - a), k)


def ln_64(x: float) -> float:
    """Return the natural logarithm of a normal float64 above 0."""
    m, k = math.frexp(x)  # m is in [1/2, 1)
    if m < float.fromhex("0x1.6a09e667f3bcdp-1"):
        m, k = 2 * m, k - 1
    f = m - 1
    s = f / (2 + f)
    z = s * s
    w = z * z
    e = o = 0.0
    for text in ("0x1.39a09d078c69fp-3", "0x1.c71c51d8e78afp-3", "0x1.999999997fa04p-2"):
        e = float.fromhex(text) + w * e
    for text in (
        "0x1.2f112df3e5244p-3",
        "0x1.7466496cb03dep-3",
        "0x1.2492494229359p-2",
        "0x1.5555555555593p-1",
    ):
        o = float.fromhex(text) + w * o
    e, o = w * e, z * o
    h = (0.5 * f) * f
    low = k * float.fromhex("0x1.a39ef35793c76p-33")
    return k * float.fromhex("0x1.62e42feep-1") - ((h - (s * (h + (e + o)) + low)) - f)


def fma_64(a: float, b: float, c: float) -> float:
    """Return a · b + c, rounded once to float64."""
    return float(Fraction(a) * Fraction(b) + Fraction(c))


def sine_cosine(x: float) -> tuple[float, float]:
    """Return sine and cosine of a float64 from 0 on."""
    q = math.floor(x * float.fromhex("0x1.45f306dc9c883p-1") + 0.5)
    r = fma_64(-q, float.fromhex("0x1.921fb54442d18p+0"), x)
    r = fma_64(-q, float.fromhex("0x1.1a62633145c07p-54"), r)
    z = r * r
    s = c = 0.0
    for k in range(10, 0, -1):
        s = ((1 + s) * -z) / ((2 * k) * (2 * k + 1))
        c = ((1 + c) * -z) / ((2 * k - 1) * (2 * k))
    s, c = r + r * s, 1 + c
    return ((s, c), (c, -s), (-s, -c), (-c, s))[q % 4]


def frequencies(width: int, rope: Rope) -> Floats:
    """Return f_i for each of the width / 2 pairs of a head."""
    return np.array([_frequency(2 * i / width, rope) for i in range(width // 2)]).astype(np.float32)


def _frequency(exponent: float, rope: Rope) -> float:
    with localcontext(prec=60):
        b = float(Decimal(rope.theta) ** -Decimal(exponent))
    if rope.kind == "default":
        return b
    if rope.kind == "linear":
        return b / rope.factor
    turns = b * (rope.original_positions / float.fromhex("0x1.921fb54442d18p+2"))
    g = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    g = min(max(g, 0.0), 1.0)
    return (1 - g) * (b / rope.factor) + g * b


def angles(of: Floats, positions: range) -> tuple[Floats, Floats]:
    """Return tables of cosines and sines (positions, frequencies)."""
    pairs = [[sine_cosine(place * float(f)) for f in of] for place in positions]
    table = np.array(pairs).astype(np.float32)
    return table[..., 1], table[..., 0]


# ---- §7.2.2 and §7.2.3: the arithmetics -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Arithmetic(Operations):
    """One arithmetic with one T."""

    name: str
    dtype: str
    """bfloat16 or float32."""

    @property
    def group(self) -> int:
        """What widths are padded to multiples of."""
        return 32 if self.name == "pairs-32" else 16

    def rounded(self, x: Floats) -> Floats:
        """Round to T."""
        return bfloat16(x) if self.dtype == "bfloat16" else np.where(np.isnan(x), NAN, x)

    def stored(self, x: Floats) -> Floats:
        """Return keys or values as they are stored."""
        most = np.array(0x7F7F0000 if self.dtype == "bfloat16" else 0x7F7FFFFF, np.uint32)
        clamped = np.clip(x, -most.view(np.float32), most.view(np.float32))
        return self.rounded(np.where(np.isnan(x), np.float32(0), clamped))

    def stored_value(self, x: Floats) -> Floats:
        """Return values as they are stored."""
        return self.stored(x)

    def product(self, x: Floats, w: Floats, bias: Floats | None = None) -> Floats:
        """Return sums (…) of products over the last axis, which is as wide as what is multiplied; the others broadcast."""
        x, w = padded(x, self.group), padded(w, self.group)
        out = np.zeros(np.broadcast_shapes(x.shape, w.shape)[:-1], np.float32)
        if self.name == "pairs-32":
            for first in range(0, x.shape[-1], 32):
                even = odd = np.zeros_like(out)
                for k in range(first, first + 32, 2):
                    even = self.fma(x[..., k], w[..., k], even)
                    odd = self.fma(x[..., k + 1], w[..., k + 1], odd)
                out = self.add(out, self.add(even, odd))
        else:
            for k in range(x.shape[-1]):
                place = k ^ 1 if self.dtype == "bfloat16" else k
                out = self.fma(x[..., place], w[..., place], out)
        return out if bias is None else self.add(out, bias)

    def matrix(self, x: Floats, weight: Floats, bias: Floats | None = None) -> Floats:
        """Return the products (R, out) of rows (R, in) with a matrix (out, in)."""
        return self.product(x[:, None], weight[None], bias)

    def by_heads(self, x: Floats, weight: Floats, width: int) -> Floats:
        """Return `matrix` where padding comes after every `width` of the inputs."""

        def wider(rows: Floats) -> Floats:
            cut = rows.reshape(len(rows), -1, width)
            return padded(cut, self.group).reshape(len(rows), -1)

        return self.matrix(wider(x), wider(weight))

    def norm(self, x: Floats, weight: Floats, eps: float) -> Floats:
        """Return the norm of rows (…, D), not rounded to T."""
        lanes = np.zeros((*x.shape[:-1], 16), np.float32)
        for part in lanes_of(x):
            lanes = self.fma(part, part, lanes)
        mean = self.divide(self.by_halves(lanes), np.float32(x.shape[-1]))
        r = self.divide(np.float32(1), self.root(self.add(mean, np.float32(eps))))
        return self.multiply(self.multiply(x, r[..., None]), weight)

    def rotated(self, heads: Floats, cosines: Floats, sines: Floats) -> Floats:
        """Return heads (…, D) turned by angles (…, D / 2)."""
        a, b = np.split(heads, 2, axis=-1)
        low = self.fma(-b, sines, self.multiply(a, cosines))
        high = self.fma(a, sines, self.multiply(b, cosines))
        return np.concatenate([low, high], axis=-1)

    def gated(self, g: Floats, u: Floats) -> Floats:
        """Return silu(g) · u, rounded to T."""
        e = self.exp(-np.abs(g))
        t = np.where(g >= 0, np.float32(1), e)
        return self.rounded(
            self.multiply(self.divide(self.multiply(g, t), self.add(np.float32(1), e)), u)
        )

    def attention(
        self, queries: Floats, keys: Floats, values: Floats, first: int, window: int
    ) -> Floats:
        """Return the outputs (R, heads, D) of queries (R, heads, D) at positions from `first` on.

        Keys and values are (positions, kv heads, D), from position 0; a window of 0 is none.
        """
        heads, width = queries.shape[1:]
        count, shared = keys.shape[:2]
        own = np.arange(heads) // (heads // shared)
        scale = np.float32(float(1 / Decimal(width).sqrt()))
        products = self.product(queries[:, :, None], keys[:, own].swapaxes(0, 1)[None])
        scores = self.multiply(products, scale)  # (R, heads, positions)
        row, place = np.arange(first, first + len(queries))[:, None], np.arange(count)
        seen = (place <= row) & ((place > row - window) | (window == 0))
        seen = np.broadcast_to(seen[:, None], scores.shape)
        counted = np.where(seen & ~np.isnan(scores), scores, -INFINITY)
        most = counted.max(axis=-1, keepdims=True)
        weights = self.rounded(self.exp(np.where(seen, self.add(scores, -most), -INFINITY)))
        lanes = np.zeros((*weights.shape[:-1], 16), np.float32)
        for part in lanes_of(weights):
            lanes = self.add(lanes, part)
        columns = values[:, own].transpose(1, 2, 0)[None]  # (1, heads, D, positions)
        sums = self.add(self.product(weights[:, :, None], columns), np.float32(0))
        return self.rounded(self.divide(sums, self.by_halves(lanes)[..., None]))


# ---- §7.2.5: the pass -----------------------------------------------------------------------------------------------


class Model:
    """A model whose weights are given by their Hugging Face names, as float32."""

    def __init__(
        self, config: ModelConfig, weights: Mapping[str, Floats], arithmetic: Arithmetic
    ) -> None:
        self.config, self.weights, self.arithmetic = config, weights, arithmetic

    def states(self, tokens: list[int]) -> Floats:
        """Return the states (R, hidden size) after the last layer, of a sequence from its first token on."""
        x = self.weights["model.embed_tokens.weight"][tokens]
        of = frequencies(self.config.head_dim, self.config.rope)
        turn = angles(of, range(len(tokens)))
        for layer in range(self.config.layers):
            x = self._layer(x, layer, turn)
        return x

    def hidden(self, states: Floats) -> Floats:
        """Return the hidden states (R, hidden size)."""
        return self._norm(states, "model.norm")

    def logits(self, hidden: Floats) -> Floats:
        """Return logits (R, vocabulary)."""
        tied = self.config.tie_word_embeddings
        name = "model.embed_tokens.weight" if tied else "lm_head.weight"
        return self.arithmetic.matrix(hidden, self.weights[name])

    def _norm(self, x: Floats, name: str) -> Floats:
        weight = self.weights[f"{name}.weight"]
        return self.arithmetic.rounded(self.arithmetic.norm(x, weight, self.config.rms_norm_eps))

    def _layer(self, x: Floats, layer: int, turn: tuple[Floats, Floats]) -> Floats:
        c, by, prefix = self.config, self.arithmetic, f"model.layers.{layer}."
        cosines, sines = (table[:, None] for table in turn)

        def weight(name: str) -> Floats:
            return self.weights[f"{prefix}{name}.weight"]

        def heads(name: str) -> Floats:
            bias = self.weights.get(f"{prefix}self_attn.{name}_proj.bias")
            made = by.matrix(h, weight(f"self_attn.{name}_proj"), bias)
            return made.reshape(len(x), -1, c.head_dim)

        def turned(name: str) -> Floats:
            found = heads(name)
            if c.qk_norm:
                found = by.norm(found, weight(f"self_attn.{name}_norm"), c.rms_norm_eps)
            return by.rotated(found, cosines, sines)

        h = self._norm(x, f"{prefix}input_layernorm")
        q, k, v = by.rounded(turned("q")), by.stored(turned("k")), by.stored_value(heads("v"))
        a = by.attention(q, k, v, 0, c.layer_windows[layer]).reshape(len(x), -1)
        x = by.add(x, by.by_heads(a, weight("self_attn.o_proj"), c.head_dim))
        h = self._norm(x, f"{prefix}post_attention_layernorm")
        y = by.gated(by.matrix(h, weight("mlp.gate_proj")), by.matrix(h, weight("mlp.up_proj")))
        return by.add(x, by.matrix(y, weight("mlp.down_proj")))
