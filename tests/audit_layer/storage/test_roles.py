"""Roles and databases: created once, kept apart, created again without harm."""

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from audit_layer.storage import roles
from audit_layer.storage.dsn import (
    make_dsn,
    on_database,
    parse_dsn,
    password_of,
    read_dsn_file,
    write_dsn_file,
)
from audit_layer.storage.embedded import EmbeddedPostgres, temporary_postgres
from shared.runtime.errors import Code, CounterfoilError


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    """A server of its own: these tests change passwords, which roles share across databases."""
    with temporary_postgres() as running:
        yield running


@pytest.fixture(scope="module")
def admin_dsn(server: EmbeddedPostgres) -> str:
    """An administrator who is not a superuser, as managed services provide."""
    return limited_admin(server, "CREATEROLE CREATEDB")


@pytest.fixture
def files(admin_dsn: str, tmp_path: Path) -> dict[str, Path]:
    return roles.initialise(admin_dsn, tmp_path / "secrets", reset_passwords=True)


def works(dsn: str) -> bool:
    try:
        psycopg.connect(dsn).close()
    except psycopg.OperationalError:
        return False
    return True


def test_every_role_gets_a_file_that_opens_its_own_database_only(files):
    dsns = {role: read_dsn_file(path) for role, path in files.items()}
    assert set(dsns) == {"owner", "server", "worker", "broker"}
    assert all(works(dsn) for dsn in dsns.values())
    assert len({parse_dsn(dsn)["password"] for dsn in dsns.values()}) == 4
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files.values())
    for role in ("owner", "server", "worker"):
        assert not works(on_database(dsns[role], roles.BROKER_DATABASE))
    assert not works(on_database(dsns["broker"], roles.DATABASE))


def test_services_cannot_create_anything_and_own_nothing(files):
    for role in ("server", "worker"):
        with psycopg.connect(read_dsn_file(files[role]), autocommit=True) as connection:
            for statement in (
                "CREATE TABLE mine (id int)",
                "CREATE SCHEMA mine",
                "CREATE ROLE mine",
                "SET ROLE counterfoil_owner",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement)


def test_a_second_time_changes_no_password(admin_dsn, files):
    before = {role: read_dsn_file(path) for role, path in files.items()}
    again = roles.initialise(admin_dsn, files["owner"].parent)
    assert {role: read_dsn_file(path) for role, path in again.items()} == before


def test_a_lost_file_gets_a_new_password_only_when_that_is_asked_for(admin_dsn, files):
    old = read_dsn_file(files["worker"])
    files["worker"].unlink()
    with pytest.raises(CounterfoilError, match="already has counterfoil_worker") as caught:
        roles.initialise(admin_dsn, files["owner"].parent)
    assert caught.value.code is Code.CONFLICT
    assert works(old)
    assert not files["worker"].exists()
    roles.initialise(admin_dsn, files["owner"].parent, reset_passwords=True)
    assert works(read_dsn_file(files["worker"]))
    assert not works(old)


def test_another_installation_on_the_server_is_left_alone(admin_dsn, files, tmp_path):
    ours = {role: read_dsn_file(path) for role, path in files.items()}
    with pytest.raises(CounterfoilError, match="another installation") as caught:
        roles.initialise(admin_dsn, tmp_path / "theirs", database="theirs")
    assert caught.value.code is Code.CONFLICT
    assert "--reset-passwords" in (caught.value.remedy or "")
    assert all(works(dsn) for dsn in ours.values())
    assert list((tmp_path / "theirs").iterdir()) == []


def test_files_with_other_passwords_are_another_installations(admin_dsn, files, tmp_path):
    path = tmp_path / "theirs" / "server.dsn"
    shutil.copytree(files["owner"].parent, path.parent)
    ours = read_dsn_file(files["server"])
    write_dsn_file(path, ours.replace(f":{password_of(ours)}@", ":guess@"))
    with pytest.raises(CounterfoilError, match="already has counterfoil_server"):
        roles.initialise(admin_dsn, path.parent)
    assert works(ours)


def test_what_a_crash_left_half_made_is_finished(server, admin_dsn, files):
    """A file is written before its role is made, so the role's password is never unknown."""
    with psycopg.connect(server.admin_dsn, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {roles.BROKER_DATABASE}".encode())
        connection.execute("DROP ROLE counterfoil_broker")
    kept = read_dsn_file(files["broker"])
    roles.initialise(admin_dsn, files["owner"].parent)
    assert read_dsn_file(files["broker"]) == kept
    assert works(kept)


@pytest.mark.parametrize("name", ["acme 100%", "a\"b'c", "Größe", "x" * 63])
def test_any_name_can_be_a_databases(server, admin_dsn, files, name):
    made = roles.initialise(admin_dsn, files["owner"].parent, database=name)
    dsn = read_dsn_file(made["server"])
    assert parse_dsn(dsn)["dbname"] == name
    assert works(dsn)
    with psycopg.connect(server.admin_dsn, autocommit=True) as connection:
        drop = sql.SQL("DROP DATABASE {}").format(sql.Identifier(name))
        connection.execute(drop)


@pytest.mark.parametrize(
    "name", ["", "x" * 64, "a\0b", "template1", "postgres", roles.BROKER_DATABASE]
)
def test_impossible_names_are_refused(admin_dsn, tmp_path, name):
    with pytest.raises(CounterfoilError) as caught:
        roles.initialise(admin_dsn, tmp_path / "s", database=name)
    assert caught.value.code is Code.CONFIGURATION


def test_databases_are_utf8_on_any_cluster_and_others_are_refused(server, admin_dsn, files):
    with psycopg.connect(server.admin_dsn, autocommit=True) as connection:
        found = connection.execute(
            "SELECT pg_encoding_to_char(encoding), datcollate, datctype FROM pg_database"
            " WHERE datname = ANY(%s)",
            [[roles.DATABASE, roles.BROKER_DATABASE]],
        ).fetchall()
        assert found == [("UTF8", "C", "C")] * 2
        connection.execute(
            "CREATE DATABASE ascii OWNER counterfoil_owner TEMPLATE template0"
            " ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C'"
        )
        connection.execute("CREATE DATABASE other")
    for name, why in (("ascii", "as SQL_ASCII"), ("other", "belongs to counterfoil_admin")):
        with pytest.raises(CounterfoilError, match=f"{name} exists.*{why}") as caught:
            roles.initialise(admin_dsn, files["owner"].parent, database=name)
        assert caught.value.code is Code.CONFLICT


def test_an_administrators_dsn_may_be_spelled_as_sqlalchemy_does(admin_dsn, files):
    spelled = admin_dsn.replace("postgresql://", "postgresql+psycopg://")
    assert roles.initialise(spelled, files["owner"].parent) == files


def test_passwords_are_kept_as_scram_verifiers_and_are_not_in_the_log(server, files):
    with psycopg.connect(server.admin_dsn) as connection:
        kept = connection.execute(
            "SELECT rolpassword FROM pg_authid WHERE rolname LIKE 'counterfoil_%'"
        ).fetchall()
    assert all(password.startswith("SCRAM-SHA-256$") for (password,) in kept)
    log = server.log_file.read_text()
    for path in files.values():
        assert str(parse_dsn(read_dsn_file(path))["password"]) not in log


def limited_admin(server: EmbeddedPostgres, rights: str) -> str:
    name = f"admin_{secrets.token_hex(4)}"
    with psycopg.connect(server.admin_dsn, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN {rights} PASSWORD 'pw'".encode())
    host = str(parse_dsn(server.admin_dsn)["host"])
    return make_dsn(name, "pw", "postgres", host=host, port=5432)


def test_a_role_that_may_create_nothing_is_refused_by_name(server, tmp_path):
    with pytest.raises(CounterfoilError) as caught:
        roles.initialise(limited_admin(server, ""), tmp_path, reset_passwords=True)
    assert caught.value.code is Code.FORBIDDEN


def test_no_server_is_unavailable(tmp_path):
    with pytest.raises(CounterfoilError) as caught:
        roles.initialise(f"postgresql://a:b@/postgres?host={tmp_path}", tmp_path)
    assert caught.value.code is Code.UNAVAILABLE
