"""Functions and triggers as part of the schema."""

import ast
from collections.abc import Sequence

import pytest
from alembic.autogenerate import render_python_code
from alembic.operations import MigrateOperation
from alembic.operations.ops import UpgradeOps
from sqlalchemy import Column, Integer, MetaData, Table, text
from sqlalchemy.exc import DBAPIError

from audit_layer.storage.base import APPEND, access, declare_function, declare_trigger
from audit_layer.storage.engine import transaction
from audit_layer.storage.objects import CreateObject
from tests.postgres import Database, apply_difference, difference, run_operations

REFUSE = """
CREATE FUNCTION refuse_odd() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  IF NEW.id::int % 2 = 1 THEN RAISE EXCEPTION 'odd: %', NEW.id; END IF;
  RETURN NEW;
END $$
"""
ON_INSERT = """
CREATE TRIGGER evens BEFORE INSERT ON numbers FOR EACH ROW EXECUTE FUNCTION refuse_odd()
"""


def numbers(function: str | None = REFUSE) -> MetaData:
    metadata = MetaData()
    Table("numbers", metadata, Column("id", Integer, primary_key=True), **access(server=APPEND))
    if function is not None:
        declare_trigger("evens", "numbers", ON_INSERT, metadata)
        declare_function("refuse_odd", function, metadata)
    return metadata


def insert(database: Database, number: int) -> None:
    with transaction(database.engine("server")) as connection:
        connection.execute(text("INSERT INTO numbers VALUES (:n)"), {"n": number})


def diffs(operations: Sequence[MigrateOperation]) -> list[object]:
    return [tuple(diff) for diff in UpgradeOps(ops=list(operations)).as_diffs()]


def test_a_declared_trigger_works_and_is_not_a_difference_afterwards(empty_database):
    apply_difference(empty_database.owner_dsn, numbers())
    insert(empty_database, 2)
    with pytest.raises(DBAPIError, match="odd: 3"):
        insert(empty_database, 3)
    assert apply_difference(empty_database.owner_dsn, numbers()) == []


def test_a_changed_definition_is_replaced(empty_database):
    apply_difference(empty_database.owner_dsn, numbers())
    with transaction(empty_database.engine()) as connection:
        found = difference(connection, numbers(REFUSE.replace("odd:", "uneven:")))
    assert diffs(found) == [("drop_object", "refuse_odd"), ("create_object", "refuse_odd")]


def test_what_is_no_longer_declared_is_dropped_trigger_first_and_can_be_restored(
    empty_database,
):
    apply_difference(empty_database.owner_dsn, numbers())
    dropped = apply_difference(empty_database.owner_dsn, numbers(None))
    insert(empty_database, 3)
    with transaction(empty_database.engine()) as connection:
        run_operations(connection, [operation.reverse() for operation in reversed(dropped)])
    with pytest.raises(DBAPIError, match="odd: 5"):
        insert(empty_database, 5)
    dropped = apply_difference(empty_database.owner_dsn, numbers(None))
    assert diffs(dropped) == [("drop_object", "evens"), ("drop_object", "refuse_odd")]


def test_a_function_that_somebody_else_made_is_left_alone(empty_database):
    with transaction(empty_database.engine()) as connection:
        connection.execute(text("CREATE FUNCTION theirs() RETURNS int LANGUAGE sql AS 'SELECT 1'"))
    apply_difference(empty_database.owner_dsn, numbers())
    assert apply_difference(empty_database.owner_dsn, numbers()) == []


def test_the_rendered_revision_creates_and_drops_the_same(empty_database):
    with transaction(empty_database.engine()) as connection:
        found = [
            operation
            for operation in difference(connection, numbers())
            if isinstance(operation, CreateObject)
        ]
    revision = ast.parse("if True:\n    " + render_python_code(UpgradeOps(ops=list(found))))
    strings = [node.value for node in ast.walk(revision) if isinstance(node, ast.Constant)]
    assert [name for name in strings if name in {"refuse_odd", "evens"}] == ["refuse_odd", "evens"]
    assert {REFUSE.strip(), ON_INSERT.strip()} < set(strings)
    with transaction(empty_database.engine()) as connection:
        connection.execute(text("CREATE TABLE numbers (id int)"))
        run_operations(connection, found)
        run_operations(connection, [operation.reverse() for operation in reversed(found)])
        left = connection.scalar(
            text("SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace")
        )
    assert left == 0
