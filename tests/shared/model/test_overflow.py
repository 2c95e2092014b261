"""Weights near the largest number: the definition says what becomes of them (protocol §7.2.2), in every variant.

The fused arithmetics refuse such weights by name (`test_fused`); values that are not finite are refused by all (`test_weights`).
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from shared.model.backend import Span, blocks_for
from shared.model.cpu import CpuBackend
from shared.model.decoder import Decoder
from shared.model.native.library import kernels
from shared.model.replay import replay
from shared.model.weights import HEAD, Weights
from shared.statements.request import SamplingSettings
from tests.shared.model import tiny
from tests.shared.model.operations import NAN, Floats, quiet
from tests.shared.model.reference import Arithmetic, Model
from tests.shared.model.test_decoder import one_pass
from tests.vectors.arithmetic import ARITHMETICS, typed

EVERYWHERE = [by for by in ARITHMETICS if not by.name.startswith("fused")]
"""Arithmetics that are defined for all finite weights."""
BY = pytest.mark.parametrize("by", EVERYWHERE, ids=lambda by: f"{by.name} {by.dtype}")
PLACES = (
    "model.embed_tokens.weight",
    *(f"self_attn.{name}_proj.{part}" for name in "qkv" for part in ("weight", "bias")),
    *("self_attn.o_proj.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight"),
    *("mlp.down_proj.weight", "input_layernorm.weight", "post_attention_layernorm.weight"),
    *("model.norm.weight", HEAD),
)
"""Tensors, those of layers in layer 1, that hold the largest numbers."""
STRAINED = pytest.mark.parametrize("place", [*PLACES, "all"])
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.fixture(autouse=True)
def afterwards():
    yield
    kernels().use(kernels().best)


def config(by: Arithmetic):
    return tiny.config(
        model_type="qwen2",
        hidden_size=40,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=20,
        intermediate_size=24,
        dtype=by.dtype,
    )


def strained(by: Arithmetic, place: str) -> Weights:
    """Put numbers near the dtype's largest, of either sign, into every fifth row of a tensor, or of all."""
    made = {name: tensor.clone() for name, tensor in tiny.weights(config(by)).items()}
    for name, tensor in made.items():
        if place in ("all", name, name.removeprefix("model.layers.1.")):
            most = torch.finfo(tensor.dtype).max
            some = tensor[4::5]
            tensor[4::5] = (some.double() * (most / some.abs().max())).to(tensor.dtype)
    return made


def same(one: Tensor, other: Tensor) -> bool:
    """Compare, NaN with NaN and zeros by their sign."""
    numbers = one.float().nan_to_num(nan=7.0).view(torch.int32)
    return torch.equal(one.isnan(), other.isnan()) and torch.equal(
        numbers, other.float().nan_to_num(nan=7.0).view(torch.int32)
    )


@quiet
def defined(by: Arithmetic, weights: Weights) -> tuple[Floats, Floats]:
    """Return hidden states and logits by the definition."""
    model = Model(config(by), {name: x.float().numpy() for name, x in weights.items()}, by)
    hidden = model.hidden(model.states(TOKENS))
    return hidden, model.logits(hidden)


@BY
@STRAINED
def test_every_variant_has_the_bits_of_the_definition(by, place):
    weights = strained(by, place)
    hidden, logits = defined(by, weights)
    decoder = Decoder(config(by), weights, CpuBackend(arithmetic=by.name))
    for variant in range(kernels().best + 1):
        kernels().use(variant)
        ours = one_pass(decoder, TOKENS)
        numbers = ours.float().numpy()
        assert typed(by, np.where(np.isnan(numbers), NAN, numbers)) == typed(by, hidden)
        assert same(decoder.logits(ours), torch.from_numpy(logits))


@BY
def test_these_weights_overflow_in_some_places_and_not_in_others(by):
    """Else the tests here would show nothing."""
    found = [defined(by, strained(by, place)) for place in PLACES]
    assert any(0 < np.isnan(hidden).mean() < 1 for hidden, _ in found)
    assert any(0 < np.isinf(logits).mean() < 1 for _, logits in found)


@BY
@STRAINED
def test_what_overflows_stays_in_its_own_sequence_and_is_replayed(by, place):
    """Blocks that such a sequence has written are used again by another one."""
    decoder = Decoder(config(by), strained(by, place), CpuBackend(arithmetic=by.name))
    tokens = [(7 * place + place * place) % 256 for place in range(90)]
    whole, held = one_pass(decoder, tokens), blocks_for(90, decoder.backend.block)
    own, others = range(1, held + 1), range(held + 1, 2 * held + 1)
    cache = decoder.cache(2 * held)
    decoder.forward([Span(tokens[::-1], 0, own)], cache)
    first = decoder.forward([Span(tokens[:50], 0, own), Span(TOKENS, 0, others)], cache)
    then = decoder.forward([Span(TOKENS, len(TOKENS), others), Span(tokens[50:], 50, own)], cache)
    assert same(torch.cat([first[:50], then[len(TOKENS) :]]), whole)
    settings = SamplingSettings(3, temperature_ppm=700_000)
    output: list[int] = []
    for _ in range(3):
        output.append(replay(decoder, TOKENS, [*output, 0], settings, bytes(32)).chosen[-1])
    assert replay(decoder, TOKENS, output, settings, bytes(32)).chosen == tuple(output)
