"""Celery tasks of the replay room. A message is a hint that carries an id; the row it names is the work."""

from celery import Celery
from sqlalchemy import Engine

from audit_layer.replay import work_list
from audit_layer.replay.worker import Worker
from audit_layer.storage.engine import session
from shared.codec.moment import now_ms

RUN = "replay.run"


def worker_queue(name: str) -> str:
    """Return the queue of one worker: only it holds the keys for its disclosures."""
    return f"worker.{name}"


def offer_work(app: Celery, engine: Engine, *, hint_ms: int) -> None:
    """Send a hint for every row that waits for its worker and has had none for `hint_ms`."""
    with session(engine) as db:
        waiting = work_list.due(db, now=now_ms(), hint_ms=hint_ms)
    for row, worker in waiting:
        app.send_task(RUN, [row], queue=worker_queue(worker), ignore_result=True)


def register_worker(app: Celery, worker: Worker) -> None:
    """Register replay."""

    @app.task(name=RUN, ignore_result=True, shared=False)
    def run(row: int) -> str:
        return worker.run(row)
