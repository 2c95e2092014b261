"""From what was seen to figures, ratios and aims. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.common.figures import percentile, spread
from benchmarks.log.load import Answer

Figures = Mapping[str, Any]
Rates = Mapping[tuple[int, str], Sequence[float]]
"""(batch, side) → rate of each round."""


def sides(rates: Rates, first: str, second: str) -> list[dict[str, Any]]:
    """Return both sides for each batch, and first ÷ second formed within each round."""
    return [
        {
            "batch": batch,
            first: spread(rates[batch, first]),
            second: spread(rates[batch, second]),
            "ratio": spread(
                [a / b for a, b in zip(rates[batch, first], rates[batch, second], strict=True)]
            ),
        }
        for batch in dict.fromkeys(batch for batch, _ in rates)
    ]


def rate(answers: Sequence[Answer], per_call: int = 1) -> float:
    """Return statements per second from the first call of any process to the last answer of any."""
    calls = sum(len(answer.times) for answer in answers)
    seconds = max(answer.ended for answer in answers) - min(answer.began for answer in answers)
    return calls * per_call / seconds


def latencies(rounds: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return percentiles in milliseconds, each with its spread over rounds; `times` are seconds."""
    return {
        name: spread([1000 * percentile(times, percent) for times in rounds])
        for name, percent in (("p50_ms", 50), ("p99_ms", 99), ("max_ms", 100))
    }


def called(rounds: Sequence[Sequence[Answer]]) -> dict[str, Any]:
    """Return rate and latencies of calls of one statement (or one path) each."""
    times = [[second for answer in answers for second in answer.times] for answers in rounds]
    return {"per_s": spread([rate(answers) for answers in rounds]), **latencies(times)}


def aims(found: Figures) -> list[dict[str, Any]]:
    """Return each aim with its value; `met` is None where its workload was not run."""
    waiting = {row["waiters"]: row for row in (found.get("closed") or {}).get("waiters", ())}
    return [
        _least("entries/s into the store", _best(found.get("bulk"), "bare"), 20_000),
        _least("statements/s through the API", _best(found.get("batches"), "receipts"), 5_000),
        _below("p99 with 64 waiters, ms", _median(waiting.get(64), "p99_ms"), 100),
        _below("p50 alone, ms", _median(waiting.get(1), "p50_ms"), 10),
        _below("p99 alone, ms", _median(waiting.get(1), "p99_ms"), 10),
    ]


def _best(rows: Sequence[Figures] | None, side: str) -> float | None:
    """Return the best median over batch sizes."""
    return max((row[side]["median"] for row in rows), default=None) if rows else None


def _median(row: Figures | None, name: str) -> float | None:
    return None if row is None else row[name]["median"]


def _least(words: str, value: float | None, limit: float) -> dict[str, Any]:
    return {
        "aim": words,
        "value": value,
        "at_least": limit,
        "met": None if value is None else value >= limit,
    }


def _below(words: str, value: float | None, limit: float) -> dict[str, Any]:
    return {
        "aim": words,
        "value": value,
        "below": limit,
        "met": None if value is None else value < limit,
    }
