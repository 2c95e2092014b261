"""A monitor's output: lines for people, or one JSON object per line, from the same facts."""

import json
import time
from typing import Any, Final, Protocol

import click
from rich.console import Console
from rich.text import Text

from audit_layer.monitor import core
from audit_layer.monitor.core import Verified
from audit_layer.monitor.store import Recorded
from audit_layer.monitor.streams import News
from shared.codec.moment import now_ms, to_rfc3339
from shared.runtime.printable import for_terminal

PROGRESS_S: Final = 1.0
"""How often progress in catching up is reported."""
_STYLES: Final = {"finding": "bold red", "trouble": "yellow", "progress": "dim", "notice": "yellow"}


class Sink(Protocol):
    """Where lines go."""

    def write(self, event: str, text: str, facts: dict[str, Any]) -> None:
        """Write one event, immediately."""


class JsonLines:
    """One JSON object per line on standard output."""

    def write(self, event: str, text: str, facts: dict[str, Any]) -> None:
        """Write the facts, and the sentence as `text`."""
        members = {"event": event, "at": to_rfc3339(now_ms()), "text": text, **facts}
        click.echo(json.dumps(members, ensure_ascii=True))


class TextLines:
    """Lines for people; findings stand out."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)

    def write(self, event: str, text: str, _facts: dict[str, Any]) -> None:
        """Write the sentence; nothing that strangers put into it controls the terminal."""
        printable = for_terminal(" ".join(text.split("\n")))
        head = f"FINDING {printable}" if event == "finding" else printable
        moment = to_rfc3339(now_ms())[:19]
        self._console.print(Text(f"{moment}Z  ").append(head, style=_STYLES.get(event, "")))


class Reporter:
    """Turns what happens into sentences and facts."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._progress_at = time.monotonic()

    def followed(self, new: Verified, before: Verified | None, witnesses: list[str]) -> None:
        """Report a verified checkpoint."""
        checkpoint, added = new.checkpoint, new.checkpoint.size - core.size_of(before)
        self._sink.write(
            "followed",
            f"size {checkpoint.size} (+{added}), root {checkpoint.root.hex()[:16]}, witnessed"
            f" {core.utc(new.quorum_time)} by {', '.join(witnesses)}",
            {
                "size": checkpoint.size,
                "added": added,
                "root": checkpoint.root.hex(),
                "witnessed_at": core.utc(new.quorum_time),
                "witnesses": witnesses,
            },
        )

    def progress(self, done: int, target: int) -> None:
        """Report now and then how far catching up has come."""
        if time.monotonic() - self._progress_at < PROGRESS_S or done == target:
            return
        self._progress_at = time.monotonic()
        share = f"{100 * done // target} %"
        self._sink.write(
            "progress",
            f"{done} of {target} entries recomputed, {share}",
            {"done": done, "of": target},
        )

    def finding(self, found: Recorded) -> None:
        """Report something that is wrong."""
        proof = f" (evidence: {found.evidence})" if found.evidence else ""
        self._sink.write(
            "finding",
            f"{found.kind}: {found.detail}{proof}",
            {
                "kind": found.kind,
                "detail": found.detail,
                "evidence": found.evidence,
                "found_at": core.utc(found.found_at),
            },
        )

    def news(self, item: News) -> None:
        """Report a statement that somebody watches for."""
        self._sink.write(
            "statement",
            f"{item.summary} at index {item.index}, entry {item.entry.hex()}",
            {
                "stream": item.stream,
                "type": item.type,
                "index": item.index,
                "entry": item.entry.hex(),
                "summary": item.summary,
            },
        )

    def trouble(self, reason: str, count: int, pause_s: float | None) -> None:
        """Report that no answer came; `count` says how often in a row."""
        then = f"; next try in {pause_s:.0f} s" if pause_s is not None else ""
        facts: dict[str, Any] = {"reason": reason, "count": count, "next_try_s": pause_s}
        self._sink.write("trouble", f"trouble, {count} in a row: {reason}{then}", facts)

    def notice(self, text: str) -> None:
        """Report something that is neither wrong nor new in the log."""
        self._sink.write("notice", text, {})
