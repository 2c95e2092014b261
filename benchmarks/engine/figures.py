"""From passes to figures, ratios and aims. Pure."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from benchmarks.common.figures import percentile, spread
from benchmarks.engine.rounds import Measured, Pass
from benchmarks.engine.workloads import BATCHES, WORKLOADS

Figures = Mapping[str, Any]
SIDES = ("ours", "relaxed", "vllm", "transformers")
AIMS: tuple[tuple[str, str, str, float], ...] = (
    ("× vLLM, 64 at once", "batch64", "vllm", 1.2),
    ("× transformers, alone", "batch1", "transformers", 2.0),
    ("× transformers, mixed", "mixed", "transformers", 3.0),
)
"""(words, workload, other side, least ratio of output tokens/s)."""
WITHOUT_DETERMINISM = 0.95
BANDWIDTH = ("qwen06", 0.75)


def figures(name: str, found: Measured, bounds: Mapping[str, float]) -> dict[str, Any]:
    """Return a model's figures by workload and side, each with its spread over rounds."""
    workloads: dict[str, dict[str, Any]] = {}
    for (workload, side), passes in sorted(found.passes.items(), key=_place):
        each = [one(workload, made, found.facts, bounds) for made in passes]
        shown = workloads.setdefault(workload, {"sides": {}, "ratios": {}})
        shown["sides"][side] = {field: spread([row[field] for row in each]) for field in each[0]}
    for shown in workloads.values():
        shown["ratios"] = _ratios(shown["sides"])
    return {
        "name": name,
        **found.facts,
        "versions": found.versions,
        "failed": found.failed,
        "agreed": found.agreed,
        "workloads": workloads,
        "aims": aims(name, workloads),
    }


def one(
    workload: str, made: Pass, facts: Mapping[str, Any], bounds: Mapping[str, float]
) -> dict[str, float]:
    """Return the figures of one pass."""
    end = max(times[-1] for times in made.times)
    out = sum(len(times) for times in made.times)
    asked = sum(len(job.prompt) for job in made.jobs)
    first = [times[0] - job.at for job, times in zip(made.jobs, made.times, strict=True)]
    gaps = [later - one for times in made.times for one, later in pairwise(times)]
    found = {
        "tokens_per_s": out / end,
        "first_token_ms_p50": 1000 * percentile(first, 50),
        "first_token_ms_p99": 1000 * percentile(first, 99),
        "memory_mib": made.memory / 2**20,
        "flop_fraction": 2 * facts["parameters"] * (asked + out) / end / bounds["flop_per_s"],
    }
    if gaps:
        found["inter_token_ms_p50"] = 1000 * percentile(gaps, 50)
        found["inter_token_ms_p99"] = 1000 * percentile(gaps, 99)
    if workload == "prefill":
        found["prefill_tokens_per_s"] = asked / end
    if (
        workload in BATCHES
    ):  # as many steps as a request has tokens, and one reading of all weights in each
        read = facts["step_bytes"] * made.jobs[0].new / end
        found["bandwidth_fraction"] = read / bounds["read_bytes_per_s"]
    return found


def aims(name: str, workloads: Mapping[str, Figures]) -> list[dict[str, Any]]:
    """Return each aim with its value; `met` is None where a side or workload was not measured."""

    def ratio(workload: str, other: str) -> float | None:
        found = workloads.get(workload, {}).get("ratios", {}).get(other)
        return None if found is None else found["median"]

    rows = [(words, ratio(workload, other), least) for words, workload, other, least in AIMS]
    against = [found for batch in BATCHES if (found := ratio(batch, "relaxed")) is not None]
    rows.append(
        ("× without determinism, worst batch", min(against, default=None), WITHOUT_DETERMINISM)
    )
    if name == BANDWIDTH[0]:
        alone = workloads.get("batch1", {}).get("sides", {}).get("ours")
        share = alone and alone["bandwidth_fraction"]["median"]
        rows.append(("of the bandwidth bound, alone", share, BANDWIDTH[1]))
    return [
        {
            "aim": words,
            "value": value,
            "at_least": least,
            "met": None if value is None else value >= least,
        }
        for words, value, least in rows
    ]


def _place(item: tuple[tuple[str, str], object]) -> tuple[int, int]:
    workload, side = item[0]
    return WORKLOADS.index(workload), SIDES.index(side)


def _ratios(sides: Mapping[str, Figures]) -> dict[str, Any]:
    """Return ours ÷ other, formed within each round."""
    if "ours" not in sides:
        return {}
    rate = {side: each["tokens_per_s"]["rounds"] for side, each in sides.items()}
    return {
        other: spread([a / b for a, b in zip(rate["ours"], rate[other], strict=True)])
        for other in SIDES[1:]
        if other in rate
    }
