"""What a witness must never forget, in sqlite: the latest checkpoint of each log, and proof of forks."""

import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.journal import keep_private
from shared.runtime.keys import private_folder
from shared.translog.checkpoint import Checkpoint

_MAX_EVIDENCE = 100
_MEMORY = Path(":memory:")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS latest (
    origin TEXT PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL, note TEXT NOT NULL,
    changed_at INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS forks (
    origin TEXT NOT NULL, size INTEGER NOT NULL, root BLOB NOT NULL, note TEXT NOT NULL,
    seen_at INTEGER NOT NULL, PRIMARY KEY (origin, size, root)
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Held:
    """The latest checkpoint cosigned for a log."""

    checkpoint: Checkpoint
    note: str


@dataclass(frozen=True, slots=True)
class Standing:
    """The size of the latest checkpoint cosigned for a log, and when it changed (POSIX seconds)."""

    size: int
    changed_at: int


class WitnessStore:
    """One database file (WAL, synchronous=FULL). Safe for threads, and for several processes."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            if path != _MEMORY:
                private_folder(path.parent)
                keep_private(path)
            self._db = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=10.0
            )
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as e:
            raise CounterfoilError(
                Code.CONFIGURATION, f"the witness cannot open its database: {e}"
            ) from e

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def latest(self, origin: str) -> Held | None:
        """Return the latest checkpoint cosigned for a log."""
        with self._lock:
            return self._latest(origin)

    def advance(
        self,
        checkpoint: Checkpoint,
        note: str,
        clock: Callable[[], float],
        decide: Callable[[Held | None], None],
    ) -> int:
        """Durably make a checkpoint the latest, if `decide` lets it follow the one held so far.

        `decide` runs inside the write transaction, so no other request can move the state between
        the decision and the write; if it raises, nothing changes. Returns the POSIX
        seconds of the change, read in the same transaction: at that time this checkpoint was the latest.
        """
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                held = self._latest(checkpoint.origin)
                decide(held)
                now_s = int(clock())
                if held is None or held.checkpoint != checkpoint:
                    self._db.execute(
                        "INSERT INTO latest VALUES (?, ?, ?, ?, ?) ON CONFLICT (origin) DO UPDATE SET"
                        " size = excluded.size, root = excluded.root, note = excluded.note,"
                        " changed_at = excluded.changed_at",
                        (checkpoint.origin, checkpoint.size, checkpoint.root, note, now_s),
                    )
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            return now_s

    def record_fork(self, checkpoint: Checkpoint, note: str, now_s: int) -> None:
        """Keep a signed checkpoint that contradicts the one held: proof of the log's misbehaviour."""
        with self._lock:
            (count,) = self._db.execute("SELECT count(*) FROM forks").fetchone()
            if count < _MAX_EVIDENCE:
                self._db.execute(
                    "INSERT OR IGNORE INTO forks VALUES (?, ?, ?, ?, ?)",
                    (checkpoint.origin, checkpoint.size, checkpoint.root, note, now_s),
                )

    def forks(self, origin: str) -> list[str]:
        """Return the notes kept as proof against a log."""
        with self._lock:
            rows = self._db.execute(
                "SELECT note FROM forks WHERE origin = ? ORDER BY seen_at", (origin,)
            ).fetchall()
        return [str(note) for (note,) in rows]

    def standings(self) -> list[Standing]:
        """Return how each log stands."""
        with self._lock:
            rows = self._db.execute("SELECT size, changed_at FROM latest").fetchall()
        return [Standing(*row) for row in rows]

    def fork_count(self) -> int:
        """Return how many checkpoints are kept as proof against logs."""
        with self._lock:
            (count,) = self._db.execute("SELECT count(*) FROM forks").fetchone()
        return int(count)

    def _latest(self, origin: str) -> Held | None:
        row = self._db.execute(
            "SELECT size, root, note FROM latest WHERE origin = ?", (origin,)
        ).fetchone()
        return None if row is None else Held(Checkpoint(origin, row[0], row[1]), row[2])
