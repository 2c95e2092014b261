"""What the audit did about one receipt, for those whom it concerns: drawn or not, by whom judged, with what result."""

from dataclasses import dataclass

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from audit_layer.replay.models import WorkRow
from audit_layer.selection.models import EpochRow
from audit_layer.selection.work import ASKED, DRAWN
from audit_layer.storage.engine import session
from audit_layer.trail.models import ReceiptRow, VerdictRow
from shared.runtime.errors import CounterfoilError
from shared.statements.cose import entry_of, read_as
from shared.statements.disclosures import DisclosureRequest
from shared.statements.epochs import EpochOpen
from shared.verification.judgement import Judgement


@dataclass(frozen=True, slots=True)
class EpochOf:
    """The epoch in which a receipt lies. `state` is open, sealed or drawn."""

    number: int
    state: str
    rate_ppm: int
    floor: int
    whole: bool | None


@dataclass(frozen=True, slots=True)
class Opinion:
    """One worker's part: what it was asked, its verdict once logged, and the judgement behind it."""

    kind: str
    worker: str
    asked: str
    """Why: `draw`, `floor`, `whole`, `tenant` or `confirm`."""
    deadline: int
    """Unix ms until which evidence is waited for."""
    waits_for: str | None
    """While there is no verdict: what the worker waits for, if it has tried."""
    verdict: VerdictRow | None
    judgement: Judgement | None
    """None if it is not kept, or not the one that the verdict names."""


@dataclass(frozen=True, slots=True)
class Account:
    """Everything about one receipt that the audit layer did."""

    receipt: ReceiptRow
    epoch: EpochOf | None
    """None before its epoch is opened."""
    opinions: tuple[Opinion, ...]


def account_of(engine: Engine, receipt: ReceiptRow) -> Account:
    """Return the account of a receipt of the trail."""
    with session(engine) as db:
        verdicts = db.scalars(
            select(VerdictRow)
            .where(VerdictRow.receipt == receipt.entry)
            .order_by(VerdictRow.log_index)
        ).all()
        work = db.scalars(
            select(WorkRow).where(WorkRow.receipt == receipt.entry).order_by(WorkRow.id)
        ).all()
        logged = {row.entry: row for row in verdicts}
        opinions = [_opinion(row, logged) for row in work]
        told = {opinion.verdict.entry for opinion in opinions if opinion.verdict is not None}
        opinions += [_bare(row) for row in verdicts if row.entry not in told]
        return Account(receipt, _epoch(db, receipt.log_index), tuple(opinions))


def _opinion(row: WorkRow, logged: dict[bytes, VerdictRow]) -> Opinion:
    request = read_as(DisclosureRequest, row.request_statement)
    statement = row.verdict_statement
    verdict = None if statement is None else logged.get(entry_of(statement))
    return Opinion(
        kind=row.kind,
        worker=row.worker,
        asked=request.reason.value,
        deadline=row.deadline,
        waits_for=None if verdict is not None else row.last_error,
        verdict=verdict,
        judgement=None if verdict is None else _judgement(row),
    )


def _judgement(row: WorkRow) -> Judgement | None:
    if row.judgement is None:
        return None
    try:
        return Judgement.from_bytes(row.judgement)
    except CounterfoilError:  # of an earlier version
        return None


def _bare(row: VerdictRow) -> Opinion:
    """Return a verdict that is in the log and not on this work list."""
    chain = ASKED if row.asked else DRAWN
    kind = chain.first if row.confirms is None else chain.second
    return Opinion(kind, row.worker, "", 0, None, row, None)


def _epoch(db: Session, index: int) -> EpochOf | None:
    """Return the epoch that covers a log index; the open one has no end yet."""
    rows = db.scalars(
        select(EpochRow)
        .where(EpochRow.open_index.is_not(None), EpochRow.open_index <= index)
        .order_by(EpochRow.epoch.desc())
        .limit(2)
    ).all()
    for row in reversed(rows):  # an epoch's successor is opened before its end
        if row.size is None or (row.first or 0) <= index < row.size:
            opened = read_as(EpochOpen, row.open_statement)
            return EpochOf(row.epoch, row.state, opened.rate_ppm, opened.floor, row.whole)
    return None
