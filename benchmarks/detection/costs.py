"""What proving costs: bytes, throughput for commitments, and an audit's compute beside that of the answer that it audits.

Times are seconds of this process's compute, on one thread, so that other work on the machine counts less.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from time import process_time
from typing import Any, Final

from benchmarks.common.figures import spread
from benchmarks.detection.baselines import activation_difr, toploc
from benchmarks.detection.requests import requests
from benchmarks.detection.serving import Served, endless, serve, tokenizer_of
from benchmarks.engine.models import make
from execution_layer.engine.protocol import GenerationRequest
from execution_layer.engine.scheduler import Limits
from shared.commitments.exact import ActivationHasher
from shared.model.backend import Span, blocks_for
from shared.model.config import ModelConfig
from shared.model.cpu import CpuBackend, own_arithmetic
from shared.model.decoder import Decoder, load_decoder
from shared.model.replay import replay
from shared.statements.request import SamplingSettings
from tests.adversaries.adversary import patched
from tests.adversaries.trial import Trial

SEED: Final = 7
AT_ONCE: Final = 16
"""Sequences in the engine while the commitments' cost is measured."""
FIRST: Final = 8
"""Lower tokens are a vocabulary's special ones."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    answers: int
    lengths: tuple[int, ...]
    """The most tokens of an answer whose bytes are counted."""
    models: tuple[str, ...]
    """Of the engine benchmark."""
    rounds: int
    prompt: int
    tokens: int
    """Prompt and output of each timed sequence."""


FULL: Final = Size(45, (48, 256), ("shipped", "wide"), 7, 64, 128)
QUICK: Final = Size(3, (8,), ("tiny",), 1, 4, 8)


def sizes(size: Size, folder: Path) -> list[dict[str, Any]]:
    """Return bytes of receipts, and of sealed evidence for each token of prompt and answer, over honest answers."""
    trial = Trial(folder)
    found = []
    for length in size.lengths:
        tried = trial.run(list(islice(requests(SEED, length), size.answers)))
        evidence, hashes, receipts, tokens = [], [], [], 0
        for one in tried:
            assert one.final is not None
            assert one.final.evidence is not None
            assert one.evidence is not None
            both = len(one.prompt_ids) + len(one.output_ids)
            blocks = len(one.evidence.prompt_blocks) + len(one.evidence.output_blocks)
            evidence.append(len(one.final.evidence) / both)
            hashes.append(32 * blocks / both)
            receipts.append(len(one.receipt))
            tokens += len(one.output_ids)
        found.append(
            {
                "at_most": length,
                "answers": len(tried),
                "tokens_each": round(tokens / len(tried), 1),
                "evidence_bytes_per_token": spread(evidence),
                "block_hash_bytes_per_token": spread(hashes),
                "receipt_bytes": spread(receipts),
            }
        )
    return found


SCHEMES: Final = {
    "toploc": round(toploc.PROOF_BYTES / toploc.CHUNK, 2),
    "activation-difr": float(activation_difr.BYTES * activation_difr.K),
    "token-difr": 0.0,
}
"""Bytes that the published schemes send for each decoded token."""


class Machine:
    """A model on one thread of this machine, in the arithmetic of its own matrix unit."""

    def __init__(self, folder: Path, size: Size) -> None:
        config = ModelConfig.from_folder(folder)
        backend = CpuBackend(1, own_arithmetic(config.dtype))
        self.decoder: Decoder = load_decoder(folder, backend=backend)
        self._tokenizer = tokenizer_of(folder, self.decoder)
        self._size = size

    def generate(self, count: int, number: int) -> Served:
        """Generate `count` sequences at once; those of another `number` have other prompts."""
        asked = [
            GenerationRequest(
                request_id=f"{number} {place}",
                tenant="t",
                prompt_ids=self._prompt(f"{number} {place}"),
                settings=SamplingSettings(self._size.tokens),
                seed=sha256(f"{number} {place}".encode()).digest(),
            )
            for place in range(count)
        ]
        with endless(self._tokenizer):
            return serve(self.decoder, self._tokenizer, Limits(sequences=count), asked)

    def _prompt(self, name: str) -> tuple[int, ...]:
        words = (sha256(f"{name} {place}".encode()).digest() for place in range(self._size.prompt))
        able = self.decoder.config.vocab_size - FIRST
        return tuple(FIRST + int.from_bytes(word[:8], "big") % able for word in words)


@contextmanager
def without_commitments() -> Iterator[None]:
    """Let the engine hash nothing."""

    def skip(hasher: ActivationHasher, rows: bytes | memoryview) -> None:
        hasher.position += len(rows) // hasher._row_bytes

    def none(_hasher: ActivationHasher, _first: int, count: int) -> tuple[bytes, ...]:
        return (b"",) * count

    with patched((ActivationHasher, "append", skip), (ActivationHasher, "aligned", none)):
        yield


@contextmanager
def timed_commitments() -> Iterator[list[float]]:
    """Yield a list that grows by the seconds of every hashing."""
    ordinary, taken = ActivationHasher.append, list[float]()

    def append(hasher: ActivationHasher, rows: bytes | memoryview) -> None:
        begun = process_time()
        ordinary(hasher, rows)
        taken.append(process_time() - begun)

    with patched((ActivationHasher, "append", append)):
        yield taken


def commitments(machine: Machine, size: Size) -> dict[str, Any]:
    """Return what hashing takes: time with it over time without, alternating, and its part of the time by a clock around it."""
    machine.generate(AT_ONCE, 0)
    ratios, parts = [], []
    for number in range(1, size.rounds + 1):
        seconds = {}
        for hashing in (True, False) if number % 2 else (False, True):
            with nullcontext() if hashing else without_commitments():
                seconds[hashing] = machine.generate(AT_ONCE, number).seconds
        ratios.append(seconds[True] / seconds[False])
        with timed_commitments() as taken:
            seconds_timed = machine.generate(AT_ONCE, number).seconds
        parts.append(sum(taken) / seconds_timed)
    return {
        "sequences": AT_ONCE,
        "with_over_without": spread(ratios),
        "part_of_time": spread(parts),
    }


def audits(machine: Machine, size: Size) -> dict[str, Any]:
    """Return an audit's compute over that of its answer, which was generated alone, one token at a time.

    `replay` is everything: the pass, hashes and sampling; `pass` is the teacher-forced pass alone.
    """
    replays, passes = [], []
    for number in range(size.rounds + 1):
        served = machine.generate(1, number)
        (state,) = served.states
        request = state.request
        begun = process_time()
        found = replay(
            machine.decoder, request.prompt_ids, state.output, request.settings, request.seed
        )
        replays.append((process_time() - begun) / served.seconds)
        assert found.chosen == tuple(state.output)
        passes.append(_pass(machine.decoder, [*request.prompt_ids, *state.output[:-1]]))
        passes[-1] /= served.seconds
    return {"replay": spread(replays[1:]), "pass": spread(passes[1:])}  # the first ones warm up


def _pass(decoder: Decoder, tokens: list[int]) -> float:
    """Return the seconds of one teacher-forced pass."""
    begun = process_time()
    held = range(1, blocks_for(len(tokens), decoder.backend.block) + 1)
    decoder.forward([Span(tokens, 0, held)], decoder.cache(len(held)))
    return process_time() - begun


def figures(size: Size, folder: Path) -> dict[str, Any]:
    """Return all costs."""
    models = []
    for name in size.models:
        machine = Machine(make(name, folder), size)
        models.append(
            {
                "name": name,
                "commitments": commitments(machine, size),
                "audits": audits(machine, size),
            }
        )
    return {
        "prompt": size.prompt,
        "tokens": size.tokens,
        "rounds": size.rounds,
        "bytes": sizes(size, folder),
        "schemes": SCHEMES,
        "models": models,
    }
