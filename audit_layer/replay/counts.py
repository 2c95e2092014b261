"""What a worker counts of all its audits together: no receipt and no tenant can be told from it."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from shared.runtime.metrics import Counter, Histogram

REPLAY_S: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)


@dataclass(slots=True)
class WorkerCounts:
    """Since the process's start. Read by any thread."""

    runs: Counter = field(default_factory=Counter)
    """Hints that were followed, by what became of them."""
    verdicts: Counter = field(default_factory=Counter)
    """By outcome and reason."""
    replay_s: Histogram = field(default_factory=lambda: Histogram(REPLAY_S))
    replaying: int = 0
    tokens: int = 0
    """Of prompts and outputs that were replayed."""

    @contextlib.contextmanager
    def replay(self, tokens: int) -> Iterator[None]:
        """Count a replay, while it runs and when it has ended, however it ends."""
        began = time.monotonic()
        self.replaying += 1
        try:
            yield
            self.tokens += tokens
        finally:
            self.replaying -= 1
            self.replay_s.observe(time.monotonic() - began)
