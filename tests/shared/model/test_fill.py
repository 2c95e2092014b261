"""Widths that are not a multiple of the lanes: padded with zeros, which are part of the definition (protocol §7.2)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from shared.model.arithmetic import Packed, kind_of
from shared.model.backend import Span, blocks_for
from shared.model.cpu import CpuBackend
from shared.model.decoder import Decoder
from shared.model.native.library import kernels
from shared.model.replay import replay
from shared.statements.request import SamplingSettings
from tests.shared.model import tiny
from tests.shared.model.reference import Arithmetic, Model
from tests.shared.model.test_decoder import one_pass
from tests.shared.model.test_families import TOLERANCE, Ours, made, prompt, theirs
from tests.vectors.arithmetic import ARITHMETICS, typed

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


ODD: dict[str, dict[str, object]] = {
    "head width 8, inner size 172": {"intermediate_size": 172, **STORIES},
    "everything odd, norms of heads": {
        "model_type": "qwen3",
        "hidden_size": 21,
        "head_dim": 6,
        "intermediate_size": 19,
        "vocab_size": 281,
    },
    "nothing smaller": {
        "hidden_size": 1,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 2,
        "intermediate_size": 1,
        "vocab_size": 1,
        "eos_token_id": 0,
    },
    "biases, tied": {
        "model_type": "qwen2",
        "hidden_size": 10,
        "num_attention_heads": 5,
        "num_key_value_heads": 5,
        "head_dim": 10,
        "intermediate_size": 3,
        "tie_word_embeddings": True,
    },
    "wider than the padding, a window": {
        "model_type": "mistral",
        "hidden_size": 33,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 34,
        "intermediate_size": 47,
        "sliding_window": 40,
    },
}
BY = pytest.mark.parametrize("by", ARITHMETICS, ids=lambda by: f"{by.name} {by.dtype}")


def small(by: Arithmetic, shape: str) -> Decoder:
    config = tiny.config(dtype=by.dtype, **ODD[shape])
    return Decoder(config, tiny.weights(config), CpuBackend(arithmetic=by.name))


def told(count: int, decoder: Decoder) -> list[int]:
    return [(5 * place + place * place) % decoder.config.vocab_size for place in range(count)]


@BY
@pytest.mark.parametrize("shape", ODD)
def test_variants_threads_cuts_and_company_give_the_same_bits(by, shape):
    decoder = small(by, shape)
    tokens, held = told(150, decoder), blocks_for(150, decoder.backend.block)
    own, others = range(1, held + 1), range(held + 1, 2 * held + 1)
    kernels().use(0)
    hidden = one_pass(decoder, tokens)
    assert hidden.shape == (150, decoder.config.hidden_size)
    expected = state_bytes(hidden), state_bytes(decoder.logits(hidden))
    for variant in range(kernels().best + 1):
        kernels().use(variant)
        kernels().threads(1 + variant)
        again = one_pass(decoder, tokens)
        assert (state_bytes(again), state_bytes(decoder.logits(again))) == expected
        cache = decoder.cache(2 * held)
        first = decoder.forward([Span(tokens[:33], 0, others), Span(tokens[:70], 0, own)], cache)
        then = decoder.forward([Span(tokens[70:], 70, own), Span(tokens[33:34], 33, others)], cache)
        assert state_bytes(torch.cat([first[33:], then[:80]])) == expected[0]
        assert torch.equal(torch.cat([first[:33], then[80:]]), hidden[:34])


@BY
def test_a_small_model_is_replayed(by):
    decoder = small(by, "head width 8, inner size 172")
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


@BY
@pytest.mark.parametrize("shape", ODD)
def test_another_implementation_of_the_definition_has_the_same_bits(by, shape):
    decoder = small(by, shape)
    count = 140 if shape.startswith("head") else 5  # the longer one ends in another segment
    config, tokens = decoder.config, told(count, decoder)
    model = Model(config, {n: x.float().numpy() for n, x in tiny.weights(config).items()}, by)
    hidden = model.hidden(model.states(tokens))
    logits = torch.from_numpy(model.logits(hidden[-5:]))
    for variant in range(kernels().best + 1):
        kernels().use(variant)
        ours = one_pass(decoder, tokens)
        assert typed(by, ours.float().numpy()) == typed(by, hidden)
        assert state_bytes(decoder.logits(ours[-5:])) == state_bytes(logits)
