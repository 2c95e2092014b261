"""Compiles every kernel for one compute capability, without a card, and prints what the compiler made of it, as JSON.

`python -m tests.shared.model.cuda.compiled CAPABILITY [NAME…] [--kernels FILE]` with TRITON_INTERPRET=0; a file is a mutant of the
kernels, and names are those of `instances`. For each: its PTX instructions for float32 and for the matrix unit, what its dots start
from, and its shared memory.
"""

import argparse
import json
import re
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

from triton import compile as compiled
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from shared.model.cuda import kernels as own
from shared.model.cuda.operations import IEEE
from shared.model.cuda.tiles import Table, Way

BF16, F32, I32, I64 = "*bf16", "*fp32", "*i32", "*i64"
KINDS = {
    **dict.fromkeys(
        ("states", "bias", "qkv", "q_norm", "k_norm", "cosines", "sines", "outs", "mosts"), F32
    ),
    **dict.fromkeys(("x", "weight", "queries", "keys", "values", "out"), BF16),
    **dict.fromkeys(("positions", "blocks", "decoded", "table", "tiles", "sums"), I32),
    **dict.fromkeys(("rows", "stride", "segments", "window"), "i32"),
    **dict.fromkeys(("eps", "scale"), "fp32"),
    "tokens": I64,
}
"""Types of the kernels' arguments by name."""
OF_INTEREST = re.compile("f32|f64|mma|tcgen05|ftz|approx|full")
OPERATION = re.compile(r"^\s+(?:@\S+ )?([a-z][\w.:]+)", re.MULTILINE)
DOT = re.compile(r"tt\.dot %\w+, %\w+, (%\w+)")
ZERO = re.compile(r"(%\w+) = arith\.constant dense<0\.000000e\+00>")
CARRIED = re.compile(r"iter_args\((.*?)\) ->")


def instances(
    kernels: Any, table: Table
) -> Iterator[tuple[str, Any, dict[str, str], dict[str, Any], int, int]]:
    """Yield name, kernel, other types than `KINDS`, constants, warps and stages: of an 8B model, and a small one."""
    products = [
        (name, rows, outputs, inputs, epilogue)
        for rows in (1, 32, 64, 2048)
        for name, outputs, inputs, epilogue in (
            ("qkv", 6144, 4096, 0),
            ("o", 4096, 4096, 1),
            ("gate_up", 24576, 4096, 2),
        )
    ]
    for name, rows, outputs, inputs, epilogue in (
        *products,
        ("head", 1, 151_936, 4096, 0),
        ("one step", 1, 64, 64, 1),
    ):
        tile = table.product(name, rows, outputs, inputs)
        sizes = {"N": outputs, "K": inputs, "EPILOGUE": epilogue, "BIASED": name == "qkv",
                 "BM": tile.rows, "BN": tile.outputs, "BK": tile.depth}  # fmt: skip
        types = {"out": BF16 if epilogue == 2 else F32}
        kernel = kernels.product_kernel
        if tile.way == Way.COPIED:
            kernel = kernels.product_copied_kernel
            types |= {"x": f"tensordesc<bf16[{tile.rows}, {tile.depth}]>",
                      "weight": f"tensordesc<bf16[{tile.outputs}, {tile.depth}]>"}  # fmt: skip
        else:
            sizes["SWAP"] = tile.way == Way.SWAPPED
        yield f"{name} of {rows}", kernel, types, sizes, tile.warps, tile.stages
    yield (
        "embed",
        kernels.embed_kernel,
        {"table": BF16},
        {"D": 4096, "STRIDE": 4096, "BLOCK": 4096, "BR": 1},
        4,
        3,
    )
    norm = {"D": 4096, "DP": 4096, "BLOCK": 4096, "BR": 1}
    yield "norm", kernels.norm_kernel, {"weight": F32}, norm, 16, 3
    heads = {
        "H": 32,
        "G": 8,
        "E": 128,
        "P": 128,
        "STRIDE": 6144,
        "HALF": 64,
        "NORMED": True,
        "BH": 4,
        "BR": 1,
    }
    yield "heads", kernels.heads_kernel, {}, heads, 4, 3
    for width in (64, 128, 256):
        decode = {"H": 32, "G": 8, "P": width, "BG": 16}
        yield f"decode of {width}", kernels.decode_kernel, {}, decode, 4, 1
        most, stages, warps = table.chunk(width)
        chunk = {"H": 32, "G": 8, "P": width, "STRIDE": 32 * width, "BM": most, "STAGES": stages}
        yield f"chunk of {width}", kernels.chunk_kernel, {}, chunk, warps, 3
    yield "merge", kernels.merge_kernel, {}, {"H": 32, "P": 128, "STRIDE": 4096}, 1, 3


def starts(ttir: str) -> list[str]:
    """Return what dots start from: `zero`, which the turns of a loop may carry on, or the name of another value."""
    zeros = set(ZERO.findall(ttir))
    pairs = [pair.split(" = ") for each in CARRIED.findall(ttir) for pair in each.split(", ")]
    zeros |= {name for name, first in pairs if first in zeros}
    return sorted({"zero" if each in zeros else each for each in DOT.findall(ttir)})


def loaded(path: str) -> Any:
    """Return the kernels of another file."""
    spec = spec_from_file_location("mutant_kernels", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Print what became of the kernels."""
    parser = argparse.ArgumentParser()
    parser.add_argument("capability", type=int)
    parser.add_argument("--kernels")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    kernels = loaded(options.kernels) if options.kernels else own
    table, found = Table.of(divmod(options.capability, 10)), {}
    for name, kernel, types, sizes, warps, stages in instances(kernels, table):
        if options.names and name not in options.names:
            continue
        arguments = list(kernel.arg_names)
        signature = {
            each: types.get(each) or KINDS.get(each, "") for each in arguments
        } | dict.fromkeys(sizes, "constexpr")
        aligned = {
            (n,): [["tt.divisibility", 16]]
            for n, each in enumerate(arguments)
            if signature[each].startswith("*")
        }
        made = compiled(
            ASTSource(fn=kernel, signature=signature, constexprs=sizes, attrs=aligned),
            target=GPUTarget("cuda", options.capability, 32),
            options={"num_warps": warps, "num_stages": stages, **IEEE},
        )
        operations = set(OPERATION.findall(made.asm["ptx"]))
        found[name] = {
            "operations": sorted(each for each in operations if OF_INTEREST.search(each)),
            "starts": starts(made.asm["ttir"]),
            "shared": made.metadata.shared,
            "allowed": table.memory,
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
