"""Log-probabilities against their definition, to the micro-nat."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.model import logprobs as module
from shared.model.logprobs import token_logprobs
from shared.model.sampler import Sampler
from shared.statements.request import SamplingSettings
from tests.shared.model.naive_sampler import logprobs


def told(z, token, alternatives):
    found = token_logprobs(np.array(z, dtype=np.float32), token, alternatives)
    assert found.fits(token, alternatives)
    return found.logprob, list(zip(found.top_tokens, found.top_logprobs, strict=True))


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=40),
        st.lists(st.floats(width=32), min_size=1, max_size=12),
        st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=40),
    ),
    st.integers(0, 20),
    st.data(),
)
def test_they_are_those_of_the_definition(values, alternatives, data):
    z = np.array(values, dtype=np.float32)
    token = data.draw(st.integers(0, len(z) - 1))
    assert told(z, token, alternatives) == logprobs(z, token, alternatives)


@pytest.mark.parametrize("size", [1000, 40_000])
def test_they_are_those_of_the_definition_over_a_large_vocabulary(size):
    source = np.random.default_rng(size)
    for spread in (0.01, 2.0, 30.0):
        z = source.normal(0, spread, size).astype(np.float32)
        assert told(z, 17, 20) == logprobs(z, 17, 20)


def test_a_value_near_a_half_is_decided_by_the_exact_sum(monkeypatch):
    """However the quick sum errs within its bound, the rounding is that of the definition."""
    source = np.random.default_rng(5)
    z = source.normal(0, 2, 5000).astype(np.float32)
    true = logprobs(z, 3, 20)
    exact = math.fsum(np.exp(z.astype(np.float64) - float(z.max())))
    for part in (-0.9, 0.9):
        wrong = exact * (1 + part * len(z) * 2.0**-53)
        monkeypatch.setattr(module, "weight_sum", lambda _, wrong=wrong: wrong)
        assert told(z, 3, 20) == true


def test_known_values():
    assert told([0.0, 0.0], 1, 2) == (-693147, [(0, -693147), (1, -693147)])
    assert told([5.0], 0, 20) == (0, [(0, 0)])
    assert told([0.0, -np.inf, np.nan], 2, 3) == (-(10**9), [(0, 0), (1, -(10**9)), (2, -(10**9))])
    assert told([np.nan, -np.inf], 0, 1) == (-(10**9), [(0, -(10**9))])
    assert told([0.0, 1.0, 2.0], 0, 0)[1] == []


def test_they_are_of_the_model_and_not_of_the_sampler():
    z = np.linspace(-2, 2, 30).astype(np.float32)
    plain = Sampler(SamplingSettings(9, temperature_ppm=0, logprobs=2), bytes(32)).sample(z, [29])
    how = SamplingSettings(
        9, temperature_ppm=300_000, top_k=1, presence_penalty_ppm=1, logprobs=2, min_p_ppm=10**6
    )
    other = Sampler(how, bytes(32)).sample(z, [29])
    assert (plain.token, other.token) == (29, 29)
    assert plain.logprobs == other.logprobs
    assert plain.logprobs[0].top_tokens == (29, 28)
    assert Sampler(SamplingSettings(9), bytes(32)).sample(z, []).logprobs == ()
