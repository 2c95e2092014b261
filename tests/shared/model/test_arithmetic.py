"""The kernels against their definition, and their variants against each other: to the bit."""

import ctypes
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shared.model import functions
from shared.model.arithmetic import Packed
from shared.model.backend import Span, blocks_for
from shared.model.config import MOST_POSITIONS
from shared.model.native.library import kernels
from tests.shared.model import tiny

DTYPES = (torch.bfloat16, torch.float32)
fmaf = ctypes.CDLL("libm.so.6").fmaf
fmaf.argtypes, fmaf.restype = (ctypes.c_float,) * 3, ctypes.c_float


@pytest.fixture(autouse=True)
def afterwards():
    yield
    kernels().use(kernels().best)
    kernels().threads(1)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def chain(row: Tensor, weight: Tensor) -> float:
    """One element of a product as native/product.h defines it."""
    order = list(range(len(row)))
    if row.dtype == torch.bfloat16:  # pairs, the odd one first
        order = [place ^ 1 for place in order]
    acc = 0.0
    for place in order:
        acc = fmaf(float(row[place]), float(weight[place]), acc)
    return acc


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_product_is_one_chain_of_fused_additions(dtype):
    x, weight = noise(3, 96).to(dtype), noise(37, 96, seed=1).to(dtype)
    ours = Packed(weight).linear(x)
    for row, out in product(range(3), (0, 15, 16, 36)):
        assert float(ours[row, out]) == chain(x[row], weight[out])


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 40),
    outs=st.integers(1, 200),
    units=st.integers(1, 40),
    seed=st.integers(0, 99),
    threads=st.integers(1, 4),
)
def test_variants_threads_and_company_give_the_same_bits(dtype, rows, outs, units, seed, threads):
    x, weight = noise(rows, 2 * units, seed=seed).to(dtype), noise(outs, 2 * units).to(dtype)
    packed = Packed(weight, noise(outs, seed=seed))
    kernels().threads(threads)
    kernels().use(0)
    expected = packed.linear(x)
    for variant in range(1, kernels().best + 1):
        kernels().use(variant)
        assert torch.equal(packed.linear(x), expected)
    alone = packed.linear(x[rows // 2 : rows // 2 + 1].contiguous())
    assert torch.equal(alone[0], expected[rows // 2])


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_whole_pass_has_the_same_bits_in_every_variant(dtype):
    decoder = tiny.decoder(dtype)
    tokens = [(5 * place) % 256 for place in range(150)]
    blocks = range(1, blocks_for(len(tokens), decoder.backend.block) + 1)
    seen = []
    for variant, threads in product(range(kernels().best + 1), (1, 2)):
        kernels().use(variant)
        kernels().threads(threads)
        hidden = decoder.forward([Span(tokens, 0, blocks)], decoder.cache(len(blocks)))
        seen.append((hidden, decoder.logits(hidden)))
    for hidden, logits in seen[1:]:
        assert torch.equal(hidden, seen[0][0])
        assert torch.equal(logits, seen[0][1])


def test_threads_that_join_after_the_workspace_was_measured_stay_out_of_it(monkeypatch):
    decoder = tiny.decoder("bfloat16")
    span = Span([3] * 100, 0, (1, 2))
    expected = decoder.forward([span], decoder.cache(2))
    measure = kernels().workspace

    def then_grow(*arguments):
        needed = measure(*arguments)
        kernels().threads(4)
        return needed

    kernels().threads(1)
    monkeypatch.setattr(kernels(), "workspace", then_grow)
    assert torch.equal(decoder.forward([span], decoder.cache(2)), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_denormals_and_what_is_no_number_are_the_same_in_every_variant(dtype):
    extreme = torch.tensor([1e-40, -1e-38, 3e38, -3e38, float("inf"), float("nan"), 0.0, -0.0])
    x = extreme.repeat(4, 2).to(dtype) * torch.tensor([[1.0], [1e-3], [-1.0], [0.5]]).to(dtype)
    weight = noise(16, 16).to(dtype)
    seen = []
    for variant in range(kernels().best + 1):
        kernels().use(variant)
        seen.append(Packed(weight).linear(x))
    for other in seen[1:]:
        assert torch.equal(other.isnan(), seen[0].isnan())
        assert torch.equal(other.nan_to_num(), seen[0].nan_to_num())


def test_an_embedding_is_the_weights_row():
    for dtype in DTYPES:
        weight = noise(50, 32).to(dtype)
        tokens = torch.tensor([0, 49, 7, 7])
        assert torch.equal(Packed(weight).embed(tokens), weight[tokens].float())


def test_tables_of_angles_are_sine_and_cosine_of_the_exact_angle():
    frequencies = np.array([1.0, 0.1, 1e-4, 3.14159])
    cosines, sines = functions.angles(frequencies, 40_000)
    angle = np.outer(np.arange(40_000), frequencies.astype(np.float32).astype(np.float64))
    assert np.abs(cosines - np.cos(angle)).max() < 6e-8
    assert np.abs(sines - np.sin(angle)).max() < 6e-8


def test_the_angles_of_the_longest_context_are_exact_too():
    frequency = np.float32(0.98765432)
    cosines, sines = functions.angles(np.array([float(frequency)]), MOST_POSITIONS)
    places = np.arange(MOST_POSITIONS - 50_000, MOST_POSITIONS, dtype=np.longdouble)
    angle = places * np.longdouble(frequency)
    assert np.array_equal(cosines[-50_000:, 0], np.cos(angle).astype(np.float32))
    assert np.array_equal(sines[-50_000:, 0], np.sin(angle).astype(np.float32))


def test_logarithm_and_exponential_err_by_less_than_an_ulp():
    x = np.concatenate([(np.arange(1, 50_000) * 0.618) % 1 + 2.0**-40, 2.0 ** -np.arange(60.0)])
    true = np.log(x.astype(np.longdouble))
    assert np.all(np.abs(functions.ln(x) - true) <= np.spacing(np.abs(true).astype(np.float64)))
    y = np.concatenate([-700 * x / x.max(), -x])
    true = np.exp(y.astype(np.longdouble))
    assert np.all(np.abs(functions.exp(y) - true) <= np.spacing(true.astype(np.float64)))
    assert functions.exp(np.array([-np.inf, -701.0, 0.0])).tolist() == [0.0, 0.0, 1.0]
    assert functions.ln(np.array([1.0])).tolist() == [0.0]
