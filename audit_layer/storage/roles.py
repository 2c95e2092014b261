"""Roles and databases: who may connect to what, with which password.

    counterfoil_owner    owns database `counterfoil` and its tables; migrations run as it, nothing
    else counterfoil_server   the audit server        counterfoil_worker   the audit workers
    counterfoil_broker   owns database `counterfoil_broker`, which holds Celery's messages and
    nothing else

Each role has a random password of its own, kept in `SECRETS/owner.dsn`, `server.dsn`,
`worker.dsn` and `broker.dsn` (0600, a whole connection string). Passwords go to the server as
SCRAM verifiers, so they are not in its log. Run it again at any time: roles, databases and files
that exist are kept.
"""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from audit_layer.storage.dsn import make_dsn, parse_dsn, password_of, read_dsn_file, write_dsn_file
from shared.runtime.errors import Code, CounterfoilError

DATABASE: Final = "counterfoil"
BROKER_DATABASE: Final = "counterfoil_broker"
ROLES: Final[Mapping[str, str]] = {
    "owner": "counterfoil_owner",
    "server": "counterfoil_server",
    "worker": "counterfoil_worker",
    "broker": "counterfoil_broker",
}
SERVICES: Final = ("server", "worker")
"""Roles that tables grant something to; migrations never grant to any other."""
LOCK_KEY: Final = 0x636F756E7465726A
"""Advisory lock of `initialise`, in the administrative database."""


def initialise(
    admin_dsn: str,
    secrets_folder: Path,
    *,
    database: str = DATABASE,
    broker_database: str = BROKER_DATABASE,
) -> dict[str, Path]:
    """Create roles and databases, write the connection strings, and return their files by short
    name.

    `admin_dsn` may belong to a superuser or to a role with CREATEROLE and CREATEDB. Idempotent,
    and safe to run twice at once. A role whose file is lost gets a new password.

    Raises:
        CounterfoilError: UNAVAILABLE when the server does not answer; FORBIDDEN when the admin
        role may
            not create roles or databases; CONFIGURATION for a DSN or a secrets file that is
            unusable.
    """
    secrets_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    admin = parse_dsn(admin_dsn)
    files = {}
    try:
        with psycopg.connect(admin_dsn, autocommit=True, connect_timeout=10) as connection:
            connection.execute("SELECT pg_advisory_lock(%s)", [LOCK_KEY])
            for short, role in ROLES.items():
                files[short] = secrets_folder / f"{short}.dsn"
                password = _password(files[short])
                _ensure_role(connection, role, password)
                home = broker_database if short == "broker" else database
                write_dsn_file(files[short], _role_dsn(admin, role, password, home))
            _ensure_database(connection, database, owner=ROLES["owner"])
            _ensure_database(connection, broker_database, owner=ROLES["broker"])
            for service in SERVICES:
                _run(connection, "GRANT CONNECT ON DATABASE {} TO {}", database, ROLES[service])
        open_schema(read_dsn_file(files["owner"]))
    except psycopg.errors.InsufficientPrivilege as error:
        raise CounterfoilError(
            Code.FORBIDDEN,
            "The admin DSN's role may not create roles and databases.",
            remedy="Use a superuser, or a role with CREATEROLE and CREATEDB.",
        ) from error
    except psycopg.OperationalError as error:
        raise CounterfoilError(
            Code.UNAVAILABLE, f"Postgres does not answer ({type(error).__name__})."
        ) from error
    return files


def _password(file: Path) -> str:
    return password_of(read_dsn_file(file)) if file.exists() else secrets.token_urlsafe(32)


def _role_dsn(
    admin: Mapping[str, str | int | None], role: str, password: str, database: str
) -> str:
    """Return the admin's way to the server (host, port, TLS settings) under the role's name."""
    own = {"user", "password", "passfile", "dbname", "host", "port", "service"}
    options = {name: str(value) for name, value in admin.items() if name not in own and value}
    host = admin.get("host")
    return make_dsn(
        role,
        password,
        database,
        host=None if host is None else str(host),
        port=admin.get("port"),
        options=options,
    )


def _run(connection: psycopg.Connection, statement: LiteralString, *names: str) -> None:
    """Execute a statement whose `{}` are identifiers."""
    connection.execute(sql.SQL(statement).format(*(sql.Identifier(name) for name in names)))


def _ensure_role(connection: psycopg.Connection, role: str, password: str) -> None:
    found = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone()
    if not found:
        _run(connection, "CREATE ROLE {}", role)
    verifier = connection.pgconn.encrypt_password(
        password.encode(), role.encode(), b"scram-sha-256"
    ).decode("ascii")
    connection.execute(
        sql.SQL("ALTER ROLE {} LOGIN NOCREATEDB NOCREATEROLE PASSWORD {}").format(
            sql.Identifier(role), sql.Literal(verifier)
        )
    )


def _ensure_database(connection: psycopg.Connection, name: str, *, owner: str) -> None:
    found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone()
    if not found:
        superuser = connection.execute(
            "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
        if superuser is None or not superuser[0]:
            _run(connection, "GRANT {} TO CURRENT_USER", owner)  # else OWNER is refused
        _run(connection, "CREATE DATABASE {} OWNER {} TEMPLATE template0", name, owner)
    _run(connection, "REVOKE ALL ON DATABASE {} FROM PUBLIC", name)


def open_schema(owner_dsn: str) -> None:
    """Let the services see the schema, and nobody but the owner create anything in it."""
    with psycopg.connect(owner_dsn, autocommit=True, connect_timeout=10) as connection:
        _run(connection, "REVOKE ALL ON SCHEMA public FROM PUBLIC")
        for service in SERVICES:
            _run(connection, "GRANT USAGE ON SCHEMA public TO {}", ROLES[service])
