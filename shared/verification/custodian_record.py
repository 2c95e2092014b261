"""What the log says of custodians: releases asked of each, given in time, late and missing, and reports (protocol §6.2.10). Pure.

A figure blames nobody: a worker can fail to ask, and a tenant can have named other custodians. Each comes with the entries
behind it, so that whoever is concerned can say what happened.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from shared.statements.disclosures import (
    DisclosureRelease,
    DisclosureRequest,
    EscrowReport,
    ShareReport,
)
from shared.statements.verdicts import Outcome, Reason
from shared.verification.disclosure_check import WITHOUT_OPENING, Held
from shared.verification.epoch_record import Placed

Dated = tuple[int, int]
"""A log index, and the time (ms) that the statement there gives for itself."""


class Came(StrEnum):
    """What became of one request that was put to one custodian."""

    IN_TIME = "in-time"
    """Its answer is in the log before a statement dated at or before the deadline."""
    LATE = "late"
    """Its answer is in the log after a statement dated after the deadline."""
    UNDATED = "undated"
    """It answered, and no dated statement says whether in time."""
    MISSING = "missing"
    """The log has no answer, and a tenant seal that counts all answers is dated after the deadline."""
    UNSEALED = "missing, not sealed yet"
    """No answer is shown, and the log was witnessed after the deadline; that there is none is the server's word."""
    OPEN = "open"
    """The log has no answer yet."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One thing that speaks against a custodian, with the entry that shows it."""

    what: str
    request: bytes
    """Entry of the disclosure request."""
    entry: bytes | None
    """The late release, or the report; None for what is missing."""


@dataclass(frozen=True, slots=True)
class CustodianRecord:
    """One custodian, counted by disclosure request."""

    custodian: str
    asked: int
    in_time: int
    late: int
    undated: int
    missing: int
    unsealed: int
    open: int
    share_reports: int
    """Workers' reports of a share of its that does not fit."""
    contradicted: int
    """Its own reports of a wrap that does not fit, about requests that others opened."""
    shown: tuple[Shown, ...]
    """What is late, missing or reported, in log order of the requests."""


def custodian_records(
    held: Held, requests: Sequence[Placed[DisclosureRequest]], dated: Sequence[Dated], seen: int
) -> tuple[CustodianRecord, ...]:
    """Return the records of all custodians that ever answered about these requests' tenant, by name.

    `dated` are statements whose time counts, `seen` (ms) is when the log of the document's size was witnessed.
    """
    answers: dict[bytes, dict[str, tuple[int, bytes]]] = defaultdict(dict)
    first: dict[str, int] = {}
    for index, entry, value in _answers(held):
        answers[value.request].setdefault(value.custodian, (index, entry))
        first.setdefault(value.custodian, index)
    clock = _Clock(dated, max((item.value.at for item in held.seals), default=0), seen)
    accused = _accused(held)
    return tuple(
        _record(name, list(_put_to(name, requests, answers, first[name])), clock, accused)
        for name in sorted(first)
    )


def _answers(held: Held) -> list[tuple[int, bytes, DisclosureRelease | EscrowReport]]:
    """Return what custodians answered, each with its log index and entry, in log order."""
    found: list[tuple[int, bytes, DisclosureRelease | EscrowReport]] = []
    found.extend((item.index, item.entry, item.value) for item in held.releases)
    found.extend(
        (item.index, item.entry, item.value)
        for item in held.reports
        if isinstance(item.value, EscrowReport)
    )
    return sorted(found, key=lambda answer: answer[0])


Put = tuple[Placed[DisclosureRequest], tuple[int, bytes] | None]
"""A request that was put to a custodian, and where its answer is."""


def _put_to(
    name: str,
    requests: Sequence[Placed[DisclosureRequest]],
    answers: dict[bytes, dict[str, tuple[int, bytes]]],
    first: int,
) -> Iterator[Put]:
    """Yield what a custodian answered, and what others answered after it had first answered anything."""
    for item in requests:
        given = answers.get(item.entry, {})
        if name in given or (given and item.index > first):
            yield item, given.get(name)


def _record(
    name: str,
    put: Sequence[Put],
    clock: "_Clock",
    accused: dict[tuple[str, bytes], list[Shown]],
) -> CustodianRecord:
    counts = dict.fromkeys(Came, 0)
    shown: list[Shown] = []
    for item, answer in put:
        came = clock.came(item.value.deadline, answer)
        counts[came] += 1
        if came in {Came.LATE, Came.MISSING, Came.UNSEALED}:
            shown.append(Shown(came.value, item.entry, None if answer is None else answer[1]))
        shown += accused.get((name, item.entry), ())
    reports = [one.what for one in shown]
    return CustodianRecord(
        custodian=name,
        asked=len(put),
        in_time=counts[Came.IN_TIME],
        late=counts[Came.LATE],
        undated=counts[Came.UNDATED],
        missing=counts[Came.MISSING],
        unsealed=counts[Came.UNSEALED],
        open=counts[Came.OPEN],
        share_reports=reports.count(ShareReport.TYPE),
        contradicted=reports.count(EscrowReport.TYPE),
        shown=tuple(shown),
    )


def _accused(held: Held) -> dict[tuple[str, bytes], list[Shown]]:
    """Return reports that speak against a custodian, by its name and the request."""
    opened = {
        item.value.receipt
        for item in held.verdicts
        if item.value.request != item.value.receipt  # not what the client showed by itself
        and item.value.outcome is not Outcome.INCONCLUSIVE
        and item.value.reason not in {*WITHOUT_OPENING, Reason.ESCROW}
    }
    found: dict[tuple[str, bytes], list[Shown]] = defaultdict(list)
    for item in held.reports:
        value = item.value
        if isinstance(value, EscrowReport) and value.receipt not in opened:
            continue
        one = Shown(item.statement.type, value.request, item.entry)
        found[value.custodian, value.request].append(one)
    return found


class _Clock:
    """The order of the log as a clock: what stands before a statement was there at its time."""

    def __init__(self, dated: Sequence[Dated], sealed: int, seen: int) -> None:
        self._sealed, self._seen = sealed, seen
        ordered = sorted(dated)
        self._indexes = [index for index, _ in ordered]
        times = [at for _, at in ordered]
        self._latest_before: list[int] = []
        """For each place, the latest time of the statements before it."""
        latest = 0
        for at in times:
            self._latest_before.append(latest)
            latest = max(latest, at)
        self._latest_before.append(latest)
        self._earliest_from = [0] * len(times)
        """For each place, the earliest time of the statements from it on."""
        for place in range(len(times) - 1, -1, -1):
            later = self._earliest_from[place + 1 : place + 2]
            self._earliest_from[place] = min([times[place], *later])

    def came(self, deadline: int, answer: tuple[int, bytes] | None) -> Came:
        """Return what became of a request with this deadline (ms), given its answer's log index and entry."""
        if answer is None:
            if self._sealed > deadline:
                return Came.MISSING
            return Came.UNSEALED if self._seen > deadline else Came.OPEN
        place = bisect_left(self._indexes, answer[0])
        if self._earliest_from[place : place + 1] and self._earliest_from[place] <= deadline:
            return Came.IN_TIME
        return Came.LATE if self._latest_before[place] > deadline else Came.UNDATED
