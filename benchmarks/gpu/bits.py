"""The card's products and passes against the definition: how many values were compared, and how many differ in a bit."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from shared.model.backend import Backend
from shared.model.cpu import CpuBackend
from shared.model.cuda import operations
from shared.model.cuda.operations import Weight
from shared.model.cuda.tiles import ANY, TILES, Epilogue, Table, Tile
from shared.model.weights import Weights
from tests.shared.model.cuda import passes
from tests.shared.model.reference_fused import Fused
from tests.vectors.arithmetic import cut, draw, hostile

ROWS = (1, 17, 130)


@dataclass(frozen=True, slots=True)
class Compared:
    """One comparison."""

    what: str
    values: int
    differing: int


def compare(what: str, found: list[torch.Tensor], expected: list[torch.Tensor]) -> Compared:
    """Count the values of tensors that differ."""
    return Compared(
        what, sum(each.numel() for each in expected), passes.differences(found, expected)
    )


def products(by: Fused, tiles: set[Tile], device: torch.device) -> Iterator[Compared]:
    """Compare products, plain and added to something, in tiles: ordinary values, and hostile ones."""
    for tile in sorted(tiles, key=str):
        table = Table(tiles={ANY: {"": tile}})
        for kind, values in (("ordinary", draw), ("hostile", hostile)):
            found, expected = [], []
            for rows in ROWS:
                x, w = (
                    cut(by, values(f"{name}{rows}", size, 2 * tile.depth))
                    for name, size in (("x", rows), ("w", tile.outputs))
                )
                before = values(f"before{rows}", rows, tile.outputs)
                given = torch.from_numpy(x).bfloat16().to(device)
                weight = Weight(torch.from_numpy(w).bfloat16().to(device))
                for epilogue, start in (
                    (Epilogue.PLAIN, np.zeros_like(before)),
                    (Epilogue.ADDED, before),
                ):
                    out = torch.from_numpy(start.copy()).to(device)
                    operations.product(table, "", given, weight, out, epilogue)
                    sums = by.matrix(x, w)
                    found.append(out.cpu())
                    expected.append(
                        torch.from_numpy(
                            sums if epilogue is Epilogue.PLAIN else by.add(before, sums)
                        )
                    )
            yield compare(
                f"products, {tile.rows} × {tile.outputs} × {tile.depth} {tile.way.name.lower()}, {kind}",
                found,
                expected,
            )


def decoders(backend: Backend, *, stress: bool) -> Iterator[Compared]:
    """Compare passes of a small model: chunks, single rows, both together."""
    reference = CpuBackend(arithmetic=backend.arithmetic)
    made = strained() if stress else passes.weights()
    which = "strained" if stress else "ordinary"
    found, expected = (passes.run(each, passes.ALL, made=made) for each in (backend, reference))
    yield compare(f"passes of a small model, {which} weights", found, expected)


def strained() -> Weights:
    """Return weights with outliers, zero rows, sharp attention, and values from far below to far above what is stored."""
    made = {name: tensor.clone() for name, tensor in passes.weights().items()}
    made["model.embed_tokens.weight"][:, :3] *= 300
    made["model.embed_tokens.weight"][::5] = 0
    made["model.embed_tokens.weight"][1::5] *= 2.0**-40
    for layer in range(passes.CONFIG.layers):
        prefix = f"model.layers.{layer}."
        made[prefix + "self_attn.v_proj.weight"][::2] *= 2.0**-59
        made[prefix + "self_attn.v_proj.weight"][1::3] *= 2.0**19
        made[prefix + "self_attn.q_norm.weight"] *= 5
        made[prefix + "mlp.gate_proj.weight"][::3] *= 40
        made[prefix + "post_attention_layernorm.weight"][::4] *= 2.0**-70
    return made


def bits(backend: Backend, device: torch.device, *, quick: bool) -> list[dict[str, Any]]:
    """Return all comparisons."""
    by = Fused(backend.arithmetic, "bfloat16")
    tiles = (
        {Tile(16, 32, 64, 2, 1)}
        if quick
        else {tile for named in TILES.values() for tile in named.values()}
    )
    compared = [*products(by, tiles, device)]
    for stress in (False,) if quick else (False, True):
        compared += decoders(backend, stress=stress)
    return [asdict(each) for each in compared]
