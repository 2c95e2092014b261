"""The probe: fixed passes of small models, whose hash shows whether a process computes what its numeric profile names.

Weights are made from SHAKE-256, so they depend on no random generator, file or served model. Between them the models have every
switch of a configuration, and the samplers every setting, that changes a bit: tests/shared/model/test_probe.py lists them, and
shows that each is noticed. Two sequences share passes and continue in pieces, beyond any backend's KV block; one continues where
a first table of angles ends.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256, shake_256

import numpy as np
import torch
from numpy.typing import NDArray

from shared.model import functions
from shared.model.backend import Backend, Span, blocks_for
from shared.model.config import ModelConfig
from shared.model.decoder import Decoder
from shared.model.fused import FUSED
from shared.model.rope import Rope
from shared.model.sampler import Sampler
from shared.model.weights import EMBEDDING, HEAD, NORM, Weights, dtype_of, expected_shapes
from shared.statements.request import SamplingSettings

Floats = NDArray[np.float32]
Passes = Sequence[Sequence[tuple[int, int]]]
"""For each pass its sequences, and how many tokens of each."""

TWO: Passes = (((0, 37), (1, 33)), ((1, 1), (0, 1)), ((1, 5), (0, 102)), ((0, 1), (1, 1)))
FAR: Passes = (((0, 4090),), ((0, 17),))
POINTS = 10_000
"""Points at which functions are evaluated, and logits of a vocabulary so large that samplers take other paths."""
ANGLES = 4096


@dataclass(frozen=True, slots=True)
class Case:
    """One model, and what it runs."""

    config: ModelConfig
    passes: Passes
    gain: float = 1.0
    """A power of two that scales matrices: scores and gates spread so wide that exponentials of all sizes occur."""
    strained: bool = False
    """Whether values and gates go beyond what the fused arithmetics keep of them."""


PLAIN = ModelConfig(
    vocab_size=256,
    hidden_size=128,
    layers=2,
    heads=6,
    kv_heads=2,
    head_dim=32,
    intermediate_size=320,
    rms_norm_eps=1e-5,
    tie_word_embeddings=False,
    max_positions=256,
    dtype="float32",
    eos_token_ids=(),
)
BIASED = replace(
    PLAIN,
    vocab_size=149,
    hidden_size=50,
    heads=5,
    kv_heads=1,
    head_dim=10,
    intermediate_size=37,
    tie_word_embeddings=True,
    rope=Rope(1_000.0, "linear", factor=2.5),
    qkv_bias=True,
    layer_windows=(0, 7),
)
NORMED = replace(
    PLAIN,
    vocab_size=101,
    hidden_size=40,
    layers=3,
    heads=4,
    kv_heads=4,
    head_dim=24,
    intermediate_size=56,
    rms_norm_eps=1e-3,
    rope=Rope(500.0, "llama3", 4.0, 1.0, 4.0, 64),
    qk_norm=True,
    layer_windows=(70, 0, 9),
)
DISTANT = replace(
    PLAIN,
    vocab_size=32,
    hidden_size=16,
    layers=1,
    heads=1,
    kv_heads=1,
    head_dim=16,
    intermediate_size=16,
    tie_word_embeddings=True,
    max_positions=8192,
    layer_windows=(5,),
)
STRAINED = replace(PLAIN, layers=1, layer_windows=(0,), heads=4, rms_norm_eps=1e-12)
CASES = (Case(PLAIN, TWO), Case(BIASED, TWO, gain=4.0), Case(NORMED, TWO), Case(DISTANT, FAR))
"""Samplers choose from the logits of the first one. Each has the dtype asked for."""
FUSED_CASES = (*CASES, Case(STRAINED, TWO, strained=True))

SEED = bytes(range(32))
PROMPT = range(0, 256, 3)
SAMPLED = 16
"""Positions at which each sampler chooses."""
SHARPER = np.float32(8.0)
"""Makes logits differ so much that filters and penalties decide."""
SAMPLERS = (
    SamplingSettings(1),
    SamplingSettings(1, temperature_ppm=600_000, logprobs=0),
    SamplingSettings(1, temperature_ppm=1_500_000, top_k=3),
    SamplingSettings(1, top_p_ppm=700_000),
    SamplingSettings(1, min_p_ppm=700_000),
    SamplingSettings(1, temperature_ppm=0, repetition_penalty_ppm=1_500_000, logprobs=3),
    SamplingSettings(1, presence_penalty_ppm=1_900_000),
    SamplingSettings(1, frequency_penalty_ppm=-900_000),
)


def probe(dtype: str, backend: Backend) -> str:
    """Run everything for a checkpoint's dtype and return the hash, in hex. UNSUPPORTED where the backend lacks that dtype."""
    found = sha256()
    rows: list[Floats] = []
    for case in FUSED_CASES if backend.arithmetic in FUSED else CASES:
        for states, logits in _run(replace(case.config, dtype=dtype), case, backend):
            found.update(states)
            found.update(logits.tobytes())
            if case is CASES[0]:
                rows.extend(logits * SHARPER)
    for part in (*_sampled(rows[:SAMPLED]), *_functions()):
        found.update(part)
    return found.hexdigest()


def _run(config: ModelConfig, case: Case, backend: Backend) -> Iterator[tuple[bytes, Floats]]:
    """Yield for each pass the hidden states with a biased product of them, and the logits."""
    weights = _weights(config, case.gain)
    if case.strained:
        _strain(config, weights)
    decoder = Decoder(config, weights, backend)
    keys = weights["model.layers.0.self_attn.k_proj.weight"].to(decoder.dtype)
    product = backend.pack(keys, _made("bias", (config.kv_width,)))
    counts: Counter[int] = Counter()
    for each in case.passes:
        counts.update(dict(each))
    held = blocks_for(max(counts.values()), backend.block)
    cache, done = decoder.cache(2 * held), [0, 0]
    for each in case.passes:
        spans = []
        for one, count in each:
            places = range(done[one], done[one] + count)
            tokens = [(7 * place + place * place + 3 * one) % config.vocab_size for place in places]
            spans.append(Span(tokens, done[one], range(1 + one, 1 + 2 * held, 2)))
            done[one] += count
        hidden = decoder.forward(spans, cache)
        states = backend.to_host(hidden) + backend.to_host(backend.linear(hidden, product))
        yield states, decoder.logits(hidden).numpy()


def _weights(config: ModelConfig, gain: float) -> Weights:
    """Return a model's tensors, one row of an output head so small that all of its products are denormal."""
    made = {name: _made(name, shape, gain) for name, shape in expected_shapes(config).items()}
    if HEAD in made:
        made[HEAD][1] *= 2.0**-120
    return {name: values.to(dtype_of(config)) for name, values in made.items()}


def _strain(config: ModelConfig, weights: Weights) -> None:
    """Make some values smaller or larger than what is kept, and gates larger, and let the next matrix make up for it.

    States are small, so that the smallest of these are seen in them; hidden states too, so that there are products below the
    exponent that a sum of zero might have.
    """
    prefix, width = "model.layers.0.", config.head_dim
    values = weights[f"{prefix}self_attn.v_proj.weight"].unflatten(0, (-1, width))
    after = weights[f"{prefix}self_attn.o_proj.weight"].unflatten(1, (-1, width))
    for first, size, back in ((0, 2.0**-52, 2.0**32), (1, 2.0**29, 2.0**-49)):
        values[:, first::3] *= size
        after[:, :, first::3] *= back
    for name in ("gate", "up"):
        weights[f"{prefix}mlp.{name}_proj.weight"][::4] *= 2.0**29
    weights[f"{prefix}mlp.down_proj.weight"][:, ::4] *= 2.0**-68
    weights[EMBEDDING] *= 2.0**-24
    weights[NORM] *= 2.0**-60
    weights[HEAD][2] *= 2.0**-85


def _made(name: str, shape: tuple[int, ...], gain: float = 1.0) -> torch.Tensor:
    """Return a matrix uniform in ±gain / sqrt(inputs), or a vector in 1 ± ⅛."""
    raw = np.frombuffer(shake_256(name.encode()).digest(2 * math.prod(shape)), dtype="<u2")
    values = raw.astype(np.float32) / np.float32(32768.0) - np.float32(1.0)
    if len(shape) == 1:
        values = np.float32(1.0) + values / np.float32(8.0)
    else:
        values = values * np.float32(gain) / np.float32(shape[1] ** 0.5)
    return torch.from_numpy(values.reshape(shape))


def _sampled(few: Sequence[Floats]) -> Iterator[bytes]:
    """Yield what every sampler chooses and reports, for rows of few logits and for some of many."""
    ln, _ = _curves()
    many = [ln.astype(np.float32), ln[::-1].astype(np.float32)]
    for choice, settings in enumerate(SAMPLERS):
        for part in (few, many):
            sampler = Sampler(settings, SEED, choice, PROMPT)
            output: list[int] = []
            for row in part:
                sampled = sampler.sample(row, output)
                output.append(sampled.token)
                numbers = [sampled.token]
                for entry in sampled.logprobs:
                    numbers += [entry.logprob, *entry.top_tokens, *entry.top_logprobs]
                yield np.array(numbers, dtype="<i8").tobytes()


def _functions() -> Iterator[bytes]:
    """Yield what functions and tables give at points spread over their range."""
    yield from (values.tobytes() for values in _curves())
    frequencies = _points()[:8] * 40.0
    yield from (table.tobytes() for table in functions.angles(frequencies, ANGLES))


def _points() -> NDArray[np.float64]:
    spread = np.arange(1, POINTS + 1, dtype=np.uint64) * np.uint64(2654435761) % 2**32
    return spread.astype(np.float64) / 2.0**32


def _curves() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return functions.ln(_points()), functions.exp(-40.0 * _points())
