"""Alerts of budgets: raised once per budget, month and threshold, and sent at least once.

An alert is stored before it is sent, and that it was accepted is stored afterwards: whoever dies between the two sends the
same bytes under the same id again. Receivers drop what they have seen by that id.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session, aliased

from audit_layer.costs.budgets.models import BudgetAlertRow, BudgetRow
from audit_layer.costs.budgets.status import Status, month_of, status
from audit_layer.costs.budgets.store import in_force
from audit_layer.costs.models import PeriodEventRow, PeriodRow
from audit_layer.costs.periods import CLOSED
from audit_layer.costs.reporting import exact
from audit_layer.storage.engine import alone, session
from shared.codec.moment import to_rfc3339
from shared.parties.webhook import Receiver
from shared.runtime.errors import CounterfoilError

logger = logging.getLogger(__name__)
ALERT_LOCK: Final = 0x63665F616C657274  # "cf_alert"
TYPE: Final = "counterfoil/v1/budget-alert"
RAISED, FAILED, SENT, GIVEN_UP = "raised", "failed", "sent", "given-up"
FIRST_RETRY_MS: Final = 60_000
LONGEST_RETRY_MS: Final = 6 * 3_600_000
MOST_ATTEMPTS: Final = 16
"""Two days of them."""
SENT_AT_ONCE: Final = 20
MAX_NOTE: Final = 200


@dataclass(frozen=True, slots=True)
class Alerts:
    """Raises and sends. `tick` may be repeated after a crash at any point."""

    engine: Engine
    receiver: Receiver

    def tick(self, now: int) -> int:
        """Raise what is due, then send what was not accepted yet; return how many were accepted."""
        with alone(self.engine, ALERT_LOCK) as ours:
            if not ours:
                return 0
            self._raise(now)
            return self._send(now)

    def _raise(self, now: int) -> None:
        with session(self.engine) as db:
            budgets = [budget.id for budget in in_force(db)]
        for number in budgets:
            try:
                with session(self.engine) as db:
                    raise_due(db, db.get_one(BudgetRow, number), now)
            except CounterfoilError as error:  # one contract without a rate stops no other budget
                logger.warning("budget %d cannot be checked: %s", number, error.detail)

    def _send(self, now: int) -> int:
        with session(self.engine) as db:
            waiting = [_key(row) for row in _unsent(db) if now >= _next_attempt(row)]
        accepted = 0
        for key in waiting[:SENT_AT_ONCE]:
            with session(self.engine) as db:
                body = db.get_one(BudgetAlertRow, (*key, 0)).body or b""
            problem = self.receiver.deliver(delivery_id(*key), body)
            with session(self.engine) as db:
                _attempted(db, key, problem, now)
            if problem is not None:
                logger.warning("alert %s was not accepted: %s", delivery_id(*key), problem)
                break  # the others go to the same place
            accepted += 1
        return accepted


def raise_due(db: Session, budget: BudgetRow, now: int) -> None:
    """Store an alert for each threshold that is reached in a month that is not closed, and has none."""
    for month in sorted(_months(db, budget)):
        known = set(
            db.scalars(
                select(BudgetAlertRow.threshold).where(
                    BudgetAlertRow.budget == budget.id,
                    BudgetAlertRow.month == month,
                    BudgetAlertRow.turn == 0,
                )
            )
        )
        if known.issuperset(budget.thresholds):
            continue
        found = status(db, budget, month, now)
        for threshold in found.crossed:
            if threshold not in known:
                db.add(
                    BudgetAlertRow(
                        budget=budget.id,
                        month=month,
                        threshold=threshold,
                        turn=0,
                        state=RAISED,
                        at=now,
                        body=message(found, threshold),
                    )
                )
    db.flush()


def message(found: Status, threshold: int) -> bytes:
    """Return an alert's body: JSON with sorted keys, exact amounts as text."""
    budget = found.budget
    centre = budget.cost_centre
    data = {
        "type": TYPE,
        "id": delivery_id(budget.id, found.month, threshold),
        "budget": budget.name,
        "tenant": budget.tenant,
        "operator": budget.operator,
        "cost_centre": None if centre is None else centre.hex(),
        "month": found.month,
        "threshold_percent": threshold,
        "amount": exact(Fraction(budget.amount)),
        "currency": budget.currency,
        "spent": exact(Fraction(found.spent)),
        "forecast": exact(found.forecast),
        "at": to_rfc3339(found.at),
    }
    return json.dumps(data, sort_keys=True, separators=(",", ":")).encode()


def delivery_id(budget: int, month: str, threshold: int) -> str:
    """Return an alert's id: the same in every attempt."""
    return f"budget-{budget}-{month}-{threshold}"


Key = tuple[int, str, int]


def _key(row: BudgetAlertRow) -> Key:
    return row.budget, row.month, row.threshold


def _months(db: Session, budget: BudgetRow) -> Iterator[str]:
    """Yield the months to which a budget applies: not closed, and not over when it was recorded."""
    closed = select(PeriodEventRow.period).where(PeriodEventRow.state == CLOSED)
    query = select(PeriodRow).where(
        PeriodRow.tenant == budget.tenant,
        PeriodRow.end > budget.recorded_at,
        PeriodRow.id.not_in(closed),
    )
    if budget.operator is not None:
        query = query.where(PeriodRow.operator == budget.operator)
    yield from {month_of(row) for row in db.scalars(query)}


def _unsent(db: Session) -> Iterator[BudgetAlertRow]:
    """Yield the last event of every alert that is neither accepted nor given up, the oldest first."""
    later = aliased(BudgetAlertRow)
    same = (
        later.budget == BudgetAlertRow.budget,
        later.month == BudgetAlertRow.month,
        later.threshold == BudgetAlertRow.threshold,
    )
    followed = select(later.turn).where(*same, later.turn > BudgetAlertRow.turn).exists()
    query = select(BudgetAlertRow).where(BudgetAlertRow.state.in_((RAISED, FAILED)), ~followed)
    yield from db.scalars(query.order_by(BudgetAlertRow.at, BudgetAlertRow.threshold))


def _next_attempt(row: BudgetAlertRow) -> int:
    """Return when it is to be sent (ms): at once, then after 1, 2, 4 … minutes, and at most 6 hours."""
    if row.turn == 0:
        return 0
    return row.at + min(FIRST_RETRY_MS << (row.turn - 1), LONGEST_RETRY_MS)


def _attempted(db: Session, key: Key, problem: str | None, now: int) -> None:
    budget, month, threshold = key
    turns = select(BudgetAlertRow.turn).where(
        BudgetAlertRow.budget == budget,
        BudgetAlertRow.month == month,
        BudgetAlertRow.threshold == threshold,
    )
    turn = max(db.scalars(turns)) + 1
    state = SENT if problem is None else FAILED if turn < MOST_ATTEMPTS else GIVEN_UP
    note = None if problem is None else problem[:MAX_NOTE]
    db.add(
        BudgetAlertRow(
            budget=budget,
            month=month,
            threshold=threshold,
            turn=turn,
            state=state,
            at=now,
            note=note,
        )
    )
    db.flush()
