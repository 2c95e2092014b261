"""Cases of an 8B model's shape, with numbers made up, and the time that the referee takes for each."""

import time
from collections import Counter
from dataclasses import replace
from hashlib import shake_256
from typing import Any, Final

from shared.disputes.formulas import Segment, tensor_shape
from shared.disputes.game import case_of
from shared.disputes.layout import BYTES, CHUNK, Layout, Place
from shared.disputes.moves import Case
from shared.disputes.referee import Ground, decide
from shared.disputes.tree import Opening
from shared.disputes.weights import WeightRow, row_entry, rows_of, tensor_entry
from shared.translog.proofs import root_from_inclusion
from shared.translog.tree import leaf_hash
from tests.shared.disputes.shapes import CLAIM, Sizes, sizes

TIMED: Final = ("total", "norm_out.scale", "gate", "gated", "states", "logits")


def made_up(size: int, dtype: str, label: str) -> bytes:
    """Return numbers of either sign with magnitudes around 1/4; indexes are 0."""
    if dtype == "index":
        return bytes(size)
    data, item = bytearray(shake_256(label.encode()).digest(size)), BYTES[dtype]
    data[item - 1 :: item] = bytes(byte & 0x80 | 0x3E for byte in data[item - 1 :: item])
    return bytes(data)


def measure(rounds: int) -> list[dict[str, Any]]:
    """Return bytes for every operator, and µs for those that are timed."""
    layout = Layout(CLAIM)
    found = [{"operator": name, "bytes": size} for name, size in sizes(layout).items()]
    for row in found:
        if row["operator"] in TIMED:
            row["us"] = _decide_us(layout, str(row["operator"]), rounds)
    return found


def _decide_us(layout: Layout, operator: str, rounds: int) -> int:
    ground, case = _case(layout, operator)
    best = float("inf")
    for _ in range(rounds):
        begun = time.perf_counter()
        decide(ground, case_of(case))
        best = min(best, time.perf_counter() - begun)
    return round(best * 1e6)


def _case(layout: Layout, operator: str) -> tuple[Ground, bytes]:
    """Return the case about an operator's last element, and what it is read against."""
    stage = layout.stages - (1 if operator == "logits" else 2)
    segment = layout.at(layout.blocks - 1, stage)
    number = layout.index(segment, operator)
    operators = layout.operators(segment)
    row = len(operators[number].widths) - 1
    place = Place(segment, number, row, operators[number].widths[row] - 1)
    asked = Sizes(layout, segment)
    Segment(layout, segment, asked).value(operator, row, place.element)
    roots = [bytes(32)] * len(operators)
    openings = [_filled(opening, layout) for opening in asked.openings.values()]
    assert max(Counter(opening.operator for opening in openings).values()) == 1
    for opening in openings:
        roots[opening.operator] = opening.operator_root(operators[opening.operator])
    rows = [
        replace(found, data=made_up(len(found.data), "bfloat16", "w"))
        for found in asked.rows.values()
    ]
    if rows:
        layout = Layout(replace(layout.claim, weights=_weights_root(layout, rows[0])))
    size = operators[number].chunk_bytes(row, place.element // CHUNK)
    ground = Ground(layout, place, bytes(32), tuple(roots), (bytes(size), b"\1" * size))
    return ground, Case(tuple(openings), tuple(rows)).to_cbor()


def _filled(opening: Opening, layout: Layout) -> Opening:
    assert opening.segment is not None
    dtype = layout.operators(opening.segment)[opening.operator].dtype
    return replace(opening, data=made_up(len(opening.data), dtype, "x"))


def _weights_root(layout: Layout, row: WeightRow) -> bytes:
    """Return the root to which a row's paths lead."""
    shape = tensor_shape(layout.definition, row.tensor)
    assert shape is not None
    leaf = leaf_hash(row_entry(row.data))
    below = root_from_inclusion(leaf, row.row, rows_of(shape), row.rows_path)
    entry = leaf_hash(tensor_entry(row.tensor, row.dtype, shape, below))
    return root_from_inclusion(entry, row.index, row.size, row.path)
