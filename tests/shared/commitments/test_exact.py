"""Exact commitments against the definition written out position by position."""

from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.commitments.exact import COMMITMENT_BLOCK, ActivationHasher, Activations

ROW = 6


def row(position: int) -> bytes:
    return position.to_bytes(2, "big") * (ROW // 2)


def defined(prompt: int, output: int) -> Activations:
    """Follow the definition: output block b holds the positions that chose tokens 32b … 32b+31."""
    chosen_by = [prompt - 1 + token for token in range(output)]
    before = list(range(prompt - 1))

    def hashes(positions: list[int]) -> tuple[bytes, ...]:
        blocks = [
            positions[i : i + COMMITMENT_BLOCK] for i in range(0, len(positions), COMMITMENT_BLOCK)
        ]
        return tuple(sha256(b"".join(map(row, block))).digest() for block in blocks)

    return Activations(hashes(before), hashes(chosen_by))


def hashed(prompt: int, output: int, cuts: list[int]) -> Activations:
    rows = [row(position) for position in range(prompt - 1 + output)]
    hasher = ActivationHasher(prompt, ROW)
    for first, last in pairwise([0, *sorted(cuts), len(rows)]):
        hasher.append(b"".join(rows[first:last]))
    return hasher.finish()


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 140), st.integers(0, 140), st.data())
def test_any_chunking_gives_the_hashes_of_the_definition(prompt, output, data):
    cuts = data.draw(st.lists(st.integers(0, prompt - 1 + output), max_size=12))
    assert hashed(prompt, output, cuts) == defined(prompt, output)


@pytest.mark.parametrize("prompt", [1, 2, 32, 33, 34, 64, 65])
@pytest.mark.parametrize("output", [0, 1, 2, 31, 32, 33, 64, 65])
def test_borders_of_blocks(prompt, output):
    every = list(range(prompt - 1 + output))
    assert hashed(prompt, output, every) == hashed(prompt, output, []) == defined(prompt, output)


def test_a_prompt_of_one_token_has_no_prompt_blocks():
    assert hashed(1, 1, []).prompt_blocks == ()
    assert len(hashed(1, 1, []).output_blocks) == 1


def test_no_output_has_no_output_blocks():
    assert hashed(40, 0, []).output_blocks == ()
    assert len(hashed(40, 0, []).prompt_blocks) == 2
    assert hashed(1, 0, []) == Activations((), ())


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 140), st.data())
def test_a_prompt_cut_short_commits_to_its_first_whole_blocks(prompt, data):
    computed = data.draw(st.integers(0, prompt - 1))
    hasher = ActivationHasher(prompt, ROW)
    cuts = sorted(data.draw(st.lists(st.integers(0, computed), max_size=6)))
    for first, last in pairwise([0, *cuts, computed]):
        hasher.append(b"".join(map(row, range(first, last))))
    every = defined(prompt, 0).prompt_blocks
    kept = every if computed == prompt - 1 else every[: computed // COMMITMENT_BLOCK]
    assert hasher.finish() == Activations(kept, ())


def test_leaves_are_prompt_blocks_then_output_blocks():
    activations = hashed(40, 40, [])
    assert activations.leaves() == activations.prompt_blocks + activations.output_blocks


def test_one_changed_row_changes_exactly_its_block():
    hasher = ActivationHasher(1, ROW)
    rows = bytearray(b"".join(map(row, range(96))))
    rows[40 * ROW] ^= 1
    hasher.append(rows)
    spoilt, honest = hasher.finish().output_blocks, defined(1, 96).output_blocks
    assert [a == b for a, b in zip(spoilt, honest, strict=True)] == [True, False, True]


def resumed(prompt: int, output: int, known: int, at: int) -> tuple[Activations, int]:
    """Hash rows up to `at`, resume behind `known` blocks from position 0, hash the rest."""
    rows = [row(position) for position in range(prompt - 1 + output)]
    other = ActivationHasher(len(rows) + 1, ROW)
    other.append(b"".join(rows))
    hasher = ActivationHasher(prompt, ROW)
    hasher.append(b"".join(rows[:at]))
    first = min(at // COMMITMENT_BLOCK, known)
    saved = hasher.resume(first, other.aligned(first, known - first))
    hasher.append(b"".join(rows[hasher.position :]))
    return hasher.finish(), saved


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 200), st.integers(0, 70), st.data())
def test_resuming_behind_known_blocks_changes_no_hash(prompt, output, data):
    known = data.draw(st.integers(0, (prompt - 1) // COMMITMENT_BLOCK))
    at = data.draw(st.integers(0, prompt - 1))
    assert resumed(prompt, output, known, at) == (
        defined(prompt, output),
        max(0, known * COMMITMENT_BLOCK - at),
    )


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 140), st.integers(0, 140))
def test_blocks_counted_from_position_0_do_not_depend_on_where_the_prompt_ends(prompt, output):
    positions = prompt - 1 + output
    hasher = ActivationHasher(prompt, ROW)
    hasher.append(b"".join(map(row, range(positions))))
    whole = positions // COMMITMENT_BLOCK
    assert hasher.aligned(0, whole) == defined(positions + 1, 0).prompt_blocks[:whole]


def test_resuming_never_skips_a_row_that_chose_a_token():
    for prompt in (1, 32, 64):
        with pytest.raises(AssertionError):
            ActivationHasher(prompt, ROW).resume(0, [bytes(32)] * (prompt // COMMITMENT_BLOCK or 1))


def test_resuming_leaves_no_gap():
    with pytest.raises(AssertionError):
        ActivationHasher(200, ROW).resume(1, [bytes(32)])


def test_a_block_that_is_not_whole_has_no_aligned_hash():
    hasher = ActivationHasher(100, ROW)
    hasher.append(b"".join(map(row, range(40))))
    with pytest.raises(AssertionError):
        hasher.aligned(0, 2)
