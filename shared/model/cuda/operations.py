"""Launches of the kernels, on tensors that lie where the kernels can read them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from shared.model.cuda import kernels
from shared.model.cuda.shape import Shape
from shared.model.cuda.tables import Tables
from shared.model.cuda.tiles import Epilogue, Table, Way, power, rows_each

IEEE = {"enable_fp_fusion": False}
"""No multiplication and addition become one operation unless a kernel says so."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight (out, in) in bfloat16, both padded with zeros, and its bias (out,) in float32, padded likewise."""

    data: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Heads:
    """What happens to the heads of a layer before attention."""

    norms: tuple[Tensor, Tensor] | None
    """Weights of the norms of queries and keys."""
    cosines: Tensor
    sines: Tensor
    eps: float


def padded(matrix: Tensor, columns: int, rows: int | None = None) -> Tensor:
    """Return a matrix filled up with zeros to so many columns and rows; one that needs none is returned as it is."""
    missing = columns - matrix.shape[1], 0 if rows is None else rows - len(matrix)
    if any(missing):
        matrix = functional.pad(matrix, (0, missing[0], 0, missing[1]))
    return matrix.contiguous()


def embed(table: Tensor, tokens_R: Tensor, width: int) -> Tensor:
    """Return states (R, width) of rows of a table, which may be wider."""
    out, each = table.new_empty((len(tokens_R), width), dtype=torch.float32), rows_each(width)
    kernels.embed_kernel[(-(-len(out) // each),)](
        table,
        tokens_R,
        out,
        len(out),
        D=width,
        STRIDE=table.shape[1],
        BLOCK=power(width),
        BR=each,
        **IEEE,
    )
    return out


def norm(states: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Return the norms of rows in bfloat16; the rows may be wider than the weight, by zeros."""
    rows, filled = states.shape
    out = torch.empty_like(states, dtype=torch.bfloat16)
    block, each = power(filled), rows_each(filled)
    kernels.norm_kernel[(-(-rows // each),)](
        states, weight_D, out, rows, eps, D=len(weight_D), DP=filled, BLOCK=block, BR=each,
        num_warps=max(1, min(16, block * each // 256)), **IEEE,
    )  # fmt: skip
    return out


def product(
    table: Table, name: str, x: Tensor, weight: Weight, out: Tensor, epilogue: Epilogue
) -> Tensor:
    """Return out, to which products of x (R, in) go as the epilogue says."""
    rows, outputs, inputs = len(x), *weight.data.shape
    assert x.shape[1] == inputs
    tile = table.product(name, rows, outputs, inputs)
    sizes = {
        "N": outputs, "K": inputs, "EPILOGUE": int(epilogue), "BIASED": weight.bias is not None,
        "BM": tile.rows, "BN": tile.outputs, "BK": tile.depth, "num_stages": tile.stages, "num_warps": tile.warps,
    }  # fmt: skip
    grid = (-(-rows // tile.rows) * (outputs // tile.outputs),)
    bias = out if weight.bias is None else weight.bias
    if tile.way == Way.COPIED:
        copied = kernels.TensorDescriptor.from_tensor
        of_x, of_weight = (
            copied(x, [tile.rows, tile.depth]),
            copied(weight.data, [tile.outputs, tile.depth]),
        )
        kernels.product_copied_kernel[grid](of_x, of_weight, out, bias, rows, **sizes, **IEEE)
    else:
        swap = tile.way == Way.SWAPPED
        kernels.product_kernel[grid](x, weight.data, out, bias, rows, SWAP=swap, **sizes, **IEEE)
    return out


def heads(
    qkv: Tensor, shape: Shape, how: Heads, keys: Tensor, values: Tensor, tables: Tables
) -> Tensor:
    """Return queries (R, heads, padded head width), and store the rows' keys and values."""
    rows, padded = len(qkv), shape.head_filled != shape.head
    size = (rows, shape.heads, shape.head_filled)
    queries = (torch.zeros if padded else torch.empty)(
        size, dtype=torch.bfloat16, device=qkv.device
    )
    total, half = shape.heads + 2 * shape.kv_heads, power(shape.head // 2)
    some, each = min(4, power(total)), rows_each(8 * shape.head_filled)
    q_norm, k_norm = how.norms or (how.cosines, how.cosines)
    kernels.heads_kernel[(-(-rows // each), -(-total // some))](
        qkv, queries, keys, values, q_norm, k_norm, how.cosines, how.sines, tables.positions, tables.blocks, rows, how.eps,
        H=shape.heads, G=shape.kv_heads, E=shape.head, P=shape.head_filled, STRIDE=shape.qkv, HALF=half,
        NORMED=how.norms is not None, BH=some, BR=each, num_warps=max(1, min(4, some * each * half // 64)), **IEEE,
    )  # fmt: skip
    return queries


def attend(
    table: Table,
    queries: Tensor,
    shape: Shape,
    keys: Tensor,
    values: Tensor,
    tables: Tables,
    window: int,
) -> Tensor:
    """Return the outputs of attention (R, padded width); a window of 0 is none."""
    rows, heads, width = queries.shape
    padded = heads * width != shape.attended
    out = (torch.zeros if padded else torch.empty)(
        (rows, shape.attended), dtype=torch.bfloat16, device=queries.device
    )
    blocks, stride, scale = tables.table, tables.table.shape[1], _single(shape.head**-0.5)
    sizes = {"H": heads, "P": width, **IEEE}
    if alone := len(tables.decoded):
        shared, reached = heads // shape.kv_heads, tables.segments
        outs = queries.new_empty((alone, reached, heads, width), dtype=torch.float32)
        mosts = queries.new_empty((alone, reached, heads), dtype=torch.float32)
        sums = queries.new_empty((alone, reached, heads), dtype=torch.int32)
        seen = min(reached, -(-window // kernels.SEGMENT.value) + 1) if window else reached
        kernels.decode_kernel[(alone, shape.kv_heads, seen)](
            queries, keys, values, tables.positions, tables.decoded, blocks, stride, reached, window, scale, outs, mosts, sums,
            G=shape.kv_heads, BG=power(shared, 16), num_warps=4, num_stages=1, **sizes,
        )  # fmt: skip
        kernels.merge_kernel[(alone, heads)](
            outs, mosts, sums, tables.positions, tables.decoded, reached, window, out,
            STRIDE=shape.attended, num_warps=1, **sizes,
        )  # fmt: skip
    if tiles := len(tables.tiles):
        most, stages, warps = table.chunk(width)
        kernels.chunk_kernel[(heads, tiles)](
            queries, keys, values, tables.tiles, blocks, stride, window, scale, out,
            G=shape.kv_heads, STRIDE=shape.attended, BM=most, STAGES=stages, num_warps=warps, **sizes,
        )  # fmt: skip
    return out


def _single(x: float) -> float:
    """Return the float32 that is nearest."""
    return float(torch.tensor(x, dtype=torch.float32))
