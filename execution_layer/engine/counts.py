"""What an engine counts of all sequences together: no sequence and no tenant can be told from it."""

from dataclasses import dataclass, field
from typing import Final

from execution_layer.engine.sequence import SequenceState
from shared.runtime.metrics import Histogram

FIRST_TOKEN_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
BETWEEN_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
BATCH: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(slots=True)
class EngineCounts:
    """Since the engine's start. Written by its thread, read by any."""

    tokens: int = 0
    """That were chosen, those of a resumed sequence once."""
    failed: int = 0
    """Steps that failed."""
    lost: int = 0
    """How often all keys and values were lost with a chain, and computed again."""
    first_token_s: Histogram = field(default_factory=lambda: Histogram(FIRST_TOKEN_S))
    """From a sequence's submission to its first token."""
    between_s: Histogram = field(default_factory=lambda: Histogram(BETWEEN_S))
    """Between two tokens of a sequence."""
    batch: Histogram = field(default_factory=lambda: Histogram(BATCH))
    """Sequences in a step that has ended."""

    def token(self, sequence: SequenceState, now: float) -> None:
        """Count a token of a sequence, at a time of the engine's clock."""
        self.tokens += 1
        if sequence.latest is None:
            self.first_token_s.observe(now - sequence.submitted)
        else:
            self.between_s.observe(now - sequence.latest)
        sequence.latest = now
