"""Activation-DiFR (arXiv 2511.20621): final hidden states, projected at random, compared per token.

The prover sends z = h · P for every token, P a public Gaussian matrix (D, k), k from 2 to 128; here as float16, 2k bytes per
token. The verifier's score is the distance of z and z', here relative to the length of z' and averaged over the tokens.

Known limits: the projection is public, so what lies in its kernel is invisible; sampling is not looked at.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

K: Final = 8
BYTES_PER_TOKEN: Final = 2 * K
SEED: Final = 20251120


def projection(width: int, k: int = K) -> NDArray[np.float32]:
    """Return the public matrix (D, k)."""
    drawn = np.random.default_rng(SEED).standard_normal((width, k))
    matrix: NDArray[np.float32] = (drawn / np.sqrt(k)).astype(np.float32)
    return matrix


def sketch(states: NDArray[np.float32]) -> NDArray[np.float16]:
    """Return what the prover sends of states (N, D): (N, k)."""
    return (states @ projection(states.shape[1])).astype(np.float16)


def score(sent: NDArray[np.float16], states: NDArray[np.float32]) -> float:
    """Return the mean relative distance between a sketch and the verifier's own of (N, D); infinite for another number."""
    own = (states @ projection(states.shape[1])).astype(np.float32)
    if sent.shape != own.shape or not np.isfinite(sent).all():
        return float("inf")
    distance = np.linalg.norm(sent.astype(np.float32) - own, axis=1)
    return float((distance / np.linalg.norm(own, axis=1)).mean())
