"""The one way to connect: every session's settings, what its database must be, and why connecting failed.

Settings go with the connection's first packet, so every new connection has them, including one that
replaces a lost one. A database whose text is not UTF-8, and a pooler that shares sessions, are
refused with an error that says so.
"""

import re
from dataclasses import dataclass
from typing import Final

import psycopg

from audit_layer.storage.dsn import SEARCH_PATH, Parameters, parse_dsn
from shared.runtime.errors import Code, CounterfoilError

CONNECT_TIMEOUT_S: Final = 5
ENCODING: Final = "UTF8"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why no connection was made: what the driver's message contains, and what the user sees."""

    pattern: str
    detail: str
    remedy: str
    about: str = ""
    """What it is about, with `{host}`, `{user}` and `{database}`: for those who may know them."""


_POOLER: Final = (
    "The audit layer's locks and limits belong to a session. Give it a DSN that leads to Postgres"
    " itself, not to PgBouncer or another pooler."
)
POOLER: Final = Reason(
    r"unsupported startup parameter", "a connection pooler is in front of the database", _POOLER
)
PASSWORD: Final = Reason(
    r"password authentication failed|no password supplied",
    "the database server refuses the password",
    "Correct the DSN; `counterfoil db init` writes the services' DSNs.",
    "role {user}",
)
NO_ROLE: Final = Reason(
    r'role "" (?:does not exist|is not permitted to log in)',
    "the database server has no such role that may log in",
    "Correct the DSN's user; `counterfoil db init` creates the services' roles.",
    "{user}",
)
NO_DATABASE: Final = Reason(
    r'database "" does not exist',
    "the database server has no such database",
    "Correct the DSN's database; `counterfoil db init` creates the services' databases.",
    "{database}",
)
NOT_ADMITTED: Final = Reason(
    r"permission denied for database|no pg_hba\.conf entry|\w+ authentication failed for user",
    "the database server does not admit this login",
    "Check pg_hba.conf and the database's privileges.",
    "role {user}, database {database}",
)
REASONS: Final = (
    POOLER,
    PASSWORD,
    NO_ROLE,
    NO_DATABASE,
    NOT_ADMITTED,
    Reason(
        r"failed to resolve host|could not translate host name|Name or service not known",
        "the database's host name cannot be resolved",
        "Correct the host in the DSN, or the machine's name resolution.",
        "{host}",
    ),
    Reason(
        r"certificate|SSL|TLS",
        "no TLS connection to the database server is possible",
        "Check sslmode and sslrootcert in the DSN, and the server's certificate.",
        "{host}",
    ),
    Reason(
        r"starting up|shutting down|recovery mode|not yet accepting|not accepting",
        "the database server is starting or stopping",
        "Nothing to do unless it persists.",
    ),
    Reason(
        r"too many clients|too many connections|connection slots",
        "the database server has no free connection",
        "Raise its max_connections, or stop other programs that use it.",
    ),
    Reason(
        r"timeout expired|timed out",
        "the database server does not answer in time",
        "Check the network, and firewalls on the way.",
        "{host}",
    ),
    Reason(
        r"Connection refused|No such file or directory|No route to host|unreachable",
        "no database server is listening there",
        "Start Postgres, or correct host and port in the DSN.",
        "{host}",
    ),
)
UNKNOWN: Final = Reason(
    "", "the database does not answer", "Check that Postgres is running and that the DSN is right."
)


def reason_of(error: psycopg.Error) -> Reason:
    """Return why a connection was not made, from the driver's message; names in it are ignored."""
    message = re.sub(r'"[^"]*"', '""', str(error))
    return next((one for one in REASONS if re.search(one.pattern, message)), UNKNOWN)


def explained(error: psycopg.Error, parameters: Parameters, *, names: bool) -> CounterfoilError:
    """Return UNAVAILABLE with one clear sentence for each cause.

    With `names` it includes host, role and database: for the operator, not for callers of a service.
    """
    reason = reason_of(error)
    about = reason.about.format(
        host=_host(parameters),
        user=parameters.get("user", "(none)"),
        database=parameters.get("dbname", "(none)"),
    )
    return CounterfoilError(
        Code.UNAVAILABLE,
        f"{reason.detail}: {about}" if names and about else reason.detail,
        remedy=reason.remedy,
        retry_after_s=1.0,
    )


def _host(parameters: Parameters) -> str:
    port = parameters.get("port", "5432")
    host = parameters.get("host") or parameters.get("hostaddr") or "the default socket"
    return f"{host}, port {port}"


def session_parameters(
    dsn: str, application_name: str, settings: dict[str, int | str] | None = None
) -> Parameters:
    """Return what to connect with: the DSN, and the settings of all our sessions.

    The DSN's own `options` take precedence over `settings`, but never over the search path.

    Raises:
        CounterfoilError: CONFIGURATION when the DSN cannot be read.
    """
    parameters = parse_dsn(dsn)
    wanted = [f"-c {name}={value}" for name, value in (settings or {}).items()]
    given = parameters.get("options", "")
    options = " ".join(filter(None, [*wanted, given, f"-c search_path={SEARCH_PATH}"]))
    return {
        "connect_timeout": str(CONNECT_TIMEOUT_S),
        **parameters,
        "options": options,
        "application_name": application_name,
        "client_encoding": ENCODING,
    }


def connect(
    parameters: Parameters,
    *,
    names: bool = False,
    any_encoding: bool = False,
    autocommit: bool = False,
) -> psycopg.Connection:
    """Open a session and check it: one connection, which the caller closes.

    `any_encoding` is for the administrative database, which need not be UTF-8.

    Raises:
        CounterfoilError: UNAVAILABLE as `explained`; CONFIGURATION when a pooler is in between or
            the database's text is not UTF-8.
    """
    try:
        connection = psycopg.connect(**parameters, autocommit=True)  # type: ignore[arg-type]
    except psycopg.OperationalError as error:
        if reason_of(error) is POOLER:
            raise CounterfoilError(Code.CONFIGURATION, POOLER.detail, remedy=_POOLER) from error
        raise explained(error, parameters, names=names) from error
    try:
        _check_session(connection)
        if not any_encoding:
            _check_encoding(connection)
        connection.autocommit = autocommit
    except psycopg.Error as error:
        connection.close()
        raise explained(error, parameters, names=names) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _check_session(connection: psycopg.Connection) -> None:
    """Refuse a session other than the one requested: its settings were dropped."""
    found = connection.execute("SELECT current_setting('search_path')").fetchone()
    if found != (SEARCH_PATH,):
        raise CounterfoilError(
            Code.CONFIGURATION,
            "session settings do not reach the database: a connection pooler drops them",
            remedy=_POOLER,
        )


def _check_encoding(connection: psycopg.Connection) -> None:
    found = connection.info.parameter_status("server_encoding")
    if found != ENCODING:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"database {connection.info.dbname} stores text as {found}, not as {ENCODING}",
            remedy="Create another: `counterfoil db init --database NAME` makes one in UTF-8.",
        )
