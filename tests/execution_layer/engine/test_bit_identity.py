"""The engine's promise: a sequence's states and tokens do not depend on its company."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from execution_layer.engine.prefix import PrefixCache
from execution_layer.engine.sequence import SequenceState
from shared.commitments.exact import ActivationHasher
from shared.model import arithmetic, cpu
from shared.model.decoder import Decoder
from shared.statements.request import PPM, SamplingSettings
from tests.execution_layer.engine.traffic import (
    Arrival,
    Mix,
    check,
    check_alone,
    fixed,
    mixes,
    note,
    serve,
    tokens_of,
)
from tests.shared.model import tiny
from tests.shared.model.mutants import MUTANTS, mutated
from tests.shared.model.paged import Paged

DTYPES = ("bfloat16", "float32")
few = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("dtype", DTYPES)
@few
@given(mix=mixes())
def test_what_is_served_in_any_mix_is_what_one_replay_computes(dtype, mix):
    seen = Counter[str]()
    check(tiny.decoder(dtype), mix, seen)
    note(seen)


def under_pressure() -> Mix:
    """Common beginnings, the next turn of a chat, two tenants, a token's difference, and memory for few of them."""
    base = tokens_of(bytes(range(32)), 130)
    how = SamplingSettings(40, temperature_ppm=0)
    other = (*base[:70], base[70] ^ 1, *base[71:])
    return Mix(
        (
            Arrival(base, how, bytes(32)),
            Arrival(base, replace(how, temperature_ppm=PPM), b"\1" * 32, at=9),
            Arrival(other, how, bytes(32), at=9),
            Arrival(base, how, bytes(32), at=9, tenant="b"),
            Arrival((9, 8, 7), how, bytes(32), after=0),
            *(Arrival(tokens_of(bytes([n]) * 32, 40), how, bytes(32), at=12) for n in (3, 5, 9)),
        ),
        sequences=8,
        prefill_rows=40,
        blocks=6,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_hits_in_the_prefix_cache_and_preemptions_change_nothing(dtype):
    seen = Counter[str]()
    check(tiny.endless(dtype), under_pressure(), seen)
    assert seen["hits"] >= 128
    assert seen["preemptions"] >= 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_backend_with_larger_blocks_serves_the_same(dtype):
    """The engine counts memory, and keeps beginnings, in the blocks of its decoder's backend."""
    config = tiny.config(dtype=dtype)
    paged, seen = Decoder(config, tiny.weights(config), Paged()), Counter[str]()
    how = SamplingSettings(40)
    base, *others = (
        tokens_of(bytes([n]) * 32, size) for n, size in enumerate((150, 110, 115, 120))
    )
    arrivals = [Arrival(base, how, bytes(32)), Arrival(base, how, b"\1" * 32, at=9)]
    arrivals += [Arrival(prompt, how, bytes(32), at=12) for prompt in others]
    mix = Mix(tuple(arrivals), prefill_rows=40, blocks=4)
    check(paged, mix, seen)
    assert seen["hits"] >= Paged.block
    assert seen["preemptions"]
    usual = asyncio.run(serve(tiny.decoder(dtype), mix))
    for ours, theirs in zip(asyncio.run(serve(paged, mix)), usual, strict=True):
        assert ours.end.activations == theirs.end.activations


def root_without_tenant(self: PrefixCache, tenant: str) -> bytes:
    return self._secret


def child_without_a_token(self: PrefixCache, parent: bytes, tokens: Sequence[int]) -> bytes:
    return CHILD(self, parent, [*tokens[:6], 0, *tokens[7:]])


def resume_in_the_wrong_order(self: ActivationHasher, first: int, hashes: Sequence[bytes]) -> int:
    return RESUME(self, first, hashes[::-1])


def hash_everything_again(self: SequenceState, count: int) -> int:
    return 0


CHILD, RESUME = PrefixCache.child, ActivationHasher.resume


@pytest.mark.parametrize(
    ("where", "name", "mutant"),
    [
        (PrefixCache, "root", root_without_tenant),
        (PrefixCache, "child", child_without_a_token),
        (ActivationHasher, "resume", resume_in_the_wrong_order),
        (SequenceState, "hashed_of", hash_everything_again),
    ],
)
def test_the_property_notices_books_that_err(where, name, mutant, monkeypatch):
    monkeypatch.setattr(where, name, mutant)
    with pytest.raises(AssertionError):
        check(tiny.endless("bfloat16"), under_pressure())


@pytest.mark.parametrize("dtype", DTYPES)
@settings(few, max_examples=25)
@given(mix=mixes(least=2))
def test_company_changes_nothing(dtype, mix):
    check_alone(tiny.decoder(dtype), mix)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("dtype", DTYPES)
@settings(few, max_examples=500)
@given(mix=mixes())
def test_soak_of_random_mixes(dtype, mix):
    decoder = tiny.decoder(dtype)
    check(decoder, mix)
    check_alone(decoder, mix)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(few, max_examples=10)
@given(order=st.permutations(range(8)), rows=st.integers(1, 100))
def test_arrival_order_and_prefill_chunks_change_nothing(dtype, order, rows):
    arrivals = fixed(8, tokens=5, prompt=60)
    usual = asyncio.run(serve(tiny.decoder(dtype), Mix(tuple(arrivals))))
    mixed = Mix(tuple(arrivals[place] for place in order), prefill_rows=rows)
    for place, served in zip(order, asyncio.run(serve(tiny.decoder(dtype), mixed)), strict=True):
        assert served.end.activations == usual[place].end.activations
        assert served.end.output_ids == usual[place].end.output_ids


@pytest.mark.parametrize("dtype", DTYPES)
def test_at_least_eight_sequences_advance_in_one_pass(dtype):
    decoder = tiny.endless(dtype)
    arrivals = tuple(
        Arrival((place + 1,), SamplingSettings(4, temperature_ppm=0), bytes(32))
        for place in range(16)
    )
    served = asyncio.run(serve(decoder, Mix(arrivals)))
    assert sum(len(one.end.output_ids) for one in served) == 64
    assert decoder.forward_passes == 4


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_property_notices_one_reduction_order_that_depends_on_company(
    dtype, mutant, tmp_path_factory, monkeypatch
):
    [lonely] = fixed(1, tokens=20)
    mix = Mix((lonely, replace(lonely, prompt=lonely.prompt * 4, at=3)), prefill_rows=40)
    check(tiny.decoder(dtype), mix)
    kernels = mutated(mutant, tmp_path_factory)
    for module in (arithmetic, cpu):
        monkeypatch.setattr(module, "kernels", lambda: kernels)
    with pytest.raises(AssertionError):
        check(tiny.decoder(dtype), mix)
