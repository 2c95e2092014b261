"""From observations to figures, ratios and aims. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.common.figures import percentile, spread
from benchmarks.log.load import Answer

Figures = Mapping[str, Any]
CONTEXT = (
    {
        "system": "TesseraCT on Tessera's POSIX storage, 2 NVMe, 7 of 30 cores used",
        "per_s": 10_000,
        "answer_ms": 2990,
        "integrated_ms": 3103,
        "source": "github.com/transparency-dev/tesseract, docs/performance.md at 02f842a, POSIX, NVMe (means)",
    },
    {
        "system": "Tessera's MySQL storage, e2-micro and CloudSQL",
        "per_s": 2_047,
        "answer_ms": 120,
        "integrated_ms": 636,
        "source": "github.com/transparency-dev/tessera, docs/performance.md at 1029108, MySQL (means)",
    },
)
"""What others report about themselves, on other machines and without a signature to verify in each entry."""
WITHIN = 0.2
"""How much slower a grown log may be than a small one."""
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


def one_by_one(rounds: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return rate and latencies of what was asked one after another; `rounds` are seconds."""
    return {"per_s": spread([len(times) / sum(times) for times in rounds]), **latencies(rounds)}


def medians(row: Figures) -> dict[str, float]:
    """Return the figures of a grown log that must hold up."""
    return {
        "entries_per_s": row["entries_per_s"]["median"],
        "tick_ms": row["tick_ms"]["median"],
        **{
            f"{name}_{percent}": row[name][f"{percent}_ms"]["median"]
            for name in ("by_index", "by_entry")
            for percent in ("p50", "p99")
        },
    }


def ratios(row: Figures, first: Figures) -> dict[str, float]:
    """Return a grown log's figures ÷ those at its first size."""
    before = medians(first)
    return {name: round(value / before[name], 3) for name, value in medians(row).items()}


def kept_up(name: str, ratio: float) -> bool:
    """Whether a ratio to the first size is no more than a fifth slower."""
    return ratio >= 1 - WITHIN if name.endswith("_per_s") else ratio <= 1 + WITHIN


def aims(found: Figures) -> list[dict[str, Any]]:
    """Return each aim with its value; `met` is None where its workload was not run."""
    waiting = {row["waiters"]: row for row in (found.get("closed") or {}).get("waiters", ())}
    grown = [
        {
            "aim": f"growth ({series}): {name} at {rows[-1]['size']:,} ÷ at {rows[0]['size']:,}",
            "value": ratio,
            **({"at_least": 1 - WITHIN} if name.endswith("_per_s") else {"at_most": 1 + WITHIN}),
            "met": kept_up(name, ratio),
        }
        for series, rows in (found.get("growth") or {}).items()
        for name, ratio in rows[-1]["ratios"].items()
    ]
    return [
        _least("entries/s into the store", _best(found.get("bulk"), "bare"), 20_000),
        _least("statements/s through the API", _best(found.get("batches"), "receipts"), 5_000),
        _below("p99 with 64 waiters, ms", _median(waiting.get(64), "p99_ms"), 100),
        _below("p50 alone, ms", _median(waiting.get(1), "p50_ms"), 10),
        _below("p99 alone, ms", _median(waiting.get(1), "p99_ms"), 10),
        *grown,
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
