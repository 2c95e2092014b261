"""What a custodian must not forget: each disclosure release that it signed, counted, and each refusal by its own rules.

sqlite, durable before an answer leaves.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection
from typing import Final

from shared.codec import cbor
from shared.runtime.journal import Journal, connect
from shared.statements.disclosures import DisclosureReason
from shared.verification.limits import DAY_MS, Rule

VERSION: Final = 1
MAX_REPORTS: Final = 32
"""Latest reports kept per rule: whoever keeps breaking a rule cannot fill the disk."""
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS releases (
  request BLOB PRIMARY KEY CHECK (length(request) = 32),
  statement BLOB NOT NULL,
  share BLOB NOT NULL,
  released_at INTEGER NOT NULL
) STRICT;
CREATE TABLE counted (
  request BLOB PRIMARY KEY CHECK (length(request) = 32),
  drawn_by TEXT NOT NULL,
  at INTEGER NOT NULL
) STRICT;
CREATE INDEX counted_at ON counted (at);
CREATE TABLE reports (
  id INTEGER PRIMARY KEY,
  rule TEXT NOT NULL,
  about BLOB NOT NULL CHECK (length(about) = 32),
  epoch INTEGER NOT NULL,
  detail TEXT NOT NULL,
  shown BLOB NOT NULL,
  at INTEGER NOT NULL,
  UNIQUE (rule, about)
) STRICT
"""


@dataclass(frozen=True, slots=True)
class Release:
    """A signed disclosure release and the sealed share that it is about."""

    statement: bytes
    share: bytes


@dataclass(frozen=True, slots=True)
class Report:
    """A refusal by one of the custodian's own rules (protocol §6.2.1)."""

    rule: Rule
    epoch: int
    detail: str
    about: bytes
    """Entry of the statement that asked for too much: each is reported once."""
    shown: Mapping[str, bytes]
    """The evidence: statements by name, and their tlog-proofs."""
    at: int
    """When it was first refused, ms."""


Decide = Callable[[Mapping[DisclosureReason, int]], None]


class ReleaseStore:
    """One release per request, forever: asking again gives the same bytes. Safe for several threads."""

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path, schema=_SCHEMA, version=VERSION)

    def close(self) -> None:
        """Close the database."""
        self._journal.close()

    def find(self, request: bytes) -> Release | None:
        """Return the release made for a request, if there is one."""
        return self._journal.read(lambda db: _find(db, request))

    def keep(
        self,
        request: bytes,
        release: Release,
        *,
        drawn_by: DisclosureReason,
        now: int,
        decide: Decide,
    ) -> Release:
        """Store and count a release unless there is one; return the one that counts. Durable on return.

        `decide` gets the releases of the last 24 hours by the rule that drew them, in the transaction that adds
        this one; if it raises, nothing changes. A clock that is set back forgets nothing.
        """

        def write(db: Connection) -> Release:
            known = _find(db, request)
            if known is not None:
                return known
            decide(_count(db, now))
            db.execute(
                "INSERT INTO releases VALUES (?, ?, ?, ?)",
                (request, release.statement, release.share, now),
            )
            db.execute("INSERT INTO counted VALUES (?, ?, ?)", (request, drawn_by.value, now))
            return release

        return self._journal.write_now(write)

    def report(self, report: Report) -> bool:
        """Keep a report once, and the last `MAX_REPORTS` per rule; return whether it is new."""
        key = (report.rule.value, report.about)
        if self._journal.read(lambda db: _reported(db, key)):
            return False
        values = (*key, report.epoch, report.detail, cbor.encode(dict(report.shown)), report.at)

        def write(db: Connection) -> bool:
            if _reported(db, key):
                return False
            db.execute(
                "INSERT INTO reports (rule, about, epoch, detail, shown, at) VALUES (?, ?, ?, ?, ?, ?)",
                values,
            )
            # The oldest go: each is in the log as well, and it takes that many offences of the same kind.
            db.execute(
                "DELETE FROM reports WHERE rule = ? AND id NOT IN"
                " (SELECT id FROM reports WHERE rule = ? ORDER BY id DESC LIMIT ?)",
                (report.rule.value, report.rule.value, MAX_REPORTS),
            )
            return True

        return self._journal.write_now(write)

    def reports(self) -> list[Report]:
        """Return the reports kept, oldest first."""
        return self._journal.read(_reports)


def read_reports(path: Path, now: int) -> tuple[list[Report], Mapping[DisclosureReason, int]]:
    """Return the reports in a custodian's file, and its releases of 24 hours; it may be running. NOT_FOUND without a file."""
    db = connect(path, read_only=True)
    try:
        return _reports(db), _count(db, now)
    finally:
        db.close()


def _find(db: Connection, request: bytes) -> Release | None:
    row = db.execute(
        "SELECT statement, share FROM releases WHERE request = ?", (request,)
    ).fetchone()
    return None if row is None else Release(*row)


def _count(db: Connection, now: int) -> dict[DisclosureReason, int]:
    rows = db.execute(
        "SELECT drawn_by, count(*) FROM counted WHERE at > ? GROUP BY drawn_by", (now - DAY_MS,)
    ).fetchall()
    return {DisclosureReason(kind): count for kind, count in rows}


def _reported(db: Connection, key: tuple[str, bytes]) -> bool:
    return bool(db.execute("SELECT 1 FROM reports WHERE rule = ? AND about = ?", key).fetchone())


def _reports(db: Connection) -> list[Report]:
    rows = db.execute(
        "SELECT rule, epoch, detail, about, shown, at FROM reports ORDER BY id"
    ).fetchall()
    return [
        Report(Rule(rule), epoch, detail, about, _shown(shown), at)
        for rule, epoch, detail, about, shown, at in rows
    ]


def _shown(data: bytes) -> dict[str, bytes]:
    read = cbor.decode(data)
    assert isinstance(read, dict)
    return {str(name): value for name, value in read.items() if isinstance(value, bytes)}
