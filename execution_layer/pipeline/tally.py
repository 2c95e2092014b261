"""What a head has seen of its chain since it started: numbers that only grow, and how things stand."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tally:
    """As of one moment. Times are seconds since 1970, durations seconds."""

    since: float = 0.0
    """When the head began."""
    steps: int = 0
    """That have come back."""
    tokens: int = 0
    ends_s: float = 0.0
    """What embedding, head and sampling have taken."""
    stages_s: tuple[float, ...] = ()
    """What each stage says that it has computed."""
    connections: int = 0
    breaks: int = 0
    last_break: str | None = None
    """What it was."""
    connected_at: float | None = None
    """Since when the chain is connected; None if it is not."""
    rows: int = 0
    """Under way, in `under_way` steps."""
    under_way: int = 0
    depth: int = 0
    """How many steps may be under way now."""
    running: int = 0
    """Sequences."""
    trip_s: float | None = None
    """What all hops of one round take together."""
