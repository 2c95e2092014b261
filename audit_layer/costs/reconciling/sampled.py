"""What the beacon's sample says about all receipts that an invoice bills, read from the log's epochs, draws and verdicts.

In the caller's transaction. The population is the receipts by the amounts that they claim; what an invoice bills beyond its
receipts is reconciliation's own.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from audit_layer.costs.books import last_corrections
from audit_layer.costs.interval import Alike, Finding, Interval, overbilling
from audit_layer.costs.models import RatedReceiptRow
from audit_layer.costs.reading import ended_in
from audit_layer.trail.models import StatementRow, VerdictRow
from shared.codec.moment import Period
from shared.selection.draw import drawn_by_rate
from shared.statements.cose import entry_of, read_as
from shared.statements.epochs import Draw, EpochOpen, EpochSeal
from shared.statements.verdicts import Outcome

PAGE: Final = 10_000
CERTAIN: Final = 1_000_000
_EXACT: Final = Context(prec=120)


@dataclass(frozen=True, slots=True)
class _Epoch:
    """An epoch as far as it was drawn: the receipts with first <= log index < size."""

    first: int
    size: int
    rate_ppm: int
    draw: Draw | None
    drawn: frozenset[int]
    blind: bool
    """Whether nobody could have known its draw, as it has no commitments."""


def interval_of(
    db: Session, operator: str, period: Period, *, tenant: str | None, rate: Decimal
) -> Interval | None:
    """Return the interval for the amount by which an operator's receipts of a period overbill; None without receipts.

    `rate` converts the rate cards' currency into the invoice's.
    """
    population = Counter(_population(db, operator, period, tenant, rate))
    if not population:
        return None
    return overbilling(
        Alike(each.amount, each.rate_ppm, each.finding, count) for each, count in population.items()
    )


def _population(
    db: Session, operator: str, period: Period, tenant: str | None, rate: Decimal
) -> Iterator[Alike]:
    epochs = _epochs(db)
    firsts = [epoch.first for epoch in epochs]
    last = last_corrections()
    passed = (
        select(VerdictRow.entry)
        .where(
            VerdictRow.receipt == RatedReceiptRow.receipt,
            VerdictRow.outcome == Outcome.PASS.value,
        )
        .exists()
    )
    query = (
        select(
            RatedReceiptRow.receipt,
            RatedReceiptRow.log_index,
            RatedReceiptRow.amount,
            last.c.reason,
            passed,
        )
        .outerjoin(last, last.c.receipt == RatedReceiptRow.receipt)
        .where(
            RatedReceiptRow.operator == operator,
            RatedReceiptRow.amount.is_not(None),
            *ended_in(period),
            *(() if tenant is None else (RatedReceiptRow.tenant == tenant,)),
        )
    )
    for receipt, index, amount, reason, clean in db.execute(
        query, execution_options={"yield_per": PAGE}
    ):
        place = bisect_right(firsts, index) - 1
        epoch = epochs[place] if place >= 0 and index < epochs[place].size else None
        worth = _EXACT.multiply(amount, rate)
        yield _alike(epoch, bytes(receipt), index, worth, reason, clean=clean)


def _alike(
    epoch: _Epoch | None,
    receipt: bytes,
    index: int,
    amount: Decimal,
    reason: str | None,
    *,
    clean: bool,
) -> Alike:
    rate: int = 0
    by_rate: bool | None = False  # nothing was drawn from it yet
    if epoch is not None and epoch.draw is not None:
        rate = CERTAIN if epoch.blind else epoch.rate_ppm
        by_rate = _by_rate(epoch, epoch.draw, receipt)
    if reason is not None and reason.startswith("confirmed"):
        return Alike(amount, rate, Finding.exactly(amount, by_rate=by_rate))
    if clean:
        return Alike(amount, rate, Finding.exactly(Decimal(0), by_rate=by_rate))
    drawn = (
        epoch is not None and epoch.draw is not None and (index in epoch.drawn or epoch.draw.whole)
    )
    return Alike(amount, rate, Finding.unanswered(amount, by_rate=by_rate) if drawn else None)


def _by_rate(epoch: _Epoch, draw: Draw, receipt: bytes) -> bool | None:
    """Return whether the epoch's rate drew a receipt that was audited; None where nobody can tell."""
    if epoch.blind:
        return True
    return None if draw.whole else drawn_by_rate(draw.seed, receipt, epoch.rate_ppm)


def _epochs(db: Session) -> Sequence[_Epoch]:
    """Return the sealed epochs in order."""
    opened = {entry_of(raw): read_as(EpochOpen, raw) for raw in _raws(db, EpochOpen.TYPE)}
    draws = {draw.seal: draw for draw in (read_as(Draw, raw) for raw in _raws(db, Draw.TYPE))}
    found = []
    for raw in _raws(db, EpochSeal.TYPE):
        seal = read_as(EpochSeal, raw)
        begun, draw = opened.get(seal.open), draws.get(entry_of(raw))
        if begun is not None:
            found.append(
                _Epoch(
                    first=seal.first,
                    size=seal.size,
                    rate_ppm=begun.rate_ppm,
                    draw=draw,
                    drawn=frozenset() if draw is None else frozenset(draw.drawn),
                    blind=not begun.commitments,
                )
            )
    return sorted(found, key=lambda epoch: epoch.first)


def _raws(db: Session, type_: str) -> list[Any]:
    query = select(StatementRow.raw).where(StatementRow.type == type_)
    return list(db.scalars(query.order_by(StatementRow.log_index)))
