"""The kernels with one line changed: compiled from their own source, so that a test shows that it notices."""

import subprocess
from functools import cache
from pathlib import Path
from shutil import copytree

import pytest

import shared.model.native
from shared.model.native.library import Kernels

SOURCES = Path(shared.model.native.__file__).parent
UNITS = "for (int64_t u = 0; u < units; u++) {"

MUTANTS = {
    "rows that share a tile sum backwards": (
        UNITS,
        "for (int64_t t = 0; t < units; t++) { const int64_t u = MR > 1 ? units - 1 - t : t;",
    ),
    "a lonely row sums backwards": (
        UNITS,
        "for (int64_t t = 0; t < units; t++) { const int64_t u = MR == 1 ? units - 1 - t : t;",
    ),
    "a score moves when a task has several rows": (
        "NAME(scores)(shape, q, rows, keys, values, blocks, needed, scores);",
        "NAME(scores)(shape, q, rows, keys, values, blocks, needed, scores); if (task.rows > 1) scores[0] += 1e-3f;",
    ),
}
"""What is wrong → (the line, what it becomes). All depend on which rows share a tile or a task."""
OTHERS = {
    "denormals are kept": (
        "team.region(&me, team.argument);",
        "restore_denormals(control); team.region(&me, team.argument);",
    ),
    "exponentials far below one are zero": (
        "NAME(set1u)(0x42ac0000u)",  # 86
        "NAME(set1u)(0x41200000u)",  # 10
    ),
    "a window begins with whole lanes": (
        "softmax)(scores + row * places, from - first * BLOCK,",
        "softmax)(scores + row * places, (from - first * BLOCK) / LANES * LANES,",
    ),
}
"""The same in any batch, but not what is defined."""
OF_FUSED = {
    "sums are rounded": ("wide &= ~(uint64_t)0x1fffffff;", ""),
    "one bit less is kept of each term": ("(FUSED == 16 ? 25 : 24)", "(FUSED == 16 ? 24 : 23)"),
    "zeros have no exponent": (
        "exponents[i] = one.exponent + row.exponent;",
        "exponents[i] = (one.exponent + row.exponent) - (one.size * row.size == 0 & 1000);",
    ),
    "a sum that is zero has an exponent": (
        "largest = (own & some) | (-1000 & ~some);",
        "largest = own;",
    ),
    "the mean is another quotient": (
        "(float)total / (float)own * power",
        "(float)total * (power / (float)own)",
    ),
    "tiny values are stored": ("(0x1p-60f)", "(0x1p-70f)"),
    "large values are stored": ("0x1p20f", "0x1p22f"),
    "large gates are not limited": ("0x1p40f", "0x1p60f"),
    "small weights are kept": (
        "0x41d80000u), NAME(set1u)(0), p)",
        "0x42ac0000u), NAME(set1u)(0), p)",
    ),
    "totals are merged in two roundings": (
        "__builtin_fmaf(beta[m], (float)sum * 0x1p-23f, alpha[m] * so_far->total)",
        "beta[m] * ((float)sum * 0x1p-23f) + alpha[m] * so_far->total",
    ),
    "outputs are merged in two roundings": (
        "NAME(fma)(NAME(set1)(beta[m]), now, NAME(mul)(NAME(set1)(alpha[m]), NAME(load)(at)))",
        "NAME(add)(NAME(mul)(NAME(set1)(beta[m]), now), NAME(mul)(NAME(set1)(alpha[m]), NAME(load)(at)))",
    ),
    "a window begins with a segment": ("left = from > first ? from - first : 0", "left = 0"),
    "denormals are flushed": ("return kind == FUSED_16 || kind == FUSED_8;", "return 0;"),
}
"""The same of what only the fused arithmetics have, in the portable kernels."""
BEYOND_THE_PROBE = (
    "zeros have no exponent",
    "small weights are kept",
    "totals are merged in two roundings",
    "outputs are merged in two roundings",
)
"""Those of OF_FUSED that a pass shows once in 10^5 values or less, if ever, so that only chosen vectors do."""
UNCHANGED = "nothing"


def without_variants(text: str) -> str:
    """Return kernels.c with the portable variant alone."""
    for first in ("#define SUFFIX avx2", "    VARIANT(avx2", "    __builtin_cpu_init();"):
        assert text.count(f"#if defined(__x86_64__)\n{first}") == 1
        text = text.replace(f"#if defined(__x86_64__)\n{first}", f"#if 0\n{first}")
    return text


@cache
def _compiled(name: str, folder: Path, portable: bool) -> Kernels:
    copytree(SOURCES, folder, ignore=lambda *_: ["__pycache__"], dirs_exist_ok=True)
    line, changed = (MUTANTS | OTHERS | OF_FUSED | {UNCHANGED: (UNITS, UNITS)})[name]
    texts = {source: source.read_text(encoding="utf-8") for source in folder.glob("*.[ch]")}
    [(source, text)] = [each for each in texts.items() if line in each[1]]
    assert text.count(line) == 1, "the mutant's line is no longer in the kernels"
    source.write_text(text.replace(line, changed), encoding="utf-8")
    if portable:
        kernels = folder / "kernels.c"
        kernels.write_text(without_variants(kernels.read_text(encoding="utf-8")), encoding="utf-8")
    built = folder / "mutant.so"
    command = ["cc", "-std=gnu11", "-O0", "-ffp-contract=off", "-fPIC", "-shared", "-pthread"]
    subprocess.run(
        [*command, "kernels.c", "-o", str(built), "-lm"], cwd=folder, check=True, timeout=100
    )
    return Kernels(str(built))


_folders: dict[str, Path] = {}


def mutated(name: str, factory: pytest.TempPathFactory, *, portable: bool = False) -> Kernels:
    """Return the kernels with that mutation, or the portable ones alone, which compile faster; compiled once a session."""
    folder = _folders.setdefault(f"{name} {portable}", factory.mktemp("mutant"))
    return _compiled(name, folder, portable)
