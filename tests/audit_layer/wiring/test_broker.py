"""The broker carries hints between real processes, over Postgres and over Redis; whatever it loses is offered again."""

import gc
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psycopg
import pytest
from celery import Celery
from celery.beat import Scheduler, SchedulingError
from kombu.transport.sqlalchemy import Channel

from audit_layer.replay.tasks import RUN, offer_work, worker_queue
from audit_layer.selection.tasks import TICK, register_authority
from audit_layer.storage import roles
from audit_layer.storage.dsn import read_dsn_file
from audit_layer.storage.embedded import temporary_postgres
from audit_layer.wiring.broker import PURGE, kombu_address, make_app
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import create_private
from shared.runtime.net import bind
from tests.audit_layer.replay import celery_process
from tests.audit_layer.replay.court import assign, row_of
from tests.audit_layer.replay.waiting import until
from tests.audit_layer.trail.conftest import World, world
from tests.postgres import Database

__all__ = ["world"]

# Kombu's own tables still use a loader that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated")
ROOT = Path(__file__).parents[3]
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["audit_layer.wiring.broker"])


class FakeAuthority:
    """A double without an epoch clock: its ticks only offer waiting work again."""

    def tick(self, now: int) -> None:
        """Nothing is due."""


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Start a Redis of our own on a free port; yield its URL."""
    program = shutil.which("redis-server")
    if program is None:
        reason = "redis-server is not installed; the Redis leg of the broker was not tested"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    listener = bind("127.0.0.1:0")
    port = listener.getsockname()[1]
    listener.close()
    options = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder))
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen([program, "--port", str(port), *options], stdout=log)
        try:
            until(lambda: process.poll() is not None or _answers(port))
            assert process.poll() is None, (folder / "redis.log").read_text()
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.kill()
            process.wait()


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


@pytest.fixture(params=["postgres", "redis"])
def broker_url(request: pytest.FixtureRequest, database: Database, tmp_path: Path) -> Iterator[str]:
    if request.param == "postgres":
        yield database.broker_dsn
    else:
        with redis_server(tmp_path) as url:
            yield url


class Processes:
    """Celery worker processes of one test."""

    def __init__(self, folder: Path, database: Database, broker_url: str) -> None:
        self._folder = folder
        self._broker = folder / "broker.url"
        create_private(self._broker, broker_url.encode())
        self._dsns = [str(database.dsn_file("worker")), str(database.dsn_file("server"))]
        self._running: list[subprocess.Popen[bytes]] = []
        self.mark = folder / "in mid-task"

    def start(self) -> "subprocess.Popen[bytes]":
        """Start one, and return once it consumes."""
        ready = self._folder / f"ready-{len(self._running)}.json"
        command = [sys.executable, celery_process.__file__, str(self._broker), *self._dsns]
        process = subprocess.Popen(
            [*command, str(self.mark), str(ready)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=self._folder,
        )
        self._running.append(process)
        until(lambda: ready.exists() or process.poll() is not None, 100)
        assert process.poll() is None
        assert json.loads(ready.read_text()) == {"worker": "worker"}
        return process

    def finished_by(self) -> list[int]:
        """Return the processes that submitted a verdict."""
        return [int(path.suffix[1:]) for path in self._folder.glob(f"{self.mark.name}.*")]

    def close(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()


@pytest.fixture
def processes(tmp_path: Path, database: Database, broker_url: str) -> Iterator[Processes]:
    made = Processes(tmp_path, database, broker_url)
    yield made
    made.close()


@contextmanager
def application(broker_url: str, worker: str) -> Iterator[Celery]:
    """Make an application in this process, and close what Celery and Kombu would keep open until its end."""
    app = make_app(broker_url, worker=worker, authority=True)
    try:
        yield app
    finally:
        app.pool.force_close_all()
        app.close()
        gc.collect()  # sessions that Kombu never closes give their connections back
        for engine, _ in Channel._engines.values():
            engine.dispose()
        Channel._engines.clear()


@pytest.fixture
def sender(world: World, broker_url: str) -> Iterator[Celery]:
    """The authority's side: sends a hint for each piece of waiting work."""
    engine = world.database.engine("worker")
    with application(broker_url, "authority") as app:
        offer = partial(offer_work, app, engine, hint_ms=0)
        register_authority(app, FakeAuthority(), offer)  # type: ignore[arg-type]  # a double
        yield app


def offer(app: Celery) -> None:
    app.tasks[TICK]()


def test_a_task_runs_in_a_worker_process_and_survives_its_kill_in_mid_task(
    world: World, processes: Processes, sender: Celery
):
    (receipt,) = world.put(world.node.receipt("acme"))
    engine = world.database.engine("worker")
    number = assign(engine, receipt.entry)
    first = processes.start()
    offer(sender)
    until(processes.mark.exists)
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait(60) == -signal.SIGKILL
    assert processes.finished_by() == []
    assert row_of(engine, number).verdict_statement is None

    world.rows("UPDATE replay_work SET leased_until = 1 WHERE id = %s", number)
    offer(sender)  # the message waits for a worker
    second = processes.start()
    until(lambda: row_of(engine, number).done_at)
    assert processes.finished_by() == [second.pid]
    assert second.pid != os.getpid()
    assert world.rows("SELECT count(*) FROM trail_verdicts") == [(1,)]


# -- Postgres as a broker -----------------------------------------------------------------------------------------


def start_one(dsn: str, name: str, authority: bool) -> None:
    make_app(dsn, worker=name, authority=authority)


def test_processes_that_start_at_once_on_an_empty_broker_make_its_tables_together(
    database: Database,
):
    dsn = database.broker_dsn
    names = [f"worker-{number}" for number in range(3)]
    started = [
        _processes.Process(target=start_one, args=(dsn, name, name == names[0])) for name in names
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [0] * 3
    with psycopg.connect(dsn) as connection:
        found = connection.execute("SELECT name FROM kombu_queue").fetchall()
    assert sorted(name for (name,) in found) == ["authority", *map(worker_queue, names)]


def test_messages_are_hints_of_a_number_and_deleted_once_they_are_delivered(database: Database):
    dsn = database.broker_dsn
    with application(dsn, "worker") as app:
        for number in range(3):
            app.send_task(RUN, [number], queue=worker_queue("worker"), ignore_result=True)
        with psycopg.connect(dsn) as connection:
            rows = connection.execute("SELECT payload FROM kombu_message ORDER BY id").fetchall()
        messages = [json.loads(payload) for (payload,) in rows]
        assert [message["headers"]["argsrepr"] for message in messages] == ["[0]", "[1]", "[2]"]
        assert {message["content-type"] for message in messages} == {"application/json"}
        with app.connection_for_read() as connection:
            queue = connection.SimpleQueue(app.amqp.queues[worker_queue("worker")])
            queue.get(timeout=10).ack()
            queue.close()
        app.tasks[PURGE]()
        with psycopg.connect(dsn) as connection:
            rows = connection.execute(
                "SELECT visible, count(*) FROM kombu_message GROUP BY visible"
            ).fetchall()
        assert rows == [(True, 2)]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hunter2@h/d",
        "postgres://u:hunter2@h/d",
        "sqla+postgresql+psycopg://u:hunter2@h/d",
        "host=h user=u password=hunter2 dbname=d",
    ],
)
def test_a_dsn_is_a_broker_url_too_and_kombu_learns_no_password(url):
    known, options = kombu_address(url)
    assert known.startswith("sqla+postgresql+psycopg:///")
    assert "hunter2" not in known + repr(options)
    assert known != kombu_address("postgresql://u:hunter2@h/e")[0]


@pytest.mark.parametrize("url", ["redis://:p@h:1/0", "amqp://u:p@h", "amqps://h/v"])
def test_other_brokers_are_used_as_they_are_named(url):
    assert kombu_address(url) == (url, {})


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2#x@h:1/0",
        "redis://:hunter2/x@h:1/0",
        "redis://:hunter2@h:port/0",
        "amqp://u:hunter2@/v",
        "rabbitmq://u:hunter2@h",
        "postgresql://u:hunter2/x@h/d",
        "hunter2",
    ],
)
def test_a_broker_url_that_cannot_be_used_is_not_repeated(url):
    with pytest.raises(CounterfoilError) as caught:
        kombu_address(url)
    assert caught.value.code is Code.CONFIGURATION
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_beat_sends_again_after_postgres_has_recovered_from_a_killed_process():
    """Postgres then disconnects everybody; a sender whose channel is gone must reconnect on its own."""
    with temporary_postgres() as server:
        files = roles.initialise(server.admin_dsn, server.secrets_folder, database="audit")
        app = make_app(read_dsn_file(files["broker"]), worker="w", authority=True)
        beat = Scheduler(app=app, lazy=True)

        def send() -> bool:
            entry = beat.Entry(
                name="x", task="x", schedule=1.0, app=app, options={"queue": "authority"}
            )
            try:
                beat.apply_async(entry, producer=beat.producer, advance=False)
            except SchedulingError:
                return False
            return True

        assert send()
        with psycopg.connect(server.admin_dsn) as connection:
            query = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'"
            row = connection.execute(query).fetchone()
        assert row is not None
        os.kill(row[0], signal.SIGKILL)
        assert any(send() or time.sleep(0.2) for _ in range(100))
        beat.producer.channel.session.close()  # Kombu would leave its last transaction open
        for engine, _ in Channel._engines.values():
            engine.dispose()
        Channel._engines.clear()
