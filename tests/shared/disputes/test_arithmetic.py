"""What the referee computes is what the vectors of protocol §7.2 say, element by element."""

import math

import pytest

from shared.disputes.arithmetic import Arithmetic
from shared.disputes.binary32 import narrowed, widened
from shared.runtime.errors import Code, CounterfoilError
from tests.vectors.files import load

VECTORS = [
    case
    for case in load("arithmetic")["arithmetics"]
    if case["arithmetic"] in ("chain-1", "pairs-32")
]
IDS = [f"{case['arithmetic']} {case['dtype']}" for case in VECTORS]


def numbers(text: str, dtype: str = "float32") -> tuple[float, ...]:
    """Read big-endian hexadecimal."""
    data = bytes.fromhex(text)
    size = 2 if dtype == "bfloat16" else 4
    return widened(b"".join(data[at : at + size][::-1] for at in range(0, len(data), size)), dtype)


def written(values: tuple[float, ...], dtype: str = "float32") -> str:
    """Write numbers as the vectors do; every NaN is 7fc00000."""
    size = 2 if dtype == "bfloat16" else 4
    data = narrowed(values, dtype)
    nan = "7fc0" if size == 2 else "7fc00000"
    return "".join(
        nan if math.isnan(value) else data[at : at + size][::-1].hex()
        for value, at in zip(values, range(0, len(data), size), strict=True)
    )


@pytest.mark.parametrize("case", VECTORS, ids=IDS)
def test_products_are_those_of_the_vectors(case):
    by = Arithmetic(case["arithmetic"], case["dtype"])
    assert len(case["products"]) > 5
    for product in case["products"]:
        bias = numbers(product["bias"]) if product["bias"] else None
        rows = [numbers(row, by.dtype) for row in product["weight"]]
        for x, out in zip(product["x"], product["out"], strict=True):
            found = tuple(
                by.product(numbers(x, by.dtype), row, None if bias is None else bias[place])
                for place, row in enumerate(rows)
            )
            assert written(found) == out, product["name"]


@pytest.mark.parametrize(
    ("name", "dtype"), [("chain-1", "float16"), ("fused-16", "bfloat16"), ("pairs-32", "float32")]
)
def test_what_is_not_decided_is_refused(name, dtype):
    with pytest.raises(CounterfoilError) as caught:
        Arithmetic(name, dtype)
    assert caught.value.code is Code.UNSUPPORTED
