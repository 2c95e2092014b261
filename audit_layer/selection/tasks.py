"""Celery tasks of the selection room. A message is a hint; what is due is read from the database."""

from collections.abc import Callable

from celery import Celery

from audit_layer.selection.authority import Authority
from audit_layer.selection.tenant_seals import Sealing
from shared.codec.moment import now_ms

TICK = "replay.tick"
SEAL = "replay.seal"
AUTHORITY_QUEUE = "authority"


def register_authority(app: Celery, authority: Authority, offer_work: Callable[[], None]) -> None:
    """Register the epoch clock; after each tick, waiting work is offered to the workers again."""

    @app.task(name=TICK, ignore_result=True, shared=False)
    def tick() -> None:
        authority.tick(now_ms())
        offer_work()


def register_sealing(app: Celery, sealing: Sealing) -> None:
    """Register the tenant seals."""

    @app.task(name=SEAL, ignore_result=True, shared=False)
    def seal() -> None:
        sealing.tick(now_ms())
