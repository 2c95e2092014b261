"""What `counterfoil infer` does with requests: runs them, and shows answers to people or programs."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

from execution_layer.client.batch import generate_line, run_batch, summary
from execution_layer.client.client import AsyncCounterfoilClient
from execution_layer.client.entries import NodeEntry
from execution_layer.client.explain import explain
from execution_layer.client.options import sampling_settings, seed_bytes, tag_pairs, tags_of
from execution_layer.client.policy import ClientPolicy
from execution_layer.client.prompts import PromptLine
from execution_layer.client.wanted import OnChoice, Wanted
from execution_layer.commands import explaining
from execution_layer.commands.resume import tell_pause
from shared.codec.moment import now_ms
from shared.runtime.errors import CounterfoilError
from shared.runtime.output import emit, emit_line, table
from shared.runtime.printable import for_terminal
from shared.statements.request import Message

UNVERIFIED = (
    "  The text is the node's word until an audit: this client has no tokenizer to check it with"
    " (`counterfoil client tokenizer fetch`)."
)


@dataclass(frozen=True, slots=True)
class Explained:
    """Whether to show what was checked before sending, and whether to stop then."""

    wanted: bool = False
    stop: bool = False

    async def hook(
        self, policy: ClientPolicy, client: AsyncCounterfoilClient, as_json: bool
    ) -> OnChoice | None:
        """Return what shows it for each attempt: on standard error for people, as a line of JSON for programs."""
        if not self.wanted:
            return None
        cards = await client.rate_cards()

        def show(nodes: Sequence[NodeEntry], wanted: Wanted) -> None:
            known = len(client.archive.revoked_at())
            facts = explain(policy, client.custodians, cards, nodes, wanted, known, now_ms())
            if as_json:
                emit_line({"explained": facts, "sent": not self.stop})
            else:
                explaining.show(facts)
            if self.stop:
                raise _StoppedError

        return show


class _StoppedError(Exception):
    """Nothing was sent, as asked."""


def line_of(
    prompt: str,
    system: str | None,
    raw: bool,
    *,
    seed: int | None,
    tag: tuple[str, ...],
    cost_centre: str | None,
    sampling: Mapping[str, Any],
) -> PromptLine:
    """Return the request that the command's options make of a prompt; `sampling` are those of `sampling_settings`."""
    if raw and system is not None:
        raise click.UsageError("--raw sends PROMPT alone, without --system")
    turns = [Message("system", system)] if system is not None else []
    messages = () if raw else (*turns, Message("user", prompt))
    noted = tags_of({"tags": tag_pairs(tag), "cost_centre": cost_centre})
    settings = sampling_settings(**sampling)
    return PromptLine(messages, None if messages else prompt, settings, seed_bytes(seed), noted)


def infer_one(
    policy: ClientPolicy,
    line: PromptLine,
    node: str | None,
    n: int | None,
    as_json: bool,
    explained: Explained = Explained(),  # frozen
) -> int:
    """Run one request; one answer's text streams to the terminal as it arrives."""

    def show(text: str) -> None:
        click.echo(for_terminal(text), nl=False)

    def retrying(name: str, error: CounterfoilError) -> None:
        how = "going on elsewhere" if policy.failover == "continue" else "starting over"
        told = for_terminal(f"{name}: {error.detail}; {how}")
        click.secho(f"\n[{told}]", fg="yellow", err=True)

    async def main() -> list[dict[str, Any]]:
        async with AsyncCounterfoilClient(policy) as client:
            on_choice = await explained.hook(policy, client, as_json)
            common = {
                "node": node,
                "on_retry": retrying,
                "on_pause": tell_pause,
                "on_choice": on_choice,
            }
            if n is not None:
                answers = await generate_line(client, line, n=n, **common)
                return [summary(answer) for answer in answers]
            on_text = None if as_json else show
            answer = await generate_line(client, line, on_text=on_text, **common)
            return [summary(answer)]

    try:
        answered = asyncio.run(main())
    except _StoppedError:
        click.secho("Nothing was sent.", fg="green", err=True)
        return 0
    for facts in answered:
        if as_json:
            emit_line(facts)
            continue
        if n is not None:
            click.secho(f"[{facts['choice']}]", fg="cyan")
            show(facts["text"])
        _tell(facts)
    return 0


def _tell(facts: dict[str, Any]) -> None:
    """Print the facts about an answer whose text is already on the terminal."""
    click.echo()
    if "logprobs" in facts:
        emit(facts["logprobs"], False, lambda: _logprobs_table(facts["logprobs"]))
    usage = facts["usage"]
    for part in facts["contributions"][:-1]:
        receipt = "its receipt is still to come" if part["receipt"] is None else part["receipt"]
        click.secho(
            f"— {part['node']}: the first {part['tokens']} tokens; {receipt}", fg="green", err=True
        )
    click.secho(
        f"— {facts['node']}: {usage['input']} + {usage['output']} tokens in {facts['total_ms']:.0f} ms"
        f" ({facts['tokens_per_s']} tokens/s); receipt {facts['receipt']} checked",
        fg="green",
        err=True,
    )
    for stage in facts["stages"]:
        click.secho(
            f"— {stage['node']}, a stage: receipt {stage['receipt']} checked", fg="green", err=True
        )
    if not facts["text_verified"]:
        click.secho(UNVERIFIED, fg="yellow", err=True)


def _logprobs_table(tokens: list[dict[str, Any]]) -> Any:
    """Show token ids with their log-probabilities in nats."""
    rows = [
        (
            item["token"],
            f"{item['logprob'] / 1e6:.4f}",
            "  ".join(f"{other['token']} {other['logprob'] / 1e6:.4f}" for other in item["top"]),
        )
        for item in tokens
    ]
    return table("Log-probabilities", ("token", "ln p", "most likely"), rows)


def infer_file(
    policy: ClientPolicy,
    lines: list[PromptLine],
    concurrency: int,
    node: str | None,
    spread: bool,
    as_json: bool,
) -> int:
    """Run a file of requests; print JSON Lines, or a progress bar and a table."""

    results: list[dict[str, Any]] = []
    with Progress(console=Console(stderr=True), disable=as_json, transient=True) as progress:
        bar = progress.add_task("requests", total=len(lines))

        def tell(result: dict[str, Any]) -> None:
            results.append(result)
            progress.advance(bar)
            if as_json:
                emit_line(result)

        async def main() -> int:
            async with AsyncCounterfoilClient(policy) as client:
                return await run_batch(
                    client,
                    lines,
                    concurrency=concurrency,
                    node=node,
                    spread=spread,
                    on_result=tell,
                )

        failed = asyncio.run(main())
    if not as_json:
        emit(results, False, lambda: _results_table(results))
    return 1 if failed else 0


def _results_table(results: list[dict[str, Any]]) -> Any:
    rows = [
        (
            item["line"],
            item.get("node"),
            item.get("usage", {}).get("output"),
            item.get("tokens_per_s"),
            item["receipt"] if "receipt" in item else item["error"],
            " ".join(item.get("text", item.get("detail", "")).split())[:60],
        )
        for item in sorted(results, key=lambda item: item["line"])
    ]
    return table(
        "Requests", ("line", "node", "tokens", "tokens/s", "receipt or error", "text"), rows
    )
