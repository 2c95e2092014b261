"""Everything that is on disk: files, files without a name, and the rows of every database of a server."""

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import psycopg
from psycopg import sql

from audit_layer.storage.dsn import on_database

Place = tuple[str, bytes]
"""What it is, and all bytes in it."""


def found(places: Iterable[Place], needles: Mapping[str, bytes]) -> list[str]:
    """Return where which needle was found."""
    return [
        f"{name}: {what}"
        for name, content in places
        for what, needle in needles.items()
        if needle in content
    ]


def files(folder: Path) -> Iterator[Place]:
    """Read every regular file below a folder, by name and by content: names are on disk, too."""
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # a running process removed it
            regular = stat.S_ISREG(path.lstat().st_mode)
            yield str(path), os.fsencode(path) + b"\n" + (path.read_bytes() if regular else b"")


def held_open(pid: int, folder: Path) -> Iterator[Place]:
    """Read the regular files that a process has open to write and that no search below the folder finds."""
    for entry in _entries(Path(f"/proc/{pid}/fd")):
        with contextlib.suppress(OSError):
            target, flags = str(entry.readlink()), _flags(pid, entry.name)
            hidden = target.endswith(" (deleted)") or not target.startswith(f"{folder}/")
            if hidden and flags & os.O_ACCMODE and stat.S_ISREG(entry.stat().st_mode):
                yield f"process {pid}: {target}", entry.read_bytes()


def rows(admin_dsn: str, databases: Iterable[str] = ()) -> Iterator[Place]:
    """Read every table of every database (or of those named), decompressed as only the server can."""
    for database in databases or _databases(admin_dsn):
        with psycopg.connect(on_database(admin_dsn, database)) as connection:
            for schema, table in _tables(connection):
                copy = sql.SQL("COPY (SELECT * FROM {}) TO STDOUT (FORMAT binary)")
                statement = copy.format(sql.Identifier(schema, table))
                with connection.cursor().copy(statement) as out:
                    yield f"{database}: {schema}.{table}", b"".join(map(bytes, out))


def _databases(admin_dsn: str) -> list[str]:
    with psycopg.connect(admin_dsn) as connection:
        asked = connection.execute("SELECT datname FROM pg_database WHERE datallowconn")
        return [name for (name,) in asked]


def _tables(connection: psycopg.Connection) -> list[tuple[str, str]]:
    return connection.execute(
        "SELECT schemaname, tablename FROM pg_tables"
        " WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2"
    ).fetchall()


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _flags(pid: int, number: str) -> int:
    told = Path(f"/proc/{pid}/fdinfo/{number}").read_text("ascii")
    return int(told.partition("flags:")[2].split()[0], 8)
