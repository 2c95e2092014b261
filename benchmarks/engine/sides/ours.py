"""Our engine, driven without gRPC: scheduler, decoder, sampler, activation hashes and text, as in the node."""

import asyncio
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.engine.sides.wire import Job, Result, peak_memory, serve
from execution_layer.engine.engine import LocalEngine
from execution_layer.engine.protocol import Finished, GenerationRequest
from execution_layer.engine.scheduler import Limits
from shared.model.config import ModelConfig
from shared.model.cpu import CpuBackend, own_arithmetic
from shared.model.decoder import Decoder, load_decoder
from shared.statements.request import SamplingSettings
from shared.text.tokenizer import Tokenizer

SEQUENCES = 64


def own_backend(folder: Path, threads: int) -> CpuBackend:
    """Return the backend that a node would choose on this machine."""
    return CpuBackend(threads, own_arithmetic(ModelConfig.from_folder(folder).dtype))


class OursSide:
    """`LocalEngine` on an event loop of its own."""

    def __init__(self, folder: Path, threads: int, decoder: Decoder | None = None) -> None:
        decoder = decoder or load_decoder(folder, backend=own_backend(folder, threads))
        tokenizer = Tokenizer.from_folder(folder, decoder.config.eos_token_ids)
        limits = Limits(sequences=SEQUENCES, context=decoder.config.max_positions)
        self.engine = LocalEngine(decoder, tokenizer, limits)
        self._loop = asyncio.Runner()
        self._loop.run(self.engine.start())
        self.versions = {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "arithmetic": decoder.backend.arithmetic,
        }

    def run(self, jobs: Sequence[Job]) -> list[Result]:
        return self._loop.run(self._all(jobs))

    def memory(self) -> int:
        return peak_memory()

    def close(self) -> None:
        """Stop the engine."""
        self._loop.run(self.engine.stop())
        self._loop.close()

    async def _all(self, jobs: Sequence[Job]) -> list[Result]:
        begun = time.perf_counter()
        return list(await asyncio.gather(*(self._one(job, begun) for job in jobs)))

    async def _one(self, job: Job, begun: float) -> Result:
        await asyncio.sleep(max(0.0, job.at - (time.perf_counter() - begun)))
        result = Result([], [])
        settings = SamplingSettings(temperature_ppm=0, max_tokens=job.new)
        request = GenerationRequest("bench", "acme", job.prompt, settings, bytes(32))
        async for event in self.engine.submit(request):
            if isinstance(event, Finished):
                break
            result.tokens.extend(event.token_ids)
            result.times.extend([time.perf_counter() - begun] * len(event.token_ids))
        return result


if __name__ == "__main__":
    serve(OursSide, sys.argv[1:])
