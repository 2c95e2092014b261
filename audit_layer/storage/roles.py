"""Roles and databases: who may connect to what, with which password.

    counterfoil_owner    owns database `counterfoil` and its tables; only migrations run as it
    counterfoil_server   the audit server
    counterfoil_worker   the audit workers
    counterfoil_broker   owns database `counterfoil_broker`, which holds only Celery's messages

Each role has a random password of its own, kept in `SECRETS/owner.dsn`, `server.dsn`,
`worker.dsn` and `broker.dsn` (0600, a whole connection string). Passwords go to the server as
SCRAM verifiers, so they are not in its log. `initialise` may be repeated at any time: roles, databases and
files that exist are kept. Roles belong to the whole server: those for which the folder holds no
working password are another installation's, and stay unchanged unless it is told to reset them.
Databases store text in UTF-8 and sort it by bytes, whatever the server's defaults.
"""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from audit_layer.storage.connecting import (
    ENCODING,
    NO_ROLE,
    PASSWORD,
    connect,
    explained,
    reason_of,
    session_parameters,
)
from audit_layer.storage.dsn import (
    Parameters,
    make_dsn,
    parse_dsn,
    password_of,
    read_dsn_file,
    write_dsn_file,
)
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import private_folder
from shared.runtime.printable import is_text

DATABASE: Final = "counterfoil"
BROKER_DATABASE: Final = "counterfoil_broker"
ROLES: Final[Mapping[str, str]] = {
    "owner": "counterfoil_owner",
    "server": "counterfoil_server",
    "worker": "counterfoil_worker",
    "broker": "counterfoil_broker",
}
SERVICES: Final = ("server", "worker")
"""Roles to which tables grant privileges; migrations never grant to any other."""
LOCK_KEY: Final = 0x636F756E7465726A
"""Advisory lock of `initialise`, in the administrative database."""
LONGEST_NAME: Final = 63
"""Bytes of a name that Postgres keeps; it truncates longer ones."""
_NOT_OURS: Final = frozenset({"postgres", "template0", "template1"})
_PROGRAM: Final = "counterfoil-db-init"


def initialise(
    admin_dsn: str,
    secrets_folder: Path,
    *,
    database: str = DATABASE,
    broker_database: str = BROKER_DATABASE,
    reset_passwords: bool = False,
) -> dict[str, Path]:
    """Create roles and databases, write the connection strings, and return their files by short
    name.

    `admin_dsn` may belong to a superuser or to a role with CREATEROLE and CREATEDB. Idempotent,
    and safe to run twice at once. With `reset_passwords`, existing roles get the passwords in
    this folder, or new ones where it has none.

    Raises:
        CounterfoilError: UNAVAILABLE when the server does not answer; FORBIDDEN when the admin
        role may
            not create roles or databases; CONFIGURATION for an unusable DSN, secrets file or
            name; CONFLICT for roles or databases that exist and are not ours.
    """
    _check_names(database, broker_database)
    admin = session_parameters(admin_dsn, _PROGRAM)
    homes = {short: broker_database if short == "broker" else database for short in ROLES}
    files = {short: secrets_folder / f"{short}.dsn" for short in ROLES}
    private_folder(secrets_folder)
    connection = connect(admin, names=True, any_encoding=True, autocommit=True)
    try:
        with connection:
            connection.execute("SELECT pg_advisory_lock(%s)", [LOCK_KEY])
            dsns = {
                short: _role_dsn(parse_dsn(admin_dsn), role, _password(files[short]), homes[short])
                for short, role in ROLES.items()
            }
            present = _present(connection)
            _check_databases(connection, homes)
            foreign = [
                ROLES[short]
                for short in ROLES
                if ROLES[short] in present and not (files[short].exists() and _opens(dsns[short]))
            ]
            if foreign and not reset_passwords:
                raise _another_installation(foreign, secrets_folder)
            for short, role in ROLES.items():
                write_dsn_file(files[short], dsns[short])  # first: a crash leaves no role without
                if role in foreign or role not in present:
                    _set_role(connection, role, password_of(dsns[short]), new=role not in present)
            for short in ("owner", "broker"):
                _ensure_database(connection, homes[short], owner=ROLES[short])
            for service in SERVICES:
                _run(connection, "GRANT CONNECT ON DATABASE {} TO {}", database, ROLES[service])
        open_schema(dsns["owner"])
    except psycopg.errors.InsufficientPrivilege as error:
        raise CounterfoilError(
            Code.FORBIDDEN,
            "The admin DSN's role may not create roles and databases.",
            remedy="Use a superuser, or a role with CREATEROLE and CREATEDB.",
        ) from error
    except psycopg.OperationalError as error:
        raise explained(error, admin, names=True) from error
    return files


def _check_names(*databases: str) -> None:
    """Refuse names that Postgres would truncate, or whose databases are the server's own."""
    for name in databases:
        if not name or "\0" in name or not is_text(name) or len(name.encode()) > LONGEST_NAME:
            raise CounterfoilError(
                Code.CONFIGURATION,
                f"{name[:80]!r} cannot be a database's name",
                remedy=f"Use 1 to {LONGEST_NAME} bytes of text.",
            )
        if name in _NOT_OURS:
            raise CounterfoilError(
                Code.CONFIGURATION, f"database {name} is the server's own", remedy="Name another."
            )
    if len(set(databases)) != len(databases):
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"{databases[0]!r} cannot be both the log's database and the broker's",
            remedy="Give the broker a database of its own: --broker-database.",
        )


def _password(file: Path) -> str:
    return password_of(read_dsn_file(file)) if file.exists() else secrets.token_urlsafe(32)


def _present(connection: psycopg.Connection) -> set[str]:
    query = "SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)"
    return {name for (name,) in connection.execute(query, [list(ROLES.values())])}


def _opens(dsn: str) -> bool:
    """Return whether the server accepts the password of a role's DSN; its database need not exist yet."""
    parameters = session_parameters(dsn, _PROGRAM)
    try:
        psycopg.connect(**parameters).close()  # type: ignore[arg-type]
    except psycopg.OperationalError as error:
        return reason_of(error) not in {PASSWORD, NO_ROLE}
    return True


def _another_installation(roles: list[str], folder: Path) -> CounterfoilError:
    return CounterfoilError(
        Code.CONFLICT,
        f"the database server already has {', '.join(roles)}, with passwords that {folder} does not hold:"
        " another installation may use them",
        remedy="Pass the folder with its files as --secrets. With --reset-passwords they get new"
        " passwords, and clients that use the old ones are locked out.",
    )


def _role_dsn(admin: Parameters, role: str, password: str, database: str) -> str:
    """Return the admin's connection settings (host, port, TLS) under the role's name."""
    own = {"user", "password", "passfile", "dbname", "host", "port", "service", "options"}
    return make_dsn(
        role,
        password,
        database,
        host=admin.get("host"),
        port=admin.get("port"),
        options={name: value for name, value in admin.items() if name not in own and value},
    )


def _run(connection: psycopg.Connection, statement: LiteralString, *names: str) -> None:
    """Execute a statement whose `{}` are identifiers."""
    connection.execute(sql.SQL(statement).format(*(sql.Identifier(name) for name in names)))


def _set_role(connection: psycopg.Connection, role: str, password: str, *, new: bool) -> None:
    verifier = connection.pgconn.encrypt_password(
        password.encode(), role.encode(), b"scram-sha-256"
    ).decode("ascii")
    connection.execute(
        sql.SQL("{} ROLE {} LOGIN NOCREATEDB NOCREATEROLE PASSWORD {}").format(
            sql.SQL("CREATE" if new else "ALTER"), sql.Identifier(role), sql.Literal(verifier)
        )
    )


def _check_databases(connection: psycopg.Connection, homes: Mapping[str, str]) -> None:
    """Refuse existing databases that could not hold our data."""
    for short in ("owner", "broker"):
        found = connection.execute(
            "SELECT pg_encoding_to_char(encoding), pg_get_userbyid(datdba) FROM pg_database"
            " WHERE datname = %s",
            [homes[short]],
        ).fetchone()
        if found is not None and found != (ENCODING, ROLES[short]):
            raise CounterfoilError(
                Code.CONFLICT,
                f"database {homes[short]} exists: it stores text as {found[0]} and belongs to {found[1]},"
                f" not as {ENCODING} and to {ROLES[short]}",
                remedy="Name another with --database and --broker-database; it is created.",
            )


def _ensure_database(connection: psycopg.Connection, name: str, *, owner: str) -> None:
    found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone()
    if not found:
        superuser = connection.execute(
            "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
        if superuser is None or not superuser[0]:
            _run(connection, "GRANT {} TO CURRENT_USER", owner)  # otherwise OWNER is refused
        _run(
            connection,
            "CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'",
            name,
            owner,
        )
    _run(connection, "REVOKE ALL ON DATABASE {} FROM PUBLIC", name)


def open_schema(owner_dsn: str) -> None:
    """Let the services see the schema, and only the owner create anything in it."""
    parameters = session_parameters(owner_dsn, _PROGRAM)
    with connect(parameters, names=True, autocommit=True) as connection:
        _run(connection, "CREATE SCHEMA IF NOT EXISTS public")
        _run(connection, "REVOKE ALL ON SCHEMA public FROM PUBLIC")
        for service in SERVICES:
            _run(connection, "GRANT USAGE ON SCHEMA public TO {}", ROLES[service])
