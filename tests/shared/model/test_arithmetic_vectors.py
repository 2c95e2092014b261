"""The kernels, in every variant, give the bits of the vectors of protocol §7.2, which `reference` computes from its text.

Products, norms and whole passes are asked of the backend as they are. What happens within a layer only is seen through a
layer that is made for it: see `Bench`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from functools import cache
from hashlib import sha256
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from shared.model import functions, rope
from shared.model.arithmetic import Kind, kind_of
from shared.model.backend import Rows
from shared.model.config import ModelConfig
from shared.model.cpu import KV_BLOCK, CpuBackend, KVCache
from shared.model.decoder import Embedding, Head, Stage
from shared.model.native.library import kernels
from shared.model.rope import Rope
from tests.shared.model.operations import LEAST, NAN, TINY, Floats
from tests.shared.model.reference import Arithmetic, Model
from tests.shared.model.reference_fused import Fused
from tests.vectors import arithmetic as written
from tests.vectors.arithmetic import (
    ARITHMETICS,
    CHUNKS,
    PASS,
    TOKENS,
    doubles_of,
    hexadecimal,
    typed,
    values_of,
)
from tests.vectors.files import Json, load

BY = pytest.mark.parametrize("by", ARITHMETICS, ids=lambda by: f"{by.name} {by.dtype}")
CHAIN, *_ = ARITHMETICS
STILL = Rope(1.0, "linear", 1e300)
"""Every angle is 0, and a rotation changes nothing but the sign of zeros."""


@pytest.fixture(autouse=True)
def afterwards() -> Iterator[None]:
    yield
    kernels().use(kernels().best)


@cache
def file() -> Json:
    return load("arithmetic")


def of(by: Arithmetic) -> Json:
    (found,) = (
        each
        for each in file()["arithmetics"]
        if (each["arithmetic"], each["dtype"]) == (by.name, by.dtype)
    )
    return dict(found)


def variants() -> Iterator[int]:
    for variant in range(kernels().best + 1):
        kernels().use(variant)
        yield variant


def in_type(by: Arithmetic, rows: str | list[str]) -> Floats:
    """Return numbers of T, one row or several."""
    digits = 4 if by.dtype == "bfloat16" else 8
    if isinstance(rows, str):
        return values_of(rows, digits)
    return np.array([values_of(row, digits) for row in rows])


def tensor(by: Arithmetic, x: Floats) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x)).to(getattr(torch, by.dtype))


def in_hex(by: Arithmetic, x: Tensor) -> list[str]:
    return [typed(by, row) for row in x.float().numpy()]


# ---- what a backend exposes -----------------------------------------------------------------------------------------


@BY
def test_products(by):
    backend = CpuBackend(arithmetic=by.name)
    for case in of(by)["products"]:
        x, weight = (tensor(by, in_type(by, case[name])) for name in ("x", "weight"))
        bias = None if case["bias"] is None else torch.from_numpy(values_of(case["bias"]))
        packed = backend.pack(weight, bias)
        for variant in variants():
            out = [hexadecimal(row) for row in backend.linear(x, packed).numpy()]
            assert out == case["out"], (case["name"], variant)


@BY
def test_norms(by):
    backend = CpuBackend(arithmetic=by.name)
    for case in of(by)["norms"]:
        x = torch.from_numpy(np.array([values_of(row) for row in case["x"]]))
        weight = torch.from_numpy(values_of(case["weight"]))
        for variant in variants():
            out = backend.norm(x, weight, case["eps"], getattr(torch, by.dtype))
            assert in_hex(by, out) == case["out"], variant


@BY
def test_rounding(by):
    """As the last step of a norm of ones, whose weights are what is rounded; its product flushes what is subnormal, or keeps it."""
    case = file()["functions"]["rounding"]
    limited = isinstance(by, Fused)
    x, expected = values_of(case["x"]), in_type(by, case[by.dtype + ", limited" * limited])
    if limited:
        x, expected = x[np.isfinite(x)], expected[np.isfinite(x)]
    else:
        expected = np.where(np.abs(x) < LEAST, np.copysign(np.float32(0), x), expected)
    for _ in variants():
        weight, ones = torch.from_numpy(x), torch.ones(1, len(x))
        out = CpuBackend(arithmetic=by.name).norm(ones, weight, 1e-12, getattr(torch, by.dtype))
        assert in_hex(by, out) == [typed(by, expected)]


def test_exponential_and_logarithm():
    found = file()["functions"]
    for name, function in (("exp", functions.exp), ("ln", functions.ln)):
        case = found[f"{name}_64"]
        assert function(doubles_of(case["x"])).tobytes() == doubles_of(case[name]).tobytes()


def test_angles():
    for case in file()["functions"]["angles"]:
        frequencies = rope.inverse_frequencies(case["head_dim"], Rope(**case["rope"]))
        assert hexadecimal(frequencies.astype(np.float32)) == case["frequencies"]
        tables = functions.angles(frequencies, 4096)
        for place, *expected in zip(
            *(case[n] for n in ("positions", "cosines", "sines")), strict=True
        ):
            if place < 4096:
                assert [hexadecimal(table[place]) for table in tables] == expected
    *_, last = case["positions"]
    tables = functions.angles(frequencies[-1:], last + 1)
    assert [hexadecimal(table[last]) for table in tables] == [row[-8:] for row in expected]


@BY
def test_a_pass(by):
    case, config = of(by)["pass"], replace(PASS, dtype=by.dtype)
    weights = {name: tensor(by, x) for name, x in written.pass_weights(by.dtype).items()}
    backend = CpuBackend(arithmetic=by.name)
    head = Head(config, weights, backend)
    embedding, stage = Embedding(config, weights, backend), Stage(config, weights, backend, 0, 2)
    for _ in variants():
        cache_, done, parts = stage.cache(2), 0, []
        for count in CHUNKS:
            given = embedding(TOKENS[done : done + count])
            parts.append(stage(given, [Rows(count, done, (1, 2))], cache_))
            done += count
        states = torch.cat(parts)
        hidden = head.hidden(states)
        logits = head.logits(hidden)
        for name, values in (("states", states), ("hidden", hidden), ("logits", logits)):
            assert sha256(backend.to_host(values)).hexdigest() == case[f"{name}_sha256"]
        for each in case["rows"]:
            row = each["row"]
            assert hexadecimal(states[row, :8].numpy()) == each["states"]
            assert in_hex(by, hidden[row, None, :8]) == [each["hidden"]]
            assert hexadecimal(logits[row, :8].numpy()) == each["logits"]


# ---- what happens within a layer ------------------------------------------------------------------------------------


HIDDEN, HOT, BIG, SEEN = 1024, 4, np.float32(2.0**20), 512


@dataclass
class Bench:
    """One layer whose products give chosen numbers, and whose outputs are seen in its states and its cache.

    A row's state is 2^20 at four places of its own and 0 elsewhere. Its norm is `gain` there: the sum of squares, 2^42, over 1024
    has the root 2^16, whatever eps is, and weights are gain/16. So a row's products are the sums of its four columns of a matrix,
    and three parts with 8 bits each make any float32. What attention and gate give goes to states from place 512 on.
    """

    by: Arithmetic
    config: ModelConfig
    q: Floats
    k: Floats
    v: Floats
    gate: Floats | None = None
    up: Floats | None = None
    norm: Floats | None = None

    @property
    def gain(self) -> float:
        """More than 1 where weights are limited and products are not."""
        return 2.0**20 if isinstance(self.by, Fused) else 1.0

    @property
    def kind(self) -> Kind:
        return kind_of(self.by.name, getattr(torch, self.by.dtype))

    def columns(self, values: Floats) -> Tensor:
        """Return a matrix (out, HIDDEN) whose product with row r's norm is values[r]."""
        weight = np.zeros((HIDDEN, values.shape[1]), np.float32)
        infinite, rest = np.isinf(values), np.where(np.isinf(values), np.float32(0), values)
        rest = (rest / self.gain).astype(np.float32)
        for part in range(HOT - 1):
            if self.by.dtype == "bfloat16":
                now = (rest.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
            else:
                now = rest
            rest = rest - now
            large = np.copysign(np.float32(3e38 if part < 2 else 0.0), values)
            weight[part : HOT * len(values) : HOT] = np.where(infinite, large, now)
        return tensor(self.by, weight.T)

    def weights(self) -> dict[str, Tensor]:
        made = {
            f"self_attn.{n}_proj": self.columns(x)
            for n, x in zip("qkv", (self.q, self.k, self.v), strict=True)
        }
        identity = np.zeros((HIDDEN, self.q.shape[1]), np.float32)
        identity[SEEN : SEEN + self.q.shape[1]] = np.eye(self.q.shape[1])
        made["self_attn.o_proj"] = tensor(self.by, identity)
        inner = self.config.intermediate_size
        nothing = np.zeros((1, inner), np.float32)
        made["mlp.gate_proj"] = self.columns(nothing if self.gate is None else self.gate)
        made["mlp.up_proj"] = self.columns(nothing if self.up is None else self.up)
        identity = np.zeros((HIDDEN, inner), np.float32)
        if self.gate is not None:
            identity[SEEN : SEEN + inner] = np.eye(inner)
        made["mlp.down_proj"] = tensor(self.by, identity)
        for name in ("input_layernorm", "post_attention_layernorm"):
            made[name] = torch.full((HIDDEN,), self.gain / 16)
        if self.norm is not None:
            for name in "qk":
                made[f"self_attn.{name}_norm"] = torch.from_numpy(self.norm)
        return {f"model.layers.0.{name}.weight": value for name, value in made.items()}

    def run(
        self, position: int = 0, before: tuple[Floats, Floats] | None = None
    ) -> tuple[Floats, KVCache]:
        """Return states (R, HIDDEN) after the layer, of rows from a position on, and the cache, whose blocks are 1, 2, …

        `before` is the keys and values (positions, kv heads · D) of the positions up to there.
        """
        states = torch.zeros(len(self.q), HIDDEN)
        for row in range(len(states)):
            states[row, HOT * row : HOT * (row + 1)] = float(BIG)
        stage = Stage(self.config, self.weights(), CpuBackend(arithmetic=self.by.name), 0, 1)
        blocks = range(1, (position + len(states) - 1) // KV_BLOCK + 2)
        cache_ = stage.cache(len(blocks))
        assert isinstance(cache_, KVCache)
        if before is not None:
            width = self.config.head_dim
            for place, head in product(range(position), range(self.config.kv_heads)):
                for to, rows in zip(self.places(cache_, place, head), before, strict=True):
                    kept = tensor(self.by, rows[place, head * width : (head + 1) * width])
                    to.copy_(self.kind.fill(kept, 0, width).view(to.shape))
        return stage(states, [Rows(len(states), position, blocks)], cache_).numpy(), cache_

    def places(self, cache_: KVCache, position: int, head: int) -> tuple[Tensor, Tensor]:
        """Return the key (units, elements of a unit) and the value (filled D) of a position and head, as views of the cache."""
        block, place, per = position // KV_BLOCK + 1, position % KV_BLOCK, self.kind.per_unit
        width = self.kind.filled(self.config.head_dim)
        keys = cache_.keys[0][block, head].view(width // per, KV_BLOCK, per)
        values = cache_.values[0][block, head].view(KV_BLOCK // per, width, per)
        return keys[:, place], values[place // per, :, place % per]


def config(by: Arithmetic, heads: int, kv_heads: int, width: int, **changes) -> ModelConfig:
    base = replace(
        PASS,
        layers=1,
        layer_windows=(0,),
        qkv_bias=False,
        qk_norm=False,
        rope=STILL,
        hidden_size=HIDDEN,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=width,
        max_positions=8192,
        dtype=by.dtype,
    )
    return replace(base, **changes)


@BY
def test_rotation_norms_of_heads_and_what_is_stored(by):
    for case, _ in product(of(by)["heads"], variants()):
        head = values_of(case["head"])[None]
        norm = None if case["norm"] is None else values_of(case["norm"])
        shape = config(
            by, 1, 1, head.shape[1], qk_norm=norm is not None, rope=Rope(), rms_norm_eps=case["eps"]
        )
        bench = Bench(by, shape, head, head, head, norm=norm)
        _, cache_ = bench.run(case["position"])
        key, value = (
            in_hex(by, found.reshape(1, -1)[:, : head.shape[1]])
            for found in bench.places(cache_, case["position"], 0)
        )
        assert (key, value) == ([case["key"]], [case["value"]]), case["name"]


@BY
def test_gates(by):
    """Large and small ones apart: a large number times 0 has an exponent, and cuts off a small one in a fused sum."""
    case = of(by)["gates"]
    g, u, expected = values_of(case["g"]), values_of(case["u"]), in_type(by, case["out"])
    finite, large = np.isfinite(g) & np.isfinite(expected), np.abs(expected) > 2.0**-20
    nothing = np.zeros((1, 2), np.float32)
    for some, _ in product((finite & large, finite & ~large), variants()):
        shape = config(by, 1, 1, 2, intermediate_size=int(some.sum()))
        bench = Bench(by, shape, nothing, nothing, nothing, gate=g[None, some], up=u[None, some])
        states, _ = bench.run()
        found = states[0, SEEN : SEEN + shape.intermediate_size]
        assert hexadecimal(found) == hexadecimal(by.add(expected[some], 0.0))


@BY
def test_attention(by):
    """A row with an infinite query is NaN in one head, and so in all its states: the product after attention has it as input."""
    case = of(by)["attention"]
    k, v = in_type(by, case["keys"]), in_type(by, case["values"])
    first, wide = case["first_position"], case["heads"] * case["head_dim"]
    q = in_type(by, case["queries"])
    for each, _ in product(case["windows"], variants()):
        shape = config(by, case["heads"], case["kv_heads"], case["head_dim"])
        shape = replace(shape, layer_windows=(each["window"],))
        states, _ = Bench(by, shape, q, k[first:], v[first:]).run(first, (k[:first], v[:first]))
        expected = by.add(in_type(by, each["out"]), 0.0)
        expected[np.isnan(expected).any(axis=1)] = NAN
        assert not np.isnan(expected[:-1]).any()
        for row, values in zip(states[:, SEEN : SEEN + wide], expected, strict=True):
            assert hexadecimal(row) == hexadecimal(values), each["window"]


# ---- the reference itself -------------------------------------------------------------------------------------------


def test_operations_round_as_exact_fractions_do():
    raw = np.concatenate(
        [written.draw("a", 600, low=1, high=254), written.draw("b", 600), written.hostile("c", 600)]
    )
    a, b, c = raw, np.roll(raw, 7), np.roll(raw, 411)
    c[::3] = -CHAIN.multiply(a, b)[::3]  # what is left is what rounding took
    found = CHAIN.fma(a, b, c), CHAIN.multiply(a, b), CHAIN.add(a, b)
    flushed = (np.where(np.abs(x) < LEAST, np.float32(0), x) for x in (a, b, c))
    for row, operands in enumerate(zip(*flushed, strict=True)):
        if not np.isfinite(operands).all():
            continue
        x, y, z = (Fraction(float(operand)) for operand in operands)
        for exact, ours in zip((x * y + z, x * y, x + y), found, strict=True):
            assert ours[row] == nearest(exact)


def nearest(exact: Fraction) -> np.float32:
    """Round to float32: to 24 bits, ties to even, then flush or overflow."""
    if exact == 0:
        return np.float32(0)
    exponent = 0
    size = abs(exact)
    while size >= 2 ** (exponent + 24):
        exponent += 1
    while size < Fraction(2) ** (exponent + 23):
        exponent -= 1
    rounded = round(size / Fraction(2) ** exponent) * Fraction(2) ** exponent
    if rounded < Fraction(LEAST):
        return np.float32(0)
    value = np.float32(np.inf) if rounded >= 2**128 else np.float32(float(rounded))
    return value if exact > 0 else -value


def test_what_rounds_to_the_smallest_normal_number_is_kept():
    below = np.nextafter(TINY, 0)
    assert CHAIN.single(np.array([TINY, below, -TINY, -below])).tolist() == [
        2.0**-126,
        0,
        -(2.0**-126),
        0,
    ]


def test_the_scale_of_scores_is_the_nearest_for_every_width():
    for width in range(2, 4097, 2):
        assert np.float32(width**-0.5) == np.float32(float(1 / Decimal(width).sqrt()))


@BY
def test_what_follows_a_token_changes_nothing_before_it(by):
    model = Model(PASS, written.pass_weights(by.dtype), by)
    states = model.states(TOKENS[:40])
    assert hexadecimal(states[0, :8]) == of(by)["pass"]["rows"][0]["states"]
    assert np.array_equal(model.states(TOKENS[:21]), states[:21])
