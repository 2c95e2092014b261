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
    """No checkpoint that witnesses signed recently could be verified."""
    MISSING = "missing"
    """A file that the checkpoint implies is not served."""
    DAMAGE = "damage"
    """A file, or the files together, are not what the checkpoint signs."""
    MALFORMED = "malformed"
    """An answer that cannot be what it claims to be."""
    SIGNATURE = "signature"
    """A signature of the log, or of a pinned operator, is absent or wrong."""
    QUORUM = "quorum"
    """The checkpoint lacks the cosignatures that the log policy requires."""
    STATEMENT = "statement"
    """A statement is shown that the tree does not hold at the claimed index."""
    KEY = "key"
    """A statement in a pinned operator's name is signed by another key."""
    DRAW = "draw"
    """A sample is not the outcome of the selection rule, or an epoch does not follow the protocol."""
    ORDER_GAP = "order-gap"
    """An order number of the tenant has no receipt."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    kind: Kind
    key: str
    """Together with the kind, identifies the finding when it is met again."""
    detail: str
    evidence: Mapping[str, object] = field(default_factory=dict)
    """What proves it to others, in JSON's types; empty when there is nothing beyond the detail."""


class FoundError(Exception):
    """Carries a finding out of a check that cannot continue."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.detail)
        self.finding = finding
