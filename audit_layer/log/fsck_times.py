"""Times in the log's tables, compared with the times that were signed.

Nobody signs when an entry was recorded or a checkpoint intended. But checkpoints carry times under
signatures of the log and of its witnesses, and everything else happened between two of them. What
differs by more than `CLOCK_SLACK_MS` was changed, or the server's clock was wrong; smaller changes
cannot be detected. Pure.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

CLOCK_SLACK_MS: Final = 5 * 60_000
"""How far two clocks, or one before and after it was set, may be apart without being called wrong."""


@dataclass(frozen=True, slots=True)
class CheckpointTimes:
    """When things happened to one checkpoint, in milliseconds; None for what has not happened yet."""

    size: int
    intent_at: int
    signed_at: int | None
    """By the log's own signature."""
    witnessed_at: int | None
    """By the quorum's cosignatures: the latest of those that count."""
    published_at: int | None


@dataclass(frozen=True, slots=True)
class Window:
    """Entries with an index below `end` (and not in an earlier window) were recorded in these bounds."""

    end: int | None
    earliest: int
    latest: int

    def holds(self, moment: int) -> bool:
        """Return whether a time lies in the window, within clock error."""
        return self.earliest - CLOCK_SLACK_MS <= moment <= self.latest + CLOCK_SLACK_MS


def recording_windows(rows: Sequence[CheckpointTimes], now: int) -> list[Window]:
    """Return the windows of all entries, by ascending index; `rows` are in order of size.

    An entry that the checkpoint at its index does not cover was recorded after that checkpoint was intended,
    which was after the previous one was signed; and before the first that covers it was signed.
    """
    windows: list[Window] = []
    earliest = before = 0
    for row in rows:
        signed_at = now if row.signed_at is None else row.signed_at
        windows.append(Window(row.size, earliest, signed_at))
        earliest, before = before, signed_at
    return [*windows, Window(None, earliest, now)]


def check_checkpoint_times(
    rows: Sequence[CheckpointTimes], now: int
) -> Iterator[tuple[int, str, str]]:
    """Yield (size, column, problem) for each impossible time; `rows` are in order of size."""
    for row in rows:
        signed_at = now if row.signed_at is None else row.signed_at
        if row.intent_at > signed_at + CLOCK_SLACK_MS:
            yield row.size, "intent_at", "is later than the signature"
        if row.published_at is not None:
            witnessed_at = row.witnessed_at or row.intent_at
            if not witnessed_at - CLOCK_SLACK_MS <= row.published_at <= now + CLOCK_SLACK_MS:
                yield row.size, "published_at", "is before the cosignatures, or in the future"
    for earlier, later in pairwise(rows):
        if earlier.signed_at is not None and later.intent_at < earlier.signed_at - CLOCK_SLACK_MS:
            yield later.size, "intent_at", f"is before the signature at {earlier.size}"
        limit = now if later.signed_at is None else later.signed_at
        if earlier.published_at is not None and earlier.published_at > limit + CLOCK_SLACK_MS:
            yield earlier.size, "published_at", f"is later than the signature at {later.size}"
