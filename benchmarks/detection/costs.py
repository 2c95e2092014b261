"""What proving costs: bytes, throughput for commitments, and an audit's time beside that of the answer it audits."""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any
from unittest import mock

from benchmarks.common.figures import spread
from benchmarks.detection.baselines import activation_difr, toploc
from benchmarks.detection.traces import requests
from execution_layer.engine.engine import LocalEngine
from execution_layer.engine.protocol import GenerationRequest
from execution_layer.engine.scheduler import Limits
from shared.commitments.exact import ActivationHasher
from shared.model.cpu import CpuBackend, own_arithmetic
from shared.model.decoder import Decoder, load_decoder
from shared.model.replay import replay
from shared.statements.request import SamplingSettings
from shared.text.opening import open_tokenizer
from shared.text.tokenizer import Tokenizer
from tests.adversaries.trial import MODEL, Trial

SEQUENCES = 16
PROMPT = 64


def sizes(count: int, length: int) -> dict[str, Any]:
    """Return bytes of receipt and of sealed evidence, the latter per token of prompt and answer, over honest answers."""
    with tempfile.TemporaryDirectory() as folder:
        tried = Trial(Path(folder)).run(requests(count, 7, length=length))
    receipts = [len(one.receipt) for one in tried]
    per_token = []
    for one in tried:
        assert one.final is not None
        assert one.final.evidence is not None
        text = len(one.text.encode())  # which the frames have sent anyway
        tokens = len(one.prompt_ids) + len(one.output_ids)
        per_token.append((len(one.final.evidence) - text) / tokens)
    return {
        "receipt_bytes": {"mean": round(mean(receipts), 1), "largest": max(receipts)},
        "evidence_bytes_per_token": {
            "mean": round(mean(per_token), 2),
            "largest": round(max(per_token), 2),
        },
        "toploc_bytes_per_token": round(toploc.PROOF_BYTES / toploc.CHUNK, 2),
        "activation_difr_bytes_per_token": activation_difr.BYTES_PER_TOKEN,
        "token_difr_bytes_per_token": 0,
    }


class Machine:
    """A decoder and a tokenizer, as a node has them."""

    def __init__(self) -> None:
        backend = CpuBackend(1, own_arithmetic("bfloat16"))
        self.decoder: Decoder = load_decoder(MODEL, backend=backend)
        config = self.decoder.config
        self.tokenizer: Tokenizer = open_tokenizer(
            MODEL, rows=config.vocab_size, stops=config.eos_token_ids
        )

    def generate(self, sequences: int, length: int, seed: int) -> tuple[float, list[list[int]]]:
        """Generate that many answers at once; return seconds and their tokens. Stop tokens do not end them."""
        engine = LocalEngine(self.decoder, self.tokenizer, Limits(sequences=sequences))
        with _without_stops(self.tokenizer):
            return _run(engine, sequences, length, seed)


def _run(
    engine: LocalEngine, sequences: int, length: int, seed: int
) -> tuple[float, list[list[int]]]:
    async def main() -> tuple[float, list[list[int]]]:
        generations = [
            engine.submit(
                GenerationRequest(
                    request_id=f"{seed}-{number}",
                    tenant="t",
                    prompt_ids=tuple(prompt(seed, number)),
                    settings=SamplingSettings(length),
                    seed=bytes([seed % 256, number]) * 16,
                )
            )
            for number in range(sequences)
        ]
        begun = time.perf_counter()
        while engine.step():
            pass
        seconds = time.perf_counter() - begun
        return seconds, [list(one.state.output) for one in generations]

    return asyncio.run(main())


def prompt(seed: int, number: int) -> list[int]:
    """Return a prompt of `PROMPT` tokens."""
    return [8 + (seed * 7919 + number * 104729 + place * 31) % 2000 for place in range(PROMPT)]


@contextlib.contextmanager
def _without_stops(tokenizer: Tokenizer) -> Iterator[None]:
    with mock.patch.object(tokenizer, "stop_tokens", frozenset()):
        yield


@contextlib.contextmanager
def without_commitments() -> Iterator[None]:
    """Let the engine hash nothing."""

    def skip(hasher: ActivationHasher, rows: bytes | memoryview) -> None:
        hasher.position += len(rows) // hasher._row_bytes

    with (
        mock.patch.object(ActivationHasher, "append", skip),
        mock.patch.object(
            ActivationHasher, "aligned", lambda _hasher, _first, count: (b"",) * count
        ),
    ):
        yield


def commitments(rounds: int, length: int) -> dict[str, Any]:
    """Return what hashing takes of the throughput: seconds with it over seconds without, alternating, as medians."""
    machine, ratios = Machine(), []
    machine.generate(SEQUENCES, length, 0)
    for number in range(1, rounds + 1):
        order = [True, False] if number % 2 else [False, True]
        seconds = {}
        for hashing in order:
            with contextlib.nullcontext() if hashing else without_commitments():
                seconds[hashing] = machine.generate(SEQUENCES, length, number)[0]
        ratios.append(seconds[True] / seconds[False])
    return {"sequences": SEQUENCES, "tokens_each": length, "with_over_without": spread(ratios)}


def audits(rounds: int, length: int) -> dict[str, Any]:
    """Return an audit's compute over that of its answer, generated alone, one token at a time, as medians."""
    machine, ratios = Machine(), []
    settings = SamplingSettings(length)
    for number in range(rounds):
        alone, (output,) = machine.generate(1, length, number)
        seed = bytes([number % 256, 0]) * 16
        begun = time.perf_counter()
        found = replay(machine.decoder, prompt(number, 0), output, settings, seed)
        ratios.append((time.perf_counter() - begun) / alone)
        assert list(found.chosen) == output
    return {
        "prompt": PROMPT,
        "tokens": length,
        "replay_over_generation": spread(ratios),
    }
