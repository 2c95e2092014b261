"""A small model with everything that passes may have, and passes of it: chunks, single rows, and both in one pass."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from shared.model.backend import Backend, Span, blocks_for
from shared.model.config import ModelConfig
from shared.model.decoder import Decoder
from shared.model.weights import Weights, expected_shapes
from tests.vectors.arithmetic import PASS, draw

CONFIG = replace(
    PASS,
    vocab_size=37,
    hidden_size=24,
    heads=3,
    kv_heads=1,
    tie_word_embeddings=True,
    max_positions=400,
    dtype="bfloat16",
    layer_windows=(0, 100),
)
"""Every width is padded, and the second layer's window begins within a segment."""
Passes = Sequence[Sequence[tuple[int, int]]]
"""For each pass its sequences, and how many tokens of each."""
ALL: Passes = (
    ((0, 200), (1, 70)),
    ((1, 1), (0, 57), (2, 3)),
    ((0, 1), (1, 1), (2, 1)),
    ((2, 1), (0, 12), (1, 60)),
    ((1, 1), (2, 1)),
)
FEW: Passes = (((0, 140), (1, 2)), ((1, 1), (0, 1)))
SHORT: Passes = (((0, 40), (1, 2)), ((1, 1), (0, 1)))


def weights(config: ModelConfig = CONFIG) -> Weights:
    """Return tensors that spread scores and gates widely."""
    made = {}
    for name, shape in expected_shapes(config).items():
        values = draw(name, *shape, low=124, high=127)
        if len(shape) > 1:
            values = values * np.float32(2.0 / shape[1] ** 0.5)
        made[name] = torch.from_numpy(values).bfloat16()
    return made


def run(
    backend: Backend, passes: Passes, made: Weights | None = None, config: ModelConfig = CONFIG
) -> list[Tensor]:
    """Return the hidden states and logits of every pass."""
    decoder = Decoder(config, made or weights(config), backend)
    count = 1 + max(one for each in passes for one, _ in each)
    held = blocks_for(config.max_positions, backend.block)
    cache, done, found = decoder.cache(count * held), [0] * count, []
    for each in passes:
        spans = []
        for one, rows in each:
            places = range(done[one], done[one] + rows)
            tokens = [(7 * place + place * place + 3 * one) % config.vocab_size for place in places]
            spans.append(Span(tokens, done[one], range(count * held - one, 0, -count)))
            done[one] += rows
        hidden = decoder.forward(spans, cache)
        found += [hidden.float().cpu(), decoder.logits(hidden)]
    return found


def differences(one: list[Tensor], other: list[Tensor]) -> int:
    """Return how many values differ in a bit."""
    pairs = zip(one, other, strict=True)
    return sum(int((a.view(torch.int32) != b.view(torch.int32)).sum()) for a, b in pairs)
