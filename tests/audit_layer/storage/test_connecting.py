"""One way to connect: a sentence for each cause, no password in any of them, settings that arrive."""

import socket
import traceback

import psycopg
import pytest
from sqlalchemy import text

from audit_layer.storage import migrate
from audit_layer.storage.connecting import connect, explained, session_parameters
from audit_layer.storage.dsn import make_dsn, on_database, parse_dsn
from audit_layer.storage.engine import alone, check_usable, make_engine, transaction
from shared.runtime.errors import Code, CounterfoilError
from tests.audit_layer.storage.pooler import pooler

SECRET = "hunter2"


def told(dsn, *, names=True) -> str:
    """Return what the user sees when a connection fails, after looking for the password in all of it."""
    with pytest.raises(CounterfoilError) as caught:
        connect(session_parameters(dsn, "test"), names=names)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert caught.value.code is Code.UNAVAILABLE
    assert caught.value.remedy
    return caught.value.detail


def test_each_cause_has_a_sentence_of_its_own(empty_database, tmp_path, monkeypatch):
    unknown = socket.gaierror(-2, "Name or service not known")
    look_up = socket.getaddrinfo

    def addresses(host, *rest, **more):
        if host == "no-such-host.invalid":
            raise unknown
        return look_up(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", addresses)
    parts = parse_dsn(empty_database.server_dsn)
    place = {"host": parts["host"], "port": parts["port"]}
    refusing = socket.create_server(("127.0.0.1", 0))
    port = refusing.getsockname()[1]
    refusing.close()
    found = [
        told(make_dsn("counterfoil_server", SECRET, empty_database.name, **place)),
        told(make_dsn("nobody", SECRET, empty_database.name, host="127.0.0.1", port=port)),
        told(make_dsn("nobody", SECRET, "d", host="no-such-host.invalid", port=5432)),
        told(make_dsn("nobody", SECRET, "d", host=str(tmp_path), port=5432)),
        told(on_database(empty_database.server_dsn, "acme 100%")),
        told(on_database(empty_database.server_dsn, "counterfoil_broker")),
    ]
    assert found == [
        "the database server refuses the password: role counterfoil_server",
        f"no database server is listening there: 127.0.0.1, port {port}",
        "the database's host name cannot be resolved: no-such-host.invalid, port 5432",
        f"no database server is listening there: {tmp_path}, port 5432",
        "the database server has no such database: acme 100%",
        "the database server does not admit this login: role counterfoil_server, database counterfoil_broker",
    ]


def test_callers_of_a_service_learn_no_names(empty_database):
    detail = told(on_database(empty_database.server_dsn, "acme"), names=False)
    assert detail == "the database server has no such database"


def test_migrations_and_engines_say_the_same(empty_database):
    dsn = on_database(empty_database.owner_dsn, "acme")
    for fail in (lambda: migrate.current(dsn), lambda: migrate.upgrade(dsn)):
        with pytest.raises(CounterfoilError, match="no such database: acme"):
            fail()
    engine = make_engine(dsn)
    with pytest.raises(CounterfoilError, match="no such database"), transaction(engine):
        pytest.fail("connected to nothing")


def test_a_database_that_is_down_may_come_up_later(tmp_path, caplog):
    check_usable(make_engine(f"postgresql://u:{SECRET}@/d?host={tmp_path}"))
    assert "no database server is listening there" in caplog.text
    assert SECRET not in caplog.text


def test_the_search_path_is_ours_whatever_the_database_and_the_dsn_say(empty_database, postgres):
    with psycopg.connect(postgres.admin_dsn(empty_database.name), autocommit=True) as admin:
        for schema in ("audit", "counterfoil_owner", "counterfoil_server"):
            admin.execute(f"CREATE SCHEMA {schema} AUTHORIZATION counterfoil_owner".encode())
            admin.execute(f"GRANT ALL ON SCHEMA {schema} TO PUBLIC".encode())
        admin.execute(
            f"ALTER DATABASE {empty_database.name} SET search_path = audit, public".encode()
        )
    asked = empty_database.owner_dsn + "&options=-c%20search_path%3Daudit"
    migrate.upgrade(asked)
    assert migrate.check(asked) == []
    with transaction(empty_database.engine()) as connection:
        schemas = connection.scalars(
            text("SELECT DISTINCT schemaname FROM pg_tables WHERE tableowner = 'counterfoil_owner'")
        )
        assert list(schemas) == ["public"]
    engine = make_engine(empty_database.server_dsn + "&options=-c%20search_path%3Daudit")
    with transaction(engine) as connection:
        assert connection.scalar(text("SELECT count(*) FROM log_entries")) == 0
    engine.dispose()


def test_a_log_in_another_schema_is_named_and_not_started_afresh(database, postgres):
    """What an earlier search path created."""
    with psycopg.connect(postgres.admin_dsn(database.name), autocommit=True) as admin:
        admin.execute("CREATE SCHEMA audit AUTHORIZATION counterfoil_owner")
        for table in ("alembic_version", "log_state"):
            admin.execute(f"ALTER TABLE {table} SET SCHEMA audit".encode())
    with pytest.raises(CounterfoilError, match="lie in schema audit") as caught:
        migrate.upgrade(database.owner_dsn)
    assert caught.value.code is Code.CONFIGURATION


@pytest.mark.parametrize(
    ("message", "detail"),
    [
        (
            'connection to server at "certificate.example" (10.0.0.1), port 5432 failed: Connection refused',
            "no database server is listening there",
        ),
        (
            "FATAL:  the database system is starting up",
            "the database server is starting or stopping",
        ),
        (
            "FATAL:  sorry, too many clients already",
            "the database server has no free connection",
        ),
        (
            "connection timeout expired",
            "the database server does not answer in time",
        ),
        (
            "server does not support SSL, but SSL was required",
            "no TLS connection to the database server is possible",
        ),
        (
            'FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "SSL", database "d", no encryption',
            "the database server does not admit this login",
        ),
        (
            'FATAL:  role "u" does not exist',
            "the database server has no such role that may log in",
        ),
        ("FATAL:  something new", "the database does not answer"),
    ],
)
def test_what_servers_say_becomes_one_sentence(message, detail):
    error = psycopg.OperationalError(message)
    assert explained(error, {}, names=False).detail == detail


def test_the_sql_form_pins_the_schema_too():
    script = migrate.upgrade(None, sql=True)
    assert script.index("SET search_path = public,pg_temp") < script.index("CREATE TABLE")


def test_settings_are_those_of_the_next_connection_too(empty_database):
    engine = make_engine(empty_database.owner_dsn, statement_timeout_ms=1234, pool_size=1)
    with pytest.raises(CounterfoilError), transaction(engine) as connection:
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    with transaction(engine) as connection:
        assert connection.scalar(text("SHOW statement_timeout")) == "1234ms"
        assert connection.scalar(text("SHOW search_path")) == "public,pg_temp"
    engine.dispose()


def test_a_database_that_is_not_utf8_is_refused_by_name(empty_database, postgres):
    name = f"{empty_database.name}_ascii"
    with psycopg.connect(postgres.embedded.admin_dsn, autocommit=True) as admin:
        admin.execute(
            f"CREATE DATABASE {name} OWNER counterfoil_owner TEMPLATE template0"
            " ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C'".encode()
        )
    try:
        with pytest.raises(CounterfoilError, match=f"{name} stores text as SQL_ASCII") as caught:
            migrate.upgrade(on_database(empty_database.owner_dsn, name))
        assert caught.value.code is Code.CONFIGURATION
    finally:
        postgres.drop(name)


@pytest.mark.parametrize("ignored", [True, False], ids=["settings dropped", "settings refused"])
def test_a_pooler_in_transaction_mode_is_refused_at_once(empty_database, tmp_path, ignored):
    with pooler(empty_database.server_dsn, tmp_path, ignore_options=ignored) as dsn:
        for fail in (
            lambda: connect(session_parameters(dsn, "test")),
            lambda: migrate.current(dsn),
            lambda: make_engine(dsn).connect(),
            lambda: check_usable(make_engine(dsn)),
        ):
            with pytest.raises(CounterfoilError, match="pooler") as caught:
                fail()
            assert caught.value.code is Code.CONFIGURATION
            assert "PgBouncer" in (caught.value.remedy or "")


def test_one_holds_a_lock_at_a_time_however_long_its_work_takes(empty_database):
    engine = make_engine(empty_database.owner_dsn, statement_timeout_ms=50)
    with alone(engine, 7) as first, alone(engine, 7) as second:
        assert (first, second) == (True, False)
        with transaction(empty_database.engine()) as connection:
            connection.execute(text("SELECT pg_sleep(0.3)"))  # longer than a transaction may idle
    with alone(engine, 7) as third:
        assert third
    engine.dispose()


def test_a_holder_whose_lock_was_lost_gets_an_error(empty_database):
    engine = make_engine(empty_database.owner_dsn)
    with (
        pytest.raises(CounterfoilError) as caught,
        alone(engine, 7),
        transaction(empty_database.engine()) as connection,
    ):
        connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
        )
    assert caught.value.code is Code.UNAVAILABLE
    engine.dispose()
