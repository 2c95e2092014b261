"""The rows of newly sequenced statements, written in the transaction that gives them their indexes."""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql import insert as upsert

from audit_layer.log.sequencer import Sequenced, Submission
from audit_layer.storage.copying import copy_rows
from audit_layer.trail import at_rest
from audit_layer.trail.admission import Admitted
from audit_layer.trail.columns import (
    ANSWERED_TWICE,
    REFUSED_AND_ANSWERED,
    Values,
    finding_values,
    order_values,
    receipt_values,
    refusal_values,
    statement_values,
    verdict_values,
)
from audit_layer.trail.custodian_findings import custodian_findings
from audit_layer.trail.disagreements import disagreements
from audit_layer.trail.identities import follow
from audit_layer.trail.models import (
    FindingRow,
    OrderRow,
    ReceiptRow,
    RefusalRow,
    StatementRow,
    VerdictRow,
)
from shared.codec.moment import now_ms
from shared.statements.receipts import Receipt
from shared.statements.refusals import Refusal


def write_rows(connection: Connection, placed: Sequence[tuple[Submission, Sequenced]]) -> None:
    """Write the rows: the sequencer's hook."""
    now = now_ms()
    new = [
        (item.attachment, result.index)
        for item, result in placed
        if not result.duplicate and isinstance(item.attachment, Admitted)
    ]
    if not new:
        return
    receipts = [(item, index) for item, index in new if isinstance(item.value, Receipt)]
    refusals = [(item, index) for item, index in new if isinstance(item.value, Refusal)]
    stored = stored_forms(connection, [item for item, _ in (*receipts, *refusals)])
    copy_rows(
        connection,
        StatementRow,
        [
            statement_values(item, index, now, stored.get(item.statement.entry, item.statement.raw))
            for item, index in new
        ],
    )
    if receipts or refusals:
        _copy_orders(
            connection,
            [
                order_values(item, stored[item.order.entry])
                for item, _ in (*receipts, *refusals)
                if item.order
            ],
        )
        convictions = _answered_twice(connection, receipts, stored, now)
        copy_rows(connection, ReceiptRow, [receipt_values(item, index) for item, index in receipts])
        copy_rows(connection, RefusalRow, [refusal_values(item, index) for item, index in refusals])
        convictions += _refused_and_answered(
            connection, [item for item, _ in (*receipts, *refusals)], now
        )
        if convictions:
            connection.execute(upsert(FindingRow).on_conflict_do_nothing(), convictions)
    follow(connection, new, now)
    verdicts = [verdict_values(item, index) for item, index in new if item.concerns is not None]
    if verdicts:
        contradicted = disagreements(connection, new, now)
        copy_rows(connection, VerdictRow, verdicts)
        if contradicted:
            connection.execute(upsert(FindingRow).on_conflict_do_nothing(), contradicted)
    if found := custodian_findings(connection, new, now):
        connection.execute(upsert(FindingRow).on_conflict_do_nothing(), found)


def _answered_twice(
    connection: Connection,
    receipts: Sequence[tuple[Admitted, int]],
    stored: Mapping[bytes, bytes],
    now: int,
) -> list[Values]:
    """Return a finding for each receipt whose order another receipt, at a lower index, has already answered.

    Both are signed, so they convict the node; the books rate the first alone.
    """
    orders = list({item.value.order for item, _ in receipts if isinstance(item.value, Receipt)})
    found = connection.execute(
        text(
            "SELECT DISTINCT ON (r.order_entry) r.order_entry, r.entry, s.raw FROM trail_receipts r"
            " JOIN trail_statements s USING (entry) WHERE r.order_entry = ANY(:orders)"
            " ORDER BY r.order_entry, r.log_index"
        ),
        {"orders": orders},
    )
    first = {bytes(order): (bytes(entry), bytes(raw)) for order, entry, raw in found}
    convictions = []
    for item, _ in sorted(receipts, key=lambda pair: pair[1]):
        assert isinstance(item.value, Receipt)
        entry, raw = item.statement.entry, stored[item.statement.entry]
        before, its_raw = first.setdefault(item.value.order, (entry, raw))
        if before != entry:
            convictions.append(
                finding_values(
                    ANSWERED_TWICE,
                    item.statement.issuer,
                    f"receipt {entry.hex()} answers an order that {before.hex()} had already answered",
                    (its_raw, raw),
                    now,
                )
            )
    return convictions


def _refused_and_answered(
    connection: Connection, items: Sequence[Admitted], now: int
) -> list[Values]:
    """Return a finding for each receipt, of these orders, whose order its node refused: it signed both."""
    orders = list({item.order.entry for item in items if item.order is not None})
    found = connection.execute(
        text(
            "SELECT f.entry, r.entry, fs.raw, rs.raw, fs.issuer FROM trail_refusals f"
            " JOIN trail_receipts r USING (order_entry) JOIN trail_statements fs ON fs.entry = f.entry"
            " JOIN trail_statements rs ON rs.entry = r.entry WHERE f.order_entry = ANY(:orders)"
            " ORDER BY r.log_index"
        ),
        {"orders": orders},
    )
    return [
        finding_values(
            REFUSED_AND_ANSWERED,
            issuer,
            f"receipt {bytes(receipt).hex()} answers an order that {bytes(refusal).hex()} refuses",
            (bytes(refused), bytes(answered)),
            now,
        )
        for refusal, receipt, refused, answered, issuer in found
    ]


def stored_forms(connection: Connection, items: Sequence[Admitted]) -> dict[bytes, bytes]:
    """Return the stored form of receipts, and of the orders of receipts and refusals, by entry.

    A refusal itself is stored as it was signed: it says less than what is kept about a receipt that was erased.
    """
    parts: list[at_rest.Item] = []
    for item in items:
        assert item.order is not None
        if isinstance(item.value, Refusal):
            order = item.order
            parts.append(at_rest.Item(order.entry, item.value.tenant, item.value.at, order.raw))
            continue
        assert isinstance(item.value, Receipt)
        parts += [
            at_rest.Item(part.entry, item.value.tenant, item.value.started, part.raw)
            for part in (item.statement, item.order)
        ]
    return {
        item.entry: raw
        for item, raw in zip(parts, at_rest.encrypted(connection, parts), strict=True)
    }


def _copy_orders(connection: Connection, orders: Sequence[Values]) -> None:
    """Write the orders that are not there yet; no other appender can be doing so, see the sequencer."""
    fresh = {order["entry"]: order for order in orders}
    known = connection.scalars(
        text("SELECT entry FROM trail_orders WHERE entry = ANY(:entries)"),
        {"entries": list(fresh)},
    )
    for entry in known:
        del fresh[bytes(entry)]
    copy_rows(connection, OrderRow, list(fresh.values()))
