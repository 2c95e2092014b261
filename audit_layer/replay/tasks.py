"""Celery shells of the replay room. A message is a hint that carries an id; the row it names is the work."""

from celery import Celery
from sqlalchemy import Engine

from audit_layer.replay import work
from audit_layer.replay.authority import Authority
from audit_layer.replay.sealing import Sealing
from audit_layer.replay.worker import Worker
from audit_layer.storage.engine import session
from shared.codec.moment import now_ms

TICK = "replay.tick"
SEAL = "replay.seal"
RUN = "replay.run"
AUTHORITY_QUEUE = "authority"


def worker_queue(name: str) -> str:
    """Return the queue of one worker: only it holds the keys for its disclosures."""
    return f"worker.{name}"


def register_authority(app: Celery, authority: Authority, engine: Engine, *, hint_ms: int) -> None:
    """Register the epoch clock, which also offers waiting work to the workers again."""

    @app.task(name=TICK, ignore_result=True, shared=False)
    def tick() -> None:
        authority.tick(now_ms())
        with session(engine) as db:
            waiting = work.due(db, now=now_ms(), hint_ms=hint_ms)
        for row, worker in waiting:
            app.send_task(RUN, [row], queue=worker_queue(worker), ignore_result=True)


def register_sealing(app: Celery, sealing: Sealing) -> None:
    """Register the tenants' seals."""

    @app.task(name=SEAL, ignore_result=True, shared=False)
    def seal() -> None:
        sealing.tick(now_ms())


def register_worker(app: Celery, worker: Worker) -> None:
    """Register re-execution."""

    @app.task(name=RUN, ignore_result=True, shared=False)
    def run(row: int) -> str:
        return worker.run(row)
