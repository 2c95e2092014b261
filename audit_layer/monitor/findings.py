"""What a monitor may find: one word per kind, and what makes two sightings the same finding."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """The kinds of findings."""

    FORK = "fork"
    """Two signed checkpoints that no one tree can have: proof by the log's own keys."""
    ROLLBACK = "rollback"
    """A signed checkpoint that is smaller than one seen before."""
    STALE = "stale"
    """No checkpoint that witnesses have signed lately could be verified."""
    MISSING = "missing"
    """A file that the checkpoint implies is not served."""
    DAMAGE = "damage"
    """A file, or all of them together, is not what the checkpoint signs."""
    MALFORMED = "malformed"
    """An answer that cannot be what it claims to be."""
    SIGNATURE = "signature"
    """A signature of the log, or of a pinned operator, is absent or wrong."""
    QUORUM = "quorum"
    """The checkpoint lacks the cosignatures that the policy asks for."""
    STATEMENT = "statement"
    """A statement is shown that the tree does not hold where it is said to."""
    KEY = "key"
    """A statement in a pinned operator's name is signed by another key."""
    DRAW = "draw"
    """A sample is not the outcome of the rule of selection, or an epoch is not as the protocol has it."""
    ORDER_GAP = "order-gap"
    """An order number of the tenant has no receipt."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    kind: Kind
    key: str
    """With the kind: what makes it the same finding when it is met again."""
    detail: str
    evidence: Mapping[str, object] = field(default_factory=dict)
    """What proves it to others, as JSON can have it; empty when there is no more than the detail."""


class FoundError(Exception):
    """Carries a finding out of a check that cannot go on."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.detail)
        self.finding = finding
