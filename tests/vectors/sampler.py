"""The sampler's vectors: `python -m tests.vectors.sampler` writes sampler.json.

Logits are float32 with few digits, so they travel exactly as decimal numbers. Greedy, filtered and free choices, ties, the
first values of the noise, penalties over a growing output, log-probabilities in micro-nats, and logits that are no numbers.
"""

import json
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.model.logprobs import token_logprobs
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
    ("min_p", {"min_p_ppm": 100_000}),
    ("whole_min_p", {"min_p_ppm": PPM}),
    (
        "all_filters",
        {"temperature_ppm": 1_500_000, "top_k": 20, "top_p_ppm": 950_000, "min_p_ppm": 40_000},
    ),
)
PENALTIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("repetition", {"repetition_penalty_ppm": 1_300_000}),
    ("repetition_below_1", {"repetition_penalty_ppm": 700_000}),
    ("presence", {"presence_penalty_ppm": 900_000}),
    ("frequency", {"frequency_penalty_ppm": -350_000}),
    ("greedy_all", {"temperature_ppm": 0, "repetition_penalty_ppm": 1_100_000,
                    "presence_penalty_ppm": 1, "frequency_penalty_ppm": 2 * PPM}),
    ("all", {"temperature_ppm": 800_000, "top_k": 12, "top_p_ppm": 900_000, "min_p_ppm": 10_000,
             "repetition_penalty_ppm": 1_200_000, "presence_penalty_ppm": 250_000,
             "frequency_penalty_ppm": 125_000}),
)  # fmt: skip
PROMPT = (1, 5, 5, 31)
"""Token ids; the output of a penalties case is what it chose itself."""
ODD = {
    "nan_and_infinities": [0.0, float("nan"), 2.0, float("-inf"), 1.0],
    "two_infinities": [0.0, float("inf"), float("inf"), 1.0],
    "no_finite_value": [float("nan"), float("-inf"), float("-inf")],
}


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
        "penalties": {"prompt": list(PROMPT), "cases": _penalties()},
        "logprobs": _logprobs(),
        "odd_logits": _odd(),
    }


def _penalties() -> list[dict[str, Any]]:
    """Return texts that grow by their own choices: position n sees the tokens before it."""
    cases: list[dict[str, Any]] = []
    for name, changes in PENALTIES:
        for logits, values in rows().items():
            sampler = Sampler(SamplingSettings(16, **changes), SEED, 1, PROMPT)
            tokens: list[int] = []
            for position in range(16):
                tokens.append(sampler.choose(values, position, tokens))
            cases.append({"name": name, "settings": changes, "logits": logits, "tokens": tokens})
    return cases


def _logprobs() -> list[dict[str, Any]]:
    return [
        {"logits": logits, "token": token, "alternatives": count}
        | token_logprobs(values, token, count).to_payload()
        for logits, values in rows().items()
        for token, count in ((0, 0), (4, 3), (31, 20))
    ]


def _odd() -> list[dict[str, Any]]:
    """Return rows of logits that a model should not give, as texts where JSON has no number."""
    cases: list[dict[str, Any]] = []
    for name, values in ODD.items():
        z = np.array(values, dtype=np.float32)
        tokens = [Sampler(SamplingSettings(1), SEED, 1).choose(z, place) for place in range(16)]
        told = token_logprobs(z, 0, 3).to_payload()
        cases.append({"name": name, "logits": [str(v) for v in values], "tokens": tokens, **told})
    return cases


def text() -> str:
    """Return the file's content."""
    return json.dumps(vectors(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    sys.stdout.write(f"{FILE.name} written\n")
