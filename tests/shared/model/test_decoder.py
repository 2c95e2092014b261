"""The decoder against an independent float32 reference, and its rows against each other."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from shared.model.backend import Rows, Span, blocks_for
from shared.model.config import ModelConfig
from shared.model.cpu import KVCache
from shared.model.decoder import Decoder, Stage
from shared.model.replay import replay
from shared.model.weights import Weights
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.request import SamplingSettings
from tests.shared.model import tiny

DTYPES = ("bfloat16", "float32")
state_bytes = tiny.BACKEND.to_host
TOKENS = [(7 * place + place * place) % 256 for place in range(90)]


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def rotate(x: Tensor, theta: float) -> Tensor:
    """Rotate pairs (i, i + E/2) of (T, H, E) by the position times theta^(-2i/E), written out."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[0])[:, None] * theta ** (-torch.arange(half) / half)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def reference(config: ModelConfig, weights: Weights, tokens: list[int]) -> tuple[Tensor, Tensor]:
    """Return (hidden states, logits) as the Llama paper's pieces say, head by head, all at once."""
    w = {name: tensor.float() for name, tensor in weights.items()}
    x = w["model.embed_tokens.weight"][torch.tensor(tokens)]
    length = len(tokens)
    for layer in range(config.layers):
        p = f"model.layers.{layer}."
        h = norm(x, w[p + "input_layernorm.weight"], config.rms_norm_eps)
        q = (h @ w[p + "self_attn.q_proj.weight"].T).view(length, config.heads, -1)
        k = (h @ w[p + "self_attn.k_proj.weight"].T).view(length, config.kv_heads, -1)
        v = (h @ w[p + "self_attn.v_proj.weight"].T).view(length, config.kv_heads, -1)
        q, k = rotate(q, config.rope.theta), rotate(k, config.rope.theta)
        heads = []
        for head in range(config.heads):
            shared = head // (config.heads // config.kv_heads)
            scores = q[:, head] @ k[:, shared].T / math.sqrt(config.head_dim)
            scores += torch.full((length, length), float("-inf")).triu(1)
            heads.append(scores.softmax(-1) @ v[:, shared])
        x = x + torch.cat(heads, dim=-1) @ w[p + "self_attn.o_proj.weight"].T
        h = norm(x, w[p + "post_attention_layernorm.weight"], config.rms_norm_eps)
        gate = functional.silu(h @ w[p + "mlp.gate_proj.weight"].T)
        x = x + (gate * (h @ w[p + "mlp.up_proj.weight"].T)) @ w[p + "mlp.down_proj.weight"].T
    hidden = norm(x, w["model.norm.weight"], config.rms_norm_eps)
    tied = config.tie_word_embeddings
    output = w["model.embed_tokens.weight" if tied else "lm_head.weight"]
    return hidden, hidden @ output.T


def one_pass(decoder: Decoder, tokens: list[int]) -> Tensor:
    blocks = range(1, blocks_for(len(tokens), decoder.backend.block) + 1)
    return decoder.forward([Span(tokens, 0, blocks)], decoder.cache(len(blocks)))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"num_key_value_heads": 1},
        {"num_key_value_heads": 4, "rope_theta": 500.0},
        {"head_dim": 64, "num_hidden_layers": 3, "rms_norm_eps": 1e-3},
    ],
)
def test_states_and_logits_are_the_references_within_1e_4(changes):
    config = tiny.config(**changes)
    weights = tiny.weights(config)
    decoder = Decoder(config, weights, tiny.BACKEND)
    hidden = one_pass(decoder, TOKENS)
    expected, logits = reference(config, weights, TOKENS)
    assert (hidden - expected).abs().max() < 1e-4
    assert (decoder.logits(hidden) - logits).abs().max() < 1e-4


def test_bfloat16_stays_near_the_reference():
    config = tiny.config(dtype="bfloat16")
    weights = tiny.weights(config)
    expected, _ = reference(config, weights, TOKENS)
    hidden = one_pass(Decoder(config, weights, tiny.BACKEND), TOKENS).float()
    assert (hidden - expected).abs().mean() < 0.02 * expected.abs().mean()


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=15, deadline=None)
@given(cuts=st.sets(st.integers(1, len(TOKENS) - 1), max_size=6), shift=st.integers(0, 5))
def test_any_cut_into_passes_and_any_blocks_give_the_same_bits(dtype, cuts, shift):
    decoder = tiny.decoder(dtype)
    whole = state_bytes(one_pass(decoder, TOKENS))
    cache = decoder.cache(8)
    blocks = (3 + shift % 3, 1 + shift // 3)
    parts = []
    edges = [0, *sorted(cuts), len(TOKENS)]
    for first, last in pairwise(edges):
        parts.append(state_bytes(decoder.forward([Span(TOKENS[first:last], first, blocks)], cache)))
    assert b"".join(parts) == whole


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_an_earlier_owner_left_in_a_block_changes_nothing(dtype):
    decoder = tiny.decoder(dtype)
    cache = decoder.cache(2)
    assert isinstance(cache, KVCache)
    for tensor in (*cache.keys, *cache.values):
        tensor.fill_(-3e38)
    assert torch.equal(decoder.forward([Span(TOKENS, 0, (1, 2))], cache), one_pass(decoder, TOKENS))


def test_a_neighbours_overflow_stays_its_own():
    config = tiny.config()
    weights = dict(tiny.weights(config))
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"].clone()
    weights["model.embed_tokens.weight"][200] = float("nan")
    decoder = Decoder(config, weights, tiny.BACKEND)
    clean = one_pass(decoder, TOKENS[:5])
    spoilt = Span([*TOKENS[:5], 200], 0, (1,))
    assert torch.equal(decoder.forward([spoilt], decoder.cache(1))[:5], clean)
    cache = decoder.cache(2)
    decoder.forward([Span([200] * 30, 0, (2,))], cache)
    again = decoder.forward([Span(TOKENS[:5], 0, (2,))], cache)
    assert torch.equal(again, clean)


@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_of_a_row_do_not_depend_on_the_others(dtype):
    decoder = tiny.decoder(dtype)
    hidden = one_pass(decoder, TOKENS)
    together = decoder.logits(hidden)
    for place in (0, 17, 89):
        assert torch.equal(decoder.logits(hidden[place : place + 1])[0], together[place])
    assert torch.equal(decoder.logits(hidden.flip(0)).flip(0), together)


def test_a_stage_of_some_layers_continues_where_another_ended():
    config = tiny.config()
    weights = tiny.weights(config)

    def run(states: Tensor, first: int, last: int) -> Tensor:
        stage = Stage(config, weights, tiny.BACKEND, first, last)
        return stage(states.clone(), [Rows(16, 0, (1,))], stage.cache(1))

    states = weights["model.embed_tokens.weight"][torch.tensor(TOKENS[:16])]
    assert torch.equal(run(states, 0, 2), run(run(states, 0, 1), 1, 2))


@pytest.mark.parametrize(
    "span",
    [
        Span([], 0, (1,)),
        Span([1], -1, (1,)),
        Span([1], 256, (1, 1, 1, 1, 1)),
        Span([1] * 65, 0, (1,)),
        Span([1], 0, (0,)),
        Span([1], 0, (3,)),
        Span([1], 64, (1, -1)),
        Span([tiny.VOCABULARY], 0, (1,)),
        Span([-1], 0, (1,)),
    ],
)
def test_nothing_outside_cache_positions_or_vocabulary_is_read(span):
    decoder = tiny.decoder("float32")
    with pytest.raises(ValueError, match="outside"):
        decoder.forward([span], decoder.cache(2))


@pytest.mark.parametrize("tied", [False, True])
def test_an_empty_pass_is_refused_like_one_outside(tied):
    decoder = tiny.decoder("float32", tied=tied)
    for spans in ([], [Span([], 0, (1,))]):
        with pytest.raises(ValueError, match="positions"):
            decoder.forward(spans, decoder.cache(2))


def test_blocks_for_counts_whole_blocks():
    assert [blocks_for(n, 64) for n in (0, 1, 64, 65)] == [0, 1, 1, 2]


def test_replay_refuses_what_the_model_cannot_have_seen():
    decoder = tiny.decoder("float32")
    for prompt, output in (
        ([], []),
        ([tiny.VOCABULARY], [1]),
        ([-1], [1]),
        ([1], [tiny.VOCABULARY, 1]),
        ([1] * 250, [1] * 8),
    ):
        with pytest.raises(CounterfoilError) as caught:
            replay(decoder, prompt, output, SamplingSettings(8), bytes(32))
        assert caught.value.code is Code.INVALID_ARGUMENT
    assert replay(decoder, [1] * 256, [1], SamplingSettings(8), bytes(32)).activations


def test_replay_of_no_output_hashes_the_prompt_but_its_last_position():
    result = replay(tiny.decoder("float32"), [1] * 40, [], SamplingSettings(8), bytes(32))
    assert result.chosen == ()
    assert len(result.activations.prompt_blocks) == 2
    assert result.activations.output_blocks == ()


def test_a_folder_is_served_as_it_is(tmp_path):
    decoder = tiny.load(tiny.write_folder(tmp_path, dtype="bfloat16"))
    assert torch.equal(one_pass(decoder, TOKENS), one_pass(tiny.decoder("bfloat16"), TOKENS))
