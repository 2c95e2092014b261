"""What passes from one stage to the next: the states of one step's rows between two layers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from shared.model.backend import Rows
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.keys import MAX_STAGES


@dataclass(frozen=True, slots=True)
class Spent:
    """How long a step waited in a stage for those before it, and how long it was computed there, as the stage says."""

    waited_s: float
    took_s: float


@dataclass(frozen=True, slots=True)
class Boundary:
    """The states of one step's rows, as the layers before have left them."""

    number: int
    """Of the step: 0, 1, … since the chain was connected."""
    rows: tuple[Rows, ...]
    states: Tensor
    """Float32 (R, D)."""
    requests: tuple[str, ...] = ()
    """Which request each of `rows` belongs to; only its first stage knows."""
    spent: tuple[Spent, ...] = ()
    """In the stages that it has passed, in order."""

    def check(self, number: int, width: int, limit: int) -> None:
        """Raise MALFORMED unless this is what may come next: step `number`, up to `limit` rows of `width` finite numbers."""
        count = sum(span.count for span in self.rows)
        if len(self.spent) > MAX_STAGES + 1:  # the first one may be the head's own
            raise malformed(f"a step has passed {len(self.spent)} stages")
        if self.number != number:
            raise malformed(f"step {self.number} comes where step {number} is due")
        if not 0 < count <= limit or any(span.count < 1 for span in self.rows):
            raise malformed(f"a step has {count} rows, of {limit} at most")
        if self.states.shape != (count, width) or self.states.dtype != torch.float32:
            raise malformed(
                f"{tuple(self.states.shape)} {self.states.dtype} for {count} rows of {width}"
            )
        if not torch.isfinite(self.states).all():
            raise malformed("a state is not finite")


def malformed(what: str) -> CounterfoilError:
    """Return the error for states, or what comes with them, that are not what they should be."""
    return CounterfoilError(Code.MALFORMED, f"boundary states: {what}")
