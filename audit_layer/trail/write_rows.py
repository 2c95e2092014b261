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
    Values,
    finding_values,
    order_values,
    receipt_values,
    statement_values,
    verdict_values,
)
from audit_layer.trail.custodian_findings import custodian_findings
from audit_layer.trail.disagreements import disagreements
from audit_layer.trail.identities import follow
from audit_layer.trail.models import FindingRow, OrderRow, ReceiptRow, StatementRow, VerdictRow
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
        convictions = _answered_twice(connection, receipts, stored, now)
        copy_rows(connection, ReceiptRow, [receipt_values(item, index) for item, index in receipts])
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


def stored_forms(connection: Connection, receipts: Sequence[Admitted]) -> dict[bytes, bytes]:
    """Return the stored form of receipts and their orders, by entry."""
    items: list[at_rest.Item] = []
    for item in receipts:
        assert isinstance(item.value, Receipt)
        assert item.order is not None
        items += [
            at_rest.Item(part.entry, item.value.tenant, item.value.started, part.raw)
            for part in (item.statement, item.order)
        ]
    return {
        item.entry: raw
        for item, raw in zip(items, at_rest.encrypted(connection, items), strict=True)
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
