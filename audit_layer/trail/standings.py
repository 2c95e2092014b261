"""Nodes' standing from the verdicts of the trail; only nodes with new verdicts are computed again."""

import threading
from collections.abc import Iterable, Mapping

from sqlalchemy import ColumnElement, Engine, select, tuple_
from sqlalchemy.orm import Session

from audit_layer.storage.engine import session
from audit_layer.trail.models import ReceiptRow, VerdictRow
from shared.verification.opinions import Opinion
from shared.verification.standing import (
    Node,
    Record,
    needs_strictness,
    records_of,
    standing_in,
)

BATCH = 100
"""Nodes that are read at once."""


def opinion_of(row: VerdictRow) -> Opinion:
    """Return a verdict in the rules' terms."""
    return Opinion(
        row.entry,
        row.log_index,
        row.receipt,
        row.worker,
        row.outcome,
        row.reason,
        row.confirms,
        row.asked,
    )


class Standings:
    """The record of every node that a verdict is about. Safe for threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._mutex = threading.Lock()
        self._seen = -1
        self._records: dict[Node, Record] = {}

    def records(self) -> Mapping[Node, Record]:
        """Return the records as of the newest verdict in the trail."""
        with self._mutex:
            with session(self._engine) as db:
                newest = db.scalars(
                    select(VerdictRow.log_index).order_by(VerdictRow.log_index.desc()).limit(1)
                ).first()
                if newest is None or newest == self._seen:
                    return dict(self._records)
                found = db.execute(
                    select(VerdictRow.operator, VerdictRow.node)
                    .where(VerdictRow.log_index > self._seen)
                    .distinct()
                )
                changed = sorted((operator, node) for operator, node in found)
                for at in range(0, len(changed), BATCH):
                    these = tuple_(VerdictRow.operator, VerdictRow.node).in_(
                        changed[at : at + BATCH]
                    )
                    self._records |= _computed(db, these)
            self._seen = newest
            return dict(self._records)


def strict_bundles(db: Session, bundles: Iterable[bytes], size: int) -> tuple[bytes, ...]:
    """Return those key bundles, rising, whose nodes need strictness by the verdicts at log indexes below `size`."""
    wanted = list(bundles)
    found = db.execute(
        select(ReceiptRow.bundle, ReceiptRow.operator, ReceiptRow.node)
        .where(ReceiptRow.bundle.in_(wanted))
        .distinct()
    )
    nodes = {bundle: (operator, node) for bundle, operator, node in found}
    records = _computed(
        db,
        VerdictRow.operator.in_({operator for operator, _ in nodes.values()}),
        VerdictRow.log_index < size,
    )
    return tuple(
        sorted(
            bundle for bundle, node in nodes.items() if needs_strictness(standing_in(records, node))
        )
    )


def _computed(db: Session, *verdicts: ColumnElement[bool]) -> dict[Node, Record]:
    """Return the records that the verdicts of some condition give."""
    rows = db.scalars(select(VerdictRow).where(*verdicts))
    return records_of(((row.operator, row.node), opinion_of(row)) for row in rows)
