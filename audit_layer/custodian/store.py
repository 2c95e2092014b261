"""What a custodian must not forget: each release that it signed. sqlite, durable before the answer leaves."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

SCHEMA = """
CREATE TABLE IF NOT EXISTS releases (
  request BLOB PRIMARY KEY CHECK (length(request) = 32),
  statement BLOB NOT NULL,
  share BLOB NOT NULL,
  released_at INTEGER NOT NULL
) STRICT
"""


@dataclass(frozen=True, slots=True)
class Release:
    """A signed release and the sealed share that it speaks of."""

    statement: bytes
    share: bytes


class ReleaseStore:
    """One release per request, for ever: asking again gives the same bytes. Safe for several threads."""

    def __init__(self, path: Path) -> None:
        self._lock = Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute(SCHEMA)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    def find(self, request: bytes) -> Release | None:
        """Return the release made for a request, if there is one."""
        with self._lock:
            row = self._db.execute(
                "SELECT statement, share FROM releases WHERE request = ?", (request,)
            ).fetchone()
        return None if row is None else Release(*row)

    def keep(self, request: bytes, release: Release, now: int) -> Release:
        """Store a release unless there is one; return the one that counts. Durable on return."""
        with self._lock:
            self._db.execute(
                "INSERT INTO releases VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (request, release.statement, release.share, now),
            )
        kept = self.find(request)
        assert kept is not None
        return kept
