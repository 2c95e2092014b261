"""What a stage counts of all chains together: no part and no tenant can be told from it."""

from dataclasses import dataclass, field
from typing import Final

from execution_layer.pipeline.boundary import Spent
from shared.proto.counterfoil.execution.v1 import stages_pb2
from shared.runtime.metrics import Histogram

STEP_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


@dataclass(slots=True)
class StageCounts:
    """Since the process's start. One chain at a time has the stage, so one thread at a time writes what steps take."""

    uses: int = 0
    """Chains that have had the stage."""
    using: bool = False
    """Whether one has it."""
    under_way: int = 0
    """Steps that have come and not gone."""
    rows: int = 0
    """Positions computed."""
    waited_s: Histogram = field(default_factory=lambda: Histogram(STEP_S))
    """How long steps waited for those before them."""
    took_s: Histogram = field(default_factory=lambda: Histogram(STEP_S))
    """How long they were computed."""

    def step(self, step: stages_pb2.StageStep, spent: Spent) -> None:
        """Count a step that was computed."""
        self.rows += sum(span.count for span in step.spans)
        self.waited_s.observe(spent.waited_s)
        self.took_s.observe(spent.took_s)
