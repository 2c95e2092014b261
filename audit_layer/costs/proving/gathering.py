"""Everything that was signed about the receipts behind a line, from the trail and the books. In the caller's transaction."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from audit_layer.costs.billing import lines_of
from audit_layer.costs.books import refusals_of
from audit_layer.costs.models import CorrectionRow, PeriodEventRow, RatedReceiptRow
from audit_layer.costs.periods import CLOSED
from audit_layer.costs.proving.period_tree import paths_in
from audit_layer.costs.reading import among, ended_in
from audit_layer.trail.at_rest import decrypted
from audit_layer.trail.models import OrderRow, PartyRow, ReceiptRow, StatementRow, VerdictRow
from audit_layer.trail.standings import opinion_of
from shared.codec.moment import Period
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import key_id
from shared.statements.cose import entry_of, parse_statement, read_as
from shared.statements.orders import Order
from shared.statements.periods import PeriodSeal
from shared.statements.ratecards import RateCard
from shared.statements.receipts import Receipt
from shared.verification.line_figures import Known
from shared.verification.line_proof_file import END_INDEX, MAX_RECEIPTS, Scope, SealedLine

MAX_LINES: Final = 2_000_000
"""Lines of a closed period whose tree is computed for a proof: 128 MiB of hashes."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A statement as it was signed, and its index in the log."""

    index: int
    raw: bytes


@dataclass(frozen=True, slots=True)
class Gathered:
    """What a proof is made of."""

    receipts: Sequence[Known]
    """Behind the line, in order of log index."""
    others: Sequence[Known]
    """Other receipts of the same requests."""
    statements: Mapping[bytes, Stored]
    """Every statement that is in the log, by entry."""
    orders: Mapping[bytes, bytes]
    """As they were signed, by entry."""
    key_bundles: Sequence[bytes]
    rate_cards: Sequence[bytes]
    seals: Sequence[bytes]
    sealed: Mapping[bytes, Sequence[SealedLine]]
    """The lines of receipts in these seals."""
    keys: Sequence[bytes]
    end_index: int
    """The log index up to which these are all receipts behind the line."""


def gather(db: Session, operator: str, scope: Scope) -> Gathered:
    """Return what is behind a line of an operator's invoice from a log index on, as much of it as a file holds, as far as
    the books have processed it.

    Errors: INVALID_ARGUMENT where one receipt is too much for a file, ERASED where something of it was erased.
    """
    own, others, end_index = _page(db, _scoped(operator, scope))
    rows = [*own, *others]
    receipts = [row.receipt for row in rows]
    bundles = _column(db, ReceiptRow.bundle, ReceiptRow.entry, receipts)
    verdicts = list(
        db.scalars(
            select(VerdictRow)
            .where(among(VerdictRow.receipt, receipts))
            .order_by(VerdictRow.log_index)
        )
    )
    seals, sealed = _sealed(db, own)
    cards = sorted({row.rate_card for row in rows})
    refused = refusals_of(db, [row.order_entry for row in rows])
    named = [
        *(*receipts, *bundles, *cards, *(row.entry for row in verdicts), *seals),
        *refused.values(),
    ]
    statements = _statements(db, named)
    orders = _orders(db, [row.order_entry for row in rows])
    signers = [*(item.raw for item in statements.values()), *orders.values()]
    opinions: dict[bytes, list[Any]] = defaultdict(list)
    for verdict in verdicts:
        opinions[verdict.receipt].append(opinion_of(verdict))
    prices = {
        entry: (statements[entry].index, read_as(RateCard, statements[entry].raw))
        for entry in cards
        if entry in statements
    }

    def known(row: RatedReceiptRow) -> Known:
        index, card = prices.get(row.rate_card, (row.log_index, None))
        return Known(
            entry=row.receipt,
            index=row.log_index,
            receipt=read_as(Receipt, statements[row.receipt].raw),
            order=read_as(Order, orders[row.order_entry]),
            operator=row.operator,
            card=card if index < row.log_index else None,
            opinions=opinions[row.receipt],
            refused=refused.get(row.order_entry),
        )

    return Gathered(
        receipts=[known(row) for row in own],
        others=[known(row) for row in others],
        statements=statements,
        orders=orders,
        key_bundles=bundles,
        rate_cards=sorted(prices),
        seals=seals,
        sealed=sealed,
        keys=_keys(db, signers),
        end_index=end_index,
    )


def _scoped(operator: str, scope: Scope) -> list[Any]:
    root = None if scope.model_root is None else bytes.fromhex(scope.model_root)
    named = (
        (RatedReceiptRow.tenant, scope.tenant),
        (RatedReceiptRow.node, scope.node),
        (RatedReceiptRow.model_root, root),
    )
    return [
        RatedReceiptRow.operator == operator,
        RatedReceiptRow.log_index >= scope.first_index,
        *ended_in(Period(scope.start, scope.end)),
        *(column == value for column, value in named if value is not None),
    ]


def _rows(db: Session, conditions: Sequence[Any]) -> list[RatedReceiptRow]:
    """Return receipts in order of log index, at most one more than a file holds."""
    query = select(RatedReceiptRow).where(*conditions).order_by(RatedReceiptRow.log_index)
    return list(db.scalars(query.limit(MAX_RECEIPTS + 1)))


def _attempts(db: Session, own: Sequence[RatedReceiptRow]) -> list[RatedReceiptRow]:
    """Return the other receipts of the same requests: they decide which attempt is paid."""
    requests = sorted({(row.tenant, row.number) for row in own})
    conditions = [
        tuple_(RatedReceiptRow.tenant, RatedReceiptRow.number).in_(requests),
        ~among(RatedReceiptRow.receipt, [row.receipt for row in own]),
    ]
    return _rows(db, conditions)


def _page(
    db: Session, conditions: Sequence[Any]
) -> tuple[list[RatedReceiptRow], list[RatedReceiptRow], int]:
    """Return receipts and the other attempts of their requests, together as many as a file holds, and where the rest begins."""
    rows = _rows(db, conditions)
    size = min(len(rows), MAX_RECEIPTS)
    while True:
        own = rows[:size]
        others = _attempts(db, own) if own else []
        if len(own) + len(others) <= MAX_RECEIPTS:
            return own, others, rows[size].log_index if size < len(rows) else END_INDEX
        if size == 1:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT,
                f"one request behind this line has {len(others)} other receipts, more than the {MAX_RECEIPTS - 1} that a"
                " proof holds",
            )
        size //= 2


def _sealed(
    db: Session, own: Sequence[RatedReceiptRow]
) -> tuple[list[bytes], dict[bytes, list[SealedLine]]]:
    """Return the seals, in the log, of closed periods that bill or take back one of these receipts, and those lines."""
    wanted = {row.receipt for row in own}
    periods = {row.period for row in own} | set(
        _column(db, CorrectionRow.period, CorrectionRow.receipt, wanted)
    )
    closed = db.execute(
        select(PeriodEventRow.period, PeriodEventRow.statement)
        .where(PeriodEventRow.state == CLOSED, PeriodEventRow.period.in_(periods - {None}))
        .order_by(PeriodEventRow.period)
    ).all()
    logged = _statements(db, [entry_of(raw) for _, raw in closed if raw is not None])
    seals: list[bytes] = []
    found: dict[bytes, list[SealedLine]] = defaultdict(list)
    for period, raw in closed:
        if raw is None or (entry := entry_of(raw)) not in logged:
            continue
        for receipt, line in _lines(db, period, read_as(PeriodSeal, raw), wanted, len(seals)):
            found[receipt].append(line)
        seals.append(entry)
    return seals, found


def _lines(
    db: Session, period: int, seal: PeriodSeal, wanted: Collection[bytes], place: int
) -> Iterable[tuple[bytes, SealedLine]]:
    if seal.lines > MAX_LINES:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"the bill of period {period} has {seal.lines} lines, more than the {MAX_LINES} for which paths are computed",
        )
    root, placed = paths_in(lines_of(db, period), wanted)
    if root != seal.root:
        raise CounterfoilError(
            Code.CORRUPT,
            f"the books no longer have the lines that the seal of period {period} has",
            remedy="Run `counterfoil cost fsck`.",
        )
    return [
        (receipt, SealedLine.model_validate({"seal": place, **asdict(line)}))
        for receipt, line in placed.items()
    ]


def _statements(db: Session, entries: Iterable[bytes]) -> dict[bytes, Stored]:
    rows = db.execute(
        select(StatementRow.entry, StatementRow.log_index, StatementRow.raw).where(
            among(StatementRow.entry, set(entries))
        )
    )
    return {entry: Stored(index, _readable(db, raw)) for entry, index, raw in rows}


def _orders(db: Session, entries: Iterable[bytes]) -> dict[bytes, bytes]:
    wanted = set(entries)
    rows = db.execute(select(OrderRow.entry, OrderRow.raw).where(among(OrderRow.entry, wanted)))
    found = {entry: _readable(db, raw) for entry, raw in rows}
    if missing := wanted - found.keys():
        raise CounterfoilError(
            Code.CORRUPT,
            f"the order {min(missing).hex()} of a receipt in the log is missing from the trail",
            remedy="Run `counterfoil log fsck`.",
        )
    return found


def _readable(db: Session, stored: bytes) -> bytes:
    try:
        return decrypted(db, stored)
    except CounterfoilError as error:
        if error.code is not Code.ERASED:
            raise
        raise CounterfoilError(
            Code.ERASED, "a receipt behind this line was erased: nobody can prove the line any more"
        ) from error


def _column(db: Session, column: Any, key: Any, values: Collection[bytes]) -> list[Any]:
    """Return the different values of a column in the rows with these keys, in order."""
    query = select(column).where(among(key, values), column.is_not(None)).distinct()
    return list(db.scalars(query.order_by(column)))


def _keys(db: Session, signed: Iterable[bytes]) -> list[bytes]:
    """Return the parties' keys that signed these statements, including those no longer believed."""
    kids = {parse_statement(raw).kid for raw in signed}
    known = db.scalars(select(PartyRow.public_key).distinct()).all()
    return sorted(key for key in known if key_id(key) in kids)
