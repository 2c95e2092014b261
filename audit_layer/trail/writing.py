"""The rows of newly sequenced statements, written in the transaction that gives them their indexes."""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from audit_layer.log.sequencer import Sequenced, Submission
from audit_layer.storage.copying import copy_rows
from audit_layer.trail import erasure
from audit_layer.trail.admission import Admitted
from audit_layer.trail.models import OrderRow, ReceiptRow, StatementRow, VerdictRow
from audit_layer.trail.rows import (
    Values,
    order_values,
    receipt_values,
    statement_values,
    verdict_values,
)
from shared.codec.moment import now_ms
from shared.statements.receipts import Receipt


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
    stored = stored_forms(connection, [item for item, _ in receipts])
    copy_rows(
        connection,
        StatementRow,
        [
            statement_values(item, index, now, stored.get(item.statement.entry, item.statement.raw))
            for item, index in new
        ],
    )
    if receipts:
        _copy_orders(
            connection,
            [order_values(item, stored[item.order.entry]) for item, _ in receipts if item.order],
        )
        copy_rows(connection, ReceiptRow, [receipt_values(item, index) for item, index in receipts])
    verdicts = [verdict_values(item, index) for item, index in new if item.concerns is not None]
    if verdicts:
        copy_rows(connection, VerdictRow, verdicts)


def stored_forms(connection: Connection, receipts: Sequence[Admitted]) -> dict[bytes, bytes]:
    """Return what is to be stored of receipts and their orders, by entry."""
    items: list[erasure.Item] = []
    for item in receipts:
        assert isinstance(item.value, Receipt)
        assert item.order is not None
        items += [
            erasure.Item(part.entry, item.value.tenant, item.value.started, part.raw)
            for part in (item.statement, item.order)
        ]
    return {
        item.entry: raw for item, raw in zip(items, erasure.seal(connection, items), strict=True)
    }


def _copy_orders(connection: Connection, orders: Sequence[Values]) -> None:
    """Write the orders that are not there yet; no other appender can be at it, see the sequencer."""
    fresh = {order["entry"]: order for order in orders}
    known = connection.scalars(
        text("SELECT entry FROM trail_orders WHERE entry = ANY(:entries)"),
        {"entries": list(fresh)},
    )
    for entry in known:
        del fresh[bytes(entry)]
    copy_rows(connection, OrderRow, list(fresh.values()))
