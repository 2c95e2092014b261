"""The work list: claim by lease, record, find what is due. Every function runs in the caller's transaction."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ScalarSelect, and_, func, or_, select, update
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session, aliased

from audit_layer.replay.models import WorkRow
from audit_layer.selection.work import CHAINS, Assignment, Chain, Kind
from shared.statements.verdicts import Blame, Outcome, Reason

FIRST_PAUSE_MS: Final = 1_000
LONGEST_PAUSE_MS: Final = 300_000
BLAMES_NODES: Final = frozenset({Blame.NODE, Blame.CHAIN})


def claim(session: Session, work: int, worker: str, *, now: int, lease_ms: int) -> WorkRow | None:
    """Lease one row to `worker`; None when it is done, another worker's, or leased and not yet due."""
    return session.scalars(
        update(WorkRow)
        .where(
            WorkRow.id == work,
            WorkRow.worker == worker,
            WorkRow.done_at.is_(None),
            or_(WorkRow.leased_until.is_(None), WorkRow.leased_until < now),
        )
        .values(leased_until=now + lease_ms, attempts=WorkRow.attempts + 1)
        .returning(WorkRow)
    ).one_or_none()


def give_back(session: Session, work: int, error: str) -> None:
    """Give a lease back: the row is offered again once its last hint is old enough (`due`)."""
    session.execute(
        update(WorkRow)
        .where(WorkRow.id == work, WorkRow.done_at.is_(None))
        .values(leased_until=None, last_error=error)
    )


def extend(session: Session, work: int, *, until: int) -> None:
    """Extend a lease that is still held, to the time `until` (ms) if it does not run longer already."""
    session.execute(
        update(WorkRow)
        .where(WorkRow.id == work, WorkRow.done_at.is_(None), WorkRow.leased_until.is_not(None))
        .values(leased_until=func.greatest(WorkRow.leased_until, until))
    )


def fail(session: Session, work: int, error: str, *, now: int) -> None:
    """Count a failure of the auditor's own side; the row is offered again after a pause that doubles each time."""
    row = session.get_one(WorkRow, work)
    row.failures += 1
    row.leased_until = now + min(FIRST_PAUSE_MS * 2 ** (row.failures - 1), LONGEST_PAUSE_MS)
    row.last_error = error


def note_asked(session: Session, work: int, *, now: int) -> None:
    """Record that the node is being asked for its evidence, before the deadline."""
    session.execute(
        update(WorkRow)
        .where(WorkRow.id == work, WorkRow.asked_at.is_(None), WorkRow.deadline >= now)
        .values(asked_at=now)
    )


def store_verdict(
    session: Session, work: int, *, statement: bytes, judgement: bytes, outcome: str, reason: str
) -> bytes:
    """Store a signed verdict unless one is stored already; return the one that counts."""
    session.execute(
        update(WorkRow)
        .where(WorkRow.id == work, WorkRow.verdict_statement.is_(None))
        .values(verdict_statement=statement, judgement=judgement, outcome=outcome, reason=reason)
    )
    stored = session.scalars(select(WorkRow.verdict_statement).where(WorkRow.id == work)).one()
    assert stored is not None
    return stored


@dataclass(frozen=True, slots=True)
class Found:
    """A signed verdict about another receipt of the same chain, with its judgement."""

    receipt: bytes
    statement: bytes
    judgement: bytes
    outcome: str
    reason: str


def store_found(session: Session, work: int, found: Iterable[Found]) -> None:
    """Store what a row's worker came to about other receipts of its chain, each as work that has its verdict."""
    row = session.get_one(WorkRow, work)
    session.add_all(
        WorkRow(
            receipt=item.receipt,
            kind=Kind.FOUND.value,
            epoch=row.epoch,
            worker=row.worker,
            request_statement=row.request_statement,
            deadline=row.deadline,
            judgement=item.judgement,
            verdict_statement=item.statement,
            outcome=item.outcome,
            reason=item.reason,
            found_by=work,
        )
        for item in found
    )


def found_verdicts(session: Session, work: int) -> Sequence[bytes]:
    """Return the verdicts that `store_found` has stored for a row."""
    rows = session.scalars(select(WorkRow).where(WorkRow.found_by == work).order_by(WorkRow.id))
    return [row.verdict_statement for row in rows if row.verdict_statement is not None]


def finish(session: Session, work: int, *, now: int) -> None:
    """Mark a row done, and what it found: the verdicts are in the log."""
    session.execute(
        update(WorkRow)
        .where(or_(WorkRow.id == work, WorkRow.found_by == work))
        .values(done_at=now, leased_until=None, last_error=None)
    )


def due(session: Session, *, now: int, hint_ms: int, limit: int = 256) -> list[tuple[int, str]]:
    """Return (id, worker) of rows that wait for a worker, and record that hints are being sent for them."""
    waiting = (
        select(WorkRow.id)
        .where(
            WorkRow.done_at.is_(None),
            or_(WorkRow.leased_until.is_(None), WorkRow.leased_until < now),
            WorkRow.hinted_at < now - hint_ms,
        )
        .order_by(WorkRow.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    rows = session.execute(
        update(WorkRow)
        .where(WorkRow.id.in_(waiting))
        .values(hinted_at=now)
        .returning(WorkRow.id, WorkRow.worker)
    )
    return sorted((row.id, row.worker) for row in rows)


def assign(session: Session, assignments: Iterable[Assignment]) -> None:
    """Put work on the list; a receipt is on it at most once for each kind of opinion."""
    session.add_all(
        WorkRow(
            receipt=item.receipt,
            kind=item.kind.value,
            epoch=item.epoch,
            worker=item.worker,
            request_statement=item.request_statement,
            deadline=item.deadline,
        )
        for item in assignments
    )


def requests(session: Session, epoch: int) -> Sequence[bytes]:
    """Return the request statements of an epoch's drawn receipts, in the order in which they were assigned."""
    return session.scalars(
        select(WorkRow.request_statement)
        .where(WorkRow.epoch == epoch, WorkRow.kind == Kind.PRIMARY)
        .order_by(WorkRow.id)
    ).all()


def unconfirmed(session: Session) -> Sequence[tuple[Assignment, Kind, Sequence[str]]]:
    """Return finished first work that blames a node and that another worker must look at, as `WorkList` says.

    A second worker looks at all of it, a third where the second did not make the same charge, whatever the reason: of a chain,
    the same charge against the same nodes. What a tenant asked for and what a draw asks for are followed up each by itself.
    """
    return [due for chain in CHAINS for due in _unconfirmed(session, chain)]


def _unconfirmed(
    session: Session, chain: Chain
) -> Iterator[tuple[Assignment, Kind, Sequence[str]]]:
    second, third = aliased(WorkRow), aliased(WorkRow)
    rows = session.execute(
        select(WorkRow, second)
        .outerjoin(second, and_(second.receipt == WorkRow.receipt, second.kind == chain.second))
        .outerjoin(third, and_(third.receipt == WorkRow.receipt, third.kind == chain.third))
        .where(
            WorkRow.kind == chain.first,
            WorkRow.reason.in_([reason for reason in Reason if reason.blame in BLAMES_NODES]),
            WorkRow.done_at.is_not(None),
            third.id.is_(None),
            or_(
                second.id.is_(None),
                and_(
                    second.done_at.is_not(None),
                    or_(
                        second.outcome != WorkRow.outcome,
                        and_(
                            WorkRow.reason == Reason.BOUNDARY.value,
                            _charged(second.id).is_distinct_from(_charged(WorkRow.id)),
                        ),
                    ),
                ),
            ),
        )
        .order_by(WorkRow.id)
    )
    for row, other in rows:
        yield _due(row, other, chain)


def _charged(work: Any) -> ScalarSelect[Any]:
    """Return the other receipts of a chain that a row's worker charges."""
    found = aliased(WorkRow)
    receipts = func.array_agg(aggregate_order_by(found.receipt, found.receipt))
    charges = (found.found_by == work, found.outcome == Outcome.FAIL.value)
    return select(receipts).where(*charges).scalar_subquery()


def _due(row: WorkRow, other: WorkRow | None, chain: Chain) -> tuple[Assignment, Kind, list[str]]:
    """Return what is due about first work, given the second worker's, which is None before there is any."""
    done = Assignment(row.receipt, row.epoch, row.worker, row.request_statement, row.deadline)
    if other is None:
        return done, chain.second, [row.worker]
    return done, chain.third, [row.worker, other.worker]
