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
from shared.model.arithmetic import KINDS, Kind, Packed, kind_of
from shared.model.backend import Span, blocks_for
from shared.model.config import MOST_POSITIONS
from shared.model.cpu import CpuBackend
from shared.model.decoder import Decoder
from shared.model.fused import FUSED
from shared.model.native.library import kernels
from tests.shared.model import tiny
from tests.shared.model.reference_fused import Fused

BY_KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.arithmetic} {kind.dtype}")
fmaf = ctypes.CDLL("libm.so.6").fmaf
fmaf.argtypes, fmaf.restype = (ctypes.c_float,) * 3, ctypes.c_float


@pytest.fixture(autouse=True)
def afterwards():
    yield
    kernels().use(kernels().best)
    kernels().threads(1)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def element(kind: Kind, row: Tensor, weight: Tensor) -> float:
    """One element of a product, as the protocol defines it (§7.2)."""
    if kind.arithmetic == "pairs-32":
        return pairs(row, weight)
    if kind.arithmetic in FUSED:
        by = Fused(kind.arithmetic, "bfloat16")
        return float(by.product(row.float().numpy(), weight.float().numpy()))
    order = list(range(len(row)))
    if row.dtype == torch.bfloat16:  # pairs, the odd one first
        order = [place ^ 1 for place in order]
    acc = 0.0
    for place in order:
        acc = fmaf(float(row[place]), float(weight[place]), acc)
    return acc


def pairs(row: Tensor, weight: Tensor) -> float:
    """By groups of 32: the chain over the even and the chain over the odd elements, their sum, added to what was before."""
    acc = np.float32(0)
    for first in range(0, len(row), 32):
        even = odd = 0.0
        for place in range(first, first + 32, 2):
            even = fmaf(float(row[place]), float(weight[place]), even)
            odd = fmaf(float(row[place + 1]), float(weight[place + 1]), odd)
        acc = acc + (np.float32(even) + np.float32(odd))
    return float(acc)


@BY_KIND
def test_a_product_is_the_sum_that_the_protocol_defines(kind):
    x, weight = noise(3, 96).to(kind.dtype), noise(37, 96, seed=1).to(kind.dtype)
    ours = Packed(kind, weight).linear(x)
    for row, out in product(range(3), (0, 15, 16, 36)):
        assert float(ours[row, out]) == element(kind, x[row], weight[out])


def test_pairs_32_is_its_definition_in_a_million_elements():
    """Products of two bfloat16 are exact in float32, so plain float32 operations are the definition's where none underflows."""
    kind = kind_of("pairs-32", torch.bfloat16)
    x, weight = noise(1000, 96).bfloat16(), noise(1040, 96, seed=1).bfloat16()
    rows, columns = x.float().numpy(), weight.float().numpy()
    acc = np.zeros((1000, 1040), np.float32)
    for first in range(0, 96, 32):
        chains = [np.zeros_like(acc), np.zeros_like(acc)]
        for place in range(first, first + 32):
            chains[place % 2] += np.multiply.outer(rows[:, place], columns[:, place])
        acc += chains[0] + chains[1]
    for variant in range(kernels().best + 1):
        kernels().use(variant)
        assert np.array_equal(Packed(kind, weight).linear(x).numpy(), acc)


@pytest.mark.parametrize("name", FUSED)
def test_fused_sums_are_the_definitions_in_ten_million_hostile_outputs(name):
    """The portable kernels are held to the definition in numpy, and all others to the portable ones."""
    kind, by = kind_of(name, torch.bfloat16), Fused(name, "bfloat16")
    for seed in range(10):
        x = wild(1000, 48, seed=seed, most=2.0**40)
        weight = wild(1040, 48, seed=seed + 100, most=2.0**32)
        packed, found = Packed(kind, weight), []
        for variant in range(kernels().best + 1):
            kernels().use(variant)
            found.append(packed.linear(x).view(torch.int32))
        assert all(torch.equal(found[0], other) for other in found[1:])
        part = by.matrix(x[:50].float().numpy(), weight[:200].float().numpy())
        assert np.array_equal(found[0][:50, :200].numpy(), part.view(np.int32))


def wild(rows: int, columns: int, *, seed: int, most: float) -> Tensor:
    """Each row of one kind: ordinary, all alike, tiny, subnormal, sparse, largest, or any bits up to `most`."""
    made = np.random.default_rng(seed)
    lows, highs = zip(
        (118, 132), (127, 128), (0, 70), (0, 3), (57, 95), (140, 168), (0, 168), strict=True
    )
    kinds = made.integers(0, len(lows), rows)
    low, high = np.array(lows)[kinds, None], np.array(highs)[kinds, None]
    fields = np.broadcast_to(made.integers(low, high, (rows, columns)), (rows, columns))
    bits = (
        made.integers(0, 128, (rows, columns))
        | fields << 7
        | made.integers(0, 2, (rows, columns)) << 15
    )
    bits = np.where((kinds == 1)[:, None] & (made.random((rows, columns)) < 0.98), 0x3FFF, bits)
    bits = np.where(
        made.random((rows, columns)) < made.choice([0, 0.1, 0.9], (rows, 1)), bits & 0x8000, bits
    )
    values = torch.from_numpy(bits.astype(np.uint16).view(np.int16)).view(torch.bfloat16)
    return values.clamp(-most, most)


def hostile(*shape: int, seed: int) -> Tensor:
    """Wide, sparse, tiny and outlying values in one."""
    made = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=made)
    exponents = torch.randint(-70, 20, shape, generator=made).float()
    kinds = torch.randint(0, 6, shape, generator=made)
    values = torch.where(kinds == 0, torch.zeros(()), values)
    values = torch.where(kinds == 1, torch.full((), -0.0), values)
    values = torch.where(kinds == 2, values * torch.exp2(exponents), values)
    return torch.where(kinds == 3, values * 2.0**-66, values)


@BY_KIND
def test_every_variant_sums_hostile_values_alike(kind):
    for seed in range(4):
        x = hostile(200, 256, seed=seed).to(kind.dtype)
        weight = hostile(512, 256, seed=seed + 9).to(kind.dtype)
        packed, seen = Packed(kind, weight), []
        for variant in range(kernels().best + 1):
            kernels().use(variant)
            seen.append(packed.linear(x).view(torch.int32))
        assert all(torch.equal(seen[0], other) for other in seen[1:])


@BY_KIND
@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 40),
    outs=st.integers(1, 200),
    units=st.integers(1, 40),
    seed=st.integers(0, 99),
    threads=st.integers(1, 4),
)
def test_variants_threads_and_company_give_the_same_bits(kind, rows, outs, units, seed, threads):
    x = noise(rows, 2 * units, seed=seed).to(kind.dtype)
    packed = Packed(kind, noise(outs, 2 * units).to(kind.dtype), noise(outs, seed=seed))
    kernels().threads(threads)
    kernels().use(0)
    expected = packed.linear(x)
    for variant in range(1, kernels().best + 1):
        kernels().use(variant)
        assert torch.equal(packed.linear(x), expected)
    alone = packed.linear(x[rows // 2 : rows // 2 + 1].contiguous())
    assert torch.equal(alone[0], expected[rows // 2])


@pytest.mark.parametrize(
    ("dtype", "arithmetic"),
    [
        ("bfloat16", "chain-1"),
        ("float32", "chain-1"),
        ("bfloat16", "pairs-32"),
        ("bfloat16", "fused-16"),
        ("bfloat16", "fused-8"),
    ],
)
def test_a_whole_pass_has_the_same_bits_in_every_variant(dtype, arithmetic):
    config = tiny.config(dtype=dtype)
    decoder = Decoder(config, tiny.weights(config), CpuBackend(arithmetic=arithmetic))
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


@BY_KIND
def test_denormals_and_nan_are_the_same_in_every_variant(kind):
    dtype = kind.dtype
    extreme = torch.tensor([1e-40, -1e-38, 3e38, -3e38, float("inf"), float("nan"), 0.0, -0.0])
    if kind.arithmetic in FUSED:  # not defined beyond
        extreme = extreme.nan_to_num(1.0).clamp(-(2.0**40), 2.0**40)
    x = extreme.repeat(4, 2).to(dtype) * torch.tensor([[1.0], [1e-3], [-1.0], [0.5]]).to(dtype)
    weight = noise(16, 16).to(dtype)
    seen = []
    for variant in range(kernels().best + 1):
        kernels().use(variant)
        seen.append(Packed(kind, weight).linear(x))
    for other in seen[1:]:
        assert torch.equal(other.isnan(), seen[0].isnan())
        assert torch.equal(other.nan_to_num(), seen[0].nan_to_num())


def test_an_embedding_is_the_weights_row():
    for kind in KINDS:
        weight = noise(50, 32).to(kind.dtype)
        tokens = torch.tensor([0, 49, 7, 7])
        assert torch.equal(Packed(kind, weight).embed(tokens), weight[tokens].float())


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
