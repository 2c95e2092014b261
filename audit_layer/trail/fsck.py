"""Compares every indexed column of the trail with the signed bytes, and the trail with the log."""

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from audit_layer.storage.engine import session
from audit_layer.trail.erasing import receipts_under
from audit_layer.trail.erasure import parse_sealed, unseal
from audit_layer.trail.models import (
    DataKeyRow,
    ErasureRow,
    OrderRow,
    ReceiptRow,
    StatementRow,
    VerdictRow,
)
from audit_layer.trail.rows import receipt_columns, signed_columns, verdict_columns
from shared.codec.moment import Period
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.audits import Verdict
from shared.statements.cose import SignedStatement, open_as, parse_statement
from shared.statements.erasures import Erasure
from shared.statements.keys import KeyBundle
from shared.statements.orders import Order
from shared.statements.receipts import NO_RECEIPT, Receipt
from shared.statements.seals import entries_digest


def check_trail(engine: Engine) -> list[str]:
    """Return what is wrong, a line each; an empty list means that all is as it was signed."""
    with session(engine, isolation="REPEATABLE READ") as db:
        parts = (_unlike_log, _statements, _orders, _chains, _erasures)
        return [line for part in parts for line in part(db)]


def _unlike_log(db: Session) -> Iterator[str]:
    rows = db.execute(
        text(
            "SELECT coalesce(e.index, s.log_index) FROM log_entries e FULL JOIN trail_statements s"
            " ON s.log_index = e.index WHERE e.entry IS DISTINCT FROM s.entry ORDER BY 1 LIMIT 100"
        )
    )
    for (index,) in rows:
        yield f"log index {index}: the log and the trail hold different entries"


def _statements(db: Session) -> Iterator[str]:
    seen = {"receipts": 0, "verdicts": 0}
    for row in db.scalars(select(StatementRow).order_by(StatementRow.log_index)):
        where = f"statement {row.entry.hex()[:16]}… (log index {row.log_index})"
        try:
            raw = _signed(db, row)
            if raw is None:
                seen["receipts"] += 1
                yield from _erased(db, where, row)
                continue
            statement = parse_statement(raw)
            yield from _differences(where, row, signed_columns(statement))
            if statement.type == Receipt.TYPE:
                seen["receipts"] += 1
                yield from _receipt(db, where, row, statement)
            elif statement.type == Verdict.TYPE:
                seen["verdicts"] += 1
                yield from _verdict(db, where, row, statement)
        except CounterfoilError as error:
            yield f"{where}: {error.detail}"
    for name, kind in (("receipts", ReceiptRow), ("verdicts", VerdictRow)):
        if (count := len(db.execute(select(kind.entry)).all())) != seen[name]:
            yield f"the index holds {count} {name}, the statements {seen[name]}"


def _signed(db: Session, row: StatementRow | OrderRow) -> bytes | None:
    """Return the signed bytes, None when they were erased; what is stored must be of the row's entry."""
    sealed = parse_sealed(row.raw)
    if sealed is not None and sealed.entry != row.entry:
        raise CounterfoilError(Code.CORRUPT, "another statement is stored under this entry")
    try:
        return unseal(db, row.raw)
    except CounterfoilError as error:
        if error.code is not Code.ERASED:
            raise
        return None


def _erased(db: Session, where: str, row: StatementRow) -> Iterator[str]:
    """Check what can be checked of a receipt whose bytes are gone; `_erasures` finds the statement about it."""
    if row.type != Receipt.TYPE:
        yield f"{where}: only receipts are erased, and this is a {row.type}"
    indexed = db.get(ReceiptRow, row.entry)
    if indexed is None or indexed.log_index != row.log_index:
        yield f"{where}: its index row is missing or elsewhere"
    elif db.get(OrderRow, indexed.order_entry) is None:
        yield f"{where}: its order is missing"


def _erasures(db: Session) -> Iterator[str]:
    """Check that what is erased is what the logged erasure statements say, no more and no less."""
    for row in db.scalars(select(ErasureRow).order_by(ErasureRow.id)):
        keys = db.scalars(select(DataKeyRow).where(DataKeyRow.erasure == row.id)).all()
        where = f"erasure {row.id}"
        try:
            value, statement = open_as(Erasure, row.statement, None)
        except CounterfoilError as error:
            yield f"{where}: {error.detail}"
            continue
        logged = db.get(StatementRow, statement.entry)
        if logged is None or logged.raw != row.statement:
            if row.done_at is not None or any(key.wrapped is None for key in keys):
                yield f"{where}: its statement is not in the log"
            continue
        if row.done_at is not None and any(key.wrapped is not None for key in keys):
            yield f"{where}: a key that it destroyed is there again"
        under = receipts_under(
            [key.id for key in keys], value.tenant, Period(value.start, value.end)
        )
        entries = db.scalars(under.order_by(ReceiptRow.log_index)).all()
        if (len(entries), entries_digest(entries)) != (value.statements, value.entries):
            yield f"{where}: other receipts were erased than its statement says"


def _receipt(
    db: Session, where: str, row: StatementRow, statement: SignedStatement
) -> Iterator[str]:
    receipt = Receipt.from_payload(statement.payload)
    indexed, bundle = db.get(ReceiptRow, row.entry), _bundle(db, receipt.bundle)
    if indexed is None or bundle is None:
        yield f"{where}: its index row or key bundle is missing"
        return
    yield from _differences(
        where, indexed, receipt_columns(statement.entry, row.log_index, receipt, bundle)
    )
    if db.get(OrderRow, receipt.order) is None:
        yield f"{where}: its order is missing"


def _verdict(
    db: Session, where: str, row: StatementRow, statement: SignedStatement
) -> Iterator[str]:
    verdict = Verdict.from_payload(statement.payload)
    indexed, about = db.get(VerdictRow, row.entry), db.get(StatementRow, verdict.receipt)
    signed = None if about is None else _signed(db, about)
    if about is not None and signed is None:
        return  # whom it concerned is no longer to be read
    receipt = None if signed is None else Receipt.from_payload(parse_statement(signed).payload)
    bundle = None if receipt is None else _bundle(db, receipt.bundle)
    if indexed is None or receipt is None or bundle is None:
        yield f"{where}: its index row, receipt or key bundle is missing"
        return
    yield from _differences(
        where, indexed, verdict_columns(statement.entry, row.log_index, verdict, receipt, bundle)
    )


def _orders(db: Session) -> Iterator[str]:
    for row in db.scalars(select(OrderRow)):
        where = f"order {row.entry.hex()[:16]}…"
        try:
            raw = _signed(db, row)
            if raw is None:
                continue
            order, statement = open_as(Order, raw, None)
        except CounterfoilError as error:
            yield f"{where}: {error.detail}"
            continue
        expected = {
            "entry": statement.entry,
            "tenant": order.tenant,
            "number": order.number,
            "attempt": order.attempt,
        }
        yield from _differences(where, row, expected)


def _chains(db: Session) -> Iterator[str]:
    """Check that each node's receipts name their predecessors, as far as those have arrived."""
    last: dict[tuple[str, str], tuple[int, bytes]] = {}
    rows = db.execute(
        select(
            ReceiptRow.operator,
            ReceiptRow.node,
            ReceiptRow.node_sequence,
            StatementRow.raw,
            StatementRow.entry,
        )
        .join(StatementRow, StatementRow.entry == ReceiptRow.entry)
        .order_by(ReceiptRow.operator, ReceiptRow.node, ReceiptRow.node_sequence)
    )
    for operator, node, sequence, raw, entry in rows:
        number, previous = last.get((operator, node), (-1, NO_RECEIPT))
        if sequence == number + 1 and _previous(db, raw) not in {previous, None}:
            yield f"{operator}/{node}: receipt {sequence} names another predecessor than receipt {number}"
        last[operator, node] = (sequence, entry)


def _previous(db: Session, stored: bytes) -> bytes | None:
    """Return the predecessor that a receipt names; None when it cannot be read, which is reported elsewhere."""
    try:
        return Receipt.from_payload(parse_statement(unseal(db, stored)).payload).previous
    except CounterfoilError:
        return None


def _bundle(db: Session, entry: bytes) -> KeyBundle | None:
    row = db.get(StatementRow, entry)
    return None if row is None else KeyBundle.from_payload(parse_statement(row.raw).payload)


def _differences(where: str, row: object, expected: Mapping[str, Any]) -> Iterator[str]:
    for column, value in expected.items():
        if getattr(row, column) != value:
            yield f"{where}: column {column} is not what was signed"
