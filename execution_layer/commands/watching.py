"""What `counterfoil pool top` does: reads what a head writes about its chain, and shows it."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from execution_layer.node.settings import NodeSettings
from execution_layer.pipeline.status import EVERY_S, STALE_MS, ChainStatus, read_status
from shared.codec.moment import now_ms, to_rfc3339
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.output import emit_line, table
from shared.runtime.printable import for_terminal

COLUMNS: Final = ("stage", "layers", "address", "busy", "")
BAR: Final = 20


def watch(
    settings: NodeSettings,
    *,
    once: bool,
    as_json: bool,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Print how a node's chain stands, again and again unless `once`; Ctrl-C ends it.

    CONFIGURATION if the node has no chain; else errors as `read_status`.
    """
    if settings.chain is None:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"{settings.issuer} has no chain: it computes all layers itself",
            remedy="Name the node.toml of a chain's head; its table [chain] lists the stages.",
        )
    console = Console()
    try:
        if as_json:
            _lines(settings, once=once, pause=pause)
        elif once or not console.is_terminal:
            console.print(render(_facts(settings)))
        else:
            _live(settings, console, pause)
    except KeyboardInterrupt:
        return


def _lines(settings: NodeSettings, *, once: bool, pause: Callable[[float], None]) -> None:
    emit_line(_facts(settings))
    while not once:
        pause(EVERY_S)
        emit_line(_facts(settings))


def _live(settings: NodeSettings, console: Console, pause: Callable[[float], None]) -> None:
    with Live(render(_facts(settings)), console=console, auto_refresh=False) as live:
        while True:
            pause(EVERY_S)
            live.update(render(_facts(settings)), refresh=True)


def _facts(settings: NodeSettings) -> dict[str, Any]:
    return facts_of(read_status(settings.chain_status), now_ms())


def facts_of(status: ChainStatus, now: int) -> dict[str, Any]:
    """Return what is shown, for people and scripts; `stale` if it says nothing of now."""
    age = status.age_ms(now)
    return {**status.model_dump(exclude_none=True), "age_ms": age, "stale": age > STALE_MS}


def render(facts: Mapping[str, Any]) -> RenderableType:
    """Return facts for people."""
    rows = [
        (
            stage.get("name", "own" if "address" not in stage else "stage"),
            stage["layers"],
            stage.get("address", "here"),
            *_busy(stage.get("busy")),
        )
        for stage in facts["stages"]
    ]
    ends = ("head", "ends", "here", *_busy(facts["head_busy"]))
    return Group(
        *(Text(for_terminal(line), style=style) for line, style in _lines_above(facts)),
        table("Stages", COLUMNS, [ends, *rows]),
    )


def _lines_above(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the lines above the table, and how each is styled."""
    if facts["stale"]:
        ago, at = facts["age_ms"] // 1000, to_rfc3339(facts["written_at"])
        yield (
            f"Written {ago} s ago, at {at}: the node does not run, or cannot write its folder.",
            "bold red",
        )
    connected = facts.get("connected_at")
    how = "not connected" if connected is None else f"connected {_lasting(facts, connected)}"
    yield (
        f"{facts['node']}: {how}, running {_lasting(facts, facts['since'])}",
        "bold yellow" if connected is None else "bold",
    )
    broken = f"; the last one: {facts['last_break']}" if "last_break" in facts else ""
    yield (
        f"{facts['connections']} connections, {facts['breaks']} breaks{broken}",
        "yellow" if facts["breaks"] else "",
    )
    allowed = f"{facts['depth']} that may be ({facts['most']} at most)"
    yield (
        f"{facts['running']} sequences; {facts['rows']} rows in {facts['under_way']} steps under way, of {allowed}",
        "",
    )
    trip = f"{facts['trip_ms']:.0f} ms" if "trip_ms" in facts else "not measured yet"
    yield (
        f"{facts['tokens_per_s']:.1f} tokens/s, {facts['tokens']:,} in all; all hops of a round: {trip}",
        "",
    )


def _lasting(facts: Mapping[str, Any], since: int) -> str:
    """Return how long something has lasted, when the file was written."""
    seconds = max(0, facts["written_at"] - since) // 1000
    hours, rest = divmod(seconds, 3600)
    return f"for {hours}:{rest // 60:02}:{rest % 60:02}"


def _busy(share: float | None) -> tuple[str, str]:
    """Return a share as text and as a bar; nothing for what is not known."""
    if share is None:
        return "", ""
    return f"{100 * share:.0f} %", "█" * round(BAR * min(1.0, share))
