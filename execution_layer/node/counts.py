"""What a node counts of all requests together: no request and no tenant can be told from it."""

from execution_layer.node.drafts import Outcome
from shared.runtime.metrics import Counter
from shared.statements.receipts import EnergyQuality


class NodeCounts:
    """Since the process's start. Read by any thread."""

    def __init__(self) -> None:
        self.receipts = Counter()
        """By finish."""
        self.energy = Counter()
        """Joules by quality: as receipts say, and nothing of those whose energy is unmeasured."""
        self.qualities = Counter()
        """Receipts by the quality of their energy."""

    def ended(self, outcome: Outcome) -> None:
        """Count a request that has its receipt."""
        self.receipts.add(outcome.finish.value)
        quality = EnergyQuality(outcome.usage.energy_quality).name.lower()
        self.qualities.add(quality)
        if outcome.usage.energy_mj is not None:
            self.energy.add(quality, amount=outcome.usage.energy_mj / 1000)
