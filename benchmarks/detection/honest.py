"""False alarms of the exact comparison: honest nodes of every kind, each answer replayed on other terms than it was served on.

A node serves in some arithmetic and dtype by some set of instructions, many sequences at once, with prompts in common (so that
the prefix cache answers) and in so little memory that sequences are preempted. The auditor replays each sequence alone by
another set of instructions. An alarm is any difference in block hashes or tokens (protocol §6.3, steps 7 and 8).
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Final

from benchmarks.detection.requests import requests
from benchmarks.detection.serving import serve, tokenizer_of
from benchmarks.detection.statistics import upper
from execution_layer.engine.protocol import GenerationRequest
from execution_layer.engine.scheduler import Limits
from shared.model.config import ModelConfig
from shared.model.cpu import CpuBackend, arithmetics_for
from shared.model.decoder import Decoder
from shared.model.native.library import VARIANTS, kernels
from shared.model.replay import replay
from shared.model.weights import DTYPES, load_weights
from shared.text.prompt import prompt_ids
from shared.text.tokenizer import Tokenizer
from tests.adversaries.trial import MODEL

LENGTHS: Final = (32, 96, 64, 128)
"""The most tokens of an answer, by round."""
AT_ONCE: Final = (1, 8, 48, 16)
SLOW: Final = 2
"""Sequences of a round by portable instructions, which take about twenty times as long."""
COUNTED: Final = ("tokens", "requests", "alarms", "prompt_tokens", "cached", "preemptions")
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Way:
    """How a node computes."""

    arithmetic: str
    dtype: str
    variant: int
    """The kernels' number of the set of instructions."""

    @property
    def name(self) -> str:
        return f"{self.arithmetic}, {self.dtype}, {VARIANTS[self.variant]}"


def ways() -> list[Way]:
    """Return every arithmetic with every dtype for which it is defined by every set of instructions here."""
    return [
        Way(arithmetic, dtype, variant)
        for dtype in DTYPES
        for arithmetic in arithmetics_for(dtype)
        for variant in range(kernels().best + 1)
    ]


def decoder_of(arithmetic: str, dtype: str) -> Decoder:
    """Return the shipped model with its weights converted to a dtype."""
    config = ModelConfig.from_folder(MODEL)
    weights = {name: each.to(DTYPES[dtype]) for name, each in load_weights(MODEL, config).items()}
    return Decoder(replace(config, dtype=dtype), weights, CpuBackend(1, arithmetic))


class Counts:
    """Honest tokens, requests and alarms of every way, kept in a file if there is one, so that a run can be continued."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self.ways: dict[str, dict[str, int]] = {}
        if file is not None and file.exists():
            self.ways = json.loads(file.read_text(encoding="utf-8"))

    @property
    def tokens(self) -> int:
        return sum(each["tokens"] for each in self.ways.values())

    def rounds(self, way: Way) -> int:
        """Return how many rounds a way has had."""
        return self.ways.get(way.name, {}).get("rounds", 0)

    def add(self, way: Way, found: Mapping[str, int]) -> None:
        """Count a round."""
        before = self.ways.get(way.name, {})
        self.ways[way.name] = {
            name: before.get(name, 0) + more for name, more in {"rounds": 1, **found}.items()
        }
        if self._file is not None:
            making = self._file.with_suffix(".making")
            making.write_text(json.dumps(self.ways, indent=1), encoding="utf-8")
            making.replace(self._file)


def run(tokens: int, file: Path | None, sequences: int, progress: Progress) -> dict[str, Any]:
    """Serve and replay in every way in turn until there are that many tokens; return counts and limits."""
    counts, decoders = Counts(file), dict[tuple[str, str], Decoder]()
    while counts.tokens < tokens:
        for way in ways():
            if counts.tokens >= tokens:
                break
            key = (way.arithmetic, way.dtype)
            if key not in decoders:
                decoders[key] = decoder_of(*key)
            counts.add(way, one_round(way, decoders[key], counts.rounds(way), sequences))
            alarms = sum(each["alarms"] for each in counts.ways.values())
            progress(f"{counts.tokens} of {tokens} honest tokens, {alarms} alarms; {way.name}")
    kernels().choose()
    return summary(counts)


def one_round(way: Way, decoder: Decoder, number: int, sequences: int) -> dict[str, int]:
    """Serve some sequences one way, replay them another way, and count."""
    tokenizer = tokenizer_of(MODEL, decoder)
    count = min(sequences, SLOW) if way.variant == 0 else sequences
    length, at_once = LENGTHS[number % len(LENGTHS)], AT_ONCE[number % len(AT_ONCE)]
    asked = list(islice(_requests(way, tokenizer, number, length), count))
    kernels().use(way.variant)
    blocks = max(16, at_once * 3 // 2)  # of 64 positions, and many sequences need two or three
    limits = Limits(sequences=at_once, blocks=blocks, context=1024, queue_per_tenant=count)
    served = serve(decoder, tokenizer, limits, asked)
    kernels().use(_other(way.variant, number))
    found = dict.fromkeys(COUNTED, 0) | {"preemptions": served.stats.preemptions}
    for state in served.states:
        request = state.request
        again = replay(decoder, request.prompt_ids, state.output, request.settings, request.seed)
        same = again.activations == state.hasher.finish() and again.chosen == tuple(state.output)
        found["alarms"] += not same
        found["requests"] += 1
        found["tokens"] += len(state.output)
        found["cached"] += state.cached
        found["prompt_tokens"] += len(request.prompt_ids)
    return found


def _other(variant: int, number: int) -> int:
    """Return another set of instructions, in turn; not the portable one, which has its turns as a node's."""
    others = [each for each in range(1, kernels().best + 1) if each != variant]
    return others[number % len(others)] if others else variant


def _requests(
    way: Way, tokenizer: Tokenizer, number: int, length: int
) -> Iterator[GenerationRequest]:
    """Yield requests of this round, two to each prompt with a seed each."""
    own = int.from_bytes(sha256(f"{way.name} {number}".encode()).digest()[:4], "big")
    for ask in requests(own, length):
        prompt = prompt_ids(tokenizer, ask.body)
        for again in range(2):
            assert ask.body.seed is not None
            seed = sha256(ask.body.seed + bytes([again])).digest()
            yield GenerationRequest(seed.hex(), "t", prompt, ask.body.settings, seed)


def summary(counts: Counts) -> dict[str, Any]:
    """Return counts with the exact upper 95 % limits of the rates, over all and for each way."""

    def rated(each: Mapping[str, int]) -> dict[str, Any]:
        alarms = each["alarms"]
        return {
            **each,
            "at_most_per_request": upper(alarms, each["requests"]),
            "at_most_per_token": upper(alarms, each["tokens"]),
        }

    total = {
        name: sum(each[name] for each in counts.ways.values()) for name in ("rounds", *COUNTED)
    }
    return {
        "all": rated(total),
        "ways": [{"way": name, **rated(each)} for name, each in counts.ways.items()],
    }
