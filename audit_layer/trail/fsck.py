"""Compares every column of the trail with the signed bytes, the trail with the log, and the keys with what they signed.

A difference begins with what is wrong, as `table[row].column`. What nobody signed is compared with what was: a party's key
and name against its signatures, times against each other, within `CLOCK_SLACK_MS`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from sqlalchemy import Engine, func, select, text, union_all
from sqlalchemy.orm import Session

from audit_layer.log.fsck_times import CLOCK_SLACK_MS
from audit_layer.storage.engine import session
from audit_layer.trail.admission import KINDS
from audit_layer.trail.asked import tenant_chose
from audit_layer.trail.columns import (
    part_columns,
    receipt_columns,
    refusal_columns,
    signed_columns,
    verdict_columns,
)
from audit_layer.trail.fsck_erasures import check_data_keys, check_erasures
from audit_layer.trail.fsck_findings import (
    check_answers,
    check_custodians,
    check_disagreements,
    check_evidence,
    check_findings,
    check_gaps,
)
from audit_layer.trail.fsck_parties import Parties
from audit_layer.trail.fsck_stored import bundle_of, opened, signed_bytes
from audit_layer.trail.models import (
    OrderRow,
    ReceiptRow,
    RefusalRow,
    StatementRow,
    VerdictRow,
)
from shared.codec.moment import now_ms
from shared.runtime.errors import CounterfoilError
from shared.statements.cancellations import verify_cancellation
from shared.statements.cose import (
    SignedStatement,
    open_as,
    parse_statement,
    read_as,
    verify_signature,
)
from shared.statements.orders import Order
from shared.statements.receipts import NO_RECEIPT, Receipt
from shared.statements.refusals import Refusal
from shared.statements.verdicts import Verdict

BOUNDS: Final = ("max_input_tokens", "max_output_tokens", "max_ms", "cost_centre")
"""What an order bounds, as columns."""
_PAGE: Final = 1000


def check_trail(engine: Engine, *, now: int | None = None) -> list[str]:
    """Return what is wrong, one line each; an empty list means that all is as it was signed.

    `now` (ms) is the clock's time unless it is given.
    """
    with session(engine, isolation="REPEATABLE READ") as db:
        db.execute(text("SET LOCAL statement_timeout = 0"))  # a large trail takes its time
        parties = Parties(db)
        return [
            *_unlike_log(db),
            *_statements(db, parties),
            *_strays(db),
            *_orders(db, parties),
            *_chains(db),
            *check_findings(db),
            *check_answers(db),
            *check_disagreements(db),
            *check_custodians(db),
            *check_evidence(db),
            *check_gaps(db),
            *check_erasures(db, now_ms() if now is None else now),
            *check_data_keys(db),
            *parties.check(),
        ]


def _unlike_log(db: Session) -> Iterator[str]:
    rows = db.execute(
        text(
            "SELECT coalesce(e.index, s.log_index), e.index IS NULL, s.log_index IS NULL,"
            " e.entry IS DISTINCT FROM s.entry"
            " FROM log_entries e FULL JOIN trail_statements s ON s.log_index = e.index"
            " WHERE e.entry IS DISTINCT FROM s.entry OR abs(e.recorded_at - s.recorded_at) > :slack"
            " ORDER BY 1 LIMIT 100"
        ),
        {"slack": CLOCK_SLACK_MS},
    )
    unlike = "the log and the trail hold different entries"
    for index, not_logged, not_kept, entries in rows:
        ours, theirs = f"trail_statements[log_index={index}]", f"log_entries[index={index}]"
        if not_logged:
            yield f"{ours}.log_index: {unlike}: the log has no entry here"
        elif not_kept:
            yield f"{theirs}.index: {unlike}: the trail has no entry here"
        elif entries:
            yield f"{theirs}.entry, {ours}.entry: {unlike}"
        else:
            yield f"{theirs}.recorded_at, {ours}.recorded_at: are too far apart for one transaction"


def _statements(db: Session, parties: Parties) -> Iterator[str]:
    query = select(StatementRow).order_by(StatementRow.log_index)
    for row in db.scalars(query.execution_options(yield_per=_PAGE)):
        where = f"trail_statements[log_index={row.log_index}]"
        try:
            raw = signed_bytes(db, row)
            if raw is None:
                yield from _erased(db, where, row)
                continue
            statement = parse_statement(raw)
            yield from _differences(where, row, signed_columns(statement))
            if statement.type == Receipt.TYPE:
                yield from _receipt(db, where, row, statement, parties)
                continue
            if statement.type == Refusal.TYPE:
                yield from _refusal(db, where, row, statement)
                continue
            if statement.type not in KINDS:
                yield f"{where}.raw: statements of type {statement.type!r} are not admitted"
                continue
            kind, role, _ = KINDS[statement.type]
            role = role or statement.subject.partition("/")[0]
            value = statement.read(kind)
            yield from parties.signed(f"{where}.raw", statement, value, role, row.recorded_at)
            if isinstance(value, Verdict):
                yield from _verdict(db, where, row, value)
        except CounterfoilError as error:
            yield f"{where}.raw: {error.detail}"


def _erased(db: Session, where: str, row: StatementRow) -> Iterator[str]:
    """Check what can be checked of a receipt whose bytes are gone; its erasure is checked elsewhere."""
    if row.type != Receipt.TYPE:
        yield f"{where}.type: only receipts are erased, and this is a {row.type}"
    indexed = db.get(ReceiptRow, row.entry)
    if indexed is None or indexed.log_index != row.log_index:
        yield f"{where}.entry: its row in trail_receipts is missing or has another log_index"
    elif db.get(OrderRow, indexed.order_entry) is None:
        yield f"{where}.entry: its order is missing: no row has it as trail_orders.entry"


def _receipt(
    db: Session, where: str, row: StatementRow, statement: SignedStatement, parties: Parties
) -> Iterator[str]:
    receipt = statement.read(Receipt)
    indexed, bundle = db.get(ReceiptRow, row.entry), bundle_of(db, receipt.bundle)
    if indexed is None:
        yield f"{where}.entry: no row has it as trail_receipts.entry"
    if bundle is None:
        yield f"{where}.raw: its key bundle is missing"
        return
    verify_signature(statement, bundle.signing_key)
    if indexed is not None:
        expected = dict(receipt_columns(statement.entry, row.log_index, receipt, bundle))
        if indexed.cancelled is None:  # an older row
            del expected["cancelled"]
        yield from _differences(_of("trail_receipts", row), indexed, expected)
    order = db.get(OrderRow, receipt.order)
    if order is None:
        yield f"{where}.raw: its order is missing: no row has it as trail_orders.entry"
    elif receipt.cancel is not None and (signed := signed_bytes(db, order)) is not None:
        tenant_key = parties.key_of("tenant", parse_statement(signed))
        if tenant_key is not None:  # a signer that is not known is reported with the order
            verify_cancellation(receipt.order, receipt.cancel, tenant_key)


def _refusal(
    db: Session, where: str, row: StatementRow, statement: SignedStatement
) -> Iterator[str]:
    refusal = statement.read(Refusal)
    indexed, bundle = db.get(RefusalRow, row.entry), bundle_of(db, refusal.bundle)
    if indexed is None:
        yield f"{where}.entry: no row has it as trail_refusals.entry"
    if bundle is None:
        yield f"{where}.raw: its key bundle is missing"
        return
    verify_signature(statement, bundle.signing_key)
    if indexed is not None:
        expected = refusal_columns(statement.entry, row.log_index, refusal, bundle)
        yield from _differences(_of("trail_refusals", row), indexed, expected)
    if db.get(OrderRow, refusal.order) is None:
        yield f"{where}.raw: its order is missing: no row has it as trail_orders.entry"


def _verdict(db: Session, where: str, row: StatementRow, verdict: Verdict) -> Iterator[str]:
    indexed, about = db.get(VerdictRow, row.entry), db.get(StatementRow, verdict.receipt)
    if indexed is None:
        yield f"{where}.entry: no row has it as trail_verdicts.entry"
    raw = None if about is None else signed_bytes(db, about)
    if about is not None and raw is None:
        return  # whom it concerned can no longer be read
    receipt = None if raw is None else read_as(Receipt, raw)
    bundle = None if receipt is None else bundle_of(db, receipt.bundle)
    if receipt is None or bundle is None:
        yield f"{where}.raw: its receipt or that receipt's key bundle is missing"
    elif indexed is not None:
        expected = verdict_columns(
            row.entry, row.log_index, verdict, receipt, bundle, asked=tenant_chose(db, verdict)
        )
        yield from _differences(_of("trail_verdicts", row), indexed, expected)


def _strays(db: Session) -> Iterator[str]:
    """Find index rows that belong to no statement."""
    kinds: tuple[tuple[Any, str], ...] = (
        (ReceiptRow, Receipt.TYPE),
        (RefusalRow, Refusal.TYPE),
        (VerdictRow, Verdict.TYPE),
    )
    for kind, type_ in kinds:
        held = select(StatementRow.entry).where(
            StatementRow.entry == kind.entry, StatementRow.type == type_
        )
        for index in db.scalars(select(kind.log_index).where(~held.exists()).limit(100)):
            yield f"{kind.__tablename__}[log_index={index}].entry: no {type_} in the trail has it"


def _orders(db: Session, parties: Parties) -> Iterator[str]:
    came_with = union_all(
        select(ReceiptRow.order_entry, ReceiptRow.log_index),
        select(RefusalRow.order_entry, RefusalRow.log_index),
    ).subquery()
    query = (
        select(OrderRow, func.min(StatementRow.recorded_at))
        .outerjoin(came_with, came_with.c.order_entry == OrderRow.entry)
        .outerjoin(StatementRow, StatementRow.log_index == came_with.c.log_index)
        .group_by(OrderRow.entry)
    )
    rows: Iterable[Any] = db.execute(query.execution_options(yield_per=_PAGE))
    for row, recorded_at in rows:
        where = f"trail_orders[entry={row.entry.hex()[:16]}…]"
        if recorded_at is None:
            yield (
                f"{where}.entry: no row has it as trail_receipts.order_entry or trail_refusals.order_entry"
            )
        try:
            raw = signed_bytes(db, row)
            if raw is None:
                continue
            order, statement = open_as(Order, raw, None)
            expected = {
                "entry": statement.entry,
                "tenant": order.tenant,
                "number": order.number,
                "attempt": order.attempt,
            }
            older = row.max_output_tokens is None  # written before these columns were
            expected |= {name: None if older else getattr(order, name) for name in BOUNDS}
            expected |= part_columns(order)
            yield from _differences(where, row, expected)
            yield from parties.signed(f"{where}.raw", statement, order, "tenant", recorded_at)
        except CounterfoilError as error:
            yield f"{where}.raw: {error.detail}"


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
        .execution_options(yield_per=_PAGE)
    )
    for operator, node, sequence, raw, entry in rows:
        number, previous = last.get((operator, node), (-1, NO_RECEIPT))
        if sequence == number + 1 and _previous(db, raw) not in {previous, None}:
            yield f"{operator}/{node}: receipt {sequence} names a predecessor other than receipt {number}"
        last[operator, node] = (sequence, entry)


def _previous(db: Session, stored: bytes) -> bytes | None:
    """Return the predecessor that a receipt names; None when it cannot be read, which is reported elsewhere."""
    try:
        raw = opened(db, stored)
        return None if raw is None else read_as(Receipt, raw).previous
    except CounterfoilError:
        return None


def _of(table: str, row: StatementRow) -> str:
    return f"{table}[entry={row.entry.hex()[:16]}…]"


def _differences(where: str, row: object, expected: Mapping[str, Any]) -> Iterator[str]:
    for column, value in expected.items():
        if getattr(row, column) != value:
            yield f"{where}.{column}: is not what was signed"
