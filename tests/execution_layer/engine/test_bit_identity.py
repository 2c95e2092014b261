"""The engine's promise: a sequence's states and tokens do not depend on its company."""

import asyncio
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from shared.model import decoder as decoder_module
from shared.model.attention import attend
from shared.statements.request import SamplingSettings
from tests.execution_layer.engine.traffic import (
    Arrival,
    Mix,
    check,
    check_alone,
    fixed,
    mixes,
    serve,
)
from tests.shared.model import tiny

DTYPES = ("bfloat16", "float32")
few = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("dtype", DTYPES)
@few
@given(mix=mixes())
def test_what_is_served_in_any_mix_is_what_one_replay_computes(dtype, mix):
    check(tiny.decoder(dtype), mix)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(few, max_examples=7)
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
@settings(few, max_examples=4)
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


def distinct(rows: Tensor) -> bool:
    """Say whether a tile holds more than one sequence or position."""
    return len({tuple(row) for row in rows[:, :4].tolist()}) > 2


def linear_in_halves(x: Tensor, weight: Tensor) -> Tensor:
    """Sum in another order when the tile has company."""
    if not distinct(x):
        return torch.nn.functional.linear(x, weight)
    half = x.shape[1] // 2
    low = torch.nn.functional.linear(x[:, :half], weight[:, :half])
    return low + torch.nn.functional.linear(x[:, half:], weight[:, half:])


def linear_without_padding(x: Tensor, weight: Tensor) -> Tensor:
    """Sum in four parts, as a kernel for single rows may, when the tile has no company."""
    if distinct(x):
        return torch.nn.functional.linear(x, weight)
    parts = zip(x.chunk(4, dim=1), weight.chunk(4, dim=1), strict=True)
    return torch.stack([torch.nn.functional.linear(a, b) for a, b in parts]).sum(0)


def attend_with_a_neighbours_length(q: Tensor, *rest: Tensor) -> Tensor:
    """Let the longest row of the tile reach every row's scores."""
    return attend(q * (1 + int(rest[-1].max()) * 2**-12), *rest)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "mutant"),
    [
        ("linear", linear_in_halves),
        ("linear", linear_without_padding),
        ("attend", attend_with_a_neighbours_length),
    ],
)
def test_the_property_notices_arithmetic_that_depends_on_company(dtype, name, mutant, monkeypatch):
    [lonely] = fixed(1, tokens=20)
    mix = Mix((lonely, replace(lonely, prompt=lonely.prompt * 4, at=3)), prefill_rows=40)
    check(tiny.decoder(dtype), mix)
    monkeypatch.setattr(decoder_module, name, mutant)
    with pytest.raises(AssertionError):
        check(tiny.decoder(dtype), mix)
