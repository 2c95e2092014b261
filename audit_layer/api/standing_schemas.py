"""The query API's answer about a node's standing."""

from collections.abc import Mapping
from typing import Self

from audit_layer.api.schemas import View
from shared.verification.standing import Node, Record, standing_in


class StandingView(View):
    """What the verdicts about a node's receipts add up to, counted by receipt (protocol 6.4)."""

    operator: str
    node: str
    standing: str
    """`suspended`, `watched`, `new` or `good`."""
    passed: int
    convicted: int
    """With a confirmed FAIL."""
    withheld: int
    """With a confirmed INCONCLUSIVE of the node's doing."""
    open: int
    """With a verdict against the node that is neither confirmed nor contradicted."""
    because: str | None
    """Entry of the latest verdict that keeps it from a better standing."""

    @classmethod
    def of(cls, node: Node, records: Mapping[Node, Record]) -> Self:
        """Translate a record; a new node stands no better than its operator's worst."""
        record = records[node]
        return cls(
            operator=node[0],
            node=node[1],
            standing=standing_in(records, node).value,
            passed=record.passed,
            convicted=record.convicted,
            withheld=record.withheld,
            open=record.open,
            because=None if record.because is None else record.because.hex(),
        )
