"""Clocks that disagree: a time that is out of range is reported with the clock that it was compared to."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from shared.runtime.errors import Code, CounterfoilError, sentences

CLOCK: Final = "clock_ms"
"""Key, in an error's metadata, of the refusing party's clock (milliseconds since 1970, UTC)."""
TOLERATED_MS: Final = 30_000
"""Smaller differences between clocks are not reported: a call takes a while."""
_LATEST_MS: Final = 253_402_300_799_999


def untimely(
    code: Code,
    what: str,
    at_ms: int,
    now_ms: int,
    *,
    remedy: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> CounterfoilError:
    """Return the error about a time that is in the past or in the future.
    `what` ends before the time, as in "the order expired at". The other side learns this clock's time.
    """
    side = "later" if now_ms >= at_ms else "earlier"
    return CounterfoilError(
        code,
        f"{what} {shown(at_ms)}; the clock here says {shown(now_ms)}, {span(now_ms - at_ms)} {side}",
        remedy=remedy,
        metadata={**(metadata or {}), CLOCK: str(now_ms)},
    )


def compared(error: CounterfoilError, now_ms: int) -> CounterfoilError:
    """Return a peer's error, with the difference between the clocks if that is the cause."""
    text = error.metadata.get(CLOCK, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        return error
    apart = now_ms - int(text)
    if abs(apart) <= TOLERATED_MS:
        return error
    side = "ahead of" if apart > 0 else "behind"
    told = f"This machine's clock says {shown(now_ms)}, {span(apart)} {side} the other side's"
    return CounterfoilError(
        error.code,
        " ".join(sentences(error.detail, told)),
        remedy=" ".join(sentences(error.remedy, "Set the clock that is wrong.")),
        metadata=error.metadata,
        retry_after_s=error.retry_after_s,
    )


def shown(ms: int) -> str:
    """Return a time for people, to the second; a value outside the calendar as a plain number."""
    if not 0 <= ms <= _LATEST_MS:
        return f"{ms} ms"
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def span(ms: int) -> str:
    """Return a duration in its two largest units."""
    seconds = abs(ms) // 1000
    parts: list[str] = []
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, seconds = divmod(seconds, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])
