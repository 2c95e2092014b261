"""The most that the machine can do: bytes read and bf16 products, with as many threads as the sides have."""

import time
from collections.abc import Callable

import torch

READ_BYTES = 1 << 30
SIDE = 2048
TRIES = 40


def bounds(threads: int) -> dict[str, float]:
    """Return the best measured `read_bytes_per_s` and `flop_per_s`; takes a few seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        big = torch.ones(READ_BYTES // 8, dtype=torch.int64)
        a, b = (torch.ones((SIDE, SIDE), dtype=torch.bfloat16) for _ in range(2))
        return {
            "read_bytes_per_s": READ_BYTES / _best(big.sum),
            "flop_per_s": 2 * SIDE**3 / _best(lambda: a @ b),
        }
    finally:
        torch.set_num_threads(before)


def _best(work: Callable[[], object]) -> float:
    """Return the shortest of several times, after a warm-up."""
    times = []
    for _ in range(TRIES + 1):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times[1:])
