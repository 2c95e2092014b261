"""Token-DiFR (arXiv 2511.20621): the tokens themselves, against a reference that draws the same noise.

Per token, E ~ Exp(1) for every entry of the vocabulary comes from the request's own generator; the token that the reference
predicts is argmax(p / E), that is argmax(y - ln E) with the scaled logits y. The score of a claimed token is how far its
perturbed logit lies below the best, clipped, and averaged over the tokens. The provider sends nothing for it.

Known limit: it needs the generator. With another one, or an unknown one, an honest provider looks dishonest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

CLIP: Final = 10.0


@dataclass(frozen=True, slots=True)
class Margins:
    """What the reference says about the claimed tokens."""

    margins: tuple[float, ...]

    @property
    def score(self) -> float:
        """The mean clipped margin; 0 without tokens."""
        return sum(self.margins) / len(self.margins) if self.margins else 0.0

    @property
    def matches(self) -> float:
        """The share of tokens that are the reference's own prediction."""
        return sum(margin == 0 for margin in self.margins) / max(1, len(self.margins))


def margins(
    logits: NDArray[np.float32],
    claimed: Sequence[int],
    energies: Sequence[NDArray[np.float64]] | None,
    temperature: float,
) -> Margins:
    """Return the margins of claimed tokens under the reference's logits (N, V) and noise E (N of V), None where it is greedy.

    A token outside the vocabulary has the largest margin.
    """
    found = []
    for place, (row, token) in enumerate(zip(logits.astype(np.float64), claimed, strict=True)):
        perturbed = row if energies is None else row / temperature - np.log(energies[place])
        if not 0 <= token < len(row):
            found.append(CLIP)
            continue
        found.append(float(min(CLIP, perturbed.max() - perturbed[token])))
    return Margins(tuple(found))
