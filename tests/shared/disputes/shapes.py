"""Referee's inputs by the shape of a model: Llama-3.1-8B at its 8192nd position."""

from hashlib import sha256

from shared.disputes.claim import (
    Claim,
    DefinedBy,
    Definition,
    EndKind,
    Rotation,
    Sampling,
    Type,
    binary64,
)
from shared.disputes.formulas import CHOSEN, Segment, tensor_shape
from shared.disputes.layout import CHUNK, Layout
from shared.disputes.moves import Case
from shared.disputes.tree import Opening
from shared.disputes.weights import WeightRow

ZERO = bytes(32)
LLAMA_8B = Definition(
    arithmetic=DefinedBy.CHAIN_1,
    dtype=Type.BFLOAT16,
    vocab=128_256,
    hidden=4096,
    layers=32,
    heads=32,
    kv_heads=8,
    head_dim=128,
    inner=14_336,
    eps=binary64(1e-5),
    rope=Rotation.LLAMA3,
    theta=binary64(500_000.0),
    tied=False,
    biases=False,
    norms=False,
    windows=(0,) * 32,
    factor=binary64(8.0),
    low=binary64(1.0),
    high=binary64(4.0),
    original=8192,
)
CLAIM = Claim(
    definition=LLAMA_8B,
    weights=ZERO,
    tokens=ZERO,
    prompt=8000,
    output=193,
    ways=256,
    kind=EndKind.DIGEST,
    index=0,
    value=ZERO,
    sampling=Sampling(700_000, sha256(b"seed").digest(), 0, 0),
)
TENSORS = 292


class Sizes:
    """Inputs that are all zero, of which only the length counts."""

    def __init__(self, layout: Layout, segment: int) -> None:
        self.layout, self.segment = layout, segment
        self.openings: dict[tuple, Opening] = {}
        self.rows: dict[tuple, WeightRow] = {}

    def _open(self, segment: int, operator: str, row: int, chunk: int | None) -> None:
        found = self.layout.operators(segment)[self.layout.index(segment, operator)]
        size = found.row_bytes(row) if chunk is None else found.chunk_bytes(row, chunk)
        own = segment == self.segment
        committed = len(self.layout.committed(segment))
        self.openings[segment, operator, row, chunk] = Opening(
            self.layout.index(segment, operator),
            row,
            bytes(size),
            path(row, len(found.widths)),
            segment,
            chunk,
            None if chunk is None else path(chunk, found.chunks(row)),
            None if own else (ZERO,) * committed,
            None if own else path(segment, self.layout.segments),
        )

    def row(self, segment: int, operator: str, row: int) -> list[float]:
        self._open(segment, operator, row, None)
        found = self.layout.operators(segment)[self.layout.index(segment, operator)]
        return [0.0] * found.widths[row]

    def item(self, segment: int, operator: str, row: int, element: int) -> float:
        self._open(segment, operator, row, element // CHUNK)
        return 0.0

    def data(self, segment: int, operator: str, row: int) -> bytes:
        self.row(segment, operator, row)
        return b""

    def token(self, position: int) -> int:
        self.openings["tokens",] = Opening(0, 0, bytes(128), path(0, self.layout.blocks))
        return position % 7

    def weight(self, tensor: str, row: int) -> list[float]:
        shape = tensor_shape(LLAMA_8B, tensor)
        assert shape is not None
        rows = path(row, shape[0]) if len(shape) > 1 else ()
        data = bytes(2 * shape[-1])
        self.rows[tensor, row] = WeightRow(
            tensor, "BF16", row, data, rows, TENSORS - 1, TENSORS, path(TENSORS - 1, TENSORS)
        )
        return [0.0] * shape[-1]


def path(index: int, count: int) -> tuple[bytes, ...]:
    """Return as many hashes as lead from a leaf of a tree to its root."""
    inner = (index ^ (count - 1)).bit_length()
    return (ZERO,) * (inner + (index >> inner).bit_count())


def sizes(layout: Layout) -> dict[str, int]:
    """Return the length of the case about the last element of every operator of the last block, and of the last digest."""
    found: dict[str, int] = {}
    last = layout.blocks - 1
    for stage in (0, 32, 33, None):
        segment = layout.segments - 1 if stage is None else layout.at(last, stage)
        for operator in layout.operators(segment):
            asked = Sizes(layout, segment)
            formulas = Segment(layout, segment, asked)
            row = 0 if stage is None else len(operator.widths) - 1
            if operator.name in CHOSEN:
                formulas.better(operator.name, row, 0, layout.claim.positions - 1)
            else:
                formulas.value(operator.name, row, operator.widths[row] - 1)
            case = Case(tuple(asked.openings.values()), tuple(asked.rows.values()))
            name = "embedding" if stage == 0 else operator.name
            found[name] = len(case.to_cbor())
    return found
