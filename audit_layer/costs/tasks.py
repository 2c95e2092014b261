"""Celery tasks of the cost room: one call each."""

from celery import Celery

from audit_layer.costs.budgets.alerts import Alerts
from audit_layer.costs.closing import Closing
from audit_layer.costs.service import Costs
from shared.codec.moment import now_ms

RATE = "costs.rate"
CLOSE = "costs.close"
ALERTS = "costs.alerts"


def register(app: Celery, costs: Costs, closing: Closing, alerts: Alerts | None) -> None:
    """Register the room's tasks on `app`; without a receiver of alerts none are raised."""

    @app.task(name=RATE, ignore_result=True, shared=False)
    def rate() -> None:
        while costs.rate_new() or costs.heed_new() or costs.charge_audits():
            continue

    @app.task(name=CLOSE, ignore_result=True, shared=False)
    def close() -> None:
        closing.tick(now_ms())

    @app.task(name=ALERTS, ignore_result=True, shared=False)
    def alert() -> None:
        if alerts is not None:
            alerts.tick(now_ms())
