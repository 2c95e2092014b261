"""Each kernel, in every tile and with every epilogue, gives the bits of protocol §7.2.4 as `reference_fused` computes them."""

import sys
from itertools import product

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from shared.model.cuda import kernels, operations
from shared.model.cuda.operations import Heads, Weight
from shared.model.cuda.shape import Shape
from shared.model.cuda.tables import Tables
from shared.model.cuda.tiles import ANY, SHARED, TILES, Epilogue, Table, Tile, Way, filled, power
from shared.model.layout import Layout
from tests.shared.model.cuda.interpreter import FOLDS, chain, fma, narrowed, patched, widened
from tests.shared.model.cuda.mutants import MUTANTS, mutated
from tests.shared.model.operations import Floats
from tests.shared.model.reference_fused import Fused
from tests.vectors.arithmetic import cut, draw, hostile, values_of
from tests.vectors.files import load

BY = Fused("fused-16", "bfloat16")
CPU = torch.device("cpu")
TILE_SHAPES = (
    Tile(16, 32, 64, 2, 1),
    Tile(16, 16, 128, 2, 1, Way.SWAPPED),
    Tile(32, 64, 64, 2, 1, Way.SWAPPED),
    Tile(64, 128, 64, 2, 1),
    Tile(128, 64, 128, 2, 1, Way.COPIED),
    Tile(128, 256, 64, 2, 1, Way.COPIED),
)


def single(x: Floats) -> Floats:
    """Cut to the bits of bfloat16."""
    return cut(BY, np.ascontiguousarray(x))


def tensor(x: Floats) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))


def bits(x: Floats | Tensor) -> list[int]:
    values = x.float().numpy() if isinstance(x, Tensor) else x
    return np.ascontiguousarray(values, np.float32).view(np.uint32).ravel().tolist()


def wide(label: str, *shape: int) -> Floats:
    """Ordinary numbers with some that are tiny, subnormal, zero or large among them."""
    large = draw(f"{label} large", *shape, low=150, high=165)
    return np.where(draw(f"{label} which", *shape) > 6.0, large, hostile(label, *shape))


# ---- the interpreter's own arithmetic -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FOLDS)
def test_the_interpreters_dot_is_the_chain_of_fused_sums(name):
    x, w = single(wide("x", 24, 96)), single(wide("w", 40, 96))
    x[:4], w[:4] = x[:4] * 2.0**-66, w[:4] * 2.0**-62  # sums below every normal number
    x[4:8, ::2] = -x[4:8, 1::2]
    w[4:8, ::2] = w[4:8, 1::2]  # sums that are zero
    start = np.zeros((24, 40), np.float32)
    found = chain(x, w.T, start, FOLDS[name])
    assert bits(found + np.float32(0)) == bits(Fused(name, "bfloat16").matrix(x, w))
    assert len({*bits(found[:4, :4])} - {0}) > 5


def test_the_interpreters_other_operations_round_once():
    a, b, c = (wide(label, 5000) for label in "abc")
    c[::3] = -BY.multiply(a, b)[::3]
    assert bits(fma(a, b, c)) == bits(BY.fma(a, b, c))
    ties = (np.arange(0x3F80_0000, 0x3F90_0000, 0x4000, np.uint32) + 0x8000).view(np.float32)
    for x in (a, a * np.float32(2.0**-120), ties):
        assert bits(widened(narrowed(x))) == bits(BY.rounded(x))


# ---- states ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [2, 50, 128, 1000])
def test_embeddings_are_rows_of_a_table(width):
    table = single(wide("table", 9, filled(width)))
    tokens = [8, 0, 3, 3, 7]
    found = operations.embed(tensor(table).bfloat16(), torch.tensor(tokens), width)
    assert bits(found) == bits(table[tokens, :width])


@pytest.mark.parametrize(("width", "stride"), [(2, 2), (50, 64), (128, 128), (1000, 1024)])
def test_norms(width, stride):
    x = wide("x", 19, width)
    x[0], x[1], x[2], x[3] = 0, x[1] * 2.0**-70, x[2] * 2.0**50, x[3] * 2.0**85
    x[4, 1:] = 0
    x[5] = 1.5 * 2.0**63  # the squares' sum is no float32
    weight = wide("weight", width)
    weight[0] = 2.0**32
    given = np.pad(x, ((0, 0), (0, stride - width)))
    found = operations.norm(tensor(given), tensor(weight), 1e-6)
    assert bits(found[:, :width]) == bits(BY.rounded(BY.norm(x, weight, 1e-6)))
    assert not found[:, width:].any()


# ---- products -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 17, 130])
@pytest.mark.parametrize("tile", TILE_SHAPES, ids=str)
def test_products_and_what_becomes_of_them_in_every_tile(tile, rows):
    outputs, inputs = tile.outputs, 128 + tile.depth
    x, w = single(wide("x", rows, inputs)), single(wide("w", outputs, inputs))
    bias, before = wide("bias", outputs), wide("before", rows, outputs)
    w[0], w[1] = 0, single(w[1] * np.float32(2.0**-130))
    table = Table(tiles={ANY: {"": tile}})
    given, plain = tensor(x).bfloat16(), BY.matrix(x, w)

    def run(epilogue: Epilogue, out: Tensor, bias: Floats | None = None) -> Tensor:
        weight = Weight(tensor(w).bfloat16(), None if bias is None else tensor(bias))
        return operations.product(table, "", given, weight, out, epilogue)

    sums = torch.full((rows, outputs), torch.nan)
    assert bits(run(Epilogue.PLAIN, sums)) == bits(plain)
    assert bits(run(Epilogue.PLAIN, sums, bias)) == bits(BY.add(plain, bias))
    added = run(Epilogue.ADDED, tensor(before.copy()))
    assert bits(added) == bits(BY.add(before, plain))
    gated = run(Epilogue.GATED, torch.empty(rows, outputs // 2, dtype=torch.bfloat16))
    assert bits(gated) == bits(BY.gated(plain[:, ::2], plain[:, 1::2]))


def test_a_product_of_one_step_is_rounded_before_anything_is_added():
    x, w, before = (single(draw(label, 16, 64)) for label in "xwb")
    out = BY.multiply(before[:, :16], 2.0**9).copy()
    table = Table(tiles={ANY: {"": Tile(16, 16, 64, 2, 1)}})
    found = operations.product(
        table, "", tensor(x).bfloat16(), Weight(tensor(w).bfloat16()), tensor(out.copy()), Epilogue.ADDED
    )  # fmt: skip
    assert bits(found) == bits(BY.add(out, BY.matrix(x, w)))


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (9, 0), (10, 0), (12, 0)])
def test_every_tile_fits_its_product_and_its_card(capability):
    table = Table.of(capability)
    widths = [filled(width) for width in (1, 50, 896, 4096, 11_008, 18_944, 151_936)]
    names = {name for tiles in TILES.values() for name in tiles}
    for name, rows, n, k in product(names, (1, 17, 64, 5000), widths, widths):
        tile = table.product(name, rows, n, k)
        assert n % tile.outputs == k % tile.depth == 0
        assert tile.depth >= 16
        assert tile.outputs >= 16
        assert tile.memory <= table.memory
        assert tile.way != Way.COPIED or capability[0] >= 9
    assert table.memory >= SHARED.get(capability[0], 0)


# ---- heads ----------------------------------------------------------------------------------------------------------


def shape(heads: int, kv_heads: int, width: int) -> Shape:
    total = (heads + 2 * kv_heads) * width
    padded = power(width, 16)
    return Shape(64, 64, heads, kv_heads, width, padded, filled(total), filled(heads * padded), 64)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "width"), [(4, 2, 2), (5, 1, 10), (3, 3, 24), (2, 1, 128)]
)
def test_heads_are_normed_turned_and_stored(heads, kv_heads, width, normed):
    of, places = shape(heads, kv_heads, width), [0, 5, 127, 128, 300]
    rows, total = len(places), heads + 2 * kv_heads
    x = wide("heads", rows, total, width) * np.float32(2.0**8)
    x[0, 0], x[1, -1, 0] = 0, 2.0**-61
    norms = wide("norms", 2, width)
    turns = draw("turns", 2, 400, width // 2, low=120, high=126)
    turns[0, 5], x[1, :, width // 2 :] = (
        turns[1, 5],
        x[1, :, : width // 2],
    )  # what is left is what rounding took
    qkv = np.pad(x.reshape(rows, -1), ((0, 0), (0, of.qkv - total * width)))
    keys, values = (
        torch.zeros(4, kv_heads, 128, of.head_filled, dtype=torch.bfloat16) for _ in range(2)
    )
    blocks = [1 + place // 128 for place in places]
    tables = Tables(
        *(torch.tensor(each, dtype=torch.int32) for each in (places, blocks, [], [], [])), 0
    )
    how = Heads(
        (tensor(norms[0]), tensor(norms[1])) if normed else None,
        tensor(turns[0]),
        tensor(turns[1]),
        1e-6,
    )
    queries = operations.heads(tensor(qkv), of, how, keys, values, tables)

    def turned(part: Floats, norm: Floats) -> Floats:
        cosines, sines = turns[:, places][:, :, None]
        return BY.rotated(BY.norm(part, norm, 1e-6) if normed else part, cosines, sines)

    def stored(cache: Tensor) -> Tensor:
        return torch.stack(
            [cache[block, :, place % 128] for block, place in zip(blocks, places, strict=True)]
        )

    cut = heads, heads + kv_heads
    expected = {
        "queries": (queries, BY.rounded(turned(x[:, : cut[0]], norms[0]))),
        "keys": (stored(keys), BY.stored(turned(x[:, cut[0] : cut[1]], norms[1]))),
        "values": (stored(values), BY.stored_value(x[:, cut[1] :])),
    }
    for name, (found, wanted) in expected.items():
        assert bits(found[..., :width]) == bits(wanted), name
        assert not found[..., width:].any(), name
    assert int(keys.count_nonzero()) <= rows * kv_heads * width


# ---- attention ------------------------------------------------------------------------------------------------------


Sequence = tuple[Floats, Floats]
"""Keys and values (positions, kv heads, head width), as they are stored."""


class Memory:
    """Sequences in scattered blocks, between which other sequences have left the largest numbers."""

    def __init__(self, of: Shape, sequences: list[Sequence]) -> None:
        self.of, self.sequences = of, sequences
        self.layouts = [3 * one + np.arange(3)[::-1] + 1 for one in range(len(sequences))]
        size = (3 * len(sequences) + 1, of.kv_heads, 128, of.head_filled)
        self.keys, self.values = torch.zeros(size), torch.zeros(size)
        self.keys[..., : of.head], self.values[..., : of.head] = 2.0**40, -(2.0**20)
        for layout, own in zip(self.layouts, sequences, strict=True):
            for cache, stored in zip((self.keys, self.values), own, strict=True):
                for place, row in enumerate(stored):
                    cache[layout[place // 128], :, place % 128, : of.head] = tensor(row)

    @classmethod
    def of_lengths(cls, of: Shape, *lengths: int) -> "Memory":
        made = []
        for one, length in enumerate(lengths):
            k, v = (single(wide(f"{name}{one}", length, of.kv_heads, of.head)) for name in "kv")
            made.append((BY.stored(k), BY.stored_value(v * np.float32(2.0 ** (8 * one)))))
        return cls(of, made)

    def attend(
        self, spans: list[tuple[int, int, int]], window: int, table: Table, q: Floats | None = None
    ) -> tuple[Tensor, Floats]:
        """Return what is found and what is defined for spans (sequence, first position, rows)."""
        of, rows = self.of, sum(count for _, _, count in spans)
        if q is None:
            q = single(wide(f"q{window}", rows, of.heads, of.head)) * np.float32(0.25)
        held = np.concatenate([self.layouts[one] for one, _, _ in spans]).astype(np.int32)
        counts, places = (np.array([span[n] for span in spans]) for n in (2, 1))
        layout = Layout(counts, places, np.full(len(spans), 3), held, rows, 384)
        tables = Tables.of(layout, table.chunk(of.head_filled)[0], CPU)
        given = torch.zeros(rows, of.heads, of.head_filled, dtype=torch.bfloat16)
        given[..., : of.head] = tensor(q)
        keys, values = self.keys.bfloat16(), self.values.bfloat16()
        found = operations.attend(table, given, of, keys, values, tables, window)
        expected, done = [], 0
        for one, place, count in spans:
            k, v = (each[: place + count] for each in self.sequences[one])
            expected.append(BY.attention(q[done : done + count], k, v, place, window))
            done += count
        return found, np.concatenate(expected)


class Short(Table):
    """Chunks in tiles of 16 rows."""

    def chunk(self, head: int) -> tuple[int, int, int]:
        return 16, 1, 4


@pytest.mark.parametrize(
    ("heads", "kv_heads", "width", "window"),
    [*((4, 2, 10, window) for window in (0, 1, 20, 128, 129, 200)), (7, 1, 64, 0), (3, 3, 32, 140)],
)
def test_attention_of_chunks_and_of_single_queries_in_any_order(heads, kv_heads, width, window):
    memory = Memory.of_lengths(shape(heads, kv_heads, width), 300, 129, 1, 257)
    spans = [
        (3, 256, 1),
        (0, 120, 45),
        (1, 128, 1),
        (2, 0, 1),
        (0, 299, 1),
        (1, 126, 2),
        (0, 127, 1),
    ]
    for table in (Table(memory=99 << 10), Short()):
        found, expected = memory.attend(spans, window, table)
        cut = found[:, : heads * memory.of.head_filled].unflatten(1, (heads, -1))
        assert bits(cut[..., :width]) == bits(expected)
        assert not cut[..., width:].any()
        assert not found[:, heads * memory.of.head_filled :].any()


@pytest.mark.parametrize("rows", [1, 2])
def test_segments_are_merged_in_ascending_order(rows):
    """All weights are 1. The first two segments cancel; a third that is added before would lose most of its bits."""
    keys, values = np.zeros((300, 1, 16), np.float32), single(draw("small", 300, 1, 16))
    values[:128], values[128:256] = 2.0**20, -(2.0**20)
    memory = Memory(shape(1, 1, 16), [(keys, values)])
    found, expected = memory.attend([(0, 300 - rows, rows)], 0, Short())
    assert bits(found[:, :16]) == bits(expected)
    assert np.abs(expected).max() < 100


@pytest.mark.parametrize("rows", [1, 2])
def test_weights_end_at_27_below_the_largest_score(rows):
    """The first distance rounds to −27 exactly, although it is farther before the score is rounded; others are just beyond."""
    queries, keys, values = (np.zeros((5, 1, 10), np.float32) for _ in range(3))
    queries[:, 0, :3] = 292, 1, 1
    keys[:, 0, :3] = [[368, 0, 0], [366, 498, 0.6171875], [366, 496, 0], [366, 488, 0], [300, 0, 0]]
    values[1:, 0] = 2.0**20 * np.eye(4, 10)
    memory = Memory(shape(1, 1, 10), [(keys, values)])
    found, expected = memory.attend([(0, 5 - rows, rows)], 0, Short(), queries[:rows])
    assert bits(found[:, :10]) == bits(expected)
    assert (expected[0, 0, :4] > 0).tolist() == [True, False, False, False]


@triton.jit  # type: ignore[untyped-decorator]  # Triton has no types
def exponentials_kernel(x, out, count: tl.constexpr, least: tl.constexpr):
    i = tl.arange(0, count)
    tl.store(out + i, kernels.exp(tl.load(x + i), least))


@pytest.mark.parametrize("least", [-86.0, -27.0])
def test_exponentials_are_those_of_the_vectors(least):
    case = load("arithmetic")["functions"]["exp"]
    x, expected = (values_of(case[name]) for name in ("x", "exp"))
    x, expected = x[~np.isnan(x)], expected[~np.isnan(x)]
    given = tensor(np.resize(x, power(len(x))))
    found = torch.empty_like(given)
    exponentials_kernel[(1,)](given, found, count=len(given), least=least)
    assert bits(found[: len(x)]) == bits(np.where(x < least, np.float32(0), expected))


MUTANT_EXAMS = {
    "exponentials": lambda: test_exponentials_are_those_of_the_vectors(-86.0),
    "weights": lambda: test_weights_end_at_27_below_the_largest_score(1),
    "merge of decoded rows": lambda: test_segments_are_merged_in_ascending_order(1),
    "merge of chunks": lambda: test_segments_are_merged_in_ascending_order(2),
    "attention": lambda: test_attention_of_chunks_and_of_single_queries_in_any_order(4, 2, 10, 20),
    "heads": lambda: test_heads_are_normed_turned_and_stored(5, 1, 10, normed=False),
    "norms": lambda: test_norms(50, 64),
    "products": lambda: test_products_and_what_becomes_of_them_in_every_tile(TILE_SHAPES[0], 17),
    "one step": test_a_product_of_one_step_is_rounded_before_anything_is_added,
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_kernels_with_one_thing_changed_are_noticed(mutant, tmp_path, monkeypatch):
    changed = mutated(mutant, tmp_path)
    for module in (operations, sys.modules[__name__]):
        monkeypatch.setattr(module, "kernels", changed)
    with pytest.raises(AssertionError, match="At index"):
        MUTANT_EXAMS[MUTANTS[mutant].exam]()


def test_a_matrix_unit_that_adds_other_groups_is_noticed():
    with patched("fused-8"), pytest.raises(AssertionError, match="At index"):
        MUTANT_EXAMS["products"]()
