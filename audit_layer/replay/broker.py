"""The Celery application's configuration: the broker carries hints only, so losing all its messages loses nothing."""

from amqp import RecoverableConnectionError
from celery import Celery
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.transport.sqlalchemy import Transport
from sqlalchemy import text

from audit_layer.costs.tasks import RATE
from audit_layer.replay.tasks import AUTHORITY_QUEUE, SEAL, TICK, worker_queue
from audit_layer.storage.engine import make_engine

PURGE = "broker.purge"
PREPARE_LOCK = 0x63665F62726B  # "cf_brk"
POLL_S = 0.1
"""How often Kombu's SQLAlchemy transport looks for messages; its default of one second is one task a second."""
SEAL_S = 10.0
"""How often the tenants' seals are looked at."""

CONNECTION_ERRORS = (*Transport.connection_errors, RecoverableConnectionError)
"""A channel that was lost while Postgres restarted raises the latter; unless it counts, a sender never connects again."""


def make_app(broker_url: str, *, worker: str, authority: bool, tick_s: float = 0.5) -> Celery:
    """Return a Celery application for one worker (or beat) process.

    `broker_url` is a Redis or RabbitMQ URL, or a Postgres DSN, which then is used through Kombu's SQLAlchemy transport.
    """
    queues = [Queue(worker_queue(worker))]
    if authority:
        queues.append(Queue(AUTHORITY_QUEUE))
    on_postgres = is_postgres(broker_url)
    url = kombu_url(broker_url)
    if on_postgres:
        Transport.polling_interval = POLL_S
        Transport.connection_errors = CONNECTION_ERRORS  # type: ignore[assignment]  # a longer tuple
        _prepare(broker_url, url, queues)
    app = Celery("counterfoil", broker=url, set_as_current=False)
    schedule = [(TICK, tick_s), (RATE, max(tick_s, 1.0)), (SEAL, max(tick_s, SEAL_S))]
    if on_postgres:
        schedule.append((PURGE, 60.0))
    app.conf.update(
        task_queues=queues,
        task_create_missing_queues=True,
        task_default_queue=worker_queue(worker),
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        beat_schedule={
            name: {
                "task": name,
                "schedule": seconds,
                "options": {"queue": AUTHORITY_QUEUE, "expires": 30},
            }
            for name, seconds in schedule
        },
    )
    if on_postgres:
        _register_purge(app, broker_url)
    return app


def is_postgres(broker_url: str) -> bool:
    """Say whether messages go through a Postgres database."""
    return broker_url.startswith(("postgresql:", "postgresql+psycopg:"))


def kombu_url(broker_url: str) -> str:
    """Return the URL under which Kombu knows the broker."""
    if is_postgres(broker_url):
        return "sqla+postgresql+psycopg:" + broker_url.split(":", 1)[1]
    return broker_url


def _prepare(dsn: str, url: str, queues: list[Queue]) -> None:
    """Create Kombu's tables and queues under a lock: it does not expect several processes at first start."""
    engine = make_engine(dsn, application_name="counterfoil-broker")
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": PREPARE_LOCK})
            with Connection(url) as broker:
                channel = broker.default_channel
                for queue in queues:
                    queue(channel).declare()
                channel.session.close()  # Kombu would leave its last transaction open
    finally:
        engine.dispose()


def _register_purge(app: Celery, dsn: str) -> None:
    """Register the task that deletes delivered messages: Kombu only hides them."""

    @app.task(name=PURGE, ignore_result=True, shared=False)
    def purge() -> None:
        engine = make_engine(dsn, application_name="counterfoil-broker", pool_size=1)
        try:
            with engine.begin() as connection:
                connection.execute(text("DELETE FROM kombu_message WHERE NOT visible"))
        finally:
            engine.dispose()
