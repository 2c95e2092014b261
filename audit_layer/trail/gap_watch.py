"""Watches the numberings of nodes and tenants: a number missing for too long becomes a finding.

Every receipt and refusal is looked at once, in log order, so the cost is that of what is new; the tables hold the open
gaps and one counter for each numbering. Indexes are committed in their order: none can appear below the mark later.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Engine, delete, func, insert, null, select, union_all
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from audit_layer.storage.engine import session
from audit_layer.trail.columns import finding_values
from audit_layer.trail.gaps import NODE, TENANT, Gap, advance, describe
from audit_layer.trail.models import (
    CounterRow,
    FindingRow,
    GapRow,
    OrderRow,
    ReceiptRow,
    RefusalRow,
    ResolutionRow,
    StatementRow,
    own_number,
)

BATCH: Final = 20_000
"""Receipts and refusals of one transaction."""
MAX_REPORTED: Final = 1_000
"""Findings per look; the rest follow at the next."""
LOCK: Final = 0x63665F67617073  # "cf_gaps": one look at a time per installation
_MARK: Final = ("log", "")

Numbering = tuple[str, str]
"""(kind, issuer)."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found."""

    receipts: int
    """New receipts and refusals looked at."""
    reported: int
    """Gaps that became findings."""
    resolved: int
    """Findings whose numbers have all arrived."""
    open: int
    """Gaps open now, within the grace period or reported."""


class GapWatch:
    """`look` may be repeated, lost, or run in several processes."""

    def __init__(self, engine: Engine, *, grace_ms: int) -> None:
        self._engine = engine
        self._grace_ms = grace_ms

    def look(self, now: int) -> Look:
        """Process new receipts and refusals, and report gaps that are too old at `now` (ms)."""
        receipts = resolved = 0
        while True:
            with session(self._engine) as db:
                db.execute(select(func.pg_advisory_xact_lock(LOCK)))
                taken, closed = _take_in(db, now)
            receipts, resolved = receipts + taken, resolved + closed
            if taken < BATCH:
                break
        with session(self._engine) as db:
            db.execute(select(func.pg_advisory_xact_lock(LOCK)))
            reported = _report(db, now, self._grace_ms)
            remaining = db.scalar(select(func.count()).select_from(GapRow)) or 0
        return Look(receipts, reported, resolved, remaining)

    def open_gaps(self, limit: int = 1_000) -> list[GapRow]:
        """Return the gaps open at the last look, the oldest first."""
        with session(self._engine) as db:
            return list(db.scalars(select(GapRow).order_by(GapRow.since, GapRow.id).limit(limit)))


def _take_in(db: Session, now: int) -> tuple[int, int]:
    """Look at the next batch; return its size, and how many findings it resolved."""
    mark = db.get(CounterRow, _MARK)
    start = 0 if mark is None else mark.next
    rows = _new(db, start)
    if not rows:
        return 0, 0
    arrived: dict[Numbering, dict[int, int]] = defaultdict(dict)
    for row in rows:
        if row.node_sequence is not None:
            arrived[NODE, f"{row.operator}/{row.node}"].setdefault(
                row.node_sequence, row.recorded_at
            )
        if row.number is not None:
            arrived[TENANT, row.tenant].setdefault(row.number, row.recorded_at)
    counters = _counters(db, arrived)
    touched: set[int] = set()
    for numbering, numbers in arrived.items():
        following, findings = _count(db, numbering, counters.get(numbering, 0), numbers)
        counters[numbering] = following
        touched |= findings
    counters[_MARK] = rows[-1].log_index + 1
    _store(db, counters)
    return len(rows), _resolve(db, touched, now)


def _new(db: Session, start: int) -> Sequence[Any]:
    """Return the next receipts and refusals, in order of log index.

    A refusal has no number of its node's, and a receipt for a part none of its tenant's.
    """
    kinds: tuple[tuple[Any, Any, Any], ...] = (
        (ReceiptRow, ReceiptRow.node_sequence, own_number()),
        (RefusalRow, null(), RefusalRow.number),
    )
    either = union_all(
        *(
            select(
                kind.log_index,
                kind.operator,
                kind.node,
                sequence.label("node_sequence"),
                kind.tenant,
                number.label("number"),
            )
            .where(kind.log_index >= start)
            .order_by(kind.log_index)
            .limit(BATCH)
            for kind, sequence, number in kinds
        )
    ).subquery()
    return db.execute(
        select(either, StatementRow.recorded_at)
        .join(StatementRow, StatementRow.log_index == either.c.log_index)
        .order_by(either.c.log_index)
        .limit(BATCH)
    ).all()


def _counters(db: Session, numberings: Iterable[Numbering]) -> dict[Numbering, int]:
    issuers = {issuer for _, issuer in numberings}
    rows = db.scalars(select(CounterRow).where(CounterRow.issuer.in_(issuers)))
    return {(row.kind, row.issuer): row.next for row in rows}


def _count(
    db: Session, numbering: Numbering, following: int, numbers: dict[int, int]
) -> tuple[int, set[int]]:
    """Update one numbering's gaps; return its next number, and the findings of gaps that shrank."""
    kind, issuer = numbering
    rows = db.scalars(
        select(GapRow)
        .where(
            GapRow.kind == kind,
            GapRow.issuer == issuer,
            GapRow.last >= min(numbers),
            GapRow.first <= max(numbers),
        )
        .order_by(GapRow.first)
    ).all()
    before = {Gap(row.first, row.last, row.since, row.finding): row.id for row in rows}
    following, after = advance(following, list(before), numbers)
    gone = before.keys() - set(after)
    if gone:
        db.execute(delete(GapRow).where(GapRow.id.in_([before[gap] for gap in gone])))
    _insert(db, numbering, [gap for gap in after if gap not in before])
    return following, {gap.finding for gap in gone if gap.finding is not None}


def _insert(db: Session, numbering: Numbering, gaps: Sequence[Gap]) -> None:
    kind, issuer = numbering
    values: list[dict[str, Any]] = [
        {
            "kind": kind,
            "issuer": issuer,
            "first": gap.first,
            "last": gap.last,
            "since": gap.since,
            "finding": gap.finding,
        }
        for gap in gaps
    ]
    if values:
        db.execute(insert(GapRow), values)


def _store(db: Session, counters: dict[Numbering, int]) -> None:
    statement = upsert(CounterRow)
    db.execute(
        statement.on_conflict_do_update(
            index_elements=[CounterRow.kind, CounterRow.issuer],
            set_={"next": statement.excluded.next},
        ),
        [
            {"kind": kind, "issuer": issuer, "next": following}
            for (kind, issuer), following in counters.items()
        ],
    )


def _resolve(db: Session, findings: set[int], now: int) -> int:
    """Record that these findings no longer hold, where nothing of their gaps is left."""
    if not findings:
        return 0
    left = set(db.scalars(select(GapRow.finding).where(GapRow.finding.in_(findings))))
    done = findings - left
    if done:
        db.execute(
            insert(ResolutionRow), [{"finding": finding, "at": now} for finding in sorted(done)]
        )
    return len(done)


def _report(db: Session, now: int, grace_ms: int) -> int:
    """Turn gaps that have become too old into findings."""
    gaps = db.scalars(
        select(GapRow)
        .where(GapRow.finding.is_(None), GapRow.since <= now - grace_ms)
        .order_by(GapRow.id)
        .limit(MAX_REPORTED)
    ).all()
    for gap in gaps:
        neighbours = (_neighbour(db, gap, gap.first - 1), _neighbour(db, gap, gap.last + 1))
        detail = describe(gap.kind, gap.issuer, gap.first, gap.last)
        finding = FindingRow(**finding_values("gap", gap.issuer, detail, neighbours, now))
        db.add(finding)
        db.flush()
        gap.finding = finding.id
    return len(gaps)


def _neighbour(db: Session, gap: GapRow, number: int) -> bytes:
    """Return the signed statement with a number: a node's receipt, or an order that a receipt answers or a refusal refuses."""
    if number < 0:
        return b""
    if gap.kind == TENANT:
        query = (
            select(OrderRow.raw)
            .where(
                OrderRow.tenant == gap.issuer, OrderRow.number == number, OrderRow.place.is_(None)
            )
            .order_by(OrderRow.attempt, OrderRow.entry)
            .limit(1)
        )
    else:
        operator, node = gap.issuer.split("/")
        query = (
            select(StatementRow.raw)
            .join(ReceiptRow, ReceiptRow.entry == StatementRow.entry)
            .where(
                ReceiptRow.operator == operator,
                ReceiptRow.node == node,
                ReceiptRow.node_sequence == number,
            )
        )
    return bytes(db.execute(query).scalar_one())
