"""Replay: re-execution of a finished sequence by one teacher-forced pass."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from shared.commitments.exact import ActivationHasher, Activations
from shared.envelope.boundary import row_hashes
from shared.model.backend import Look, Span, blocks_for
from shared.model.decoder import Decoder
from shared.model.sampler import Sampler
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.logprobs import TokenLogprobs
from shared.statements.request import SamplingSettings

LOGITS_BYTES: Final = 2**26
"""Logits that are held at once; all those of a long answer would be gigabytes."""


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """Block hashes of all states, and the token that the sampler chooses at every output position.

    `logprobs` has one entry for each of them where the settings ask for it, and is empty otherwise.
    """

    activations: Activations
    chosen: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    boundaries: tuple[tuple[bytes, ...], ...] = ()
    """For each cut that was asked for, the row hashes of all states there (protocol §4.10.3)."""


def replay(
    decoder: Decoder,
    prompt: Sequence[int],
    output: Sequence[int],
    settings: SamplingSettings,
    seed: bytes,
    *,
    choice: int = 0,
    delivered: int = 0,
    cuts: Sequence[int] = (),
) -> ReplayResult:
    """Feed prompt and output back in one pass; the last output token's own state is not needed.

    The last `delivered` tokens of `prompt` are sampled after as the output's first ones (protocol §3.3.1). Each of `cuts` is a
    number of layers after which the states are looked at.
    INVALID_ARGUMENT when a token is outside the vocabulary or the sequence is longer than the model's context.
    """
    check_sequence(decoder, prompt, output)
    tokens = [*prompt, *output[:-1]]
    backend = decoder.backend
    blocks = range(1, blocks_for(len(tokens), backend.block) + 1)
    seen: dict[int, tuple[bytes, ...]] = {}

    def show(layers: int, states: Tensor) -> None:
        seen[layers] = tuple(row_hashes(backend.to_host(states), len(tokens)))

    spans, cache = [Span(tokens, 0, blocks)], decoder.cache(len(blocks))
    if cuts:
        hidden = decoder.looked_into(spans, cache, Look(sorted(set(cuts)), show))
    else:
        hidden = decoder.forward(spans, cache)
    boundaries = tuple(seen[layers] for layers in cuts)
    hasher = ActivationHasher(len(prompt), hidden.shape[1] * hidden.element_size())
    hasher.append(backend.to_host(hidden if output else hidden[:-1]))
    if not output:
        return ReplayResult(hasher.finish(), (), boundaries=boundaries)
    own = len(prompt) - delivered
    sampler = Sampler(settings, seed, choice, prompt[:own], prompt[own:])
    sampled = [
        sampler.sample(row, output[:position])
        for position, row in enumerate(_logits(decoder, hidden[len(prompt) - 1 :]))
    ]
    return ReplayResult(
        hasher.finish(),
        tuple(item.token for item in sampled),
        tuple(entry for item in sampled for entry in item.logprobs),
        boundaries,
    )


def _logits(decoder: Decoder, hidden: Tensor) -> Iterator[NDArray[np.float32]]:
    """Yield the logits (V,) of each row of (N, D) states, computing at once as many as fit in `LOGITS_BYTES`."""
    rows = max(1, LOGITS_BYTES // (4 * decoder.config.vocab_size))
    for first in range(0, len(hidden), rows):
        yield from decoder.logits(hidden[first : first + rows]).numpy()


def check_sequence(decoder: Decoder, prompt: Sequence[int], output: Sequence[int]) -> None:
    """Raise INVALID_ARGUMENT when no sequence of the model has these tokens; the last output token is not looked at."""
    config, tokens = decoder.config, [*prompt, *output[:-1]]
    if not tokens or len(tokens) > config.max_positions:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT, f"a sequence has 1 to {config.max_positions} tokens"
        )
    if not all(0 <= token < config.vocab_size for token in tokens):
        raise CounterfoilError(Code.INVALID_ARGUMENT, "a token is outside the vocabulary")
