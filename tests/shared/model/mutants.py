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
UNCHANGED = "nothing"


@cache
def _compiled(name: str, folder: Path) -> Kernels:
    copytree(SOURCES, folder, ignore=lambda *_: ["__pycache__"], dirs_exist_ok=True)
    line, changed = (MUTANTS | OTHERS | {UNCHANGED: (UNITS, UNITS)})[name]
    texts = {source: source.read_text(encoding="utf-8") for source in folder.glob("*.[ch]")}
    [(source, text)] = [each for each in texts.items() if line in each[1]]
    assert text.count(line) == 1, "the mutant's line is no longer in the kernels"
    source.write_text(text.replace(line, changed), encoding="utf-8")
    built = folder / "mutant.so"
    command = ["cc", "-std=gnu11", "-O0", "-ffp-contract=off", "-fPIC", "-shared", "-pthread"]
    subprocess.run(
        [*command, "kernels.c", "-o", str(built), "-lm"], cwd=folder, check=True, timeout=100
    )
    return Kernels(str(built))


_folders: dict[str, Path] = {}


def mutated(name: str, factory: pytest.TempPathFactory) -> Kernels:
    """Return the kernels with that mutation; compiled once a session."""
    folder = _folders.setdefault(name, factory.mktemp("mutant"))
    return _compiled(name, folder)
