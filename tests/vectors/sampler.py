"""The sampler's vectors: `python -m tests.vectors.sampler` writes sampler.json.

Logits are float32 with few digits, so they travel exactly as decimal numbers. Greedy, filtered and free choices, ties, and
the first values of the noise.
"""

import json
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.model.sampler import Sampler
from shared.statements.request import PPM, SamplingSettings

FILE = Path(__file__).parent / "sampler.json"
SEED = sha256(b"sampler vectors").digest()
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("greedy", {"temperature_ppm": 0}),
    ("free", {}),
    ("cold", {"temperature_ppm": 300_000}),
    ("hot", {"temperature_ppm": 2 * PPM}),
    ("top_k", {"top_k": 3}),
    ("top_k_1", {"top_k": 1}),
    ("top_k_beyond_vocabulary", {"top_k": 1000}),
    ("top_p", {"top_p_ppm": 700_000}),
    ("smallest_top_p", {"top_p_ppm": 1}),
    ("hottest", {"temperature_ppm": 100 * PPM}),
    ("coldest", {"temperature_ppm": 1}),
    ("both", {"temperature_ppm": 800_000, "top_k": 8, "top_p_ppm": 900_000}),
)


def rows() -> dict[str, NDArray[np.float32]]:
    """Return named rows of logits: 32 values in steps of 1/8, and rows of equals."""
    raw = np.frombuffer(sha256(b"sampler logits").digest(), dtype=np.uint8).astype(np.float32)
    peak = np.zeros(32, dtype=np.float32)
    peak[[4, 9, 20]] = 6.0
    return {
        "mixed": (raw - 128.0) / np.float32(32.0),
        "flat": np.zeros(32, dtype=np.float32),
        "three_equal_peaks": peak,
    }


def vectors() -> object:
    """Return what sampler.json holds."""
    noise = Sampler(SamplingSettings(1), SEED, 3).noise(7, 4)
    cases: list[dict[str, Any]] = []
    for name, changes in CASES:
        for logits, values in rows().items():
            sampler = Sampler(SamplingSettings(1, **changes), SEED, 1)
            tokens = [sampler.choose(values, position) for position in range(16)]
            cases.append({"name": name, "settings": changes, "logits": logits, "tokens": tokens})
    return {
        "seed": SEED.hex(),
        "choice": 1,
        "positions": "0 to 15",
        "logits": {name: [float(value) for value in values] for name, values in rows().items()},
        "noise": {"choice": 3, "position": 7, "first": [f"{value:.12e}" for value in noise]},
        "cases": cases,
    }


def text() -> str:
    """Return the file's content."""
    return json.dumps(vectors(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    sys.stdout.write(f"{FILE.name} written\n")
