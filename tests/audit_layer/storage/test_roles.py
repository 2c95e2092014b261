"""Roles and databases: made once, kept apart, made again without harm."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from audit_layer.storage import roles
from audit_layer.storage.dsn import make_dsn, on_database, parse_dsn, read_dsn_file
from audit_layer.storage.embedded import EmbeddedPostgres, temporary_postgres
from shared.runtime.errors import Code, CounterfoilError


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    """A server of its own: these tests change passwords, which roles share across databases."""
    with temporary_postgres() as running:
        yield running


@pytest.fixture(scope="module")
def admin_dsn(server: EmbeddedPostgres) -> str:
    """An administrator who is no superuser, as managed services give it."""
    return limited_admin(server, "CREATEROLE CREATEDB")


@pytest.fixture
def files(admin_dsn: str, tmp_path: Path) -> dict[str, Path]:
    return roles.initialise(admin_dsn, tmp_path / "secrets")


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


def test_a_lost_file_gets_a_new_password(admin_dsn, files):
    old = read_dsn_file(files["worker"])
    files["worker"].unlink()
    roles.initialise(admin_dsn, files["owner"].parent)
    assert works(read_dsn_file(files["worker"]))
    assert not works(old)


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


def test_a_role_that_may_create_nothing_is_told_so(server, tmp_path):
    with pytest.raises(CounterfoilError) as caught:
        roles.initialise(limited_admin(server, ""), tmp_path)
    assert caught.value.code is Code.FORBIDDEN


def test_no_server_is_unavailable(tmp_path):
    with pytest.raises(CounterfoilError) as caught:
        roles.initialise(f"postgresql://a:b@/postgres?host={tmp_path}", tmp_path)
    assert caught.value.code is Code.UNAVAILABLE
