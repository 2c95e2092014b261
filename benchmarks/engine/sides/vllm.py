"""vLLM's CPU engine, run by its own interpreter: its scheduler stepped in this process, its model in its worker's.

Chunked prefill and prefix caching are vLLM's defaults and stay on. Token numbers go in and come out, so that
neither tokenizer nor HTTP counts in its time. docs/benchmarks-engine.md says which settings were tried.
"""

import os
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.engine.sides.wire import Job, Result, peak_memory, serve

CACHE_GIB = "2"


class VllmSide:
    """vLLM's engine."""

    def __init__(self, folder: Path, threads: int) -> None:
        os.environ.update(
            {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
        )
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", CACHE_GIB)
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{threads - 1}")
        # They read the environment, so they come after it is set; and our own environment has no vLLM.
        vllm, torch = import_module("vllm"), import_module("torch")
        kind = import_module("vllm.sampling_params").RequestOutputKind.DELTA
        engine = import_module("vllm.v1.engine.llm_engine").LLMEngine

        self._params: Any = lambda new: vllm.SamplingParams(
            temperature=0.0,
            max_tokens=new,
            ignore_eos=True,
            detokenize=False,
            output_kind=kind,
        )
        arguments = import_module("vllm.engine.arg_utils").EngineArgs(
            model=str(folder),
            dtype="bfloat16",
            skip_tokenizer_init=True,
            max_num_seqs=64,
            enforce_eager=False,
            disable_log_stats=True,
        )
        self._engine: Any = engine.from_engine_args(arguments)
        self._asked = 0
        self.versions = {
            "vllm": vllm.__version__,
            "torch": str(torch.__version__),
            "threads_bind": os.environ["VLLM_CPU_OMP_THREADS_BIND"],
            "preloaded": os.environ.get("LD_PRELOAD", ""),
        }

    def run(self, jobs: Sequence[Job]) -> list[Result]:
        results = [Result([], []) for _ in jobs]
        waiting = sorted(range(len(jobs)), key=lambda place: jobs[place].at)
        places: dict[str, int] = {}
        begun = time.perf_counter()
        while waiting or places:
            while waiting and jobs[waiting[0]].at <= time.perf_counter() - begun:
                place = waiting.pop(0)
                name = str(self._asked)
                self._asked += 1
                places[name] = place
                prompt = {"prompt_token_ids": list(jobs[place].prompt)}
                self._engine.add_request(name, prompt, self._params(jobs[place].new))
            if not places:
                time.sleep(max(0.0, jobs[waiting[0]].at - (time.perf_counter() - begun)))
                continue
            for output in self._engine.step():
                now = time.perf_counter() - begun
                result = results[places[output.request_id]]
                new = output.outputs[0].token_ids
                result.tokens.extend(new)
                result.times.extend([now] * len(new))
                if output.finished:
                    del places[output.request_id]
        return results

    def memory(self) -> int:
        me = str(os.getpid())
        return sum(peak_memory(each) for each in (me, *_children(me)))


def _children(process: str) -> list[str]:
    """Return all descendants of a process."""
    found: list[str] = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        for child in path.read_text(encoding="ascii").split():
            found += [child, *_children(child)]
    return found


if __name__ == "__main__":
    serve(VllmSide, sys.argv[1:])
