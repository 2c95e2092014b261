"""One embedded Postgres for each process that runs tests, and a fresh migrated database per test.

The fixtures are in `tests/conftest.py`; see `Database` for what a test gets.
"""

import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import psycopg
from alembic.autogenerate import produce_migrations
from alembic.operations import MigrateOperation, Operations
from alembic.operations.ops import ModifyTableOps
from alembic.runtime.migration import MigrationContext
from psycopg import sql
from sqlalchemy import Connection, Engine, MetaData

from audit_layer.storage import migrate, roles
from audit_layer.storage.dsn import on_database, read_dsn_file, write_dsn_file
from audit_layer.storage.embedded import EmbeddedPostgres
from audit_layer.storage.engine import make_engine
from tests.leftovers import place_of_databases

Role = Literal["owner", "server", "worker"]
TEMPLATE = "counterfoil_template"


class Database:
    """A database of its own for one test, at the newest revision, dropped afterwards.

    `owner_dsn`, `server_dsn`, `worker_dsn`: connection strings of the roles that production has, with
    exactly the privileges that it grants. `broker_dsn`: an empty database that the broker role owns.
    `dsn_file(role)`: the same in a 0600 file, for `--dsn-file` and configuration files.
    `engine(role)`: a SQLAlchemy engine (one per role), disposed after the test.
    """

    def __init__(self, server: "PostgresServer", name: str, folder: Path) -> None:
        self.name = name
        self._server = server
        self._folder = folder
        self._engines: dict[str, Engine] = {}
        self._broker: str | None = None

    @property
    def owner_dsn(self) -> str:
        return self.dsn("owner")

    @property
    def server_dsn(self) -> str:
        return self.dsn("server")

    @property
    def worker_dsn(self) -> str:
        return self.dsn("worker")

    @property
    def broker_dsn(self) -> str:
        if self._broker is None:
            self._broker = f"{self.name}_broker"
            self._server.create(self._broker, owner="broker")
        return self.dsn("broker")

    def dsn(self, role: str) -> str:
        database = self._broker if role == "broker" and self._broker else self.name
        return on_database(self._server.dsn(role), database)

    def dsn_file(self, role: str) -> Path:
        path = self._folder / f"{self.name}-{role}.dsn"
        write_dsn_file(path, self.broker_dsn if role == "broker" else self.dsn(role))
        return path

    def engine(self, role: Role = "owner") -> Engine:
        if role not in self._engines:
            self._engines[role] = make_engine(self.dsn(role), application_name=f"test-{role}")
        return self._engines[role]

    def allow(self, connections: bool) -> None:
        """Take the database away from everybody who is connected, or give it back."""
        self._server.allow(self.name, connections)

    def close(self) -> None:
        for engine in self._engines.values():
            engine.dispose()
        for name in filter(None, (self.name, self._broker)):
            self._server.drop(name)


class PostgresServer:
    """The process's server: roles made, and a template database migrated once."""

    def __init__(self, embedded: EmbeddedPostgres) -> None:
        self.embedded = embedded
        self._files = roles.initialise(
            embedded.admin_dsn, embedded.secrets_folder, database=TEMPLATE
        )
        self._migrated = False
        self._admin = psycopg.connect(embedded.admin_dsn, autocommit=True)

    def close(self) -> None:
        self._admin.close()

    def dsn(self, role: str) -> str:
        return read_dsn_file(self._files[role])

    def admin_dsn(self, database: str) -> str:
        return on_database(self.embedded.admin_dsn, database)

    def create(self, name: str, *, owner: str, template: str = "template0") -> None:
        self._admin.execute(
            # Copying files is several times quicker than logging them, on a server that syncs nothing.
            sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {} STRATEGY FILE_COPY").format(
                *map(sql.Identifier, (name, roles.ROLES[owner], template))
            )
        )

    def allow(self, name: str, connections: bool) -> None:
        change = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
        self._admin.execute(change.format(sql.Identifier(name), sql.SQL(str(connections).lower())))
        self._admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
        )

    def drop(self, name: str) -> None:
        drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        self._admin.execute(drop)

    @contextmanager
    def database(self, folder: Path, *, migrated: bool = True) -> Iterator[Database]:
        """Give a test a database: a copy of the migrated template, or one without any table."""
        name = f"test_{secrets.token_hex(6)}"
        if migrated and not self._migrated:
            migrate.upgrade(self.dsn("owner"))
            self._migrated = True
        if migrated:
            self.create(name, owner="owner", template=TEMPLATE)
        else:
            self.create(name, owner="owner")
            roles.open_schema(on_database(self.dsn("owner"), name))
        database = Database(self, name, folder)
        try:
            yield database
        finally:
            database.close()


def difference(connection: Connection, metadata: MetaData) -> list[MigrateOperation]:
    """Return what autogenerate proposes to bring a database to `metadata`."""
    context = MigrationContext.configure(
        connection,
        opts={
            "autogenerate_plugins": list(migrate.PLUGINS),
            "include_name": migrate.include_name,
            "target_metadata": metadata,
        },
    )
    operations = produce_migrations(context, metadata).upgrade_ops
    assert operations is not None
    return operations.ops


def apply_difference(dsn: str, metadata: MetaData) -> list[MigrateOperation]:
    """Run what autogenerate proposes, and return it."""
    engine = make_engine(dsn)
    try:
        with engine.begin() as connection:
            found = difference(connection, metadata)
            run_operations(connection, found)
    finally:
        engine.dispose()
    return found


def run_operations(connection: Connection, operations: Sequence[MigrateOperation]) -> None:
    runner = Operations(MigrationContext.configure(connection))
    for operation in operations:
        parts = operation.ops if isinstance(operation, ModifyTableOps) else [operation]
        for part in parts:
            runner.invoke(part)


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    place = place_of_databases()
    with (
        tempfile.TemporaryDirectory(prefix="cf-pg-", dir=place, ignore_cleanup_errors=True) as made,
        EmbeddedPostgres(Path(made), durable=False) as embedded,
    ):
        server = PostgresServer(embedded)
        try:
            yield server
        finally:
            server.close()
