"""The sampler against its definition, its vectors, and the distribution it promises."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.model.noise import Noise
from shared.model.sampler import Sampler
from shared.statements.request import PPM, SamplingSettings
from tests.shared.model.naive_sampler import defined, keystream
from tests.vectors.sampler import FILE, text

SEED = bytes(range(32))


def logits(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_vectors_are_those_of_the_file():
    assert FILE.read_text(encoding="utf-8") == text()


hows = st.builds(
    SamplingSettings,
    st.just(1),
    temperature_ppm=st.sampled_from([0, 1, 1000, 500_000, PPM, 3 * PPM, 100 * PPM]),
    top_k=st.one_of(st.just(0), st.integers(0, 45)),
    top_p_ppm=st.one_of(st.just(PPM), st.integers(1, PPM)),
    min_p_ppm=st.one_of(st.none(), st.integers(1, PPM)),
    repetition_penalty_ppm=st.one_of(st.none(), st.integers(10_000, 100 * PPM)),
    presence_penalty_ppm=st.sampled_from([None, -2 * PPM, -1, 7, 500_000, 2 * PPM]),
    frequency_penalty_ppm=st.sampled_from([None, -2 * PPM, -1, 7, 500_000, 2 * PPM]),
)
seeds = st.binary(min_size=32, max_size=32)


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(
        st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=40),
        st.lists(st.floats(width=32), min_size=1, max_size=12),
        st.lists(st.sampled_from([-1.0, -0.0, 0.0, 1.0]), min_size=1, max_size=40),
    ),
    hows,
    seeds,
    st.integers(0, 5),
    st.data(),
)
def test_choice_is_that_of_the_definition(values, how, seed, choice, data):
    z = logits(*values)
    tokens = st.lists(st.integers(0, len(values) - 1), max_size=20)
    prompt, output = data.draw(tokens), data.draw(tokens)
    sampler = Sampler(how, seed, choice, prompt)
    for position in (len(output), len(output) // 2):  # as replay may ask, in any order
        chosen = sampler.choose(z, position, output[:position])
        assert chosen == defined(z, how, seed, choice, position, prompt, output[:position])


def shaped(shape: str, size: int, source: np.random.Generator) -> np.ndarray:
    """Return a row of logits as models give them, or as they never should."""
    if shape == "flat":
        return np.zeros(size, dtype=np.float32)
    if shape == "level":
        return source.integers(0, 3, size).astype(np.float32)
    row = source.normal(0, 2, size).astype(np.float32)
    if shape == "peaked":
        row[source.integers(0, size, 20)] += np.float32(12)
    if shape == "drowning":  # noise is below an ulp of the logits
        row = np.float32(1e30) * np.round(row)
    if shape == "masked":
        row[source.random(size) < 0.99] = -np.inf
    return row


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["flat", "level", "normal", "peaked", "drowning", "masked"]),
    st.sampled_from([300, 9000, 20_000, 40_001]),
    hows,
    st.sampled_from([0, 1, 50, 256, 8000]),
    st.integers(0, 2**32 - 1),
)
def test_shortcuts_over_a_large_vocabulary_choose_what_the_definition_does(
    shape, size, how, top_k, number
):
    source = np.random.default_rng(number)
    z = shaped(shape, size, source)
    how = replace(how, top_k=top_k)
    prompt, output = ([*source.integers(0, size, 30).tolist()] for _ in range(2))
    sampler = Sampler(how, SEED, 2, prompt)
    chosen = sampler.choose(z, 30, output)
    assert chosen == defined(z, how, SEED, 2, 30, prompt, output)


def test_a_nucleus_whose_bar_is_met_exactly_is_that_of_the_whole_sum():
    z = np.full(9000, -np.inf, dtype=np.float32)
    z[[7, 70, 700, 7000]] = 1.5
    for top_p, count in ((500_000, 2), (500_001, 3), (499_999, 2), (750_000, 3)):
        sampler = Sampler(SamplingSettings(1, top_p_ppm=top_p), SEED)
        seen = {sampler.choose(z, place) for place in range(100)}
        assert seen == set([7, 70, 700, 7000][:count])


@pytest.mark.parametrize("size", [5, 20_000])
@pytest.mark.parametrize("how", [{}, {"top_k": 3}, {"top_p_ppm": 900_000}, {"min_p_ppm": 10_000}])
def test_logits_that_are_not_numbers_have_their_place(how, size):
    """NaN is never chosen, +∞ is the largest finite float32, and a row without any candidate gives token 0."""
    sampler = Sampler(SamplingSettings(1, **how), SEED)
    z = np.full(size, np.nan, dtype=np.float32)
    assert sampler.choose(z, 3) == 0
    z[:] = -np.inf
    assert sampler.choose(z, 3) == 0
    z[2:4] = np.nan, -5.0
    assert {sampler.choose(z, place) for place in range(20)} == {3}
    z[1] = np.inf
    assert {sampler.choose(z, place) for place in range(20)} == {1}
    z[4] = np.finfo(np.float32).max
    seen = {sampler.choose(z, place) for place in range(20)}
    assert seen == {1}  # equals as large as that drown the noise, and the lower one wins
    greedy = Sampler(SamplingSettings(1, temperature_ppm=0), SEED)
    assert greedy.choose(z, 0) == 1


def test_min_p_keeps_what_is_likely_enough_and_the_bar_itself():
    z = logits(math.log(0.6), math.log(0.3), math.log(0.1))
    for least, expected in ((500_000, {0}), (490_000, {0, 1}), (1, {0, 1, 2}), (PPM, {0})):
        sampler = Sampler(SamplingSettings(1, min_p_ppm=least), SEED)
        assert {sampler.choose(z, place) for place in range(300)} == expected
    equals = Sampler(SamplingSettings(1, min_p_ppm=PPM), SEED)
    assert {equals.choose(logits(1, 1, 0), place) for place in range(100)} == {0, 1}


def test_min_p_applies_after_the_temperature_and_the_other_filters():
    z = logits(2, 1, 0)
    hot = SamplingSettings(1, temperature_ppm=2 * PPM, min_p_ppm=500_000)
    assert {Sampler(hot, SEED).choose(z, place) for place in range(200)} == {0, 1}
    cold = replace(hot, temperature_ppm=PPM)
    assert {Sampler(cold, SEED).choose(z, place) for place in range(200)} == {0}
    narrow = replace(hot, top_k=1)
    assert {Sampler(narrow, SEED).choose(z, place) for place in range(200)} == {0}


GREEDY = SamplingSettings(1, temperature_ppm=0)


def test_a_repetition_penalty_applies_to_prompt_and_output_and_pushes_either_sign_down():
    how = replace(GREEDY, repetition_penalty_ppm=2 * PPM)
    z = logits(3, 2.5, -1, -1.5)
    assert Sampler(how, SEED).choose(z, 0) == 0
    assert Sampler(how, SEED, 0, [0]).choose(z, 0) == 1
    assert Sampler(how, SEED, 0, [0]).choose(z, 1, [1]) == 0  # 1.5 and 1.25
    only = logits(-np.inf, -np.inf, -1, -1.5)
    assert (
        Sampler(how, SEED, 0, [2, 2, 2]).choose(only, 0) == 3
    )  # -2 once, however often it is there
    other = replace(GREEDY, repetition_penalty_ppm=500_000)
    assert Sampler(other, SEED, 0, [3]).choose(only, 0) == 3


def test_presence_and_frequency_penalties_apply_to_the_output_alone():
    z = logits(3, 2.6, 0)
    once = replace(GREEDY, presence_penalty_ppm=500_000)
    assert Sampler(once, SEED, 0, [0, 0]).choose(z, 0) == 0
    assert Sampler(once, SEED).choose(z, 1, [0]) == 1
    each = replace(GREEDY, frequency_penalty_ppm=150_000)
    assert Sampler(each, SEED).choose(z, 2, [0, 0]) == 0
    assert Sampler(each, SEED).choose(z, 3, [0, 0, 0]) == 1
    reward = replace(GREEDY, presence_penalty_ppm=-2 * PPM, frequency_penalty_ppm=-2 * PPM)
    assert Sampler(reward, SEED).choose(z, 1, [2]) == 2


def test_penalties_need_every_token_so_far():
    sampler = Sampler(replace(GREEDY, presence_penalty_ppm=1), SEED)
    with pytest.raises(AssertionError):
        sampler.choose(logits(1, 2), 3, [0, 1])


def test_what_a_sampler_keeps_does_not_show():
    """Positions in order, backwards, twice, and after another history give the same tokens."""
    how = SamplingSettings(1, repetition_penalty_ppm=1_300_000, frequency_penalty_ppm=400_000)
    z = np.linspace(-2, 2, 50).astype(np.float32)
    output = [7 * place % 11 for place in range(30)]

    def fresh(place):
        return Sampler(how, SEED, 0, [1, 2]).choose(z, place, output[:place])

    one = Sampler(how, SEED, 0, [1, 2])
    places = [*range(30), *reversed(range(30)), 4, 4]
    assert [one.choose(z, n, output[:n]) for n in places] == [fresh(n) for n in places]
    one.choose(z, 5, [9, 9, 9, 9, 9])
    assert one.choose(z, 20, output[:20]) == fresh(20)


def test_noise_for_some_indexes_is_the_keystreams_own():
    noise = Noise(SEED, 7)
    words = keystream(SEED, 7, 2**40, 50_000)
    assert noise.words(2**40, 50_000).tolist() == words
    some = np.array([0, 1, 3, 4, 4095, 16_383, 16_384, 49_999])
    assert noise.words_at(2**40, some).tolist() == [words[i] for i in some]


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
    """Two streams of 64 equally likely tokens coincide about once in 64 places, not more."""
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
