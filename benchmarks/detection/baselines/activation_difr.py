"""Activation-DiFR (Karvonen et al., arXiv 2511.20621): final hidden states, each projected to a few numbers.

Per token the prover sends z = h · P, with P in R^(D × k) a public random matrix with orthonormal columns and k from 2 to 128.
The verifier projects its own states; a token's score is |z − z'|₂ (in units of the states), an answer's the mean over its tokens.

Here k is 4 and z travels as float16: 8 bytes a token, as many as TOPLOC's 258 bytes for 32.

As published: sampling is not looked at, and since P is public, a change of h in its kernel is invisible.
"""

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.baselines.bits import Values

K: Final = 4
BYTES: Final = 2
"""Of each number of a fingerprint."""
SEED: Final = 2511


@cache
def projection(width: int, k: int = K) -> Values:
    """Return the public matrix (width, k)."""
    drawn = np.random.default_rng(SEED).standard_normal((width, k))
    found: Values = np.linalg.qr(drawn).Q.astype(np.float32)
    return found


def fingerprint(states: Values, k: int = K) -> NDArray[np.float16]:
    """Return what the prover sends of states (tokens, width): (tokens, k)."""
    found: NDArray[np.float16] = (states @ projection(states.shape[1], k)).astype(np.float16)
    return found


def scores(sent: NDArray[np.float16], states: Values) -> NDArray[np.float64]:
    """Return each token's distance; `states` are the verifier's own, as many as were sent."""
    own = states @ projection(states.shape[1], sent.shape[1])
    found: NDArray[np.float64] = np.linalg.norm(sent.astype(np.float64) - own, axis=1)
    return found
