"""Celery tasks of the selection room. A message is a hint; what is due is read from the database."""

import logging
from collections.abc import Callable

from celery import Celery

from audit_layer.selection.authority import Authority
from audit_layer.selection.tenant_seals import Sealing
from shared.codec.moment import now_ms
from shared.runtime.errors import CounterfoilError
from shared.runtime.logs import News

logger = logging.getLogger(__name__)

TICK = "replay.tick"
SEAL = "replay.seal"
AUTHORITY_QUEUE = "authority"


def register_authority(app: Celery, authority: Authority, offer_work: Callable[[], None]) -> None:
    """Register the epoch clock; after each tick, waiting work is offered to the workers again."""

    news = News()

    @app.task(name=TICK, ignore_result=True, shared=False)
    def tick() -> None:
        _patiently("the epoch clock", lambda: authority.tick(now_ms()), news)
        offer_work()


def register_sealing(app: Celery, sealing: Sealing) -> None:
    """Register the tenant seals."""

    news = News()

    @app.task(name=SEAL, ignore_result=True, shared=False)
    def seal() -> None:
        _patiently("tenant seals", lambda: sealing.tick(now_ms()), news)


def _patiently(what: str, due: Callable[[], object], news: News) -> None:
    """Do what is due; what fails because somebody does not answer is left for the next tick, and told once."""
    try:
        due()
    except CounterfoilError as error:
        if not error.code.value.retryable:
            raise
        if news.about(what, str(error)):
            logger.warning("%s waits: %s", what, error)
    else:
        news.over(what)
