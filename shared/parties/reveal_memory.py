"""What a beacon party must remember: under which seal it revealed each epoch, and which epochs it passed over.
sqlite, durable before a reveal is returned.
"""

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from threading import RLock

from shared.runtime.journal import keep_private
from shared.runtime.keys import private_folder
from shared.selection.party import Revealed

SCHEMAS = (
    """
CREATE TABLE IF NOT EXISTS reveals (
  epoch INTEGER PRIMARY KEY,
  seal BLOB NOT NULL CHECK (length(seal) = 32),
  first INTEGER NOT NULL,
  size INTEGER NOT NULL,
  statement BLOB NOT NULL
) STRICT
""",
    "CREATE TABLE IF NOT EXISTS passed (epoch INTEGER PRIMARY KEY) STRICT",
)


@dataclass(frozen=True, slots=True)
class Kept:
    """A signed reveal, and the seal and range under which it was made."""

    revealed: Revealed
    statement: bytes


class RevealMemory:
    """One reveal per epoch. `lock` is held while looking up, revealing and storing, so that two calls cannot interleave."""

    def __init__(self, path: Path) -> None:
        self.lock = RLock()
        private_folder(path.parent)
        keep_private(path)
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        for schema in SCHEMAS:
            self._db.execute(schema)

    def close(self) -> None:
        """Close the database."""
        with self.lock:
            self._db.close()

    def near(self, epoch: int) -> list[Kept]:
        """Return the reveals of this epoch and its neighbours: no other epoch's seal can overlap it unless theirs do."""
        with self.lock:
            rows = self._db.execute(
                "SELECT epoch, seal, first, size, statement FROM reveals WHERE epoch BETWEEN ? AND ?"
                " UNION SELECT epoch, seal, first, size, statement FROM reveals"
                " WHERE epoch IN (SELECT max(epoch) FROM reveals WHERE epoch < ?"
                " UNION SELECT min(epoch) FROM reveals WHERE epoch > ?)",
                (epoch - 1, epoch + 1, epoch, epoch),
            ).fetchall()
        return [Kept(Revealed(*row[:4]), row[4]) for row in rows]

    def find(self, epoch: int) -> Kept | None:
        """Return the reveal of an epoch."""
        return next((kept for kept in self.near(epoch) if kept.revealed.epoch == epoch), None)

    def keep(self, kept: Kept) -> None:
        """Store a reveal; durable on return."""
        value = kept.revealed
        with self.lock:
            self._db.execute(
                "INSERT INTO reveals VALUES (?, ?, ?, ?, ?)",
                (value.epoch, value.seal, value.first, value.size, kept.statement),
            )

    def pass_over(self, epoch: int) -> None:
        """Record, durably, that an epoch was drawn without this party's reveal and must no longer be revealed."""
        with self.lock:
            self._db.execute("INSERT OR IGNORE INTO passed VALUES (?)", (epoch,))

    def passed(self, epoch: int) -> bool:
        """Whether an epoch was passed over."""
        with self.lock:
            row = self._db.execute("SELECT 1 FROM passed WHERE epoch = ?", (epoch,)).fetchone()
        return row is not None
