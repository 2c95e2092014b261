"""Checks that a tenant sees every disclosure of its requests, and that each was due: protocol §6.2.6. Pure.

That the statements are in the log at these indexes, and who signed them, is checked before
(`shared.verification.disclosure_record`): step (1).
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from itertools import pairwise
from typing import Any, Final

from shared.statements.disclosures import (
    AuditRequest,
    DisclosureReason,
    DisclosureRelease,
    DisclosureRequest,
    EscrowReport,
    ShareReport,
)
from shared.statements.epochs import Draw, EpochSeal
from shared.statements.seals import TenantSeal, counted, follows
from shared.statements.verdicts import Blame, Outcome, Reason, Verdict
from shared.verification.epoch_record import Placed

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
BY_DRAW: Final = frozenset({DisclosureReason.DRAW, DisclosureReason.FLOOR, DisclosureReason.WHOLE})
WITHOUT_OPENING: Final = frozenset({Reason.ORDER, Reason.STREAM, Reason.FINISH, Reason.IMPLAUSIBLE})
"""Reasons of PASS or FAIL that a worker can give without having read the request."""


class Wrong(StrEnum):
    """What can be wrong with disclosures, named as in the protocol."""

    PROOF = "proof"
    SIGNATURE = "signature"
    SEAL = "seal"
    HIDDEN = "hidden"
    RECEIPT = "receipt"
    DRAW = "draw"
    AUDIT_REQUEST = "audit-request"
    CONFIRM = "confirm"
    RELEASE = "release"
    SECOND = "second"
    SHARE = "share"
    REQUEST = "request"
    OUTCOME = "outcome"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, the step that found it, and the statement that shows it."""

    step: int
    wrong: Wrong
    detail: str
    entry: bytes


@dataclass(frozen=True, slots=True)
class Held:
    """What the log has about one tenant's disclosures, every list in log order."""

    tenant: str
    receipts: Mapping[bytes, int]
    """Log index by entry; also those that were erased."""
    erased: Collection[bytes] = frozenset()
    """Entries of receipts that were erased: they need no verdict."""
    audit_requests: Sequence[Placed[AuditRequest]] = ()
    requests: Sequence[Placed[DisclosureRequest]] = ()
    releases: Sequence[Placed[DisclosureRelease]] = ()
    reports: Sequence[Placed[EscrowReport] | Placed[ShareReport]] = ()
    verdicts: Sequence[Placed[Verdict]] = ()
    draws: Sequence[Placed[Draw]] = ()
    epochs: Mapping[bytes, EpochSeal] = field(default_factory=dict)
    """Epoch seals by entry: they say by when a draw's requests are due."""
    seals: Sequence[Placed[TenantSeal]] = ()
    """The tenant's seals without a gap, up to its newest."""

    def about_disclosure(self) -> list[Placed[Any]]:
        """Return all statements that a tenant seal counts, in log order."""
        found: tuple[Placed[Any], ...] = (
            *self.audit_requests,
            *self.requests,
            *self.releases,
            *self.reports,
            *self.verdicts,
        )
        return sorted(found, key=lambda item: item.index)


@dataclass(frozen=True, slots=True)
class DisclosuresChecked:
    """The result of a check."""

    faults: tuple[Fault, ...]
    sealed: tuple[int, int]
    """The log indexes [first, end) for which the authority has sealed that there are no other disclosures; empty without
    such a seal."""


Found = Iterator[tuple[Wrong, str, bytes]]


def check_disclosures(held: Held, *, now: int, threshold: int = 1) -> DisclosuresChecked:
    """Perform steps (2) to (8). `now` (ms) decides what is due, `threshold` is how many shares open the tenant's envelopes."""
    check = _Check(held, now, threshold)
    faults = [
        Fault(number, wrong, detail, entry)
        for number, step in check.steps()
        for wrong, detail, entry in step()
    ]
    return DisclosuresChecked(tuple(faults), check.sealed)


class _Check:
    """The steps, over what is held."""

    def __init__(self, held: Held, now: int, threshold: int) -> None:
        self._held, self._now, self._threshold = held, now, threshold
        self._requests = {item.entry: item for item in held.requests}
        self._draws = {item.entry: item for item in held.draws}
        self._audit_requests = {item.entry: item for item in held.audit_requests}

    def steps(self) -> Iterator[tuple[int, Callable[[], Found]]]:
        """Yield the steps with their numbers."""
        yield from enumerate(
            (
                self._sealed,
                self._about_receipts,
                self._were_due,
                self._released,
                self._opened,
                self._drawn_are_requested,
                self._are_judged,
            ),
            start=2,
        )

    @cached_property
    def _counting(self) -> list[tuple[int, Placed[TenantSeal]]]:
        """The seals that count disclosures, each with the size of the one before it."""
        seals = self._held.seals
        before = [0 if item.value.number == 0 else None for item in seals[:1]]
        sizes = [*before, *(item.value.size for item in seals[:-1])]
        return [
            (size, item)
            for size, item in zip(sizes, seals, strict=True)
            if size is not None and item.value.disclosures is not None
        ]

    @property
    def sealed(self) -> tuple[int, int]:
        """The range of indexes about which the seals that count say everything."""
        counting = self._counting
        return (counting[0][0], counting[-1][1].value.size) if counting else (0, 0)

    def _sealed(self) -> Found:
        """(2) The tenant's seals follow one another, and count exactly these statements."""
        for one, other in pairwise(self._held.seals):
            if (problem := follows(one.value, one.entry, other.value)) is not None:
                number = other.value.number
                yield Wrong.SEAL, f"seal {number}, after {one.value.number}, {problem}", other.entry
        shown = self._held.about_disclosure()
        for first, item in self._counting:
            seal = item.value
            entries = [one.entry for one in shown if first <= one.index < seal.size]
            if seal.disclosures is not None and counted(entries) != seal.disclosures:
                yield (
                    Wrong.HIDDEN,
                    (
                        f"seal {seal.number} counts {seal.disclosures.count} statements about disclosures in"
                        f" [{first}, {seal.size}), and {len(entries)} are shown, or others"
                    ),
                    item.entry,
                )

    def _about_receipts(self) -> Found:
        """(3) Each is about a receipt of the tenant that the log has before it, at the index that a request gives."""
        for item in self._held.about_disclosure():
            index = self._held.receipts.get(item.value.receipt)
            kind = item.statement.type
            if index is None or index >= item.index:
                yield Wrong.RECEIPT, f"the {kind} is about no receipt before it", item.entry
            elif isinstance(item.value, DisclosureRequest) and item.value.index != index:
                yield (
                    Wrong.RECEIPT,
                    f"the request gives index {item.value.index} for the receipt at {index}",
                    item.entry,
                )

    def _were_due(self) -> Found:
        """(4) Each request names the draw that draws it, the audit request, or what it is to confirm."""
        for item in self._held.requests:
            match item.value.reason:
                case DisclosureReason.TENANT:
                    yield from self._was_asked(item)
                case DisclosureReason.CONFIRM:
                    yield from (
                        self._was_asked(item)
                        if (item.value.draw in self._audit_requests)
                        else self._was_drawn(item)
                    )
                    yield from self._confirms(item)
                case _:
                    yield from self._was_drawn(item)

    def _was_drawn(self, item: Placed[DisclosureRequest]) -> Found:
        request, draw = item.value, self._draws.get(item.value.draw)
        if draw is None or draw.index >= item.index:
            yield Wrong.DRAW, "the request names no draw that the log has before it", item.entry
        elif request.index not in draw.value.drawn:
            epoch = draw.value.epoch
            yield Wrong.DRAW, f"the draw of epoch {epoch} does not list its receipt", item.entry
        elif request.reason in BY_DRAW and (
            (request.reason is DisclosureReason.WHOLE) != draw.value.whole
        ):
            yield (
                Wrong.DRAW,
                (
                    f"the reason is {request.reason}, and the epoch is{'' if draw.value.whole else ' not'}"
                    " audited whole"
                ),
                item.entry,
            )

    def _was_asked(self, item: Placed[DisclosureRequest]) -> Found:
        asked = self._audit_requests.get(item.value.draw)
        if (
            asked is None
            or asked.index >= item.index
            or (asked.value.receipt, asked.value.tenant) != (item.value.receipt, self._held.tenant)
        ):
            yield (
                Wrong.AUDIT_REQUEST,
                "the request names no audit request of the tenant for this receipt before it",
                item.entry,
            )

    def _confirms(self, item: Placed[DisclosureRequest]) -> Found:
        blamed = any(
            verdict.index < item.index
            and verdict.value.receipt == item.value.receipt
            and verdict.value.reason.blame in {Blame.NODE, Blame.CHAIN}
            for verdict in self._held.verdicts
        )
        if not blamed:
            yield (
                Wrong.CONFIRM,
                "there is no verdict before it that blames a node and is to be confirmed",
                item.entry,
            )

    def _released(self) -> Found:
        """(5) Each release is for a request before it about the same receipt, and a custodian's only one for it."""
        seen: set[tuple[bytes, str]] = set()
        for item in self._held.releases:
            release, request = item.value, self._requests.get(item.value.request)
            if request is None or request.index >= item.index:
                yield (
                    Wrong.RELEASE,
                    f"{release.custodian} released for no request before it",
                    item.entry,
                )
            elif request.value.receipt != release.receipt:
                yield (
                    Wrong.RELEASE,
                    f"{release.custodian} released for a request about another receipt",
                    item.entry,
                )
            if (release.request, release.custodian) in seen:
                yield Wrong.SECOND, f"{release.custodian} released twice", item.entry
            seen.add((release.request, release.custodian))

    def _opened(self) -> Found:
        """(6) Whoever judged what a request says had the shares by releases that the log has before the verdict."""
        for item in self._held.verdicts:
            verdict = item.value
            if shown_by_client(verdict):
                continue
            if verdict.request not in self._requests:
                yield (
                    Wrong.REQUEST,
                    f"{verdict.worker} judged under no request",
                    item.entry,
                )
                continue
            if not opened(verdict):
                continue
            by = {
                release.value.custodian
                for release in self._held.releases
                if release.value.request == verdict.request and release.index < item.index
            }
            if len(by) < self._threshold:
                yield (
                    Wrong.SHARE,
                    (
                        f"{verdict.worker} judged what the request says after {len(by)} releases in the"
                        f" log, and {self._threshold} shares open it"
                    ),
                    item.entry,
                )

    def _drawn_are_requested(self) -> Found:
        """(7) Every receipt that a draw lists has its request under this draw, an hour after the epoch's seal."""
        requested = {
            (item.value.draw, item.value.receipt)
            for item in self._held.requests
            if item.value.reason in BY_DRAW
        }
        places = {index: entry for entry, index in self._held.receipts.items()}
        for draw in self._held.draws:
            sealed = self._held.epochs.get(draw.value.seal)
            if sealed is not None and self._now <= sealed.at + HOUR_MS:
                continue
            for index in draw.value.drawn:
                entry = places.get(index)
                if entry is not None and (draw.entry, entry) not in requested:
                    yield (
                        Wrong.REQUEST,
                        (
                            f"the draw of epoch {draw.value.epoch} lists the receipt at {index}, and no"
                            " request is shown"
                        ),
                        draw.entry,
                    )

    def _are_judged(self) -> Found:
        """(8) Every request has a verdict within a day of its deadline."""
        judged = {(item.value.request, item.value.receipt) for item in self._held.verdicts}
        for item in self._held.requests:
            receipt, late = item.value.receipt, self._now > item.value.deadline + DAY_MS
            gone = receipt in self._held.erased
            if (item.entry, receipt) not in judged and not gone and late:
                yield Wrong.OUTCOME, "the request has no verdict", item.entry


def opened(verdict: Verdict) -> bool:
    """Return whether a worker can have come to this verdict only by reading the request."""
    if verdict.reason is Reason.BOUNDARY:
        return True
    return verdict.outcome is not Outcome.INCONCLUSIVE and verdict.reason not in WITHOUT_OPENING


def shown_by_client(verdict: Verdict) -> bool:
    """Return whether the client itself showed what was judged: such a verdict names the receipt as its request (§6.2.7)."""
    return verdict.request == verdict.receipt
