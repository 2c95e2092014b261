"""The sampler against its definition, its vectors, and the distribution it promises."""

import math
from hashlib import sha256

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.model.sampler import Sampler
from shared.statements.request import PPM, SamplingSettings
from tests.vectors.sampler import FILE, text

SEED = bytes(range(32))


def logits(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def defined(z: np.ndarray, how: SamplingSettings, seed: bytes, choice: int, position: int) -> int:
    """Follow the definition step by step in plain Python."""
    if how.temperature_ppm == 0:
        return max(range(len(z)), key=lambda i: (z[i], -i))
    y = [float(v) * (PPM / how.temperature_ppm) for v in z]
    order = sorted(range(len(y)), key=lambda i: (-y[i], i))
    if how.top_k:
        order = order[: how.top_k]
    if how.top_p_ppm < PPM:
        running, total = [], 0.0
        for i in order:
            total += math.exp(y[i] - y[order[0]])
            running.append(total)
        bar = total * (how.top_p_ppm / PPM)
        order = order[: next(n for n, value in enumerate(running) if value >= bar) + 1]
    key = sha256(b"counterfoil/v1/sampling-noise" + seed).digest()
    counter = choice.to_bytes(4, "big") + position.to_bytes(8, "big") + bytes(4)
    stream = (
        Cipher(algorithms.AES256(key), modes.CTR(counter)).encryptor().update(bytes(4 * len(z)))
    )
    noise = [
        -math.log((int.from_bytes(stream[4 * i : 4 * i + 4], "big") + 0.5) / 2**32)
        for i in range(len(z))
    ]
    return max(order, key=lambda i: (y[i] - math.log(noise[i]), -i))


def test_vectors_are_those_of_the_file():
    assert FILE.read_text(encoding="utf-8") == text()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=40),
    st.builds(
        SamplingSettings,
        st.just(1),
        temperature_ppm=st.sampled_from([0, 1000, 500_000, PPM, 3 * PPM]),
        top_k=st.integers(0, 45),
        top_p_ppm=st.integers(1, PPM),
    ),
    st.binary(min_size=32, max_size=32),
    st.integers(0, 5),
    st.integers(0, 2**40),
)
def test_choice_is_that_of_the_definition(values, how, seed, choice, position):
    z = logits(*values)
    chosen = Sampler(how, seed, choice).choose(z, position)
    assert chosen == defined(z, how, seed, choice, position)


def test_greedy_takes_the_largest_and_the_lowest_index_among_equals():
    greedy = Sampler(SamplingSettings(1, temperature_ppm=0), SEED)
    assert greedy.choose(logits(0, 3, -1, 3, 2), 0) == 1
    assert greedy.choose(logits(0, 0, 0), 7) == 0


def test_top_k_never_leaves_the_k_largest_and_ties_go_to_the_lower_index():
    sampler = Sampler(SamplingSettings(1, top_k=2), SEED)
    chosen = {sampler.choose(logits(1, 0, 1, 1, 1), position) for position in range(200)}
    assert chosen == {0, 2}


def test_top_k_of_one_is_greedy():
    sampler = Sampler(SamplingSettings(1, top_k=1), SEED)
    assert {sampler.choose(logits(0, 5, 5), position) for position in range(50)} == {1}


def test_top_p_keeps_the_shortest_beginning_that_reaches_it():
    half = Sampler(SamplingSettings(1, top_p_ppm=500_000), SEED)
    z = logits(math.log(0.25), math.log(0.5), math.log(0.25))
    assert {half.choose(z, position) for position in range(100)} == {1}
    more = Sampler(SamplingSettings(1, top_p_ppm=600_000), SEED)
    assert {more.choose(z, position) for position in range(200)} == {0, 1}


def test_the_smallest_top_p_still_keeps_one_token():
    sampler = Sampler(SamplingSettings(1, top_p_ppm=1), SEED)
    assert {sampler.choose(logits(0, 1, 0), position) for position in range(50)} == {1}


@pytest.mark.parametrize("temperature", [500_000, PPM, 2 * PPM])
def test_frequencies_are_those_of_softmax(temperature):
    z = np.linspace(-2, 2, 8).astype(np.float32)
    sampler = Sampler(SamplingSettings(1, temperature_ppm=temperature), SEED)
    draws = 8000
    counts = np.bincount([sampler.choose(z, place) for place in range(draws)], minlength=8)
    weights = np.exp(z.astype(np.float64) * PPM / temperature)
    expected = draws * weights / weights.sum()
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert statistic < 24.3  # chi-square, 7 degrees of freedom, p = 0.001; the seed is fixed


def test_noise_depends_on_seed_choice_and_position_and_on_nothing_else():
    how = SamplingSettings(1)
    base = Sampler(how, SEED, 1).noise(5, 64)
    again = Sampler(how, SEED, 1)
    again.noise(0, 10)
    assert np.array_equal(again.noise(5, 64), base)
    assert np.array_equal(again.noise(5, 16), base[:16])
    for other in (
        Sampler(how, bytes(32), 1).noise(5, 64),
        Sampler(how, SEED, 2).noise(5, 64),
        Sampler(how, SEED, 1).noise(6, 64),
    ):
        assert not np.array_equal(other, base)
    assert (base > 0).all()
    assert np.isfinite(base).all()


@pytest.mark.parametrize(
    "how",
    [
        {"top_k": 4},
        {"top_p_ppm": 800_000},
        {"temperature_ppm": 1_700_000, "top_k": 6, "top_p_ppm": 900_000},
    ],
)
def test_filtered_frequencies_are_those_of_softmax_over_what_is_kept(how):
    z = np.array([0.5, 2, -1, 1.5, 0, 1, -2, 0.25], dtype=np.float32)
    sampling = SamplingSettings(1, **how)
    weights = np.exp(z.astype(np.float64) * PPM / sampling.temperature_ppm)
    order = np.argsort(-weights)[: sampling.top_k or None]
    running = np.cumsum(weights[order]) / weights[order].sum()
    kept = order[: int(np.argmax(running >= sampling.top_p_ppm / PPM)) + 1]
    draws = 6000
    sampler = Sampler(sampling, SEED)
    counts = np.bincount([sampler.choose(z, place) for place in range(draws)], minlength=8)
    assert set(np.flatnonzero(counts)) == set(kept)
    assert 2 < len(kept) < 8
    expected = draws * weights[kept] / weights[kept].sum()
    statistic = float(((counts[kept] - expected) ** 2 / expected).sum())
    # Chi-square at p = 0.001, by degrees of freedom; the seed is fixed.
    assert statistic < {2: 13.8, 3: 16.3, 4: 18.5, 5: 20.5}[len(kept) - 1]


def test_equals_share_their_probability_evenly():
    sampler = Sampler(SamplingSettings(1), SEED)
    z = logits(1, 1, 1, 1, -30)
    counts = np.bincount([sampler.choose(z, place) for place in range(4000)], minlength=5)
    assert counts[4] == 0
    assert float(((counts[:4] - 1000.0) ** 2 / 1000).sum()) < 16.3  # chi-square, p = 0.001


def test_top_p_takes_equals_from_the_lower_index():
    sampler = Sampler(SamplingSettings(1, top_p_ppm=500_000), SEED)
    assert {sampler.choose(logits(0, 0, 0, 0), place) for place in range(200)} == {0, 1}
    more = Sampler(SamplingSettings(1, top_p_ppm=500_001), SEED)
    assert {more.choose(logits(0, 0, 0, 0), place) for place in range(200)} == {0, 1, 2}


def test_top_p_counts_only_what_top_k_kept():
    """Of ten equals top_k keeps four, and half of those four is two."""
    sampler = Sampler(SamplingSettings(1, top_k=4, top_p_ppm=500_000), SEED)
    assert {sampler.choose(logits(*[0.0] * 10), place) for place in range(300)} == {0, 1}


@pytest.mark.parametrize("size", [1, 5])
def test_top_k_beyond_the_vocabulary_and_the_whole_top_p_filter_nothing(size):
    free = Sampler(SamplingSettings(1), SEED)
    wide = Sampler(SamplingSettings(1, top_k=1000, top_p_ppm=PPM), SEED)
    z = np.linspace(-1, 1, size).astype(np.float32)
    for place in range(50):
        assert wide.choose(z, place) == free.choose(z, place)


def test_the_lowest_temperature_is_greedy_unless_logits_are_equal():
    cold = Sampler(SamplingSettings(1, temperature_ppm=1), SEED)
    assert {cold.choose(logits(1, 1.001, -5), place) for place in range(100)} == {1}
    assert {cold.choose(logits(1, 1, -5), place) for place in range(100)} == {0, 1}


def test_the_highest_temperature_levels_all_logits():
    hot = Sampler(SamplingSettings(1, temperature_ppm=100 * PPM), SEED)
    z = logits(3, 0, 0, -3)
    counts = np.bincount([hot.choose(z, place) for place in range(4000)], minlength=4)
    assert (abs(counts - 1000) < 130).all()  # shares from 970 to 1031, deviation 27


@pytest.mark.parametrize("temperature", [1, 1000, PPM, 100 * PPM])
@pytest.mark.parametrize("how", [{}, {"top_k": 2}, {"top_p_ppm": 999_999}, {"top_p_ppm": 1}])
def test_extreme_logits_are_sampled_without_a_warning(temperature, how):
    """Warnings are errors here: nothing overflows, and no impossible token is chosen."""
    biggest = float(np.finfo(np.float32).max)
    sampler = Sampler(SamplingSettings(1, temperature_ppm=temperature, **how), SEED)
    for place in range(20):
        assert sampler.choose(logits(-biggest, biggest, 0), place) == 1
        assert sampler.choose(logits(-np.inf, 0.0, -np.inf), place) == 1
        assert sampler.choose(logits(0.0), place) == 0
        assert sampler.choose(logits(1e-45, -1e-45, 0), place) in {0, 1, 2}


def test_a_choice_does_not_depend_on_what_was_chosen_before():
    how = SamplingSettings(1, top_p_ppm=900_000)
    z = np.linspace(-2, 2, 50).astype(np.float32)
    forward = [Sampler(how, SEED).choose(z, place) for place in range(30)]
    one = Sampler(how, SEED)
    backward = [one.choose(z, place) for place in reversed(range(30))]
    assert backward[::-1] == forward
    assert z.tolist() == np.linspace(-2, 2, 50).astype(np.float32).tolist()


def test_neighbouring_seeds_choices_and_positions_are_unrelated():
    """Two streams of 64 equally likely tokens meet about once in 64 places, not more."""
    how, z, draws = SamplingSettings(1), np.zeros(64, dtype=np.float32), 2000
    base = [Sampler(how, SEED, 1).choose(z, place) for place in range(draws)]
    nearby = {
        "seed": [
            Sampler(how, SEED[:-1] + bytes([SEED[-1] ^ 1]), 1).choose(z, n) for n in range(draws)
        ],
        "choice": [Sampler(how, SEED, 2).choose(z, n) for n in range(draws)],
        "position": [Sampler(how, SEED, 1).choose(z, n + 1) for n in range(draws)],
    }
    for name, other in nearby.items():
        met = sum(a == b for a, b in zip(base, other, strict=True))
        assert met < 31 + 4 * 5.6, name
