"""Log-probabilities of output tokens, to the micro-nat (protocol §7.3)."""

import math
from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from shared.model.functions import ln
from shared.model.selecting import defined, largest, ordered, weight_sum, weights
from shared.statements.logprobs import LEAST_LOGPROB, TokenLogprobs

MICRO = 1_000_000


def token_logprobs(logits: NDArray[np.float32], token: int, alternatives: int) -> TokenLogprobs:
    """Return the log-probability of a token and of the most likely ones; `logits` are the model's own, shape (V,)."""
    z = defined(logits)
    if alternatives == 0:
        top = np.arange(0)
    elif alternatives < len(z):
        top = ordered(z, largest(z, alternatives))
    else:
        top = ordered(z, np.arange(len(z)))
    own, *others = _micro_nats(z, [token, *top.tolist()])
    return TokenLogprobs(own, tuple(top.tolist()), tuple(others))


def _micro_nats(z: NDArray[np.float32], tokens: Sequence[int]) -> list[int]:
    """Return the log-probabilities as rounded integers.

    The definition takes the exactly rounded sum S of all exp(z − m). Any sum of n of them errs by less than n·2^-53 of S,
    so the quick one decides unless a value is that close to a half, where rounding could flip: then the exact one does.
    """
    m = float(z.max())
    if m == -math.inf:
        return [LEAST_LOGPROB] * len(tokens)
    gaps = [float(z[token]) - m for token in tokens]
    quick = weight_sum(z)
    values = [_value(gap, quick) for gap in gaps]
    doubt = MICRO * (len(z) + 64) * 2.0**-52
    if any(
        abs(value - math.floor(value) - 0.5) < doubt + abs(value) * 2.0**-50 for value in values
    ):
        exact = math.fsum(chain.from_iterable(part.tolist() for part in weights(z)))
        values = [_value(gap, exact) for gap in gaps]
    return [round(value) for value in values]


def _value(gap: float, total: float) -> float:
    """Return a log-probability in micro-nats, unrounded."""
    return float(max((gap - float(ln(np.array([total]))[0])) * MICRO, LEAST_LOGPROB))
