"""Revision 0002 carries over a whole log, and refuses to lose a row of it."""

from collections.abc import Sequence
from hashlib import sha256

import psycopg
import pytest
from psycopg import Connection, sql

from audit_layer.log.sequencer import Sequencer
from audit_layer.storage import migrate
from audit_layer.storage.engine import make_engine
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.tiles import TreeEdge
from shared.translog.tree import leaf_hash, root
from tests.audit_layer.log.world import NODE, numbered
from tests.postgres import Database, PostgresServer

SIZE = 256 * 3 + 17


def entries(count: int) -> list[bytes]:
    return [numbered(i).entry for i in range(count)]


def fill(connection: Connection, found: Sequence[bytes]) -> None:
    """Write a log as revision 0001 kept it: tiles with their hashes, including partial ones."""
    leaves = [leaf_hash(entry) for entry in found]
    edge = TreeEdge()
    tiles = edge.extend(leaves)
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO log_entries VALUES (%s, %s, %s, %s, %s)",
            [(i, entry, NODE, i, 1000 + i) for i, entry in enumerate(found)],
        )
        cursor.executemany(
            "INSERT INTO log_tiles VALUES (%s, %s, %s, %s)",
            [(tile.level, tile.index, tile.width, data) for tile, data in tiles],
        )
        cursor.execute("INSERT INTO log_state VALUES (1, %s, %s, 0)", [len(found), root(leaves)])


def old_log(database: Database) -> Connection:
    migrate.upgrade(database.owner_dsn, "0001")
    connection = psycopg.connect(database.owner_dsn, autocommit=True)
    fill(connection, entries(SIZE))
    return connection


def rows(connection: Connection, table: str) -> list[tuple[object, ...]]:
    query = sql.SQL("SELECT * FROM {} ORDER BY 1, 2").format(sql.Identifier(table))
    return connection.execute(query).fetchall()


def test_a_log_continues_after_the_migration_and_can_be_migrated_back(empty_database: Database):
    with old_log(empty_database) as connection:
        before = {table: rows(connection, table) for table in ("log_entries", "log_tiles")}
        migrate.upgrade(empty_database.owner_dsn, "0002")
        assert rows(connection, "log_entries") == before["log_entries"]
        assert rows(connection, "log_issuers") == [(NODE, SIZE - 1, SIZE)]
        migrate.downgrade(empty_database.owner_dsn, "0001")
        assert {table: rows(connection, table) for table in before} == before
        migrate.upgrade(empty_database.owner_dsn)
    engine = make_engine(empty_database.server_dsn)
    results = Sequencer(engine).append([numbered(3), numbered(SIZE)])
    assert [getattr(result, "index", None) for result in results] == [3, SIZE]
    engine.dispose()


def test_a_row_that_would_be_lost_stops_the_migration(
    empty_database: Database, postgres: PostgresServer
):
    with old_log(empty_database) as connection:
        connection.execute(
            "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$"
        )
        connection.execute(
            "CREATE FUNCTION arm() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF to_regclass('log_entries_p0') IS NOT NULL AND NOT EXISTS"
            " (SELECT FROM pg_trigger WHERE tgname = 'lose') THEN"
            " CREATE TRIGGER lose BEFORE INSERT ON log_entries_p0 FOR EACH ROW"
            " WHEN (NEW.index = 7) EXECUTE FUNCTION lose(); END IF; END $$"
        )
        with psycopg.connect(
            postgres.admin_dsn(empty_database.name), autocommit=True
        ) as admin:  # event triggers are a superuser's
            admin.execute(
                "CREATE EVENT TRIGGER arm ON ddl_command_end WHEN TAG IN ('ALTER TABLE')"
                " EXECUTE FUNCTION arm()"
            )
        before = rows(connection, "log_entries")
        with pytest.raises(CounterfoilError, match="would not be what it was") as caught:
            migrate.upgrade(empty_database.owner_dsn)
        assert caught.value.code is Code.CONFLICT
        assert rows(connection, "log_entries") == before
        assert migrate.current(empty_database.owner_dsn) == "0001"


def test_partitions_are_made_ahead_and_services_can_make_none_themselves(database: Database):
    with (
        psycopg.connect(database.owner_dsn, autocommit=True) as owner,
        psycopg.connect(database.server_dsn, autocommit=True) as server,
    ):
        owner.execute("INSERT INTO log_state VALUES (1, %s, %s)", [3 << 20, sha256().digest()])
        assert server.execute("SELECT log_extend()").fetchone() == (5 << 20,)
        assert server.execute("SELECT log_extend()").fetchone() == (5 << 20,)
        names = {
            name
            for (name,) in owner.execute(
                "SELECT inhrelid::regclass::text FROM pg_inherits"
                " WHERE inhparent = 'log_entries'::regclass"
            )
        }
        assert names == {f"log_entries_p{part}" for part in range(5)}
        row = [b"e" * 32, b"i" * 32]
        server.execute("INSERT INTO log_entries VALUES (3145728, %s, %s, 0, 0)", row)
        for statement in (
            "CREATE TABLE mine ()",
            "SELECT * FROM log_entries_p3",
            "DELETE FROM log_entries",
            "ALTER TABLE log_entries DETACH PARTITION log_entries_p3",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                server.execute(statement.encode())
        assert migrate.check(database.owner_dsn) == []
