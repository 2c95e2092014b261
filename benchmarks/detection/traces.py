"""Answers of a node in this process with the states that it commits to, and a verifier's own on another machine's terms."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.detection.baselines.token_difr import Margins, margins
from shared.commitments.exact import ActivationHasher, Activations
from shared.model.backend import Span, blocks_for
from shared.model.cpu import CpuBackend
from shared.model.decoder import Decoder, load_decoder
from shared.model.noise import Noise
from shared.statements.request import PPM, Message, RequestBody, SamplingSettings
from tests.adversaries.trial import MODEL, Ask, Tried

States = NDArray[np.float32]
"""Final hidden states of the positions whose logits chose the output tokens, (N, D)."""
TOPICS: Final = (
    *(
        "the beaver",
        "the owl",
        "the fox",
        "the river",
        "a candle",
        "a receipt",
        "the witness",
        "apple cake",
    ),
    *(
        "the forest",
        "the mouse",
        "bread",
        "the winter",
        "a lamp",
        "the bridge",
        "the market",
        "honey",
    ),
)
FORMS: Final = (
    "Tell me everything about {}.",
    "What do you know of {}? Please answer at length, and then say why it matters to the village.",
    "Why do we need {}?",
    "Describe {} to a child, and after that to an auditor who believes nothing that is not signed.",
)


def requests(count: int, seed: int, *, length: int = 48) -> list[Ask]:
    """Return requests whose wishes between them are what adversaries meddle with; each has a seed of its own."""
    found = []
    for place in range(count):
        topic, form = TOPICS[(seed + place) % len(TOPICS)], FORMS[(seed + place // 16) % len(FORMS)]
        words = form.format(topic)
        if place % 3 == 2:  # long enough for windows and truncation
            words = (
                " ".join(f"The {t} stands for {topic} in what follows." for t in TOPICS[:6]) + words
            )
        settings = SamplingSettings(
            length,
            temperature_ppm=(0, 1_000_000, 1_300_000, 1_500_000)[place % 4],
            logprobs=1 if place % 5 == 0 else None,
            stop=(" the",) if place % 7 == 3 else (),
        )
        number = 1 + seed * 10**6 + place
        body = RequestBody(settings, (Message("user", words),), seed=number.to_bytes(32, "big"))
        found.append(Ask(body, (number * 100).to_bytes(16, "big")))
    return found


class Recorder:
    """Keeps the rows of every commitment that is made in this process, by the hashes of its output blocks."""

    def __init__(self) -> None:
        self._kept: dict[tuple[bytes, ...], bytes] = {}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Record while the block runs; nothing that is computed changes."""
        append, finish = ActivationHasher.append, ActivationHasher.finish
        rows: dict[int, bytearray] = {}

        def appended(hasher: ActivationHasher, added: bytes | memoryview) -> None:
            width = hasher._row_bytes
            before = max(0, hasher._last - hasher.position) * width
            rows.setdefault(id(hasher), bytearray()).extend(memoryview(added)[before:])
            append(hasher, added)

        def finished(hasher: ActivationHasher) -> Activations:
            found = finish(hasher)
            self._kept[found.output_blocks] = bytes(rows.pop(id(hasher), b""))
            return found

        with (
            mock.patch.object(ActivationHasher, "append", appended),
            mock.patch.object(ActivationHasher, "finish", finished),
        ):
            yield

    def states(self, tried: Tried, width: int) -> States | None:
        """Return the states behind the commitments that a node shows; None if no such states were ever computed."""
        if tried.evidence is None or not tried.output_ids:
            return None
        data = self._kept.get(tuple(tried.evidence.output_blocks))
        if data is None:
            return None
        bits = np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16
        return bits.view(np.float32).reshape(-1, width)


@dataclass(frozen=True, slots=True)
class Reference:
    """What a verifier computes of one answer."""

    states: States
    margins: Margins


class Verifier:
    """A verifier on other hardware than the node's: the same checkpoint in another arithmetic, so that it sees honest noise."""

    def __init__(self, arithmetic: str, threads: int = 1) -> None:
        self._decoder: Decoder = load_decoder(MODEL, backend=CpuBackend(threads, arithmetic))

    @property
    def width(self) -> int:
        """D."""
        return self._decoder.config.hidden_size

    def reference(self, tried: Tried, body: RequestBody) -> Reference | None:
        """Return the verifier's own states and its margins; None where there is no sequence to feed back."""
        config, prompt, output = self._decoder.config, tried.prompt_ids, tried.output_ids
        tokens = [*prompt, *output[:-1]]
        if not output or any(token >= config.vocab_size for token in tokens):
            return None
        held = range(1, blocks_for(len(tokens), self._decoder.backend.block) + 1)
        hidden = self._decoder.forward([Span(tokens, 0, held)], self._decoder.cache(len(held)))
        chosen = hidden[len(prompt) - 1 :]
        logits = self._decoder.logits(chosen).numpy()
        return Reference(chosen.to(torch.float32).numpy(), _margins(logits, output, body))


def _margins(logits: NDArray[np.float32], output: Sequence[int], body: RequestBody) -> Margins:
    temperature = body.settings.temperature_ppm / PPM
    assert body.seed is not None
    if not temperature:
        return margins(logits, output, None, 1.0)
    noise = Noise(body.seed, body.choice)
    energies = [
        noise.exponential(noise.words(place, logits.shape[1])) for place in range(len(output))
    ]
    return margins(logits, output, energies, temperature)
