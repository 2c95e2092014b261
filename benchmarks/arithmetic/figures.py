"""Times of products and passes, the ways alternating within each round, as ratios to chain-1 by this machine's own instructions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch

from benchmarks.common.figures import spread
from shared.model.arithmetic import CHAIN_1, KINDS, Packed, kind_of
from shared.model.backend import Span, blocks_for
from shared.model.cpu import CpuBackend
from shared.model.decoder import Decoder
from shared.model.native.library import VARIANTS, kernels
from shared.model.probe import PLAIN
from shared.model.weights import expected_shapes

MODEL = replace(
    PLAIN,
    vocab_size=4096,
    hidden_size=768,
    layers=2,
    layer_windows=(0, 0),
    heads=12,
    kv_heads=4,
    head_dim=64,
    intermediate_size=2048,
    max_positions=4096,
    dtype="bfloat16",
)
"""The widths of the engine benchmark's `wide`, with fewer layers."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    rounds: int
    outputs: int
    inputs: int
    rows: tuple[int, ...]
    prompt: int


FULL = Size(9, 1024, 2048, (1, 8, 64, 256), 512)
QUICK = Size(1, 64, 64, (4,), 40)
Way = tuple[str, int]
"""An arithmetic, and the number of a variant."""


def ways() -> list[Way]:
    """Return every arithmetic for bfloat16 with every set of instructions from AVX2 on, or the portable one where there is none."""
    variants = range(min(1, kernels().best), kernels().best + 1)
    names = [kind.arithmetic for kind in KINDS if kind.dtype == torch.bfloat16]
    return [(name, variant) for name in names for variant in variants]


def products(size: Size, rows: int) -> dict[Way, Callable[[], object]]:
    """Return a product of rows by each way."""
    made = torch.Generator().manual_seed(0)
    x = torch.randn(rows, size.inputs, generator=made).bfloat16()
    weight = torch.randn(size.outputs, size.inputs, generator=made).bfloat16()
    packed = {name: Packed(kind_of(name, torch.bfloat16), weight) for name, _ in ways()}
    return {way: lambda by=packed[way[0]]: by.linear(x) for way in ways()}  # type: ignore[misc]


def passes(size: Size) -> dict[Way, Callable[[], object]]:
    """Return a pass over a prompt by each way, as a replay makes it."""
    made = torch.Generator().manual_seed(0)
    weights = {
        name: (torch.randn(shape, generator=made) / shape[-1] ** 0.5).bfloat16()
        for name, shape in expected_shapes(MODEL).items()
    }
    tokens = [(7 * place + place * place) % MODEL.vocab_size for place in range(size.prompt)]
    found: dict[Way, Callable[[], object]] = {}
    for name in dict.fromkeys(name for name, _ in ways()):
        decoder = Decoder(MODEL, weights, CpuBackend(arithmetic=name))
        held = range(1, blocks_for(len(tokens), decoder.backend.block) + 1)
        cache = decoder.cache(len(held))
        run = lambda of=decoder, held=held, cache=cache: of.forward([Span(tokens, 0, held)], cache)  # noqa: E731
        found |= {way: run for way in ways() if way[0] == name}
    return found


def measured(work: Mapping[Way, Callable[[], object]], size: Size) -> list[dict[str, Any]]:
    """Return for each way its time, and its ratio to the fastest way of chain-1 in the same round."""
    seconds: dict[Way, list[float]] = {way: [] for way in work}
    for _ in range(size.rounds + 1):  # the first one warms up
        for way, run in work.items():
            kernels().use(way[1])
            begun = perf_counter()
            run()
            seconds[way].append(perf_counter() - begun)
    kernels().choose()
    taken = {way: each[1:] for way, each in seconds.items()}
    native = [min(taken[way][i] for way in work if way[0] == CHAIN_1) for i in range(size.rounds)]
    return [
        {
            "arithmetic": name,
            "instructions": VARIANTS[variant],
            "ms": spread([1e3 * each for each in taken[name, variant]]),
            "times_chain_1": spread(
                [one / other for one, other in zip(taken[name, variant], native, strict=True)]
            ),
            "times_chain_1_alike": spread(
                [
                    one / other
                    for one, other in zip(
                        taken[name, variant], taken[CHAIN_1, variant], strict=True
                    )
                ]
            ),
        }
        for name, variant in work
    ]


def figures(size: Size, threads: int) -> dict[str, Any]:
    """Return everything; operations are two for each factor."""
    kernels().threads(threads)
    found: dict[str, Any] = {"benchmark": "arithmetic", "version": 1, "threads": threads}
    found["products"] = []
    for rows in size.rows:
        operations = 2 * rows * size.outputs * size.inputs
        for each in measured(products(size, rows), size):
            rate = operations / each["ms"]["median"] / 1e6
            found["products"].append({"rows": rows, **each, "gigaflops": round(rate, 1)})
    found["pass"] = [{"tokens": size.prompt, **each} for each in measured(passes(size), size)]
    return found
