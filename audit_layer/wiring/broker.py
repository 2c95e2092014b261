"""The Celery application's configuration: the broker carries hints only, so losing all its messages loses nothing."""

from hashlib import sha256
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from amqp import RecoverableConnectionError
from celery import Celery
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.transport.sqlalchemy import Transport
from sqlalchemy import text

from audit_layer.costs.tasks import ALERTS, CLOSE, RATE
from audit_layer.replay.tasks import worker_queue
from audit_layer.selection.tasks import AUTHORITY_QUEUE, SEAL, TICK
from audit_layer.storage.connecting import connect, session_parameters
from audit_layer.storage.dsn import is_postgres
from audit_layer.storage.engine import make_engine
from shared.runtime.errors import Code, CounterfoilError

PURGE = "broker.purge"
PREPARE_LOCK = 0x63665F62726B  # "cf_brk"
POLL_S = 0.1
"""How often Kombu's SQLAlchemy transport polls; its default of one second means one task a second."""
SEAL_S = 10.0
"""How often tenant seals, and billing periods to be closed, are checked for being due."""
ALERTS_S = 60.0
"""How often budgets are checked: each time, every month that is not closed is summed up."""

CONNECTION_ERRORS = (*Transport.connection_errors, RecoverableConnectionError, CounterfoilError)
"""A channel lost while Postgres restarted raises the second, a connection that cannot be made the third;
unless both are listed, a sender never reconnects."""
SCHEMES = frozenset({"redis", "rediss", "amqp", "amqps", "pyamqp"})


def make_app(broker_url: str, *, worker: str, authority: bool, tick_s: float = 0.5) -> Celery:
    """Return a Celery application for one worker (or beat) process.

    `broker_url` is a Redis or RabbitMQ URL, or a Postgres DSN in any spelling, which is then used through Kombu's
    SQLAlchemy transport. CONFIGURATION when it is none of these; the error does not repeat it.
    """
    queues = [Queue(worker_queue(worker))]
    if authority:
        queues.append(Queue(AUTHORITY_QUEUE))
    on_postgres = is_postgres(broker_url)
    url, options = kombu_address(broker_url)
    if on_postgres:
        Transport.polling_interval = POLL_S
        Transport.connection_errors = CONNECTION_ERRORS  # type: ignore[assignment]  # a longer tuple
        _prepare(broker_url, url, options, queues)
    app = Celery("counterfoil", broker=url, set_as_current=False)
    schedule = [
        (TICK, tick_s),
        (RATE, max(tick_s, 1.0)),
        (SEAL, max(tick_s, SEAL_S)),
        (CLOSE, max(tick_s, SEAL_S)),
        (ALERTS, max(tick_s, ALERTS_S)),
    ]
    if on_postgres:
        schedule.append((PURGE, 60.0))
    app.conf.update(
        broker_transport_options=options,
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


def kombu_address(broker_url: str) -> tuple[str, dict[str, Any]]:
    """Return the URL under which Kombu knows the broker, and its transport's options.

    Kombu logs its URL and keeps engines by it: a Postgres database gets a label there, and is connected to like any
    other (`storage.connecting`). CONFIGURATION when the URL cannot be used; the error does not repeat it.
    """
    if is_postgres(broker_url):
        parameters = session_parameters(broker_url, "counterfoil-broker")
        label = sha256(repr(sorted(parameters.items())).encode()).hexdigest()[:16]
        options = {"creator": lambda: connect(parameters), "pool_pre_ping": True}
        return f"sqla+postgresql+psycopg:///{label}", options
    _check_url(broker_url)
    return broker_url, {}


def _check_url(url: str) -> None:
    """Refuse what Kombu would misread or repeat: a `/`, `#` or `?` in a password ends the host."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise CounterfoilError(
            Code.CONFIGURATION,
            "the broker's URL cannot be used",
            remedy="Use redis://:PASSWORD@HOST:PORT/0, amqp://USER:PASSWORD@HOST:PORT/VHOST, or the DSN of a Postgres"
            " database. Percent-encode every character of a password that is not a letter or a digit.",
        ) from None
    if parts.scheme in {"redis", "rediss"} and find_spec("redis") is None:
        raise CounterfoilError(
            Code.CONFIGURATION,
            "the broker is Redis, and its client is not installed",
            remedy="Run: pip install 'counterfoil[redis]'",
        )


def _prepare(dsn: str, url: str, options: dict[str, Any], queues: list[Queue]) -> None:
    """Create Kombu's tables and queues under a lock: it does not expect several processes at first start."""
    engine = make_engine(dsn, application_name="counterfoil-broker")
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": PREPARE_LOCK})
            with Connection(url, transport_options=options) as broker:
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
