"""What beat schedules of the cost room is what a worker has registered."""

from typing import Any, cast

from audit_layer.costs.budgets.alerts import Alerts
from audit_layer.costs.closing import Closing
from audit_layer.costs.service import Costs
from audit_layer.costs.tasks import ALERTS, register
from audit_layer.wiring.broker import make_app


class Double:
    """Notes the times of its ticks."""

    def __init__(self) -> None:
        self.ticks: list[int] = []

    def tick(self, now: int) -> int:
        self.ticks.append(now)
        return 0


def app_with(alerts: Double | None) -> Any:
    app = make_app("amqp://user:secret@localhost:1//", worker="worker", authority=True)
    nothing: Any = object()
    register(app, cast("Costs", nothing), cast("Closing", nothing), cast("Alerts | None", alerts))
    return app


def test_every_scheduled_task_is_registered():
    app = app_with(None)
    scheduled = {
        entry["task"] for entry in app.conf.beat_schedule.values() if entry["task"].startswith("costs.")
    }  # fmt: skip
    assert scheduled == {name for name in app.tasks if name.startswith("costs.")}
    assert ALERTS in scheduled


def test_alerts_are_sent_where_there_is_a_receiver_and_nothing_happens_without_one():
    double = Double()
    app_with(double).tasks[ALERTS]()
    assert len(double.ticks) == 1
    app_with(None).tasks[ALERTS]()
