"""Protocol §7.2 in numpy, operation by operation, written from its text: no kernels, no torch, nothing fast.

Numbers are float32 arrays, those of type T included (each bfloat16 is a float32). An operation is computed exactly or nearly
so in float64 and rounded once by `single`: a product of two float32 is exact there, and sums, quotients and roots that are
rounded to 53 bits round to 24 as the exact ones do. Only the sum of an fma needs more (see `fma`).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import wraps
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shared.model.config import ModelConfig
from shared.model.rope import Rope

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
LEAST: Final = 2.0**-126
"""The smallest normal float32."""
TINY: Final = LEAST * (1 - 2.0**-25)
"""A magnitude below this rounds to less than LEAST, with 24 bits and unbounded exponent."""
INFINITY: Final = np.float32(np.inf)
NAN: Final = np.array(0x7FC00000, np.uint32).view(np.float32)[()]
Function = TypeVar("Function", bound=Callable[..., Any])


def quiet(function: Function) -> Function:
    """Let infinities and NaN arise without a warning."""

    @wraps(function)
    def within(*arguments: Any, **named: Any) -> Any:
        with np.errstate(all="ignore"):
            return function(*arguments, **named)

    return within  # type: ignore[return-value]


# ---- §7.2.2: operations ---------------------------------------------------------------------------------------------


def read(x: ArrayLike) -> Doubles:
    """Return operands as float64; a subnormal one is the zero of its sign."""
    wide = np.asarray(x, np.float32).astype(np.float64)
    return np.where(np.abs(wide) < LEAST, np.copysign(0.0, wide), wide)


def single(x: Doubles) -> Floats:
    """Round a result to float32; a tiny one is the zero of its sign."""
    with np.errstate(all="ignore"):
        return np.where(np.abs(x) < TINY, np.copysign(0.0, x), x).astype(np.float32)


@quiet
def add(a: ArrayLike, b: ArrayLike) -> Floats:
    """Return a + b."""
    return single(read(a) + read(b))


@quiet
def multiply(a: ArrayLike, b: ArrayLike) -> Floats:
    """Return a · b."""
    return single(read(a) * read(b))


@quiet
def divide(a: ArrayLike, b: ArrayLike) -> Floats:
    """Return a / b."""
    return single(read(a) / read(b))


@quiet
def root(a: ArrayLike) -> Floats:
    """Return the square root."""
    return single(np.sqrt(read(a)))


@quiet
def fma(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Floats:
    """Return a · b + c, rounded once.

    The sum may have more than 53 bits. It is rounded to the odd one of its two neighbours in float64: this lies on the same side
    of every float32, and of the middle of every two, as the exact sum does.
    """
    product, addend = read(a) * read(b), read(c)
    total = product + addend
    part = total - product
    rest = (product - (total - part)) + (addend - part)  # total + rest is exact
    even = total.view(np.int64) & 1 == 0
    inexact = np.isfinite(rest) & (rest != 0)
    toward = np.nextafter(total, np.copysign(np.inf, rest))
    return single(np.where(inexact & even, toward, total))


def bfloat16(x: ArrayLike) -> Floats:
    """Round to bfloat16."""
    values = np.asarray(x, np.float32)
    bits = values.view(np.uint32)
    kept, rest = bits & np.uint32(0xFFFF0000), bits & np.uint32(0xFFFF)
    up = (rest > 0x8000) | ((rest == 0x8000) & (kept & np.uint32(0x10000) != 0))
    rounded = np.where(up & ~np.isnan(values), kept + np.uint32(0x10000), kept).view(np.float32)
    rounded = np.where(np.abs(values) < LEAST, np.copysign(np.float32(0), values), rounded)
    return np.where(np.isnan(values), NAN, rounded)


def padded(x: Floats, group: int) -> Floats:
    """Return rows with +0 after each, up to a multiple of `group`."""
    missing = -x.shape[-1] % group
    return np.concatenate([x, np.zeros((*x.shape[:-1], missing), np.float32)], axis=-1)


def by_halves(lanes: Floats) -> Floats:
    """Return the sum of sixteen lanes (…, 16)."""
    while (half := lanes.shape[-1] // 2) > 0:
        lanes = add(lanes[..., :half], lanes[..., half:])
    return lanes[..., 0]


def lanes_of(x: Floats) -> list[Floats]:
    """Return the elements (…, N) that go to the sixteen lanes, sixteen at a time."""
    wide = padded(x, 16)
    return [wide[..., at : at + 16] for at in range(0, wide.shape[-1], 16)]


# ---- §7.2.6: functions and tables -----------------------------------------------------------------------------------


def exp(x: ArrayLike) -> Floats:
    """Return the exponential of float32 numbers up to 0."""
    x = np.asarray(x, np.float32)
    near = np.where(x >= -86, x, np.float32(0))
    t = fma(near, float.fromhex("0x1.715476p+0"), float.fromhex("0x1.8p+23"))
    n = add(t, -float.fromhex("0x1.8p+23"))
    r = fma(n, -float.fromhex("0x1.62e4p-1"), near)
    r = fma(n, -float.fromhex("0x1.7f7d1cp-20"), r)
    p = np.full_like(near, float.fromhex("0x1.6c16c2p-10"))
    for c in ("0x1.111112p-7", "0x1.555556p-5", "0x1.555556p-3", "0x1p-1", "0x1p+0", "0x1p+0"):
        p = fma(p, r, float.fromhex(c))
    scaled = np.ldexp(p, n.astype(np.int32))
    return np.where(np.isnan(x), x, np.where(x < -86, np.float32(0), scaled))


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


@dataclass(frozen=True, slots=True)
class Arithmetic:
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

    def product(self, x: Floats, w: Floats, bias: Floats | None = None) -> Floats:
        """Return sums (…) of products over the last axis, which is as wide as what is multiplied; the others broadcast."""
        x, w = padded(x, self.group), padded(w, self.group)
        out = np.zeros(np.broadcast_shapes(x.shape, w.shape)[:-1], np.float32)
        if self.name == "pairs-32":
            for first in range(0, x.shape[-1], 32):
                even = odd = np.zeros_like(out)
                for k in range(first, first + 32, 2):
                    even = fma(x[..., k], w[..., k], even)
                    odd = fma(x[..., k + 1], w[..., k + 1], odd)
                out = add(out, add(even, odd))
        else:
            for k in range(x.shape[-1]):
                place = k ^ 1 if self.dtype == "bfloat16" else k
                out = fma(x[..., place], w[..., place], out)
        return out if bias is None else add(out, bias)

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
            lanes = fma(part, part, lanes)
        mean = divide(by_halves(lanes), np.float32(x.shape[-1]))
        r = divide(np.float32(1), root(add(mean, np.float32(eps))))
        return multiply(multiply(x, r[..., None]), weight)

    def rotated(self, heads: Floats, cosines: Floats, sines: Floats) -> Floats:
        """Return heads (…, D) turned by angles (…, D / 2)."""
        a, b = np.split(heads, 2, axis=-1)
        low = fma(-b, sines, multiply(a, cosines))
        high = fma(a, sines, multiply(b, cosines))
        return np.concatenate([low, high], axis=-1)

    def gated(self, g: Floats, u: Floats) -> Floats:
        """Return silu(g) · u, rounded to T."""
        e = exp(-np.abs(g))
        t = np.where(g >= 0, np.float32(1), e)
        return self.rounded(multiply(divide(multiply(g, t), add(np.float32(1), e)), u))

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
        scores = multiply(products, scale)  # (R, heads, positions)
        row, place = np.arange(first, first + len(queries))[:, None], np.arange(count)
        seen = (place <= row) & ((place > row - window) | (window == 0))
        seen = np.broadcast_to(seen[:, None], scores.shape)
        counted = np.where(seen & ~np.isnan(scores), scores, -INFINITY)
        most = counted.max(axis=-1, keepdims=True)
        weights = self.rounded(exp(np.where(seen, add(scores, -most), -INFINITY)))
        lanes = np.zeros((*weights.shape[:-1], 16), np.float32)
        for part in lanes_of(weights):
            lanes = add(lanes, part)
        columns = values[:, own].transpose(1, 2, 0)[None]  # (1, heads, D, positions)
        sums = add(self.product(weights[:, :, None], columns), np.float32(0))
        return self.rounded(divide(sums, by_halves(lanes)[..., None]))


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
        q, k, v = by.rounded(turned("q")), by.stored(turned("k")), by.stored(heads("v"))
        a = by.attention(q, k, v, 0, c.layer_windows[layer]).reshape(len(x), -1)
        x = add(x, by.by_heads(a, weight("self_attn.o_proj"), c.head_dim))
        h = self._norm(x, f"{prefix}post_attention_layernorm")
        y = by.gated(by.matrix(h, weight("mlp.gate_proj")), by.matrix(h, weight("mlp.up_proj")))
        return add(x, by.matrix(y, weight("mlp.down_proj")))
