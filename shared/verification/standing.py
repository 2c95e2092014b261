"""A node's standing: what the verdicts in the log say about it, by one rule (protocol §6.4). Pure: anybody can recompute it.

A node that cheats in one request of a hundred is found by 69 audits with probability 1/2 and by 298 with 95 %, since
1 − 0.99^n reaches these values there. So many passes stand behind the words below.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from shared.statements.verdicts import Blame, Outcome, Reason
from shared.verification.opinions import Opinion, confirmation, disputed, in_order

KNOWN_PASSES: Final = 69
TRUSTED_PASSES: Final = 298
MANY_WITHHELD: Final = 3


class Standing(StrEnum):
    """How a node stands, the best last."""

    SUSPENDED = "suspended"
    """Convicted, or withholding repeatedly, and not yet passed `TRUSTED_PASSES` audits since."""
    WATCHED = "watched"
    """Something is open, or was withheld, and it has not yet passed `KNOWN_PASSES` audits since."""
    NEW = "new"
    """Fewer than `KNOWN_PASSES` passes."""
    GOOD = "good"

    @property
    def rank(self) -> int:
        """Higher is better."""
        return list(Standing).index(self)


@dataclass(frozen=True, slots=True)
class Record:
    """What the verdicts about one node's receipts add up to, counted by receipt."""

    passed: int = 0
    convicted: int = 0
    """Receipts with a confirmed FAIL."""
    withheld: int = 0
    """Receipts with a confirmed INCONCLUSIVE of the node's doing."""
    open: int = 0
    """Receipts with a verdict against the node that nobody has confirmed or contradicted yet."""
    standing: Standing = Standing.NEW
    because: bytes | None = None
    """Entry of the latest verdict that keeps it from a better standing; None if only passes are lacking."""


@dataclass(slots=True)
class _Tally:
    """Log indexes by what they count as."""

    passes: list[int]
    convictions: list[Opinion]
    withheld: list[Opinion]
    open: list[Opinion]

    def since(self, opinion: Opinion) -> int:
        """Return how many receipts passed after a verdict."""
        return sum(index > opinion.log_index for index in self.passes)


def record_of(opinions: Iterable[Opinion]) -> Record:
    """Return the record of one node from all verdicts about its receipts, in any order."""
    about: dict[bytes, list[Opinion]] = defaultdict(list)
    for opinion in opinions:
        about[opinion.receipt].append(opinion)
    tally = _Tally([], [], [], [])
    for each in about.values():
        _count(each, tally)
    standing, because = _standing(tally)
    return Record(
        passed=len(tally.passes),
        convicted=len(tally.convictions),
        withheld=len(tally.withheld),
        open=len(tally.open),
        standing=standing,
        because=None if because is None else because.entry,
    )


def _count(about: list[Opinion], tally: _Tally) -> None:
    """Count one receipt: by what is confirmed, else by what is open, else by its first PASS.

    Of what its tenant chose, only charges count: a tenant's choice of receipts is no sample.
    """
    charge = confirmation(about)
    if charge is not None:
        charges = tally.convictions if charge.outcome == Outcome.FAIL else tally.withheld
        charges.append(charge)
        return
    drawn = [opinion for opinion in in_order(about) if not opinion.asked]
    passes = [opinion for opinion in drawn if opinion.outcome == Outcome.PASS]
    pending = disputed(about) or (None if passes else _unconfirmed(drawn))
    if pending is not None:
        tally.open.append(pending)
    elif passes:
        tally.passes.append(passes[0].log_index)


def _unconfirmed(about: list[Opinion]) -> Opinion | None:
    """Return the first INCONCLUSIVE of the node's doing, unless a second worker has seen no such thing."""
    against = [opinion for opinion in in_order(about) if Reason(opinion.reason).blame is Blame.NODE]
    workers = {opinion.worker for opinion in about}
    return against[0] if against and len(workers) == 1 else None


def _standing(tally: _Tally) -> tuple[Standing, Opinion | None]:
    def latest(charges: list[Opinion]) -> Opinion | None:
        return max(charges, key=lambda opinion: opinion.log_index, default=None)

    convicted = latest(tally.convictions)
    if convicted is not None and tally.since(convicted) < TRUSTED_PASSES:
        return Standing.SUSPENDED, convicted
    recent = [opinion for opinion in tally.withheld if tally.since(opinion) < TRUSTED_PASSES]
    if len(recent) >= MANY_WITHHELD:
        return Standing.SUSPENDED, latest(recent)
    fresh = [opinion for opinion in tally.withheld if tally.since(opinion) < KNOWN_PASSES]
    if tally.open or fresh:
        return Standing.WATCHED, latest([*tally.open, *fresh])
    if len(tally.passes) < KNOWN_PASSES:
        return Standing.NEW, None
    return Standing.GOOD, None


def needs_strictness(standing: Standing) -> bool:
    """Return whether a node that stands so is audited at the strict floor (protocol §6.1 step 5)."""
    return standing.rank < Standing.NEW.rank


Node = tuple[str, str]
"""(operator, node)"""


def records_of(opinions: Iterable[tuple[Node, Opinion]]) -> dict[Node, Record]:
    """Return the record of every node that a verdict is about, given each verdict with the node of its receipt."""
    about: dict[Node, list[Opinion]] = defaultdict(list)
    for node, opinion in opinions:
        about[node].append(opinion)
    return {node: record_of(each) for node, each in about.items()}


def standing_in(records: Mapping[Node, Record], node: Node) -> Standing:
    """Return how a node stands among all records.

    One without a record of its own to speak of stands no better than its operator's worst node: another name is not
    another operator.
    """
    own = records.get(node, Record()).standing
    if own is not Standing.NEW:
        return own
    others = (record.standing for (operator, _), record in records.items() if operator == node[0])
    return min((own, *others), key=lambda standing: standing.rank)
