"""Token-DiFR (Karvonen et al., arXiv 2511.20621): the tokens, against a reference that draws the same noise.

Per token, E ~ Exp(1) for every entry of the vocabulary comes from the request's generator, and the reference predicts
argmax(p / E), which is argmax(y − ln E) for scaled logits y = z / temperature, over what the filters keep. A claimed token's
margin is how far its y − ln E lies below the best (in nats), at most `CLIP`; an answer's score is the mean over its tokens. The
provider sends nothing for it. Here the generator is this project's own (docs/protocol.md §7.3), so that seeds are synchronised.

As published: it needs that generator. An honest node that draws from another one, or whose seed is unknown, looks dishonest.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

CLIP: Final = 10.0
"""A token that the filters leave out has this margin too, and so has one outside the vocabulary."""
Floats = NDArray[np.float64]


def kept(y: Floats, top_k: int, top_p: float, min_p: float) -> NDArray[np.bool_]:
    """Return which entries the filters leave: `top_k` 0, `top_p` 1 and `min_p` 0 leave all."""
    if not top_k and top_p == 1 and not min_p:
        return np.ones(len(y), dtype=np.bool_)
    order = np.argsort(-y, kind="stable")
    if top_k:
        order = order[:top_k]
    weights = np.exp(y[order] - y[order[0]])
    if top_p < 1:
        running = np.cumsum(weights)
        count = int(np.searchsorted(running, running[-1] * top_p)) + 1
        order, weights = order[:count], weights[:count]
    found = np.zeros(len(y), dtype=np.bool_)
    found[order[weights >= min_p]] = True
    return found


def margins(scores: Sequence[Floats], claimed: Sequence[int]) -> Floats:
    """Return each claimed token's margin under perturbed logits (V,), −∞ where a filter leaves an entry out."""
    found = [
        min(CLIP, float(row.max() - row[token])) if 0 <= token < len(row) else CLIP
        for row, token in zip(scores, claimed, strict=True)
    ]
    return np.array(found)


def perturbed(
    logits: NDArray[np.float32],
    noise: Floats | None,
    temperature: float,
    *,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Floats:
    """Return y − ln E (V,); the logits themselves where nothing is drawn (`noise` None, temperature 0)."""
    z: Floats = logits.astype(np.float64)
    if noise is None:
        return z
    y = z / temperature
    found: Floats = np.where(kept(y, top_k, top_p, min_p), y - np.log(noise), -np.inf)
    return found
