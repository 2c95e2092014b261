"""Connection strings and the files that keep them.

A DSN holds a password, so it travels in a 0600 file (`--dsn-file`) rather than on a command line,
and no error message repeats it.
"""

import os
from pathlib import Path
from typing import Final
from urllib.parse import quote

from psycopg import ProgrammingError as LibpqSyntaxError
from psycopg.conninfo import conninfo_to_dict

from shared.runtime.config import check_private
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import write_private

ENV_FILE: Final = "COUNTERFOIL_DATABASE_DSN_FILE"
ENV_URL: Final = "COUNTERFOIL_DATABASE_URL"
LONGEST_DSN: Final = 4096


def parse_dsn(dsn: str) -> dict[str, str | int | None]:
    """Return the libpq parameters of a DSN: `postgresql[+psycopg]://…` or key=value pairs.

    Raises:
        CounterfoilError: CONFIGURATION when libpq cannot read it. The DSN itself is not repeated.
    """
    text = dsn.strip()
    for prefix in ("postgresql+psycopg://", "postgres+psycopg://"):
        if text.startswith(prefix):
            text = "postgresql://" + text[len(prefix) :]
    try:
        return dict(conninfo_to_dict(text))
    except LibpqSyntaxError:
        raise CounterfoilError(
            Code.CONFIGURATION,
            "The database DSN is not a libpq connection string.",
            remedy="Use postgresql://USER:PASSWORD@HOST:PORT/DATABASE.",
        ) from None  # libpq's message repeats the DSN


def make_dsn(
    user: str,
    password: str,
    database: str,
    *,
    host: str | None = None,
    port: int | str | None = None,
    options: dict[str, str] | None = None,
) -> str:
    """Return a libpq URI that SQLAlchemy reads as well (see `sqlalchemy_url`).

    `host` may be a host name or the folder of a Unix socket; `options` are further libpq parameters
    (sslmode, sslrootcert, …).
    """
    parameters = {"host": host, "port": port, **(options or {})}
    query = "&".join(
        f"{name}={quote(str(value), safe='/')}"
        for name, value in parameters.items()
        if value is not None
    )
    return f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@/{database}?{query}"


def on_database(dsn: str, database: str) -> str:
    """Return the same connection string for another database of the same server."""
    parameters = parse_dsn(dsn)
    options = {
        name: str(value)
        for name, value in parameters.items()
        if name not in {"user", "password", "dbname", "host", "port"} and value is not None
    }
    host, port = parameters.get("host"), parameters.get("port")
    return make_dsn(
        str(parameters.get("user") or ""),
        str(parameters.get("password") or ""),
        database,
        host=None if host is None else str(host),
        port=port,
        options=options,
    )


def password_of(dsn: str) -> str:
    """Return the password in a DSN.

    Raises:
        CounterfoilError: CONFIGURATION when it holds none.
    """
    password = parse_dsn(dsn).get("password")
    if not password:
        raise CounterfoilError(Code.CONFIGURATION, "The DSN holds no password.")
    return str(password)


def sqlalchemy_url(dsn: str) -> str:
    """Return the DSN as a SQLAlchemy URL, for Kombu's `sqla+…` transport and the like."""
    database = str(parse_dsn(dsn).get("dbname") or "postgres")
    return "postgresql+psycopg://" + on_database(dsn, database).removeprefix("postgresql://")


def read_dsn_file(path: Path) -> str:
    """Return the connection string that a file holds.

    Raises:
        CounterfoilError: CONFIGURATION when it is missing, unreadable, empty, or open to other
        users.
    """
    check_private(path)
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CounterfoilError(
            Code.CONFIGURATION, f"The DSN file {path} cannot be read ({type(error).__name__})."
        ) from error
    if not text or len(text) > LONGEST_DSN:
        raise CounterfoilError(Code.CONFIGURATION, f"The DSN file {path} holds no DSN.")
    parse_dsn(text)
    return text


def write_dsn_file(path: Path, dsn: str) -> None:
    """Write a DSN file that only this user can read, in one step that a crash cannot halve."""
    write_private(path, (dsn + "\n").encode())


def find_dsn(dsn_file: Path | None = None) -> str:
    """Return the DSN: from the given file, or from the file or the DSN that the environment names.

    Raises:
        CounterfoilError: CONFIGURATION when there is none, or it is not readable.
    """
    if dsn_file is not None:
        return read_dsn_file(dsn_file)
    if named := os.environ.get(ENV_FILE):
        return read_dsn_file(Path(named))
    if url := os.environ.get(ENV_URL):
        parse_dsn(url)
        return url
    raise CounterfoilError(
        Code.CONFIGURATION,
        "No database is configured.",
        remedy=f"Pass --dsn-file, or set {ENV_FILE} or {ENV_URL}.",
    )
