"""Celery task of the cost room: one call."""

from celery import Celery

from audit_layer.costs.service import Costs

RATE = "costs.rate"


def register(app: Celery, costs: Costs) -> None:
    """Register the room's tasks on `app`."""

    @app.task(name=RATE, ignore_result=True, shared=False)
    def rate() -> None:
        while costs.rate_new() or costs.heed_new():
            continue
