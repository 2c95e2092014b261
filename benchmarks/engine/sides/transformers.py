"""transformers' `generate`: greedy, KV cache, SDPA, static batches of what has arrived, padded on the left.

A batch runs until its longest request is done; a request's tokens beyond what it asked for are not counted.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

from benchmarks.engine.sides.wire import Job, Result, peak_memory, serve

MOST = 64
"""Requests in one batch, as many as the other sides run at once."""


class TransformersSide:
    """`generate`, one batch after the other."""

    def __init__(self, folder: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.bfloat16, attn_implementation="sdpa"
        ).eval()
        self.versions = {
            "transformers": transformers.__version__,
            "torch": str(torch.__version__),
            "attention": "sdpa",
        }

    def run(self, jobs: Sequence[Job]) -> list[Result]:
        results = [Result([], []) for _ in jobs]
        waiting = sorted(range(len(jobs)), key=lambda place: jobs[place].at)
        begun = time.perf_counter()
        while waiting:
            time.sleep(max(0.0, jobs[waiting[0]].at - (time.perf_counter() - begun)))
            now = time.perf_counter() - begun
            batch = [place for place in waiting if jobs[place].at <= now][:MOST]
            waiting = waiting[len(batch) :]
            for place, result in zip(
                batch, self._batch([jobs[place] for place in batch], begun), strict=True
            ):
                results[place] = result
        return results

    def memory(self) -> int:
        return peak_memory()

    @torch.inference_mode()
    def _batch(self, jobs: Sequence[Job], begun: float) -> list[Result]:
        width, clock = max(len(job.prompt) for job in jobs), _Clock(begun)
        padding = [width - len(job.prompt) for job in jobs]
        made = self._model.generate(
            torch.tensor(
                [[0] * pad + list(job.prompt) for pad, job in zip(padding, jobs, strict=True)]
            ),
            attention_mask=torch.tensor([[0] * pad + [1] * (width - pad) for pad in padding]),
            max_new_tokens=max(job.new for job in jobs),
            do_sample=False,
            use_cache=True,
            eos_token_id=None,
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([clock]),
        )
        return [
            Result(row[width : width + job.new].tolist(), clock.times[: job.new])
            for row, job in zip(made, jobs, strict=True)
        ]


class _Clock(StoppingCriteria):
    """Records when each token was ready; never stops generation."""

    def __init__(self, begun: float) -> None:
        self._begun = begun
        self.times: list[float] = []

    def __call__(
        self, input_ids: torch.LongTensor, *_scores: Any, **_more: Any
    ) -> torch.BoolTensor:
        self.times.append(time.perf_counter() - self._begun)
        return torch.zeros(len(input_ids), dtype=torch.bool)  # type: ignore[return-value]


if __name__ == "__main__":
    serve(TransformersSide, sys.argv[1:])
