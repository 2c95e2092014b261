"""The migrations: up, down and up; twice at once; as SQL; and what they leave is what is declared."""

import psycopg
import pytest
from sqlalchemy import MetaData, text
from sqlalchemy.exc import ProgrammingError

from audit_layer.storage import grants, migrate, registry, roles
from audit_layer.storage.engine import transaction
from shared.runtime.errors import Code, CounterfoilError
from tests.migrations.conftest import REPOSITORY
from tests.postgres import Database
from tests.shared.runtime.processes import wait_until


def leftovers(database: Database) -> list[str]:
    """Return what is in the schema, except Alembic's own table."""
    with transaction(database.engine()) as connection:
        found = connection.scalars(
            text(
                "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
                " UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
            )
        )
        return [name for name in found if not name.startswith("alembic_version")]


@pytest.fixture(scope="module")
def metadata() -> MetaData:
    return registry.metadata()


def test_the_migrated_database_is_what_the_code_declares(database):
    assert migrate.head() is not None
    assert migrate.current(database.owner_dsn) == migrate.head()
    assert migrate.check(database.owner_dsn) == []


def test_up_down_and_up_again(empty_database):
    dsn = empty_database.owner_dsn
    migrate.upgrade(dsn)
    assert migrate.current(dsn) == migrate.head()
    migrate.downgrade(dsn, "base")
    assert migrate.current(dsn) is None
    assert leftovers(empty_database) == []
    migrate.upgrade(dsn)
    assert migrate.check(dsn) == []


def test_the_sql_form_makes_the_same_database(empty_database):
    script = migrate.upgrade(None, sql=True)
    with psycopg.connect(empty_database.owner_dsn, autocommit=True) as connection:
        connection.execute(script.encode())
    assert migrate.current(empty_database.owner_dsn) == migrate.head()
    assert migrate.check(empty_database.owner_dsn) == []


def test_every_table_is_granted_exactly_as_it_declares(database, metadata):
    with transaction(database.engine()) as connection:
        granted = grants.granted_access(connection)
    tables = metadata.sorted_tables
    assert {table.name: dict(grants.declared_access(table)) for table in tables} == {
        table.name: dict(granted.get(table.name, {})) for table in tables
    }


def test_no_service_may_change_or_remove_a_row_of_an_append_only_table(database, metadata):
    append_only = [table for table in metadata.sorted_tables if grants.is_append_only(table)]
    assert append_only
    for service in roles.SERVICES:
        with database.engine(service).connect() as connection:
            for table in append_only:
                column = next(column for column in table.columns if column.identity is None)
                for statement in (
                    table.update().values({column: column}),
                    table.delete(),
                    text(f'TRUNCATE "{table.name}"'),
                ):
                    with pytest.raises(ProgrammingError, match="permission denied"):
                        connection.execute(statement)
                    connection.rollback()


def test_services_can_draw_from_the_sequences_they_insert_with_and_from_no_other(
    database, metadata
):
    owned = text(
        "SELECT seq.oid::regclass::text, tab.relname FROM pg_class seq"
        " JOIN pg_depend ON objid = seq.oid AND deptype IN ('a', 'i')"
        " JOIN pg_class tab ON tab.oid = refobjid"
        " WHERE seq.relkind = 'S' AND seq.relnamespace = 'public'::regnamespace"
    )
    with transaction(database.engine()) as connection:
        for sequence, name in connection.execute(owned).all():
            declared = grants.declared_access(metadata.tables[name])
            for service in roles.SERVICES:
                role = roles.ROLES[service]
                allowed = connection.scalar(
                    text("SELECT has_sequence_privilege(:role, :sequence, 'USAGE')"),
                    {"role": role, "sequence": sequence},
                )
                assert allowed == ("insert" in declared.get(role, ())), (sequence, role)


def test_services_cannot_touch_the_revision(database):
    for service in roles.SERVICES:
        with (
            psycopg.connect(database.dsn(service)) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute("DELETE FROM alembic_version")


def test_two_operators_at_once_are_safe(operator, empty_database, tmp_path):
    processes = [operator("db", "upgrade", database=empty_database, cwd=tmp_path) for _ in range(2)]
    for process in processes:
        with process:
            output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
    assert migrate.current(empty_database.owner_dsn) == migrate.head()
    assert migrate.check(empty_database.owner_dsn) == []


def test_a_second_operator_waits_for_the_lock(operator, empty_database, tmp_path):
    waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    with psycopg.connect(empty_database.owner_dsn, autocommit=True) as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", [migrate.LOCK_KEY])
        with operator("db", "upgrade", database=empty_database, cwd=tmp_path) as process:
            with transaction(empty_database.engine()) as connection:
                assert wait_until(lambda: bool(connection.scalar(waiting)))
            assert leftovers(empty_database) == []
            holder.execute("SELECT pg_advisory_unlock(%s)", [migrate.LOCK_KEY])
            output, _ = process.communicate(timeout=60)
            assert process.returncode == 0, output
    assert migrate.current(empty_database.owner_dsn) == migrate.head()


def test_alembic_itself_upgrades_from_the_repository_root(run, empty_database):
    run("alembic", "upgrade", "head", database=empty_database, cwd=REPOSITORY)
    assert migrate.check(empty_database.owner_dsn) == []


def test_alembic_itself_says_what_is_wrong_in_a_sentence(operator, database, tmp_path):
    wrong = {database.dsn_file("server"): "Use owner.dsn", tmp_path / "no.dsn": "cannot be read"}
    for given, words in wrong.items():
        options = ["-x", f"dsn-file={given}", "upgrade", "head"]
        with operator("alembic", *options, database=database, cwd=REPOSITORY) as process:
            output, _ = process.communicate(timeout=60)
        assert process.returncode != 0
        assert "FAILED: " in output
        assert words in output
        assert "Traceback" not in output


def test_an_installed_wheel_upgrades_from_an_empty_folder(run, wheel, empty_database, tmp_path):
    here = {"database": empty_database, "cwd": tmp_path / "empty", "packages": wheel}
    here["cwd"].mkdir()
    ini = run("db", "alembic-ini", **here).strip()
    assert ini.startswith(str(wheel))
    script = run("alembic", "-c", ini, "upgrade", "head", "--sql", **here)
    assert "CREATE TABLE log_entries" in script
    run("alembic", "-c", ini, "upgrade", "head", **here)
    assert migrate.current(empty_database.owner_dsn) == migrate.head()
    assert list(here["cwd"].iterdir()) == []


def test_without_roles_the_operator_is_told_what_to_do(database, monkeypatch):
    monkeypatch.setitem(roles.ROLES, "worker", "counterfoil_nobody_made_me")
    with pytest.raises(CounterfoilError, match="counterfoil db init") as caught:
        migrate.upgrade(database.owner_dsn)
    assert caught.value.code is Code.CONFIGURATION


def test_a_service_role_may_not_migrate(empty_database):
    with pytest.raises(CounterfoilError, match=r"owner\.dsn") as caught:
        migrate.upgrade(empty_database.server_dsn)
    assert caught.value.code is Code.CONFIGURATION
    assert leftovers(empty_database) == []


def test_a_superuser_migrates_as_the_owner(empty_database, postgres):
    dsn = postgres.admin_dsn(empty_database.name)
    migrate.upgrade(dsn)
    with transaction(empty_database.engine()) as connection:
        owners = connection.scalars(
            text("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")
        )
        assert list(owners) == [roles.ROLES["owner"]]


def test_an_unknown_revision_is_refused(empty_database):
    with pytest.raises(CounterfoilError, match="no_such") as caught:
        migrate.upgrade(empty_database.owner_dsn, "no_such")
    assert caught.value.code is Code.CONFLICT


def test_check_sees_a_missing_column_and_a_missing_privilege(database):
    with transaction(database.engine()) as connection:
        connection.execute(text("ALTER TABLE log_entries ADD COLUMN extra int"))
        connection.execute(text("REVOKE SELECT ON log_entries FROM counterfoil_worker"))
    found = " ".join(migrate.check(database.owner_dsn))
    assert "extra" in found
    assert "set_access" in found
