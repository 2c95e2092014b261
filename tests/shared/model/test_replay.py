"""Replay: one teacher-forced pass has the bits of what was served, and any single change shows.

Serving is written out here, one token at a time, so that nothing of the engine stands between the two. A judge reads a
replay's block hashes and the tokens that the sampler chooses; `agrees` is that reading.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from shared.commitments.exact import ActivationHasher, Activations
from shared.model.backend import Span, blocks_for
from shared.model.config import ModelConfig
from shared.model.cpu import KVCache
from shared.model.decoder import Decoder
from shared.model.replay import ReplayResult, replay
from shared.model.sampler import Sampler
from shared.model.weights import Weights, load_weights
from shared.statements.request import PPM, SamplingSettings
from tests.shared.model import tiny
from tests.shared.text.backends import SHIPPED

DTYPES = ("bfloat16", "float32")
state_bytes = tiny.BACKEND.to_host
SEED = bytes(range(32))
PROMPT = tuple((11 * place + 3) % 256 for place in range(70))
HOW = SamplingSettings(40, temperature_ppm=900_000, top_k=60, top_p_ppm=980_000)
few = settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))


@dataclass(frozen=True)
class Served:
    """What a node handed over."""

    prompt: tuple[int, ...]
    output: tuple[int, ...]
    activations: Activations
    settings: SamplingSettings = HOW
    seed: bytes = SEED


def serve(
    decoder: Decoder,
    prompt: tuple[int, ...] = PROMPT,
    how: SamplingSettings = HOW,
    seed: bytes = SEED,
    *,
    spoil: Callable[[KVCache, int], None] = lambda _cache, _position: None,
    touch: Callable[[Tensor], Tensor] = lambda logits: logits,
) -> Served:
    """Generate `max_tokens` tokens, one position in each pass, whatever they say."""
    blocks = range(1, blocks_for(len(prompt) + how.max_tokens, decoder.backend.block) + 1)
    cache = decoder.cache(len(blocks))
    assert isinstance(cache, KVCache)
    size = decoder.config.hidden_size * (2 if decoder.config.dtype == "bfloat16" else 4)
    hasher, sampler = ActivationHasher(len(prompt), size), Sampler(how, seed)
    tokens, output = list(prompt), list[int]()
    for position in range(len(prompt) + how.max_tokens - 1):
        hidden = decoder.forward([Span([tokens[position]], position, blocks)], cache)
        hasher.append(state_bytes(hidden))
        spoil(cache, position)
        if position >= len(prompt) - 1:
            logits = touch(decoder.logits(hidden)[0])
            output.append(sampler.choose(logits.numpy(), len(output)))
            tokens.append(output[-1])
    return Served(prompt, tuple(output), hasher.finish(), how, seed)


def replayed(decoder: Decoder, served: Served) -> ReplayResult:
    return replay(decoder, served.prompt, served.output, served.settings, served.seed)


def agrees(decoder: Decoder, served: Served) -> bool:
    """Judge as an auditor does: the same states, and every token the one that is chosen."""
    result = replayed(decoder, served)
    return (result.activations, result.chosen) == (served.activations, served.output)


@pytest.fixture(scope="module", params=DTYPES)
def dtype(request) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def honest(dtype) -> Served:
    return serve(tiny.decoder(dtype))


def test_one_pass_replays_what_took_many(dtype, honest):
    decoder = tiny.endless(dtype)
    again = serve(decoder)
    assert again == honest
    assert decoder.forward_passes == len(PROMPT) + HOW.max_tokens - 1
    assert agrees(decoder, honest)
    assert decoder.forward_passes == len(PROMPT) + HOW.max_tokens
    assert len(set(honest.output)) > 10


@few
@given(
    size=st.integers(1, 90),
    how=st.builds(
        SamplingSettings,
        st.integers(1, 20),
        temperature_ppm=st.sampled_from([0, 300_000, PPM, 3 * PPM]),
        top_k=st.sampled_from([0, 1, 7]),
        top_p_ppm=st.sampled_from([PPM, 500_000]),
    ),
    seed=st.binary(min_size=32, max_size=32),
)
def test_any_sequence_replays_to_the_same_bits_in_one_pass(dtype, size, how, seed):
    decoder = tiny.endless(dtype)
    served = serve(decoder, tuple(seed[i % 32] for i in range(size)), how, seed)
    before = decoder.forward_passes
    assert agrees(decoder, served)
    assert decoder.forward_passes == before + 1


def changed(config: ModelConfig, name: str, change: Callable[[Tensor], Tensor]) -> Decoder:
    weights = dict(tiny.weights(config))
    weights[name] = change(weights[name].clone())
    return Decoder(config, weights, tiny.BACKEND)


def flip(tensor: Tensor, place: int, *, lowest: bool = False) -> Tensor:
    """Flip one bit of one element: the fraction's highest, or its lowest.

    The lowest bit of an input may be rounded away in every state; then nothing that was served differs.
    """
    whole, bits = (torch.int16, 7) if tensor.dtype == torch.bfloat16 else (torch.int32, 23)
    tensor.view(-1).view(whole)[place] ^= 1 << (0 if lowest else bits - 1)
    return tensor


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.k_proj.weight",
        "model.layers.0.self_attn.v_proj.weight",
        "model.layers.1.self_attn.o_proj.weight",
        "model.layers.1.post_attention_layernorm.weight",
        "model.layers.1.mlp.gate_proj.weight",
        "model.layers.1.mlp.up_proj.weight",
        "model.layers.1.mlp.down_proj.weight",
        "model.norm.weight",
    ],
)
def test_one_bit_of_one_weight_shows(dtype, honest, name):
    config = tiny.config(dtype=dtype)
    width = config.hidden_size
    # A weight that every position, or a token of the prompt, reads.
    place = PROMPT[0] * width + 5 if "embed" in name else 7
    assert not agrees(changed(config, name, lambda tensor: flip(tensor, place)), honest)


def test_other_output_weights_show_in_the_tokens_alone(dtype, honest):
    """States end before the output head: there only the tokens can show it."""
    config = tiny.config(dtype=dtype)
    other = changed(config, "lm_head.weight", lambda tensor: tensor.roll(1, 0))
    result = replayed(other, honest)
    assert result.activations == honest.activations
    assert result.chosen != honest.output


def rounded(tensor: Tensor) -> Tensor:
    """Round a matrix to 8 bits, a scale for each output row."""
    if tensor.dim() < 2:
        return tensor
    scale = tensor.float().abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    return ((tensor.float() / scale).round() * scale).to(tensor.dtype)


def eight_bits(weights: Weights) -> Weights:
    return {name: rounded(tensor) for name, tensor in weights.items()}


def test_weights_rounded_to_eight_bits_show(dtype, honest):
    config = tiny.config(dtype=dtype)
    cheap = Decoder(config, eight_bits(tiny.weights(config)), tiny.BACKEND)
    assert not agrees(cheap, honest)
    assert not agrees(tiny.decoder(dtype), serve(cheap))


def test_one_matrix_rounded_to_eight_bits_shows(dtype, honest):
    config = tiny.config(dtype=dtype)
    assert not agrees(changed(config, "model.layers.1.mlp.up_proj.weight", rounded), honest)


def test_the_shipped_model_replays_and_its_cheap_copy_does_not():
    config = ModelConfig.from_folder(SHIPPED)
    weights = load_weights(SHIPPED, config)
    true = Decoder(config, weights, tiny.BACKEND)
    cheap = Decoder(config, eight_bits(weights), tiny.BACKEND)
    prompt, how = tuple(range(6, 46)), SamplingSettings(12)
    assert agrees(true, serve(true, prompt, how))
    assert not agrees(true, serve(cheap, prompt, how))


@pytest.mark.parametrize("place", [0, 1, 38, 39])
def test_one_output_token_shows(dtype, honest, place):
    output = list(honest.output)
    output[place] = (output[place] + 1) % 256
    lie = replace(honest, output=tuple(output))
    result = replayed(tiny.decoder(dtype), lie)
    assert result.chosen != lie.output
    # The last token's state is nobody's; every other token is read by a state.
    assert (result.activations == honest.activations) == (place == 39)


@pytest.mark.parametrize("place", [0, 35, 69])
def test_one_prompt_token_shows_in_the_states(dtype, honest, place):
    prompt = list(honest.prompt)
    prompt[place] = (prompt[place] + 1) % 256
    result = replayed(tiny.decoder(dtype), replace(honest, prompt=tuple(prompt)))
    assert result.activations != honest.activations


def test_a_token_left_out_or_added_shows(dtype, honest):
    for output in (honest.output[:-1], (*honest.output, 1), honest.output[1:]):
        assert not agrees(tiny.decoder(dtype), replace(honest, output=output))


@pytest.mark.parametrize(
    "lie",
    [
        {"seed": SEED[:-1] + bytes([SEED[-1] + 1])},
        {"seed": bytes([SEED[0] ^ 0x80]) + SEED[1:]},
        {"settings": replace(HOW, temperature_ppm=0)},
        {"settings": replace(HOW, temperature_ppm=450_000)},
        {"settings": replace(HOW, top_k=2)},
        {"settings": replace(HOW, top_p_ppm=100_000)},
    ],
)
def test_another_seed_or_setting_shows_in_the_tokens_alone(dtype, honest, lie):
    result = replayed(tiny.decoder(dtype), replace(honest, **lie))
    assert result.activations == honest.activations
    assert result.chosen != honest.output


def test_another_choice_shows_in_the_tokens(dtype, honest):
    decoder = tiny.decoder(dtype)
    other = replay(decoder, honest.prompt, honest.output, HOW, SEED, choice=1)
    assert other.activations == honest.activations
    assert other.chosen != honest.output


def stored(cache: KVCache, part: str, layer: int, position: int) -> Tensor:
    """Return a view of half of what the first head keeps of one position (all of it in float32)."""
    unit = 4 // cache.keys[layer].dtype.itemsize
    block, place = 1 + position // 64, position % 64
    if part == "keys":
        return cache.keys[layer][block, 0].view(-1, 64, unit)[:, place, 0]
    return cache.values[layer][block, 0].view(64 // unit, -1, unit)[place // unit, :, place % unit]


@pytest.mark.parametrize("part", ["keys", "values"])
@pytest.mark.parametrize("position", [0, 40, 80])
def test_one_bit_of_one_key_or_value_shows(dtype, part, position):
    def spoil(cache: KVCache, done: int) -> None:
        if done == position:
            line = stored(cache, part, 0, position)
            line.copy_(flip(line.clone(), 3))

    decoder = tiny.decoder(dtype)
    assert not agrees(decoder, serve(decoder, spoil=spoil))


def test_keys_that_were_dropped_show(dtype):
    """A node that slides a window over its cache saves memory and computes something else."""

    def spoil(cache: KVCache, done: int) -> None:
        for layer in range(len(cache.values)):
            stored(cache, "values", layer, 0).zero_()

    decoder = tiny.decoder(dtype)
    assert not agrees(decoder, serve(decoder, spoil=spoil))


def test_one_ulp_of_one_state_shows(dtype, honest):
    """Block hashes are over bits: no difference is too small."""
    config = tiny.config(dtype=dtype)
    hidden = torch.linspace(-2, 2, 33 * config.hidden_size).view(33, -1)
    hidden = hidden.to(torch.bfloat16 if dtype == "bfloat16" else torch.float32)

    def hashes(states: Tensor) -> Activations:
        hasher = ActivationHasher(1, states.shape[1] * states.element_size())
        hasher.append(state_bytes(states))
        return hasher.finish()

    base = hashes(hidden)
    for place in (0, 32 * config.hidden_size - 1, 33 * config.hidden_size - 1):
        other = hashes(flip(hidden.clone(), place, lowest=True))
        differ = [a != b for a, b in zip(base.output_blocks, other.output_blocks, strict=True)]
        assert differ == [place < 32 * config.hidden_size, place >= 32 * config.hidden_size]


@pytest.mark.parametrize(
    "how",
    [
        replace(HOW, temperature_ppm=0, top_k=0, top_p_ppm=PPM),
        replace(HOW, top_k=0, top_p_ppm=PPM),
        replace(HOW, top_k=2, top_p_ppm=PPM),
        replace(HOW, top_k=0, top_p_ppm=600_000),
    ],
)
def test_a_token_may_depend_on_one_ulp_of_one_logit(how):
    """Between a logit too small to win and one that wins are two neighbouring floats: sampling again tells them apart."""
    logits = np.linspace(-1, 1, 40, dtype=np.float32)
    sampler = Sampler(how, SEED)

    def wins(value: np.float32) -> bool:
        raised = logits.copy()
        raised[3] = value
        return bool(sampler.choose(raised, 5) == 3)

    low, high = np.float32(-20), np.float32(20)
    assert not wins(low)
    assert wins(high)
    while np.nextafter(low, high) != high:
        middle = np.float32((low + high) / 2)
        if middle in {low, high}:
            middle = np.nextafter(low, high)
        low, high = (low, middle) if wins(middle) else (middle, high)
    assert np.nextafter(low, high) == high
    assert (wins(low), wins(high)) == (False, True)


def test_logits_touched_on_the_way_to_the_sampler_show(dtype, honest):
    """The node's states are true, its choice is not: a bias on one token, as for a hidden advertisement."""

    def favour(logits: Tensor) -> Tensor:
        logits = logits.clone()
        logits[65] += 4.0
        return logits

    decoder = tiny.decoder(dtype)
    lie = serve(decoder, touch=favour)
    result = replayed(decoder, lie)
    assert result.activations == lie.activations
    assert result.chosen != lie.output
