"""What several verdicts about one receipt come to (protocol §8.2, §8.3 step 5). Pure; only log indexes count."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from shared.statements.verdicts import Blame, Outcome, Reason

WITHHOLDING: Final = frozenset(
    reason
    for reason in Reason
    if reason.outcome is Outcome.INCONCLUSIVE and reason.blame is Blame.NODE
)
"""Reasons of INCONCLUSIVE that count against the node, once they are confirmed."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """A verdict as far as the rules need it."""

    entry: bytes
    log_index: int
    receipt: bytes
    worker: str
    outcome: str
    reason: str
    confirms: bytes | None = None
    asked: bool = False
    """Whether the receipt's tenant chose it for this audit, and no draw did (protocol §6.2.7)."""


def confirmation(opinions: Iterable[Opinion]) -> Opinion | None:
    """Return the first verdict in the log that confirms another worker's before it, of those about one receipt."""
    before: dict[bytes, Opinion] = {}
    for opinion in in_order(opinions):
        other = None if opinion.confirms is None else before.get(opinion.confirms)
        if other is not None and other.worker != opinion.worker and _agree(other, opinion):
            return opinion
        before[opinion.entry] = opinion
    return None


def disputed(opinions: Iterable[Opinion]) -> Opinion | None:
    """Return the first FAIL about one receipt that no other worker has contradicted with a PASS."""
    known = in_order(opinions)
    cleared = {opinion.worker for opinion in known if opinion.outcome == Outcome.PASS}
    for opinion in known:
        if opinion.outcome == Outcome.FAIL and not cleared - {opinion.worker}:
            return opinion
    return None


def in_order(opinions: Iterable[Opinion]) -> list[Opinion]:
    """Return opinions in the order of the log."""
    return sorted(opinions, key=lambda opinion: opinion.log_index)


def _agree(first: Opinion, second: Opinion) -> bool:
    """Return whether two verdicts make the same charge against the node."""
    if first.outcome != second.outcome:
        return False
    if first.outcome == Outcome.FAIL:
        return True
    return first.outcome == Outcome.INCONCLUSIVE and {first.reason, second.reason} <= WITHHOLDING
