"""Single operations against the reference in numpy, written from protocol §7.2, and against exact fractions."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.disputes import binary32
from tests.shared.model.operations import Operations, bfloat16

REFERENCE = Operations()
anything = st.floats(width=32, allow_nan=True)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def bits(x: float) -> str:
    """Return a number's bits; every NaN is the same."""
    return "nan" if math.isnan(x) else np.float32(x).tobytes().hex()


@given(anything, anything)
@example(2.0**-126, -1.5 * 2.0**-126)
@example(0.0, 0.0)
@example(-1.0, 0.0)
@example(math.inf, math.inf)
@example(math.nan, 0.0)
def test_sums_products_quotients_and_roots_are_the_references(a, b):
    for name in ("add", "multiply", "divide"):
        expected = getattr(REFERENCE, name)(a, b)
        assert bits(getattr(binary32, name)(a, b)) == bits(float(expected)), name
    assert bits(binary32.root(a)) == bits(float(REFERENCE.root(a)))
    assert bits(binary32.to_bfloat16(a)) == bits(float(bfloat16(a)))


@given(anything, anything, anything)
@example(1 + 2.0**-23, 2.0**-24 * (1 - 2.0**-23), 1.0)
@example(2.0**-63, 2.0**-64, -(2.0**-127))
@example(2.0**100, 2.0**100, -math.inf)
def test_fma_is_the_references(a, b, c):
    assert bits(binary32.fma(a, b, c)) == bits(float(REFERENCE.fma(a, b, c)))


@given(finite, finite, finite)
def test_fma_rounds_the_exact_sum_once(a, b, c):
    if any(0 < abs(x) < binary32.LEAST for x in (a, b, c)):
        return
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if not binary32.LEAST <= abs(exact) < 2**127:
        return
    found = binary32.fma(a, b, c)
    unit = Fraction(2) ** (math.frexp(found)[1] - 24)
    assert abs(Fraction(found) - exact) <= unit / 2


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@given(data=st.binary(max_size=64))
def test_bytes_are_the_numbers_that_numpy_reads(dtype, data):
    size = 4 if dtype == "float32" else 2
    data = data[: len(data) // size * size]
    if dtype == "bfloat16":
        expected = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    else:
        expected = np.frombuffer(data, "<f4" if dtype == "float32" else "<f2").astype("<f4")
    found = binary32.widened(data, dtype)
    assert [bits(x) for x in found] == [bits(float(x)) for x in expected]
    if dtype != "float16" and not any(math.isnan(x) for x in found):
        assert binary32.narrowed(found, dtype) == data
