"""What the referee computes is what the vectors of protocol §7.2 say, element by element."""

import math
import struct
from collections.abc import Sequence
from dataclasses import replace

import pytest

from shared.disputes.arithmetic import Arithmetic, rotated
from shared.disputes.binary32 import multiply, narrowed, widened
from shared.disputes.claim import Rotation, binary64
from shared.disputes.exponential import exp
from shared.disputes.functions import angle, ln_64
from shared.runtime.errors import Code, CounterfoilError
from tests.shared.disputes.shapes import LLAMA_8B
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


def written(values: Sequence[float], dtype: str = "float32") -> str:
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


@pytest.mark.parametrize("case", VECTORS, ids=IDS)
def test_norms_and_gates_are_those_of_the_vectors(case):
    by = Arithmetic(case["arithmetic"], case["dtype"])
    for norm in case["norms"]:
        weight = numbers(norm["weight"])
        for row, out in zip(norm["x"], norm["out"], strict=True):
            x = numbers(row)
            r = by.norm_scale(x, norm["eps"])
            found = [
                by.rounded(multiply(multiply(a, r), w)) for a, w in zip(x, weight, strict=True)
            ]
            assert written(found, by.dtype) == out
    gates = case["gates"]
    pairs = zip(numbers(gates["g"]), numbers(gates["u"]), strict=True)
    assert written([by.gated(g, u) for g, u in pairs], by.dtype) == gates["out"]


@pytest.mark.parametrize("case", VECTORS, ids=IDS)
def test_heads_are_rotated_and_stored_as_the_vectors_say(case):
    by = Arithmetic(case["arithmetic"], case["dtype"])
    for head in case["heads"]:
        x, half = numbers(head["head"]), len(numbers(head["head"])) // 2
        if head["norm"]:
            r = by.norm_scale(x, head["eps"])
            weight = numbers(head["norm"])
            x = tuple(multiply(multiply(a, r), w) for a, w in zip(x, weight, strict=True))
        turns = [*zip(numbers(head["cosines"]), numbers(head["sines"]), strict=True)]
        turned = [
            rotated(x[i % half], x[i % half + half], turns[i % half], low=i < half)
            for i in range(2 * half)
        ]
        assert written([by.rounded(a) for a in turned], by.dtype) == head["query"], head["name"]
        assert written([by.stored(a) for a in turned], by.dtype) == head["key"], head["name"]
        values = [by.stored(a) for a in numbers(head["head"])]
        assert written(values, by.dtype) == head["value"], head["name"]


def test_functions_are_those_of_the_vectors():
    given = load("arithmetic")["functions"]
    below = [x for x in numbers(given["exp"]["x"]) if not x > 0]
    assert written([exp(x) for x in below]) == given["exp"]["exp"]
    data = bytes.fromhex(given["ln_64"]["x"])
    found = [ln_64(x) for x in struct.unpack(f">{len(data) // 8}d", data)]
    assert struct.pack(f">{len(found)}d", *found).hex() == given["ln_64"]["ln"]
    for table in given["angles"]:
        rope = table["rope"]
        scaled, smooth = rope["kind"] != "default", rope["kind"] == "llama3"
        of = replace(
            LLAMA_8B,
            heads=1,
            kv_heads=1,
            head_dim=table["head_dim"],
            rope=Rotation(rope["kind"]),
            theta=binary64(rope["theta"]),
            factor=binary64(rope["factor"]) if scaled else None,
            low=binary64(rope["low_freq_factor"]) if smooth else None,
            high=binary64(rope["high_freq_factor"]) if smooth else None,
            original=rope["original_positions"] if smooth else None,
        )
        for at, position in enumerate(table["positions"]):
            turns = [angle(of, position, pair) for pair in range(table["head_dim"] // 2)]
            assert written([cosine for cosine, _ in turns]) == table["cosines"][at]
            assert written([sine for _, sine in turns]) == table["sines"][at]


@pytest.mark.parametrize(
    "changed",
    [
        {"theta": binary64(math.nan)},
        {"theta": binary64(0.0)},
        {"eps": binary64(math.inf)},
        {"eps": binary64(-1.0)},
        {"factor": binary64(0.5)},
        {"factor": None},
        {"low": binary64(4.0)},
        {"original": None},
        {"windows": (0,)},
        {"kv_heads": 5},
        {"head_dim": 3},
    ],
)
def test_a_definition_of_no_model_is_refused(changed):
    with pytest.raises(CounterfoilError) as caught:
        replace(LLAMA_8B, **changed)
    assert caught.value.code is Code.MALFORMED


@pytest.mark.parametrize(
    ("name", "dtype"), [("chain-1", "float16"), ("fused-16", "bfloat16"), ("pairs-32", "float32")]
)
def test_what_is_not_decided_is_refused(name, dtype):
    with pytest.raises(CounterfoilError) as caught:
        Arithmetic(name, dtype)
    assert caught.value.code is Code.UNSUPPORTED
