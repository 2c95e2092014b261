"""Privileges as part of the schema: declared, compared, granted, taken back."""

import re
from collections.abc import Iterable

import pytest
from alembic.autogenerate import render_python_code
from alembic.operations.ops import UpgradeOps
from sqlalchemy import BigInteger, Column, MetaData, Table, Text, text
from sqlalchemy.exc import ProgrammingError

from audit_layer.storage import grants
from audit_layer.storage.base import APPEND, EVERYTHING, READ, WRITE, access
from audit_layer.storage.engine import transaction
from shared.runtime.errors import Code, CounterfoilError
from tests.postgres import Database, apply_difference, difference, run_operations

INSERT = text("INSERT INTO trail (what) VALUES ('x')")


def trail(**roles: Iterable[str]) -> MetaData:
    """Return metadata with one table; its key draws from a sequence, as BIGSERIAL does."""
    metadata = MetaData()
    key, what = Column("id", BigInteger, primary_key=True), Column("what", Text)
    Table("trail", metadata, key, what, **access(**roles))
    return metadata


def may(database: Database, role: str, sql: str) -> bool:
    engine = database.engine(role)  # type: ignore[arg-type]  # the test's own names
    try:
        with transaction(engine) as connection:
            connection.execute(text(sql))
    except ProgrammingError as error:
        if not re.search("permission denied|must be owner", str(error)):
            raise
        return False
    return True


def test_services_can_do_what_is_declared_and_nothing_else(empty_database):
    apply_difference(empty_database.owner_dsn, trail(server=APPEND, worker=READ))
    allowed = {
        (role, verb): may(empty_database, role, sql)
        for role in ("server", "worker")
        for verb, sql in {
            "insert": str(INSERT),
            "select": "SELECT * FROM trail",
            "update": "UPDATE trail SET what = 'y'",
            "delete": "DELETE FROM trail",
            "truncate": "TRUNCATE trail",
            "create": "CREATE TABLE mine (id int)",
            "drop": "DROP TABLE trail",
        }.items()
    }
    assert {key for key, allows in allowed.items() if allows} == {
        ("server", "insert"),
        ("server", "select"),
        ("worker", "select"),
    }


def test_what_was_applied_needs_no_second_time(empty_database):
    metadata = trail(server=WRITE)
    assert apply_difference(empty_database.owner_dsn, metadata)
    assert apply_difference(empty_database.owner_dsn, metadata) == []


def test_a_narrower_declaration_revokes_privileges_and_the_reverse_restores_them(empty_database):
    apply_difference(empty_database.owner_dsn, trail(server=EVERYTHING, worker=APPEND))
    narrowing = apply_difference(empty_database.owner_dsn, trail(server=READ))
    assert not may(empty_database, "server", "DELETE FROM trail")
    assert not may(empty_database, "worker", "SELECT * FROM trail")
    with transaction(empty_database.engine()) as connection:
        run_operations(connection, [operation.reverse() for operation in narrowing])
    assert may(empty_database, "server", "DELETE FROM trail")
    assert may(empty_database, "worker", str(INSERT))


@pytest.mark.parametrize(
    "tampering",
    [
        "GRANT DELETE ON trail TO counterfoil_server",
        "GRANT SELECT ON trail TO PUBLIC",
        "GRANT SELECT ON trail TO counterfoil_broker",
        "REVOKE INSERT ON trail FROM counterfoil_server",
    ],
)
def test_a_grant_that_nobody_declared_is_a_difference(empty_database, tampering):
    metadata = trail(server=APPEND)
    apply_difference(empty_database.owner_dsn, metadata)
    with transaction(empty_database.engine()) as connection:
        connection.execute(text(tampering))
    with transaction(empty_database.engine()) as connection:
        found = difference(connection, metadata)
        assert [type(operation) for operation in found] == [grants.SetAccess]
        run_operations(connection, found)
        assert difference(connection, metadata) == []


def test_it_is_rendered_as_one_readable_line():
    operation = grants.SetAccess("trail", {"counterfoil_server": frozenset({"select", "insert"})})
    code = render_python_code(UpgradeOps(ops=[operation]))
    assert "op.set_access('trail', {'counterfoil_server': ['insert', 'select']})" in code


@pytest.mark.parametrize(
    "info",
    [{}, {"access": {"servant": {"select"}}}, {"access": {"server": {"truncate"}}}],
    ids=["none", "unknown role", "unknown privilege"],
)
def test_a_table_without_a_sound_declaration_is_refused(info):
    table = Table("trail", MetaData(), Column("id", BigInteger, primary_key=True), info=info)
    with pytest.raises(CounterfoilError) as caught:
        grants.declared_access(table)
    assert caught.value.code is Code.CONFIGURATION


@pytest.mark.parametrize(
    ("roles", "expected"),
    [({"server": APPEND, "worker": READ}, True), ({"server": WRITE}, False), ({}, True)],
)
def test_append_only_is_what_no_service_may_change(roles, expected):
    assert grants.is_append_only(trail(**roles).tables["trail"]) is expected
