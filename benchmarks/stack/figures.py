"""From rounds to figures. Pure."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from benchmarks.common.figures import spread
from benchmarks.stack.rounds import Round
from benchmarks.stack.sides import Answer

AIMS = {"model": "wide", "throughput_ratio_at_least": 0.97, "first_token_added_ms_at_most": 5.0}
Pairs = Sequence[tuple[Answer, Answer]]
Time = Callable[[Answer], float | None]


def figures(rounds: Sequence[Round]) -> dict[str, Any]:
    """Return every figure as median, lowest, highest and the rounds' own values."""
    loaded = [list(zip(each.engine.answers, each.stack.answers, strict=True)) for each in rounds]
    alone = [each.pairs for each in rounds]
    return {
        "same_tokens": all(
            engine.tokens == stack.tokens for pairs in (*loaded, *alone) for engine, stack in pairs
        ),
        "output_tokens": sum(len(answer.tokens) for answer in rounds[0].engine.answers),
        "tokens_per_s": {
            "engine": spread([each.engine.tokens_per_s for each in rounds]),
            "stack": spread([each.stack.tokens_per_s for each in rounds]),
            "ratio": spread(
                [each.stack.tokens_per_s / each.engine.tokens_per_s for each in rounds]
            ),
        },
        "alone": _times(alone),
        "loaded": _times(loaded),
        "receipts_per_s": spread([each.receipts_per_s for each in rounds]),
    }


def _times(rounds: Sequence[Pairs]) -> dict[str, Any]:
    return {
        "first_token_ms": _sides(rounds, lambda answer: answer.first_s),
        "per_token_ms": _sides(rounds, lambda answer: answer.per_token_s),
        "request_ms": _sides(rounds, lambda answer: answer.total_s),
    }


def _sides(rounds: Sequence[Pairs], time: Time) -> dict[str, Any]:
    """Return a time on both sides, and the median of what the stack adds to the same prompt."""
    known = [
        [
            (engine_s, stack_s)
            for engine, stack in pairs
            if (engine_s := time(engine)) is not None and (stack_s := time(stack)) is not None
        ]
        for pairs in rounds
    ]
    return {
        "engine": spread([1000 * median(engine for engine, _ in pairs) for pairs in known]),
        "stack": spread([1000 * median(stack for _, stack in pairs) for pairs in known]),
        "added": spread(
            [1000 * median(stack - engine for engine, stack in pairs) for pairs in known]
        ),
    }
