"""Checks that a draw follows from the rule, with nothing missing and nothing extra: the steps of protocol §6.1.1. Pure.

Steps (1) to (7) need an `EpochRecord`, which everybody can read; the others need what `Known` holds, and are skipped
if it is not given. A `Placed` statement's index is believed: verifying it is up to the caller.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from shared.runtime.errors import CounterfoilError
from shared.selection import beacon
from shared.selection.draw import (
    Logged,
    by_bundle,
    drawn_by_rate,
    node_hash,
    sample,
    selection_seed,
)
from shared.selection.epoch import raised_floors
from shared.statements.beacons import BeaconCommitment, BeaconReveal
from shared.statements.cose import SignedStatement, verify_signature
from shared.statements.disclosures import DisclosureReason, DisclosureRequest
from shared.statements.epochs import Draw
from shared.verification.epoch_record import EpochRecord, Placed
from shared.verification.trust import Role, Trust, key_for

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
_LISTED = 8
"""How many indexes a fault lists."""


class Wrong(StrEnum):
    """What can be wrong with a draw, named as in the protocol."""

    ORDER = "order"
    SECOND = "second"
    UNDRAWN = "undrawn"
    OVERLAP = "overlap"
    SKIPPED = "skipped"
    COMMITMENT = "commitment"
    REVEAL = "reveal"
    WHOLE = "whole"
    NOT_WHOLE = "not-whole"
    SEED = "seed"
    EXTRA = "extra"
    NODES = "nodes"
    MISSING = "missing"
    FLOOR = "floor"
    REQUEST = "request"
    OUTCOME = "outcome"
    STANDING = "standing"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, and the step that found it."""

    step: int
    wrong: Wrong
    detail: str


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of an epoch beyond its public statements. None: unknown, so its steps are skipped."""

    entries: Mapping[int, bytes] | None = None
    """Log entries by index, at least those drawn: (8)."""
    receipts: Sequence[Logged] | None = None
    """Receipts of the epoch: for (10), (11) and (12)."""
    all_receipts: bool = False
    """Whether `receipts` are all of the epoch's: for (9) and all of (10)."""
    requests: Iterable[DisclosureRequest] | None = None
    judged: frozenset[bytes] | None = None
    """Entries of receipts that have a verdict for which no tenant asked, or were erased."""
    strict: frozenset[bytes] | None = None
    """Those of the epoch's key bundles whose nodes stood below `new` by the verdicts below the seal's size: (13)."""


@dataclass(frozen=True, slots=True)
class DrawChecked:
    """The result of a check."""

    epoch: int
    faults: tuple[Fault, ...]
    steps: tuple[int, ...]
    """The steps that could be performed with what is known."""


def check_draw(
    record: EpochRecord,
    *,
    origin: str,
    now: int,
    trust: Trust | None = None,
    known: Known | None = None,
) -> DrawChecked:
    """Check one epoch of the log `origin`; `now` (ms) decides what is due. Signers without trusted keys are not verified."""
    check = _Check(record, origin, now, trust or Trust(), known or Known())
    faults: list[Fault] = []
    steps = []
    for number, step in check.steps():
        steps.append(number)
        faults += (Fault(number, wrong, detail) for wrong, detail in step())
    return DrawChecked(record.epoch, tuple(faults), tuple(steps))


Found = Iterator[tuple[Wrong, str]]


class _Check:
    """The steps, over one record."""

    def __init__(
        self, record: EpochRecord, origin: str, now: int, trust: Trust, known: Known
    ) -> None:
        self._record, self._origin, self._now = record, origin, now
        self._trust, self._known = trust, known
        self._opened, self._seal = record.opened.value, record.seal.value
        named = {item.entry: item for item in record.commitments}
        self._commitments = [named.get(entry) for entry in self._opened.commitments]
        self._receipts = [
            receipt
            for receipt in known.receipts or ()
            if self._seal.first <= receipt.index < self._seal.size
        ]

    def steps(self) -> Iterator[tuple[int, Callable[[], Found]]]:
        """Yield the steps that can be performed."""
        known = self._known
        yield from ((1, self._order), (2, self._succession), (3, self._commitments_hold))
        draw = self._record.draw
        if draw is None:
            return
        self._draw: Placed[Draw] = draw
        self._index = {item.entry: item for item in self._record.reveals}
        yield from ((4, self._reveals), (5, self._whole))
        if all(entry in self._index for entry in draw.value.reveals):
            yield 6, self._seed
        yield 7, self._extent
        if known.entries is not None:
            yield 8, self._by_rate_or_floor
        if known.receipts is not None and known.all_receipts:
            yield from ((9, self._nodes), (10, self._exact))
        elif known.receipts is not None:
            yield 10, self._none_missing
        if known.receipts is not None and known.requests is not None:
            yield 11, self._requests
            if known.judged is not None:
                yield 12, self._outcomes
        if known.strict is not None:
            yield 13, self._strict

    # -- (1) to (3): before the draw -------------------------------------------------------------------

    def _order(self) -> Found:
        """(1) Open statement, seal and draw belong together and are in order; there is one of each."""
        record = self._record
        opened, seal, draw = record.opened, record.seal, record.draw
        if self._seal.open != opened.entry:
            yield Wrong.ORDER, "the seal names another open statement"
        if not opened.index < self._seal.first <= self._seal.size <= seal.index:
            yield Wrong.ORDER, "open statement and seal do not enclose the epoch in the log"
        if draw is not None and (draw.value.seal != seal.entry or draw.index <= seal.index):
            yield Wrong.ORDER, "the draw is not of this seal, or precedes it"
        parts = [opened.statement, seal.statement, *([draw.statement] if draw else [])]
        if len({statement.kid for statement in parts}) > 1:
            yield Wrong.ORDER, "open statement, seal and draw are signed by different keys"
        for statement in parts:
            if problem := _unsigned(self._trust.keys(Role.AUTHORITY), statement):
                yield Wrong.ORDER, problem
        for kind, index in record.others:
            yield Wrong.SECOND, f"the log has another {kind} of this epoch at {index}"
        if draw is None and self._now > self._seal.at + HOUR_MS:
            yield Wrong.UNDRAWN, "the epoch was sealed an hour ago or longer and has no draw"

    def _succession(self) -> Found:
        """(2) The epoch begins where the previous one ended."""
        before = self._record.previous
        if before is None:
            return
        if before.epoch != self._record.epoch - 1:
            yield Wrong.SKIPPED, f"the epoch sealed before it is {before.epoch}"
        if self._seal.first < before.size:
            yield Wrong.OVERLAP, f"it begins at {self._seal.first}, before {before.size}"
        if self._seal.first > before.size:
            yield Wrong.SKIPPED, f"[{before.size}, {self._seal.first}) belongs to no epoch"

    def _commitments_hold(self) -> Found:
        """(3) The named commitments are in the log before the open statement, one per party."""
        parties: set[str] = set()
        for entry, item in zip(self._opened.commitments, self._commitments, strict=True):
            if item is None or item.index >= self._record.opened.index:
                yield (
                    Wrong.COMMITMENT,
                    f"commitment {entry.hex()} is not in the log before the open statement",
                )
                continue
            if item.value.party in parties:
                yield Wrong.COMMITMENT, f"{item.value.party} has two commitments"
            parties.add(item.value.party)
            if problem := self._misplaced(item):
                yield Wrong.COMMITMENT, problem

    def _misplaced(self, item: Placed[BeaconCommitment] | Placed[BeaconReveal]) -> str:
        """Return what is wrong with a beacon statement in itself."""
        value, statement = item.value, item.statement
        if (value.origin, value.epoch) != (self._origin, self._opened.epoch):
            return f"the {statement.type} of {value.party} is for another log or epoch"
        if statement.issuer != value.party:
            return f"the {statement.type} of {value.party} is issued by {statement.issuer}"
        return _unsigned(self._trust.named(Role.PARTY, value.party), statement)

    # -- (4) to (7): the draw, as everybody sees it --------------------------------------------------------

    def _opens(self, item: Placed[BeaconReveal]) -> int | None:
        """Return the position of the commitment that a reveal opens for this seal; None if it opens none."""
        value = item.value
        opening = beacon.commitment(value.party, value.origin, value.epoch, value.reveal)
        for place, committed in enumerate(self._commitments):
            if committed is not None and committed.value.party == value.party:
                same = (value.seal, opening, item.statement.kid) == (
                    self._record.seal.entry,
                    committed.value.commitment,
                    committed.statement.kid,
                )
                return place if same and not self._misplaced(item) else None
        return None

    def _reveals(self) -> Found:
        """(4) The draw's reveals open the commitments, in the same order."""
        places: list[int] = []
        for entry in self._draw.value.reveals:
            item = self._index.get(entry)
            if item is None or item.index >= self._draw.index:
                yield Wrong.REVEAL, f"reveal {entry.hex()} is not in the log before the draw"
                continue
            place = self._opens(item)
            if place is None:
                problem = self._misplaced(item) or "opens no commitment for this seal"
                yield Wrong.REVEAL, f"the reveal of {item.value.party}: {problem}"
            else:
                places.append(place)
        if any(later <= earlier for earlier, later in pairwise(places)):
            yield Wrong.REVEAL, "reveals are out of order"

    def _whole(self) -> Found:
        """(5) The draw is whole exactly when a reveal is missing, and no reveal counts as missing that the log has."""
        draw = self._draw.value
        complete = bool(self._commitments) and len(draw.reveals) == len(self._commitments)
        if draw.whole and complete:
            yield Wrong.WHOLE, "the draw is whole although no reveal is missing"
        if not draw.whole and not complete:
            yield Wrong.NOT_WHOLE, "the draw is not whole although a reveal is missing"
        for item in self._record.reveals:
            unused = item.entry not in draw.reveals and item.index < self._draw.index
            if unused and self._opens(item) is not None:
                yield (
                    Wrong.WHOLE,
                    f"the reveal of {item.value.party} counts as missing but is in the log at {item.index}",
                )

    def _seed(self) -> Found:
        """(6) The seed is reproduced."""
        r = beacon.combine([self._index[entry].value.reveal for entry in self._draw.value.reveals])
        if self._draw.value.seed != selection_seed(
            self._origin, self._seal.size, self._seal.root, r
        ):
            yield Wrong.SEED, "the seed does not follow from origin, seal and reveals"

    def _extent(self) -> Found:
        """(7) Nothing outside the epoch is drawn."""
        drawn = self._draw.value.drawn
        outside = [index for index in drawn if not self._seal.first <= index < self._seal.size]
        if outside:
            yield Wrong.EXTRA, f"{_listed(outside)} drawn from outside the epoch"

    # -- (8) to (12): with entries, receipts, requests, verdicts -------------------------------------------

    def _by_rate(self, entry: bytes) -> bool:
        return drawn_by_rate(self._draw.value.seed, entry, self._opened.rate_ppm)

    def _by_rate_or_floor(self) -> Found:
        """(8) There are no more receipts not drawn by the rate than all floors together can draw."""
        draw, entries = self._draw.value, self._known.entries or {}
        if draw.whole:
            return
        others = [i for i in draw.drawn if i in entries and not self._by_rate(entries[i])]
        raised = raised_floors(self._opened, self._seal)
        most = sum(raised.get(bundle, self._opened.floor) for bundle in self._seal.nodes)
        if len(others) > most:
            yield Wrong.EXTRA, f"{_listed(others)} drawn, but not by the rate; floors draw {most}"

    def _nodes(self) -> Found:
        """(9) The seal counts every receipt under its key bundle."""
        actual = {bundle: node_hash(found) for bundle, found in by_bundle(self._receipts).items()}
        for bundle in sorted(actual.keys() | self._seal.nodes.keys()):
            if actual.get(bundle) != self._seal.nodes.get(bundle):
                yield (
                    Wrong.NODES,
                    f"the seal's hash for key bundle {bundle.hex()} is not that of its receipts",
                )

    def _exact(self) -> Found:
        """(10) The draw lists what the rule draws and nothing else."""
        draw = self._draw.value
        rule = sample(
            draw.seed,
            self._receipts,
            rate_ppm=self._opened.rate_ppm,
            floor=self._opened.floor,
            whole=draw.whole,
            raised=raised_floors(self._opened, self._seal),
        )
        listed = frozenset(draw.drawn)
        left_out = [item for item in rule if item.index not in listed]
        for wrong, chosen in (
            (Wrong.MISSING, [i.index for i in left_out if i.reason is not DisclosureReason.FLOOR]),
            (Wrong.FLOOR, [i.index for i in left_out if i.reason is DisclosureReason.FLOOR]),
        ):
            if chosen:
                yield wrong, f"{_listed(chosen)} not drawn although due"
        extra = sorted(listed - {item.index for item in rule})
        if extra:
            yield Wrong.EXTRA, f"{_listed(extra)} drawn although not due"

    def _none_missing(self) -> Found:
        """(10) If only some receipts are known: none of them is missing that is due whatever the others are."""
        draw = self._draw.value
        listed = frozenset(draw.drawn)
        missing = [
            receipt.index
            for receipt in self._receipts
            if receipt.index not in listed and (draw.whole or self._by_rate(receipt.entry))
        ]
        if missing:
            yield Wrong.MISSING, f"{_listed(missing)} not drawn although due"

    def _drawn(self) -> list[Logged]:
        listed = frozenset(self._draw.value.drawn)
        return [receipt for receipt in self._receipts if receipt.index in listed]

    def _requests_of(self) -> dict[bytes, DisclosureRequest]:
        """Return the requests under this draw that give the right index and reason, by receipt."""
        draw = self._draw
        places = {receipt.entry: receipt.index for receipt in self._receipts}
        return {
            request.receipt: request
            for request in self._known.requests or ()
            if request.draw == draw.entry
            and places.get(request.receipt) == request.index
            and request.reason is self._reason(request.receipt)
        }

    def _reason(self, entry: bytes) -> DisclosureReason:
        if self._draw.value.whole:
            return DisclosureReason.WHOLE
        return DisclosureReason.DRAW if self._by_rate(entry) else DisclosureReason.FLOOR

    def _requests(self) -> Found:
        """(11) Every drawn receipt has its request within an hour of the seal."""
        if self._now <= self._seal.at + HOUR_MS:
            return
        requested = self._requests_of()
        missing = [item.index for item in self._drawn() if item.entry not in requested]
        if missing:
            yield Wrong.REQUEST, f"{_listed(missing)} drawn but never requested"

    def _outcomes(self) -> Found:
        """(12) Every drawn receipt has a verdict within a day of its request's deadline."""
        requested, judged = self._requests_of(), self._known.judged or frozenset()
        missing = [
            item.index
            for item in self._drawn()
            if item.entry in requested
            and item.entry not in judged
            and self._now > requested[item.entry].deadline + DAY_MS
        ]
        if missing:
            yield Wrong.OUTCOME, f"{_listed(missing)} requested but never judged"

    def _strict(self) -> Found:
        """(13) The strict floor is that of the nodes whose standing asks for it."""
        named = frozenset(self._seal.strict or ())
        due = self._known.strict or frozenset()
        due = due if self._opened.strict_floor is not None else frozenset()
        for bundle in sorted(named ^ due):
            told = (
                "is strict although its node stands"
                if bundle in named
                else "is not strict although its node does not stand"
            )
            yield Wrong.STANDING, f"key bundle {bundle.hex()} {told} well"


def _unsigned(keys: Collection[bytes], statement: SignedStatement) -> str:
    """Return what is wrong with a signature if its signer's keys are known; otherwise an empty text."""
    if not keys:
        return ""
    try:
        verify_signature(statement, key_for(statement, keys))
    except CounterfoilError as error:
        return error.detail
    return ""


def _listed(indexes: Sequence[int]) -> str:
    """Name receipts by index, or the first few if there are many."""
    shown = ", ".join(map(str, indexes[:_LISTED]))
    more = f" and {len(indexes) - _LISTED} more" if len(indexes) > _LISTED else ""
    return f"{'receipt' if len(indexes) == 1 else 'receipts'} at {shown}{more}"
