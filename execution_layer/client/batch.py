"""Many concurrent requests, and what is printed for each."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from execution_layer.client.client import AsyncCounterfoilClient
from execution_layer.client.completion import Completion, Contribution
from execution_layer.client.prompts import PromptLine
from shared.runtime.errors import CounterfoilError

OnResult = Callable[[dict[str, Any]], None]


def summary(completion: Completion) -> dict[str, Any]:
    """Return the facts about one checked answer for scripts."""
    usage, timings = completion.usage, completion.timings
    first = timings.first_token_ms
    return {
        "number": completion.number,
        "attempt": completion.attempt,
        "choice": completion.choice,
        "node": completion.node,
        "text": completion.text,
        "finish": completion.finish.value,
        **({"logprobs": _logprobs(completion)} if completion.logprobs else {}),
        "usage": {"input": usage.input, "cached": usage.cached, "output": usage.output},
        "receipt": completion.receipt.entry.hex(),
        "stages": [{"node": one.node, "receipt": one.entry.hex()} for one in completion.stages],
        "contributions": [_contribution(one) for one in completion.contributions],
        "ttft_ms": None if first is None else round(first, 1),
        "total_ms": round(timings.total_ms, 1),
        "tokens_per_s": round(timings.tokens_per_s(usage.output), 1),
        "checked": True,
        "text_verified": completion.text_verified,
    }


def _contribution(one: Contribution) -> dict[str, Any]:
    receipt = None if one.receipt is None else one.receipt.entry.hex()
    return {"attempt": one.attempt, "node": one.node, "tokens": one.tokens, "receipt": receipt}


def _logprobs(completion: Completion) -> list[dict[str, Any]]:
    """Return the log-probabilities of each token and of the most likely tokens, in micro-nats."""
    return [
        {
            "token": token,
            "logprob": told.logprob,
            "top": [
                {"token": other, "logprob": value}
                for other, value in zip(told.top_tokens, told.top_logprobs, strict=True)
            ],
        }
        for token, told in zip(completion.token_ids, completion.logprobs, strict=True)
    ]


async def run_batch(
    client: AsyncCounterfoilClient,
    lines: Sequence[PromptLine],
    *,
    concurrency: int,
    node: str | None,
    spread: bool,
    on_result: OnResult,
) -> int:
    """Run all requests, at most `concurrency` at once; return how many failed.

    With `spread`, request i goes to node i modulo their number. Results are reported as they arrive, with the
    line's index (from 0); a failure has `error`, `checked: false`, and the node's name where one was required.
    """
    names = [item.name for item in await client.nodes()] if spread else []
    gate = asyncio.Semaphore(concurrency)

    async def one(place: int, line: PromptLine) -> bool:
        async with gate:
            wanted = names[place % len(names)] if names else node
            try:
                completion = await generate_line(client, line, node=wanted)
            except CounterfoilError as error:
                failed = {"line": place, "error": error.code.name, "detail": str(error)}
                asked = {} if wanted is None else {"node": wanted}
                on_result({**failed, **asked, "checked": False})
                return False
            on_result({"line": place, **summary(completion)})
            return True

    results = await asyncio.gather(*(one(place, line) for place, line in enumerate(lines)))
    return results.count(False)


def generate_line(client: AsyncCounterfoilClient, line: PromptLine, **options: Any) -> Any:
    """Run one line of a prompt file; returns an awaitable of `generate`'s result."""
    return client.generate(
        line.messages or None,
        line.settings,
        prompt=line.prompt,
        seed=line.seed,
        tags=line.tags,
        **options,
    )
