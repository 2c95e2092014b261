"""How long steps of a model of Qwen3-8B's shape take on the card, with random weights, and which tiles suit it."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from shared.model.backend import Backend, Rows
from shared.model.config import ModelConfig
from shared.model.cuda import operations
from shared.model.cuda.operations import Weight
from shared.model.cuda.shape import Shape
from shared.model.cuda.tiles import TILES, Epilogue, Table, Tile, Way, filled
from shared.model.decoder import Head, Stage
from shared.model.rope import Rope
from shared.model.weights import expected_shapes
from tests.shared.model.cuda import passes

QWEN3_8B = replace(
    passes.CONFIG,
    vocab_size=151_936,
    hidden_size=4096,
    layers=36,
    heads=32,
    kv_heads=8,
    head_dim=128,
    intermediate_size=12_288,
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
    max_positions=8192,
    rope=Rope(1_000_000.0),
    qkv_bias=False,
    layer_windows=(0,) * 36,
)
DECODED = ((1, 512), (8, 512), (64, 512), (1, 4096), (64, 4096))
"""Sequences of one step, and the context of each."""
PREFILL = 2048
COPIED = 1 << 30
CANDIDATES = {
    1: (Tile(16, 32, 256, 4, 2), Tile(16, 32, 256, 6, 4), Tile(16, 64, 128, 4, 4), Tile(16, 64, 128, 4, 4, Way.SWAPPED),
        Tile(16, 64, 128, 6, 4), Tile(16, 16, 512, 4, 4), Tile(16, 16, 256, 6, 2)),
    32: (Tile(32, 32, 128, 4, 4), Tile(32, 64, 128, 4, 4), Tile(32, 64, 128, 4, 4, Way.SWAPPED),
         Tile(32, 64, 128, 6, 4, Way.SWAPPED), Tile(32, 32, 256, 4, 4)),
    64: (Tile(64, 32, 128, 4, 4), Tile(64, 64, 128, 4, 4), Tile(64, 128, 64, 4, 4), Tile(64, 64, 128, 5, 4, Way.COPIED),
         Tile(64, 32, 128, 6, 4, Way.COPIED), Tile(64, 128, 128, 4, 4, Way.COPIED)),
    2048: (Tile(128, 256, 64, 3, 8), Tile(128, 256, 64, 4, 8, Way.COPIED), Tile(128, 128, 64, 4, 4, Way.COPIED),
           Tile(256, 128, 64, 4, 8, Way.COPIED)),
}  # fmt: skip
"""Rows of a product → tiles to try."""


class Random(Mapping[str, Tensor]):
    """Weights that are made when they are asked for, scaled so that states keep their size."""

    def __init__(self, config: ModelConfig) -> None:
        self._shapes = expected_shapes(config)

    def __getitem__(self, name: str) -> Tensor:
        shape = self._shapes[name]
        if len(shape) == 1:
            return torch.ones(shape, dtype=torch.bfloat16, device="cuda")
        made = torch.empty(shape, dtype=torch.bfloat16, device="cuda")
        return made.normal_(0, shape[1] ** -0.5)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def milliseconds(function: Callable[[], object], *, runs: int = 11) -> float:
    """Return the median time of a call, begun and ended with an idle card."""
    function()
    function()
    taken = []
    for _ in range(runs):
        torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        torch.cuda.synchronize()
        taken.append((time.perf_counter() - start) * 1000)
    return statistics.median(taken)


def bandwidth() -> float:
    """Return the bytes that copies on the card read and write in a second."""
    source = torch.empty(COPIED, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / milliseconds(lambda: target.copy_(source)) * 1000


def speed(backend: Backend) -> dict[str, Any]:
    """Time decoding and prefill; a step is one pass with its final norm and logits, which stay on the card."""
    config = QWEN3_8B
    weights = Random(config)
    copied = bandwidth()
    torch.cuda.empty_cache()
    stage, head = Stage(config, weights, backend, 0, config.layers), Head(config, weights, backend)
    size = 2 * sum(
        a * b
        for name, (a, *rest) in expected_shapes(config).items()
        for b in rest
        if "embed" not in name
    )
    found: dict[str, Any] = {"copy_bytes_per_s": copied, "decode": [], "prefill": {}}

    def step(states: Tensor, rows: list[Rows], cache: Any, last: int) -> Tensor:
        hidden = head.hidden(stage(states, rows, cache)[-last:])
        return backend.linear(hidden, head.matrix)

    for batch, context in DECODED:
        held = context // backend.block
        cache = stage.cache(batch * held)
        states = torch.randn(batch, config.hidden_size, device="cuda")
        rows = [
            Rows(1, context - 1, range(1 + held * one, 1 + held * (one + 1)))
            for one in range(batch)
        ]
        taken = milliseconds(lambda: step(states, rows, cache, batch))  # noqa: B023  # called at once
        moved = size + batch * held * backend.block_bytes(config)
        found["decode"].append(
            {"batch": batch, "context": context, "ms": taken, "tokens_per_s": batch / taken * 1000,
             "share_of_copy": moved / taken * 1000 / copied}
        )  # fmt: skip
        del cache
    cache = stage.cache(PREFILL // backend.block)
    states = torch.randn(PREFILL, config.hidden_size, device="cuda")
    whole = [Rows(PREFILL, 0, range(1, 1 + PREFILL // backend.block))]
    taken = milliseconds(lambda: step(states, whole, cache, 1), runs=5)
    found["prefill"] = {"tokens": PREFILL, "ms": taken, "tokens_per_s": PREFILL / taken * 1000}
    return found


def tune() -> list[dict[str, Any]]:
    """Time each product of a layer in each tile, for each number of rows."""
    config = QWEN3_8B
    shape, found = Shape.of(config), []
    widths = {
        "qkv": (shape.qkv, shape.hidden_filled),
        "o": (shape.hidden_filled, shape.attended),
        "gate_up": (2 * shape.inner, shape.hidden_filled),
        "down": (shape.hidden_filled, shape.inner),
        "head": (filled(config.vocab_size), shape.hidden_filled),
    }
    for (name, (outputs, inputs)), (rows, tiles) in (
        (product, each) for product in widths.items() for each in CANDIDATES.items()
    ):
        weight = Weight(torch.randn(outputs, inputs, device="cuda").bfloat16())
        x = torch.randn(rows, inputs, device="cuda").bfloat16()
        out = torch.empty(rows, outputs, device="cuda")
        times = {}
        for tile in tiles:
            table = Table(tiles={max(TILES): {"": tile}})
            try:
                times[str(tile)] = milliseconds(
                    lambda: operations.product(table, "", x, weight, out, Epilogue.PLAIN)  # noqa: B023  # called at once
                )
            except Exception as error:  # noqa: BLE001  # a tile that does not fit is no candidate
                times[str(tile)] = float("inf")
                print(f"{name} of {rows} in {tile}: {type(error).__name__}")
        best = min(times, key=times.__getitem__)
        found.append({"product": name, "rows": rows, "best": best, "ms": times[best], "all": times})
    return found
