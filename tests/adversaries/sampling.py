"""Tokens chosen in another way than settings and seed say."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from execution_layer.engine import engine as engine_module
from shared.model.sampler import Sampler
from shared.statements.request import SamplingSettings
from shared.statements.verdicts import Reason
from tests.adversaries.adversary import Adversary, patched

TOKENS = frozenset({Reason.TOKENS})
BEST_OF = 4


def sampling_as(
    settings: Callable[[SamplingSettings], SamplingSettings] = lambda asked: asked,
    seed: Callable[[bytes], bytes] = lambda asked: asked,
    kind: type[Sampler] = Sampler,
) -> AbstractContextManager[None]:
    """Have the engine sample under other settings, from another seed, or by another rule."""

    def make(
        asked: SamplingSettings,
        given: bytes,
        choice: int = 0,
        prompt_ids: Sequence[int] = (),
        prefix: Sequence[int] = (),
    ) -> Sampler:
        return kind(settings(asked), seed(given), choice, prompt_ids, prefix)

    return patched((engine_module, "Sampler", make))


def other_seed(seed: bytes) -> bytes:
    """Return a seed of the node's choice."""
    return sha256(b"other" + seed).digest()


class BestOf(Sampler):
    """Draws several tokens under seeds of its own and keeps the most likely: a node that shops for better answers."""

    def __init__(self, settings: SamplingSettings, seed: bytes, *rest: Any) -> None:
        super().__init__(settings, seed, *rest)
        seeds = [seed, *(sha256(bytes([n]) + seed).digest() for n in range(1, BEST_OF))]
        self._drawing = [Sampler(settings, one, *rest) for one in seeds]

    def choose(self, logits: NDArray[np.float32], position: int, output: Sequence[int] = ()) -> int:
        drawn = [sampler.choose(logits, position, output) for sampler in self._drawing]
        return max(drawn, key=lambda token: float(logits[token]))


def _with(name: str, summary: str, **changes: Any) -> Adversary:
    return Adversary(
        name, summary, lambda: sampling_as(lambda asked: replace(asked, **changes)), TOKENS
    )


ADVERSARIES = (
    _with(
        "other-temperature",
        "samples at temperature 0.5, whatever was asked",
        temperature_ppm=500_000,
    ),
    _with(
        "other-top-p", "keeps half of the probability mass, whatever was asked", top_p_ppm=500_000
    ),
    _with("other-top-k", "keeps the three most likely tokens, whatever was asked", top_k=3),
    _with("greedy", "takes the most likely token instead of sampling", temperature_ppm=0),
    Adversary(
        "other-seed",
        "samples from a seed of its own choice",
        lambda: sampling_as(seed=other_seed),
        TOKENS,
    ),
    Adversary(
        "best-of-n",
        "draws four tokens under seeds of its own and keeps the most likely",
        lambda: sampling_as(kind=BestOf),
        TOKENS,
    ),
)
