"""The sampler: a token is a pure function of (logits, settings, seed, choice, position, tokens so far).

The definition is protocol §7.3, and `tests/shared/model/naive_sampler.py` follows it word by word. This module
gives the same tokens without sorting the vocabulary and without noise for tokens that cannot win; where a shortcut
might not be exact, the comment next to it says why it is.

`position` counts output tokens from 0; `choice` distinguishes several answers to one request.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.model.functions import exp, ln
from shared.model.logprobs import token_logprobs
from shared.model.noise import Noise
from shared.model.penalties import Penalties
from shared.model.selecting import Floats, Indexes, defined, largest, nucleus
from shared.statements.logprobs import TokenLogprobs
from shared.statements.request import PPM, SamplingSettings

FEW: Final = 256
"""Up to this many words of noise are faster to make one by one."""
SMALL: Final = 2**13
"""Up to this many scores are faster to compute than to prune."""
OFFSET: Final = float(np.log(2)) * 159


@dataclass(frozen=True, slots=True)
class Sampled:
    """A chosen token, with one entry of log-probabilities where the settings ask for them."""

    token: int
    logprobs: tuple[TokenLogprobs, ...] = ()


class Sampler:
    """Chooses the tokens of one sequence. What it keeps only saves time: every call is a function of its arguments."""

    def __init__(
        self,
        settings: SamplingSettings,
        seed: bytes,
        choice: int = 0,
        prompt_ids: Sequence[int] = (),
        prefix: Sequence[int] = (),
    ) -> None:
        self._settings = settings
        self._prefix = list(prefix)
        self._noise = Noise(seed, choice)
        self._penalties = Penalties.of(settings, prompt_ids)

    def sample(self, logits: NDArray[np.float32], output: Sequence[int]) -> Sampled:
        """Return the token that follows `output` (all tokens so far that follow the prefix); `logits` has shape (V,)."""
        output = [*self._prefix, *output] if self._prefix else output
        token = self.choose(logits, len(output), output)
        if self._settings.logprobs is None:
            return Sampled(token)
        return Sampled(token, (token_logprobs(logits, token, self._settings.logprobs),))

    def choose(self, logits: NDArray[np.float32], position: int, output: Sequence[int] = ()) -> int:
        """Return the token for output position `position`; `output` matters where there are penalties."""
        values: Floats = defined(logits)
        if self._penalties is not None:
            assert len(output) == position, "penalties need every output token so far"
            values = self._penalties.apply(values, output)
        best = int(np.argmax(values))
        temperature = self._settings.temperature_ppm
        if temperature == 0 or values[best] == -np.inf:
            return best
        scale = PPM / temperature
        if values.dtype == np.float64:
            # Two penalised logits may become equal when they are scaled; two float32 never do (they differ by
            # one part in 2^24, of which a float64 product loses none), so those are compared unscaled.
            values, scale = values * scale, 1.0
        kept = self._kept(values, values[best], scale)
        return self._most(values, float(values[best]), scale, kept, position)

    def noise(self, position: int, count: int) -> NDArray[np.float64]:
        """Return E_0 … E_{count-1} for one output position."""
        return self._noise.exponential(self._noise.words(position, count))

    def _kept(self, values: Floats, top: np.floating, scale: float) -> Indexes | None:
        """Return the ascending indexes that the filters keep, or None for all."""
        settings, kept = self._settings, None
        if 0 < settings.top_k < len(values):
            kept = largest(values, settings.top_k)
        if settings.top_p_ppm < PPM:
            kept = nucleus(values, kept, scale, settings.top_p_ppm / PPM)
        if settings.min_p_ppm is not None:
            least = settings.min_p_ppm / PPM
            if kept is None:
                # A little below the bar, so that the exact comparison that follows decides.
                kept = np.flatnonzero(values >= top + np.log(least) / scale - 1e-3 * (abs(top) + 1))
            weights = exp(values[kept].astype(np.float64) * scale - float(top) * scale)
            kept = kept[weights >= least]
        return kept

    def _most(
        self, values: Floats, top: float, scale: float, kept: Indexes | None, position: int
    ) -> int:
        """Return the kept index with the largest y − ln E, the lowest among equals."""
        if (len(values) if kept is None else len(kept)) > SMALL:
            only = values
            if kept is not None:
                only = np.full_like(values, -np.inf)
                only[kept] = values[kept]
            kept = self._able(only, top, scale, position)
        elif kept is None:
            kept = np.arange(len(values))
        if len(kept) <= FEW:
            words = self._noise.words_at(position, kept)
        else:
            words = self._noise.words(position, len(values))[kept]
        return int(kept[np.argmax(self._scores(values[kept], words, scale))])

    def _scores(self, values: Floats, words: NDArray[np.uint32], scale: float) -> Floats:
        scores: Floats = values.astype(np.float64) * scale - ln(self._noise.exponential(words))
        return scores

    def _able(self, values: Floats, top: float, scale: float, position: int) -> Indexes:
        """Return ascending indexes that may have the largest score: a few, found with additions and comparisons.

        For u in (0, 1): E = −ln u ≥ 1 − u, so a score y − ln E is at most y − ln(1 − u). With v = 2^32 (1 − u), which
        is 2^32 − ½ − x, and v = m·2^e, 1 ≤ m < 2: log2 v ≥ e + m − 1, because the logarithm is concave and meets
        that line at m = 1 and m = 2; and e + m − 1 is what the bits of a float32, read as an integer, give:
        bits / 2^23 − 127. So, relative to the largest y, (z − max z)·s + ln 2 · (32 + 127 − bits / 2^23) is never
        below the score. The largest score computed so far is a bar: an index whose bound is below it cannot win.

        Rounding. Only what scores above the bar matters, so y ≥ max y − 27 (−ln E is within −3.2 … 22.9). There the
        float32 bound errs by less than 10^-4: each of its operations by 2^-24 of at most 160. A score errs in
        float64 by less than 2^-50 (|max y| + 64). The margin is above both together. Logits so large that noise
        drowns in them make the margin large and everything survives, as it must: then the lowest of equals wins.
        """
        margin = 1e-3 + 2.0**-48 * (abs(top * scale) + 64) + OFFSET
        best = bar = -np.inf
        able: list[Indexes] = []
        for first, words in self._noise.blocks(position, len(values)):
            part = values[first : first + len(words)]
            with np.errstate(over="ignore"):  # this far below the largest, −∞ is as good a bound
                gaps = (part - part.dtype.type(top)).astype(np.float32) * np.float32(scale)
            bits = ((~words).astype(np.float32) + np.float32(0.5)).view(np.int32)
            bounds = gaps - bits.astype(np.float32) * np.float32(np.log(2) / 2**23)
            likely = np.argmax(bounds)
            if bounds[likely] > best:
                best = bounds[likely]
                score = self._scores(part[likely, None], words[likely, None], scale)
                bar = max(bar, float(score[0]) - top * scale)
            able.append(np.flatnonzero(bounds >= bar - margin) + first)
        return np.concatenate(able)
