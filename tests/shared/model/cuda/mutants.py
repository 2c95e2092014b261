"""The kernels with one thing changed, loaded from their own source, so that a test shows that it notices."""

from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from shared.model.cuda import kernels

SOURCE = Path(kernels.__file__)


@dataclass(frozen=True)
class Mutant:
    exam: str
    """What must notice it, in test_kernels."""
    changes: tuple[tuple[str, str], ...]
    """Texts, each of which is there once, and what they become."""


NEXT_BLOCK = "        block = tl.load(table + sequence * stride + s).to(tl.int64)\n        near"
START = "        sums = tl.zeros((BM, BN), tl.float32)\n        for _"
STORED = "tl.load(out + m.to(tl.int64) * N + column + tl.arange(0, BN)[None, :], mask=m < rows, other=0.0)"
MUTANTS = {
    "a decoded row's segments are merged from the last": Mutant(
        "merge of decoded rows",
        (
            (
                "slot = (query * segments + s) * H + head\n        m, units, o",
                "slot = (query * segments + position // SEGMENT + lowest // SEGMENT - s) * H + head\n        m, units, o",
            ),
        ),
    ),
    "a chunk's segments are merged from the last": Mutant(
        "merge of chunks",
        ((NEXT_BLOCK, f"        s = (position + rows - 1) // SEGMENT + first - s\n{NEXT_BLOCK}"),),
    ),
    "a score is contracted with the maximum": Mutant(
        "weights",
        (
            (
                "exp(scores - anchor[:, None], WEIGHT_LEAST)",
                "exp(tl.where(seen, tl.fma(products, scale, 0.0 - anchor[:, None]), HIDDEN), WEIGHT_LEAST)",
            ),
        ),
    ),
    "the other product of a rotation is contracted": Mutant(
        "heads",
        (("tl.fma(y * -1.0, sine, x * cosine)", "tl.fma(x, cosine, (y * sine) * -1.0)"),),
    ),
    "an exponential multiplies and adds in two roundings": Mutant(
        "exponentials", (("p = tl.fma(p, r, 0.5)", "p = p * r + 0.5"),)
    ),
    "exponentials are the library's": Mutant(
        "exponentials", (("scaled.to(tl.float32, bitcast=True)", "tl.exp(x)"),)
    ),
    "weights far below one are kept": Mutant(
        "weights", (("WEIGHT_LEAST = tl.constexpr(-27.0)", "WEIGHT_LEAST = tl.constexpr(-86.0)"),)
    ),
    "a decoded row sees what follows": Mutant(
        "attention", (("(place <= position) & (place >= lowest)", "(place >= lowest)"),)
    ),
    "a decoded row sees beyond its window": Mutant(
        "attention", (("(place <= position) & (place >= lowest)", "(place <= position)"),)
    ),
    "a chunk sees what follows": Mutant("attention", (("(there <= place[:, None]) & ", ""),)),
    "a chunk sees beyond its windows": Mutant(
        "attention", ((" & (there >= lowest[:, None])", ""),)
    ),
    "a chunk merges segments that a row does not see": Mutant(
        "attention", (("& (s * SEGMENT + SEGMENT > lowest)", "& (lowest >= 0)"),)
    ),
    "a product starts from what it is added to": Mutant(
        "one step",
        (
            ("after_dot(sums, tl.load(place, mask=inside, other=0.0))", "sums"),
            (
                START,
                START.replace(
                    "\n", f"\n        if EPILOGUE == ADDED:\n            sums = {STORED}\n"
                ),
            ),
        ),
    ),
    "squares are summed as they are": Mutant(
        "norms",
        (
            (
                "r = inverse_root(total, largest, D * 1.0, eps)",
                "r = tl.div_rn(1.0, tl.sqrt_rn(tl.div_rn(tl.sum(square, 1, keep_dims=True), D * 1.0) + eps))",
            ),
        ),
    ),
    "nothing is limited before it is rounded": Mutant(
        "norms", (("tl.minimum(tl.maximum(x, -MOST), MOST).to", "x.to"),)
    ),
    "tiny values are stored": Mutant("heads", (("tl.abs(x) < VALUE_LEAST", "tl.abs(x) < 0.0"),)),
    "zeros have the sign that the matrix unit gives them": Mutant(
        "products", (("    sums = after_dot(sums, 0.0)\n", ""),)
    ),
}


def mutated(name: str, folder: Path) -> ModuleType:
    """Return the kernels with that mutation."""
    text = SOURCE.read_text(encoding="utf-8")
    for part, changed in MUTANTS[name].changes:
        assert text.count(part) == 1, "the mutant's text is no longer in the kernels"
        text = text.replace(part, changed)
    path = folder / "mutant_kernels.py"
    path.write_text(text, encoding="utf-8")
    spec = spec_from_file_location("mutant_kernels", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
