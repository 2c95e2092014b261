"""Disputes (protocol §10): a weights root, and for every operator an element with the case that decides it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from shared.disputes.game import Game, Step
from shared.disputes.layout import BYTES, CHUNK, Layout, Place
from shared.disputes.moves import Case
from shared.disputes.player import Player
from shared.disputes.referee import Ground, decide
from shared.disputes.tree import Table, operator_root
from shared.model.weights_root import tree_of
from tests.shared.disputes.passes import MODEL_ROOT, World
from tests.vectors.files import Json, splice

WIDTHS: dict[str, Any] = {
    "hidden_size": 20,
    "intermediate_size": 130,
    "num_hidden_layers": 1,
    "vocab_size": 267,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
WORLDS: tuple[tuple[str, tuple[str, str, int], dict[str, Any]], ...] = (
    (
        "chain-1, bfloat16, window",
        ("bfloat16", "chain-1", 700_000),
        {"model_type": "mistral", "sliding_window": 9},
    ),
    (
        "chain-1, float32, biases",
        ("float32", "chain-1", 0),
        {"model_type": "qwen2", "rope_scaling": {"rope_type": "linear", "factor": 2.5}},
    ),
    (
        "pairs-32, bfloat16, norms of heads",
        ("bfloat16", "pairs-32", 1_300_000),
        {"model_type": "qwen3", "head_dim": 10, "rope_scaling": LLAMA3},
    ),
)
PROMPT = [(7 * place + 3) % 200 for place in range(31)]
ANSWER = (9, 8, 7)


def vectors() -> Json:
    """Return what disputes.json holds."""
    return {
        "weights": _weights(),
        "worlds": [_world(name, World(*of, **{**WIDTHS, **more})) for name, of, more in WORLDS],
    }


def _weights() -> Json:
    rows = {
        "a.weight": ("BF16", (5, 3), [bytes([row] * 6) for row in range(5)]),
        "b.weight": ("F32", (2,), [bytes(range(8))]),
        "c.weight": ("F16", (1, 2), [b"\1\2\3\4"]),
    }
    tree = tree_of(MODEL_ROOT, [*rows], rows.__getitem__)
    return {
        "model_root": MODEL_ROOT.hex(),
        "tensors": [
            {"name": name, "dtype": dtype, "shape": shape, "rows": [row.hex() for row in data]}
            for name, (dtype, shape, data) in rows.items()
        ],
        "entries": [entry.hex() for entry in tree.entries.values()],
        "root": tree.root.hex(),
        "row": tree.open("a.weight", 3).to_cbor().hex(),
    }


def _world(name: str, of: World) -> Json:
    tokens = [*PROMPT, *ANSWER]
    trace = of.trace(tokens, len(PROMPT))
    layout = trace.layout
    player = Player(layout.claim, trace)
    told = []
    for segment in range(layout.stages, layout.segments):
        operators = layout.operators(segment)
        tables = trace.operators(segment)
        roots = [
            operator_root(found.dtype, table)
            for found, table in zip(operators, tables, strict=True)
        ]
        elements = []
        for number, found in enumerate(operators):
            row = len(found.widths) - 1
            element = found.widths[row] - 1 - number % 2 * (found.widths[row] // 2)
            place = Place(segment, number, row, element)
            ground = Ground(
                layout, place, player.root, tuple(roots), _chunks(layout, place, tables)
            )
            elements.append(_element(player, ground))
        told.append(
            {"segment": segment, "operators": [r.hex() for r in roots], "elements": elements}
        )
    return {
        "name": name,
        "claim": layout.claim.to_cbor().hex(),
        "root": player.root.hex(),
        "segments": told,
        "refused": _refused(told[1]) if layout.definition.biases else [],
    }


def _chunks(layout: Layout, place: Place, tables: Sequence[Table]) -> tuple[bytes, bytes]:
    """Return both sides' chunks: one is right, or neither."""
    found = layout.operators(place.segment)[place.operator]
    size = BYTES[found.dtype]
    part = place.element // CHUNK * CHUNK * size
    right = tables[place.operator][place.row][part : part + CHUNK * size]
    at = place.element % CHUNK * size

    def wrong(bit: int) -> bytes:
        data = bytearray(right)
        data[at] ^= bit
        return bytes(data)

    choices = layout.choices(place)
    if choices is not None:
        other = next(i for i in choices if i.to_bytes(4, "little") != right)
        return right, other.to_bytes(4, "little")
    if place.operator % 5 == 4:
        return wrong(1), wrong(2)
    return (right, wrong(1)) if place.operator % 2 else (wrong(1), right)


def _element(player: Player, ground: Ground) -> Json:
    place = ground.place
    case = player.case(at_case(ground))
    return {
        "operator": ground.layout.operators(place.segment)[place.operator].name,
        "number": place.operator,
        "row": place.row,
        "element": place.element,
        "chunks": [chunk.hex() for chunk in ground.chunks],
        "case": case.to_cbor().hex(),
        "right": decide(ground, case),
    }


def at_case(ground: Ground) -> Game:
    """Return a game that waits for the referee."""
    place = ground.place
    return Game(
        ground.layout.claim,
        Step.CASE,
        (ground.root, ground.root),
        segment=place.segment,
        operators=(ground.operators, ground.operators),
        operator=place.operator,
        row=place.row,
        chunks=ground.chunks,
        element=place.element,
    )


def _refused(segment: Json) -> list[Json]:
    """Return cases that show nothing, each as one splice of the case about the first element of a product."""
    number = next(i for i, found in enumerate(segment["elements"]) if found["operator"] == "q")
    good = bytes.fromhex(segment["elements"][number]["case"])
    case = Case.from_cbor(good, max_bytes=2**20)
    opening, row = case.openings[0], case.rows[0]
    changed = {
        "no inputs": replace(case, openings=()),
        "no weights": replace(case, rows=()),
        "another row of weights": replace(
            case, rows=(replace(row, row=row.row + 1), *case.rows[1:])
        ),
        "another byte of weights": replace(
            case, rows=(replace(row, data=b"\1" + row.data[1:]), *case.rows[1:])
        ),
        "another byte of an input": replace(
            case, openings=(replace(opening, data=b"\1" + opening.data[1:]),)
        ),
        "an input that comes later": replace(
            case, openings=(opening, replace(opening, operator=opening.operator + 3))
        ),
        "a row beyond the end": replace(case, openings=(replace(opening, row=40),)),
    }
    return [
        {"name": name, "number": number, **splice(good, bad.to_cbor())}
        for name, bad in changed.items()
    ]
