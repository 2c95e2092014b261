"""Compares every indexed column of the trail with the signed bytes, and the trail with the log."""

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from audit_layer.storage.engine import session
from audit_layer.trail.models import OrderRow, ReceiptRow, StatementRow, VerdictRow
from audit_layer.trail.rows import receipt_columns, signed_columns, verdict_columns
from shared.runtime.errors import CounterfoilError
from shared.statements.audits import Verdict
from shared.statements.cose import SignedStatement, open_as, parse_statement
from shared.statements.keys import KeyBundle
from shared.statements.orders import Order
from shared.statements.receipts import NO_RECEIPT, Receipt


def check_trail(engine: Engine) -> list[str]:
    """Return what is wrong, a line each; an empty list means that all is as it was signed."""
    with session(engine, isolation="REPEATABLE READ") as db:
        return [*_unlike_log(db), *_statements(db), *_orders(db), *_chains(db)]


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
            statement = parse_statement(row.raw)
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
    receipt = None if about is None else Receipt.from_payload(parse_statement(about.raw).payload)
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
            order, statement = open_as(Order, row.raw, None)
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
        if sequence == number + 1 and _previous(raw) not in {previous, None}:
            yield f"{operator}/{node}: receipt {sequence} names another predecessor than receipt {number}"
        last[operator, node] = (sequence, entry)


def _previous(raw: bytes) -> bytes | None:
    """Return the predecessor that a receipt names; None when it cannot be read, which is reported elsewhere."""
    try:
        return Receipt.from_payload(parse_statement(raw).payload).previous
    except CounterfoilError:
        return None


def _bundle(db: Session, entry: bytes) -> KeyBundle | None:
    row = db.get(StatementRow, entry)
    return None if row is None else KeyBundle.from_payload(parse_statement(row.raw).payload)


def _differences(where: str, row: object, expected: Mapping[str, Any]) -> Iterator[str]:
    for column, value in expected.items():
        if getattr(row, column) != value:
            yield f"{where}: column {column} is not what was signed"
