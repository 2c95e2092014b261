"""Connection strings and the files that hold them.

A DSN holds a password, so it travels in a 0600 file (`--dsn-file`) rather than on a command line,
and no error message repeats it. `parse_dsn` alone reads every spelling; every connection of the
audit layer is made from what it returns.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

from psycopg import ProgrammingError as LibpqSyntaxError
from psycopg.conninfo import conninfo_to_dict

from shared.runtime.config import check_private
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import write_private
from shared.runtime.printable import is_text

ENV_FILE: Final = "COUNTERFOIL_DATABASE_DSN_FILE"
ENV_URL: Final = "COUNTERFOIL_DATABASE_URL"
LONGEST_DSN: Final = 4096
SEARCH_PATH: Final = "public,pg_temp"
"""Where every session finds and creates tables, whatever a database, role or DSN says."""
_SCHEME: Final = re.compile(r"(?:sqla\+)?postgres(?:ql)?(?:\+\w+)?://", re.IGNORECASE)
_PLACE: Final = re.compile(r"/.*|[^\s/@?#]*", re.DOTALL)
"""A socket's folder, or a host; what an unencoded password leaves behind is neither."""
_ENCODING: Final = (
    "Use postgresql://USER:PASSWORD@HOST:PORT/DATABASE. Percent-encode every character of a"
    " password that is not a letter or a digit: @ as %40, / as %2F."
)
Parameters = dict[str, str]
"""libpq's parameters, by libpq's names."""


def is_postgres(text: str) -> bool:
    """Return whether a URL is a Postgres DSN in any spelling; key=value pairs are."""
    text = text.strip()
    return bool(_SCHEME.match(text)) or ("://" not in text and "=" in text)


def parse_dsn(dsn: str) -> Parameters:
    """Return the libpq parameters of a DSN: `postgres[ql][+driver]://…` or key=value pairs.

    Raises:
        CounterfoilError: CONFIGURATION when it cannot be read. The error does not repeat the DSN.
    """
    text = _SCHEME.sub("postgresql://", dsn.strip(), count=1)
    if "\0" in text or not is_text(text):
        raise _unreadable("is not text")
    try:
        found = conninfo_to_dict(text)
    except (LibpqSyntaxError, UnicodeError):
        raise _unreadable("is not a libpq connection string") from None  # that repeats the DSN
    parameters = {name: str(value) for name, value in found.items() if value is not None}
    hosts, ports = (parameters.get(name, "").split(",") for name in ("host", "port"))
    if not all(map(_PLACE.fullmatch, hosts)):
        raise _unreadable("names a host that is not valid")
    if not all(port == "" or (port.isdecimal() and 0 < int(port) < 65536) for port in ports):
        raise _unreadable("names a port that is not a valid number")
    if len(ports) not in {1, len(hosts)}:
        raise _unreadable("names more or fewer ports than hosts")
    return parameters


def _unreadable(what: str) -> CounterfoilError:
    return CounterfoilError(Code.CONFIGURATION, f"The database DSN {what}.", remedy=_ENCODING)


def make_dsn(
    user: str,
    password: str,
    database: str,
    *,
    host: str | None = None,
    port: int | str | None = None,
    options: Mapping[str, str] | None = None,
) -> str:
    """Return a libpq URI.

    `host` may be a host name, several with commas, or the folder of a Unix socket; `options` are
    further libpq parameters (sslmode, sslrootcert, …).
    """
    parameters = {"host": host, "port": port, **(options or {})}
    query = "&".join(
        f"{name}={quote(str(value), safe='/')}"
        for name, value in parameters.items()
        if value is not None
    )
    user, password, database = (quote(part, safe="") for part in (user, password, database))
    return f"postgresql://{user}:{password}@/{database}?{query}"


def on_database(dsn: str, database: str) -> str:
    """Return the same connection string for another database of the same server."""
    parameters = parse_dsn(dsn)
    own = {"user", "password", "dbname", "host", "port"}
    return make_dsn(
        parameters.get("user", ""),
        parameters.get("password", ""),
        database,
        host=parameters.get("host"),
        port=parameters.get("port"),
        options={name: value for name, value in parameters.items() if name not in own},
    )


def password_of(dsn: str) -> str:
    """Return the password in a DSN.

    Raises:
        CounterfoilError: CONFIGURATION when it holds none.
    """
    password = parse_dsn(dsn).get("password")
    if not password:
        raise CounterfoilError(Code.CONFIGURATION, "The DSN holds no password.")
    return password


def read_dsn_file(path: Path) -> str:
    """Return the connection string in a file.

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
    """Write a DSN file that only this user can read, atomically."""
    write_private(path, (dsn + "\n").encode())


def find_dsn(dsn_file: Path | None = None) -> str:
    """Return the DSN: from the given file, or from the file or DSN that the environment names.

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
