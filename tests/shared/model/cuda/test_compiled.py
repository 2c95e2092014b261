"""What the interpreter cannot show: that the compiler keeps the kernels' operations, for every kind of card, without one.

It compiles for a compute capability, and what it made is read: each operation on float32 is the IEEE one that the kernels ask
for, the matrix unit's instructions are those whose arithmetic is known, no product starts from anything but zero, and programs fit.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shared.model.cuda import kernels

IEEE = re.compile(
    r"(add|sub|mul|fma|div|sqrt)\.rn\.f32(x2)?|(abs|neg|max|min|selp|setp\.\w+)\.f32|mov\.f32"
)
EXACT = re.compile(r"cvt\.(f32\.bf16|rn\.bf16(x2)?\.f32|rn\.f32\.s(32|64))")
MATRIX_UNIT = re.compile(
    r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.bf16\.bf16\.f32"
    r"|wgmma\.mma_async\.sync\.aligned\.m64n\d+k16\.f32\.bf16\.bf16|wgmma\.(fence|commit_group|wait_group)\.sync\.aligned"
    r"|tcgen05\.mma\.cta_group::1\.kind::f16|tcgen05\.(alloc|dealloc|ld|st|wait|commit|fence|relinquish_alloc_permit)[\w.:]*"
)
SOME = ("one step of 1", "gate_up of 1", "norm", "heads", "decode of 128")


def made(capability: int, folder: Path, *arguments: str) -> dict[str, dict]:
    command = [
        sys.executable,
        "-m",
        "tests.shared.model.cuda.compiled",
        str(capability),
        *arguments,
    ]
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(folder / "kept")}
    ended = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=280, env=environment
    )
    return dict(json.loads(ended.stdout))


def check(found: dict[str, dict]) -> None:
    for name, each in found.items():
        for operation in each["operations"]:
            assert any(kind.fullmatch(operation) for kind in (IEEE, EXACT, MATRIX_UNIT)), (
                name,
                operation,
            )
        assert set(each["starts"]) <= {"zero"}, name
        assert each["shared"] <= each["allowed"], name


def test_the_compiler_keeps_the_operations_of_some_kernels(tmp_path):
    found = made(90, tmp_path, *SOME)
    assert set(found) == set(SOME)
    check(found)
    assert "fma.rn.f32" not in found["norm"]["operations"]


def test_a_product_that_is_added_to_plainly_would_start_from_what_it_is_added_to(tmp_path):
    """The reason for `after_dot`."""
    text = Path(kernels.__file__).read_text(encoding="utf-8")
    part = "return tl.fma(product, 1.0, other)"
    assert text.count(part) == 1
    mutant = tmp_path / "mutant_kernels.py"
    mutant.write_text(text.replace(part, "return product + other"), encoding="utf-8")
    found = made(90, tmp_path, "one step of 1", "--kernels", str(mutant))
    assert found["one step of 1"]["starts"] != ["zero"]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("capability", [80, 86, 89, 90, 100, 103, 120, 121])
def test_the_compiler_keeps_all_operations_on_every_kind_of_card(capability, tmp_path):
    found = made(capability, tmp_path)
    assert len(found) == 24
    check(found)
