"""Penalties on tokens that occurred before (protocol §7.3, step 1)."""

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from shared.statements.request import PPM, SamplingSettings


class Penalties:
    """The penalties of one sequence.

    Counts of the output's tokens are kept between calls and continue where the last call ended; a call whose output does
    not begin with what was counted (another order of positions, a sequence begun again) counts from the start.
    """

    def __init__(self, settings: SamplingSettings, prompt_ids: Sequence[int]) -> None:
        self._repetition = (settings.repetition_penalty_ppm or PPM) / PPM
        self._presence = settings.presence_penalty_ppm or 0
        self._frequency = settings.frequency_penalty_ppm or 0
        self._prompt = np.unique(np.fromiter(prompt_ids, dtype=np.int64))
        self._known = frozenset(prompt_ids)
        self._forget()

    @classmethod
    def of(cls, settings: SamplingSettings, prompt_ids: Sequence[int]) -> Self | None:
        """Return the penalties that settings ask for, None where they ask for none."""
        asked = (
            settings.repetition_penalty_ppm,
            settings.presence_penalty_ppm,
            settings.frequency_penalty_ppm,
        )
        return None if all(value is None for value in asked) else cls(settings, prompt_ids)

    def apply(self, logits: NDArray[np.floating], output: Sequence[int]) -> NDArray[np.float64]:
        """Return the logits under the penalties, as float64; `output` is all output tokens so far."""
        self._count(output)
        z = logits.astype(np.float64)
        new = np.fromiter(self._new, dtype=np.int64, count=len(self._new))
        seen = np.concatenate((self._prompt, new))
        before = z[seen]
        z[seen] = np.where(before > 0, before / self._repetition, before * self._repetition)
        tokens = np.fromiter(self._counts, dtype=np.int64, count=len(self._counts))
        counts = np.fromiter(self._counts.values(), dtype=np.int64, count=len(self._counts))
        z[tokens] -= (counts * self._frequency + self._presence) / PPM
        return z

    def _count(self, output: Sequence[int]) -> None:
        known = len(self._counted)
        if list(output[:known]) != self._counted:
            self._forget()
            known = 0
        for token in output[known:]:
            self._counted.append(token)
            if token not in self._counts and token not in self._known:
                self._new.append(token)
            self._counts[token] = self._counts.get(token, 0) + 1

    def _forget(self) -> None:
        self._counted: list[int] = []
        self._counts: dict[int, int] = {}
        self._new: list[int] = []
        """Tokens of the output that are not in the prompt, each once."""
