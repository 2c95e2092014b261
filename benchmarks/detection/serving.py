"""Sequences through the bare engine, stepped in this thread."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from time import process_time

from execution_layer.engine.engine import LocalEngine
from execution_layer.engine.protocol import EngineStats, GenerationRequest
from execution_layer.engine.scheduler import Limits
from execution_layer.engine.sequence import SequenceState
from shared.model.decoder import Decoder
from shared.text.opening import open_tokenizer
from shared.text.tokenizer import Tokenizer
from tests.adversaries.adversary import patched


def tokenizer_of(folder: Path, decoder: Decoder) -> Tokenizer:
    """Open a checkpoint's tokenizer."""
    config = decoder.config
    return open_tokenizer(folder, rows=config.vocab_size, stops=config.eos_token_ids)


def endless(tokenizer: Tokenizer) -> AbstractContextManager[None]:
    """Let no token end a sequence, so that it has as many as are asked for."""
    return patched((tokenizer, "stop_tokens", frozenset()))


@dataclass(frozen=True, slots=True)
class Served:
    """Sequences that ran together, in the order in which they were asked for."""

    seconds: float
    """Of compute, from the first step to the last one: this process's, so that others on the machine count less."""
    states: list[SequenceState]
    stats: EngineStats


def serve(
    decoder: Decoder, tokenizer: Tokenizer, limits: Limits, requests: Sequence[GenerationRequest]
) -> Served:
    """Generate all sequences to their ends."""

    async def run() -> Served:
        engine = LocalEngine(decoder, tokenizer, limits)
        states = [engine.submit(request).state for request in requests]
        begun = process_time()
        while engine.step():
            pass
        return Served(process_time() - begun, states, engine.stats)

    return asyncio.run(run())
