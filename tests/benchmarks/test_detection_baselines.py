"""The published schemes are what their papers say: sizes, thresholds, and above all what they do not see.

Promised: each known failure of each scheme shows in this project's own version of it, so that a comparison with it is
a comparison with the scheme as published, not with a better or a worse one.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.detection.baselines import activation_difr, token_difr, toploc
from benchmarks.detection.baselines.bits import to_bits, to_values
from shared.model.sampler import Sampler
from shared.statements.request import SamplingSettings

WIDTH = 256


def states(seed, rows=32):
    """Heavy-tailed, as hidden states are; values of bfloat16."""
    drawn = np.random.default_rng(seed).standard_t(3, (rows, WIDTH)).astype(np.float32)
    return to_bits(drawn)


def nudged(bits, scale, seed=9):
    """The states as another machine would compute them: a small relative error in each."""
    noise = np.random.default_rng(seed).normal(1, scale, bits.shape).astype(np.float32)
    return to_bits(to_values(bits) * noise)


# --- TOPLOC


def test_a_proof_of_32_tokens_has_258_bytes_whatever_the_width_of_the_states():
    assert len(toploc.prove(states(1))) == toploc.PROOF_BYTES == 258
    assert len(toploc.prove(states(1)[:1])) == 258


def test_toploc_ignores_the_sign_fully_negated_states_score_as_equal():
    honest = states(2)
    found = toploc.compare(toploc.prove(honest ^ 0x8000), honest)
    assert (found.exponents, found.mean, found.median) == (0, 0.0, 0.0)


def test_toploc_does_not_bind_the_tokens_any_answer_has_the_proof_of_its_prefill():
    # a cheap model chose the tokens; the honest model prefills them for the proof, as the verifier does
    prefilled = states(3)
    assert toploc.compare(toploc.prove(prefilled), prefilled).score == 0


def test_toploc_does_not_check_the_length_the_beginning_of_a_chunk_has_the_proof_of_all_of_it():
    whole = states(4)
    whole[8:] = to_bits(to_values(whole[8:]) * np.float32(1e-3))
    assert toploc.compare(toploc.prove(whole[:8]), whole).score == 0


@pytest.mark.parametrize("proof", [b"", b"\0", b"\1\0\1"])
def test_toploc_says_nothing_of_a_proof_that_is_empty_or_cut_its_verifier_ends_in_an_error(proof):
    with pytest.raises(ValueError):
        toploc.compare(proof, states(5))


@pytest.mark.parametrize("proof", [bytes(2), bytes(258)])
def test_toploc_says_nothing_of_a_modulus_of_zero_its_verifier_ends_in_an_error(proof):
    with pytest.raises(ZeroDivisionError):
        toploc.compare(proof, states(5))


def test_toploc_accepts_noise_and_rejects_other_states_by_its_published_thresholds():
    honest = states(6)
    assert toploc.compare(toploc.prove(nudged(honest, 0.002)), honest).accepted
    assert not toploc.compare(toploc.prove(states(7)), honest).accepted
    assert not toploc.compare(toploc.prove(nudged(honest, 0.3)), honest).accepted


def test_the_published_thresholds_are_38_exponents_a_mean_of_10_and_a_median_of_8():
    assert toploc.Difference(38, 10.0, 8.0).accepted
    for over in ((39, 0, 0), (0, 10.1, 0), (0, 0, 8.5)):
        assert not toploc.Difference(*over).accepted


@given(st.sets(st.integers(0, toploc.PRIME - 1), min_size=1, max_size=40), st.integers(0, 2**32))
def test_the_polynomial_goes_through_all_points(points, seed):
    x = np.array(sorted(points))
    y = np.random.default_rng(seed).integers(0, toploc.PRIME, len(x))
    assert (toploc.evaluate(toploc.interpolate(x, y), x) == y).all()


def test_the_modulus_keeps_indexes_apart_that_the_prime_would_not():
    indexes = np.array([0, toploc.PRIME, 2 * toploc.PRIME])
    assert toploc.modulus(indexes) == toploc.PRIME - 1
    assert toploc.modulus(np.arange(128)) == toploc.PRIME


# --- Activation-DiFR


def test_a_fingerprint_has_2k_bytes_a_token_and_its_projection_orthonormal_columns():
    assert activation_difr.fingerprint(to_values(states(1))).nbytes == 32 * 2 * activation_difr.K
    for k in (2, 128):
        p = activation_difr.projection(WIDTH, k)
        assert p.shape == (WIDTH, k)
        assert np.abs(p.T @ p - np.eye(k)).max() < 1e-5


def test_activation_difr_does_not_see_what_lies_in_the_kernel_of_its_public_projection():
    honest = to_values(states(2))
    p = activation_difr.projection(WIDTH)
    change = np.random.default_rng(1).standard_normal(honest.shape).astype(np.float32) * 10
    hidden = change - (change @ p) @ p.T
    sent = activation_difr.fingerprint(honest + hidden)
    assert np.linalg.norm(hidden) > np.linalg.norm(honest)
    rounding = activation_difr.scores(activation_difr.fingerprint(honest), honest).mean()
    assert activation_difr.scores(sent, honest).mean() < 2 * rounding
    seen = activation_difr.fingerprint(honest + change)
    assert activation_difr.scores(seen, honest).mean() > 100 * rounding


def test_activation_difr_is_blind_to_sampling_its_score_has_no_tokens():
    # whatever was sampled, the honest model's states given those tokens are what the verifier computes
    prefilled = to_values(states(3))
    again = activation_difr.scores(activation_difr.fingerprint(prefilled), prefilled)
    assert again.max() < 1e-2


def test_activation_difr_grows_with_the_change():
    honest = states(4)
    small, large = (
        activation_difr.scores(
            activation_difr.fingerprint(to_values(nudged(honest, scale))), to_values(honest)
        ).mean()
        for scale in (0.01, 0.1)
    )
    assert 0 < small < large


# --- Token-DiFR

SETTINGS = (
    SamplingSettings(8),
    SamplingSettings(8, temperature_ppm=0),
    SamplingSettings(8, temperature_ppm=1_300_000, top_k=7),
    SamplingSettings(8, top_p_ppm=700_000),
    SamplingSettings(8, temperature_ppm=700_000, top_k=50, top_p_ppm=900_000, min_p_ppm=20_000),
)


def scores_of(settings, logits, seed):
    """The reference's scores of every position under the protocol's noise."""
    sampler, width = Sampler(settings, seed), logits.shape[1]
    greedy = settings.temperature_ppm == 0
    return [
        token_difr.perturbed(
            row,
            None if greedy else sampler.noise(position, width),
            settings.temperature_ppm / 1e6,
            top_k=settings.top_k,
            top_p=settings.top_p_ppm / 1e6,
            min_p=(settings.min_p_ppm or 0) / 1e6,
        )
        for position, row in enumerate(logits)
    ]


@pytest.mark.parametrize("settings", SETTINGS)
def test_with_the_protocols_noise_an_honest_node_has_no_margin_under_any_settings(settings):
    logits = np.random.default_rng(1).normal(0, 3, (200, 300)).astype(np.float32)
    sampler = Sampler(settings, b"s" * 32)
    claimed = [sampler.choose(row, position) for position, row in enumerate(logits)]
    assert not token_difr.margins(scores_of(settings, logits, b"s" * 32), claimed).any()


@pytest.mark.parametrize("settings", [one for one in SETTINGS if one.temperature_ppm])
def test_token_difr_cannot_do_without_the_seed_an_honest_node_with_its_own_looks_dishonest(
    settings,
):
    logits = np.random.default_rng(2).normal(0, 3, (200, 300)).astype(np.float32)
    sampler = Sampler(settings, b"own seed" * 4)
    claimed = [sampler.choose(row, position) for position, row in enumerate(logits)]
    found = token_difr.margins(scores_of(settings, logits, b"s" * 32), claimed)
    assert (found > 0).mean() > 0.2
    assert found.mean() > 0.3


def test_token_difr_does_not_see_states_only_tokens():
    # another model that happens to choose the same tokens has the same score: its states are nobody's to see
    logits = np.random.default_rng(3).normal(0, 3, (50, 300)).astype(np.float32)
    claimed = [int(row.argmax()) for row in logits]
    assert not token_difr.margins(
        scores_of(SamplingSettings(8, temperature_ppm=0), logits, b""), claimed
    ).any()


def test_margins_are_clipped_also_where_a_filter_or_the_vocabulary_leaves_a_token_out():
    rows = [np.array([0.0, -3.0, -np.inf, -99.0])] * 6
    assert token_difr.margins(rows, [0, 1, 2, 3, 4, -1]).tolist() == [0, 3, 10, 10, 10, 10]


@given(st.integers(0, 2**32 - 1))
def test_bits_round_as_bfloat16_does(pattern):
    value = np.array([pattern], dtype=np.uint32).view(np.float32)
    if np.isfinite(value).all():
        theirs = torch.from_numpy(value).to(torch.bfloat16).view(torch.int16).numpy()
        assert to_bits(value).view(np.int16) == theirs
