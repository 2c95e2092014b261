"""Widths that are not a multiple of the lanes: padded with zeros, which are part of the definition (protocol §7.2)."""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from shared.model.arithmetic import Packed, kind_of
from shared.model.config import ModelConfig
from shared.model.decoder import Decoder
from shared.model.native.library import kernels
from shared.model.replay import replay
from shared.model.rope import inverse_frequencies
from shared.model.weights import Weights
from shared.statements.request import SamplingSettings
from tests.shared.model import tiny
from tests.shared.model.test_decoder import one_pass
from tests.shared.model.test_families import TOLERANCE, Ours, made, prompt, theirs

fmaf = ctypes.CDLL("libm.so.6").fmaf
fmaf.argtypes, fmaf.restype = (ctypes.c_float,) * 3, ctypes.c_float
f32 = np.float32

STORIES = {"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8}
SMALL: dict[str, dict[str, object]] = {
    "llama, head width 8, inner size 172": {
        "model_type": "llama",
        "intermediate_size": 172,
        **STORIES,
    },
    "llama, tied, everything odd": {
        "model_type": "llama",
        "hidden_size": 50,
        "num_attention_heads": 5,
        "num_key_value_heads": 1,
        "intermediate_size": 33,
        "tie_word_embeddings": True,
    },
    "mistral, hidden size 24, window": {
        "model_type": "mistral",
        "hidden_size": 24,
        "head_dim": 20,
        "sliding_window": 40,
    },
    "qwen2, head width 2": {
        "model_type": "qwen2",
        "hidden_size": 8,
        "num_attention_heads": 4,
        "intermediate_size": 36,
    },
    "qwen3, head width 6": {"model_type": "qwen3", "hidden_size": 72, "head_dim": 6},
}
DTYPES = ("bfloat16", "float32")
state_bytes = tiny.BACKEND.to_host


@pytest.fixture(autouse=True)
def afterwards():
    yield
    kernels().use(kernels().best)
    kernels().threads(1)


@pytest.mark.parametrize("name", SMALL)
def test_logits_are_those_of_transformers(name, tmp_path: Path):
    model = made(**{"initializer_range": 0.3, **SMALL[name]})
    model.save_pretrained(tmp_path)
    decoder, tokens = tiny.load(tmp_path), prompt()
    expected = theirs(model, tokens)
    assert expected.std() > 0.5
    for passes in (1, 3):
        assert (Ours.all_logits(decoder, tokens, passes) - expected).abs().max() < TOLERANCE


def small(dtype: str, **changes: Any) -> Decoder:
    config = tiny.config(
        hidden_size=21, head_dim=6, intermediate_size=19, dtype=dtype, model_type="qwen3", **changes
    )
    return Decoder(config, tiny.weights(config), tiny.BACKEND)


@pytest.mark.parametrize("dtype", DTYPES)
def test_variants_threads_and_cuts_give_the_same_bits(dtype):
    decoder, tokens = small(dtype), [(5 * place) % 256 for place in range(150)]
    kernels().use(0)
    hidden = one_pass(decoder, tokens)
    assert hidden.shape == (150, 21)
    expected = state_bytes(hidden), state_bytes(decoder.logits(hidden))
    for variant in range(kernels().best + 1):
        kernels().use(variant)
        kernels().threads(1 + variant)
        again = one_pass(decoder, tokens)
        assert (state_bytes(again), state_bytes(decoder.logits(again))) == expected
    cut = Ours.all_logits(decoder, tokens, passes=4)
    assert torch.equal(cut, decoder.logits(hidden))


def test_a_small_model_is_replayed():
    decoder = small("bfloat16")
    settings = SamplingSettings(3, temperature_ppm=0)
    prompt_, output = tuple(range(40)), []
    for _ in range(3):
        output.append(replay(decoder, prompt_, [*output, 0], settings, bytes(32)).chosen[-1])
    assert replay(decoder, prompt_, output, settings, bytes(32)).chosen == tuple(output)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_zeros_take_part_so_a_sum_that_ends_in_a_negative_zero_is_positive(dtype):
    """−2^-70 · 2^-70 is flushed to −0; a further step with factors of +0 turns it into +0."""
    for columns, sign in ((14, 1.0), (16, -1.0), (18, 1.0)):
        x, weight = torch.zeros(1, columns), torch.zeros(1, columns)
        last = columns - (1 if dtype is torch.float32 else 2)  # of a pair the even one comes last
        x[0, last], weight[0, last] = 2.0**-70, -(2.0**-70)
        packed = Packed(kind_of("chain-1", dtype), weight.to(dtype))
        for variant in range(kernels().best + 1):
            kernels().use(variant)
            out = float(packed.linear(x.to(dtype))[0, 0])
            assert (out, np.copysign(1.0, out)) == (0.0, sign), (columns, variant)


class Naive:
    """Protocol §7.2 for float32, element by element, for one token of one sequence."""

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        self.config, self.weights = config, {n: t.float().numpy() for n, t in weights.items()}
        self.keys: dict[tuple[int, int], list[list[float]]] = {}
        self.values: dict[tuple[int, int], list[list[float]]] = {}

    @staticmethod
    def fill(values: Sequence[float], width: int) -> list[float]:
        """Every `width` values, followed by zeros up to a multiple of 16."""
        parts = [[*values[at : at + width]] for at in range(0, len(values), width)]
        return [v for part in parts for v in part + [0.0] * (-width % 16)]

    @staticmethod
    def chain(xs: Sequence[float], ws: Sequence[float]) -> float:
        acc = 0.0
        for x, w in zip(xs, ws, strict=True):
            acc = fmaf(x, w, acc)
        return acc

    def product(self, name: str, x: Sequence[float], width: int) -> list[float]:
        x = self.fill(x, width)
        return [self.chain(x, self.fill(row.tolist(), width)) for row in self.weights[name]]

    def norm(self, name: str, x: Sequence[float]) -> list[float]:
        lanes = [0.0] * 16
        for place, value in enumerate(x):
            lanes[place % 16] = fmaf(value, value, lanes[place % 16])
        eps = f32(self.config.rms_norm_eps)
        scale = f32(1) / np.sqrt(f32(halves(lanes)) / f32(len(x)) + eps)
        return [float(f32(v) * scale * w) for v, w in zip(x, self.weights[name], strict=True)]

    def turned(self, head: list[float], name: str, position: int) -> list[float]:
        head, half = self.norm(name, head), len(head) // 2
        angles = inverse_frequencies(len(head), self.config.rope).astype(f32).astype(float)
        for i, angle in enumerate(position * angles):
            cos, sin = float(f32(np.cos(angle))), float(f32(np.sin(angle)))
            a, b = head[i], head[i + half]
            head[i] = fmaf(-b, sin, float(f32(a) * f32(cos)))
            head[i + half] = fmaf(a, sin, float(f32(b) * f32(cos)))
        return head

    def attend(self, layer: int, qkv: tuple[list[float], ...], position: int) -> list[float]:
        c, prefix, d = self.config, f"model.layers.{layer}.self_attn.", self.config.head_dim
        q, k, v = ([x[at : at + d] for at in range(0, len(x), d)] for x in qkv)
        for head in range(c.kv_heads):
            turned = self.turned(k[head], prefix + "k_norm.weight", position)
            self.keys.setdefault((layer, head), []).append(turned)
            self.values.setdefault((layer, head), []).append(v[head])
        out: list[float] = []
        for head in range(c.heads):
            query = self.turned(q[head], prefix + "q_norm.weight", position)
            own = layer, head * c.kv_heads // c.heads
            scores = [
                f32(self.chain(self.fill(query, d), self.fill(key, d))) * f32(d**-0.5)
                for key in self.keys[own]
            ]
            ps = [exp_negative(float(score - max(scores))) for score in scores]
            total = f32(halves(ps + [0.0] * (16 - len(ps))))
            columns = zip(*self.values[own], strict=True)
            out += [float(f32(self.chain(ps, column)) / total) for column in columns]
        return out

    def step(self, token: int, position: int) -> list[float]:
        """Return the hidden state after the final norm."""
        c = self.config
        x = [float(v) for v in self.weights["model.embed_tokens.weight"][token]]
        for layer in range(c.layers):
            p = f"model.layers.{layer}."
            h = self.norm(p + "input_layernorm.weight", x)
            names = [f"{p}self_attn.{name}_proj.weight" for name in "qkv"]
            qkv = tuple(self.product(name, h, c.hidden_size) for name in names)
            attended = self.attend(layer, qkv, position)
            x = self.added(x, self.product(p + "self_attn.o_proj.weight", attended, c.head_dim))
            h = self.norm(p + "post_attention_layernorm.weight", x)
            gate, up = (self.product(f"{p}mlp.{n}_proj.weight", h, c.hidden_size) for n in GATED)
            gated = [silu_times(g, u) for g, u in zip(gate, up, strict=True)]
            x = self.added(x, self.product(p + "mlp.down_proj.weight", gated, c.intermediate_size))
        return self.norm("model.norm.weight", x)

    @staticmethod
    def added(x: Sequence[float], y: Sequence[float]) -> list[float]:
        return [float(f32(a) + f32(b)) for a, b in zip(x, y, strict=True)]


GATED = ("gate", "up")


def halves(lanes: Sequence[float]) -> float:
    sums = np.array(lanes, dtype=f32)
    while len(sums) > 1:
        sums = sums[: len(sums) // 2] + sums[len(sums) // 2 :]
    return float(sums[0])


def exp_negative(x: float) -> float:
    """The polynomial of native/vector.h."""
    clamped = max(x, -86.0)
    n = float(f32(fmaf(clamped, float.fromhex("0x1.715476p+0"), 1.5 * 2**23)) - f32(1.5 * 2**23))
    r = fmaf(n, -float.fromhex("0x1.62e4p-1"), clamped)
    r = fmaf(n, -float.fromhex("0x1.7f7d1cp-20"), r)
    p = float.fromhex("0x1.6c16c2p-10")
    for text in ("0x1.111112p-7", "0x1.555556p-5", "0x1.555556p-3", "0x1p-1", "0x1p0", "0x1p0"):
        p = fmaf(p, r, float.fromhex(text))
    return float(p * 2.0**n)


def silu_times(g: float, u: float) -> float:
    e = exp_negative(-abs(g))
    return float(f32(g) * f32(1.0 if g >= 0 else e) / (f32(1) + f32(e)) * f32(u))


def test_another_implementation_of_the_definition_has_the_same_bits():
    config = tiny.config(
        model_type="qwen3",
        hidden_size=21,
        head_dim=6,
        intermediate_size=19,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    weights = tiny.weights(config)
    tokens = [3, 1, 4, 1, 5]
    naive = Naive(config, weights)
    expected = torch.tensor([naive.step(token, place) for place, token in enumerate(tokens)])
    ours: Tensor = one_pass(Decoder(config, weights, tiny.BACKEND), tokens)
    assert state_bytes(ours) == state_bytes(expected)
