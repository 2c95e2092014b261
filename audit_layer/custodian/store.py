"""What a custodian must not forget: each disclosure release and escrow report that it signed, what it counted and handed out,
and each refusal by its own rules.

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
from shared.verification.limits import DAY_MS, Released, Rule

VERSION: Final = 3
MAX_REPORTS: Final = 32
"""Latest reports kept per rule: whoever keeps breaking a rule cannot fill the disk."""
_FIRST: Final = """
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
_SECOND: Final = """
CREATE TABLE accounts (
  request BLOB PRIMARY KEY CHECK (length(request) = 32),
  receipt BLOB NOT NULL CHECK (length(receipt) = 32),
  tenant TEXT NOT NULL,
  reason TEXT NOT NULL,
  authority BLOB NOT NULL CHECK (length(authority) = 32)
) STRICT;
CREATE TABLE handed_out (
  request BLOB PRIMARY KEY CHECK (length(request) = 32),
  log_index INTEGER NOT NULL,
  at INTEGER NOT NULL
) STRICT;
CREATE TABLE escrow_reports (
  request BLOB PRIMARY KEY CHECK (length(request) = 32),
  statement BLOB NOT NULL,
  at INTEGER NOT NULL
) STRICT
"""
_THIRD: Final = """
CREATE TABLE reports_3 (
  id INTEGER PRIMARY KEY,
  rule TEXT NOT NULL,
  about BLOB NOT NULL CHECK (length(about) = 32),
  epoch INTEGER,
  detail TEXT NOT NULL,
  shown BLOB NOT NULL,
  at INTEGER NOT NULL,
  UNIQUE (rule, about)
) STRICT;
INSERT INTO reports_3 SELECT id, rule, about, epoch, detail, shown, at FROM reports;
DROP TABLE reports;
ALTER TABLE reports_3 RENAME TO reports
"""
"""What a tenant asked for is of no epoch."""
_SCHEMA: Final = f"{_FIRST};{_SECOND};{_THIRD}"


@dataclass(frozen=True, slots=True)
class Release:
    """A signed disclosure release and the sealed share that it is about."""

    statement: bytes
    share: bytes


@dataclass(frozen=True, slots=True)
class Account:
    """What a release is about, for the custodian's limits and its own log."""

    receipt: bytes
    tenant: str
    reason: DisclosureReason
    """The one that the request gives."""
    drawn_by: DisclosureReason
    """The rule that draws the receipt (DRAW, FLOOR or WHOLE), or TENANT."""
    authority: bytes
    """Key id with which the request is signed."""


@dataclass(frozen=True, slots=True)
class Logged:
    """One line of the custodian's own log of releases."""

    request: bytes
    statement: bytes
    """The disclosure release."""
    released_at: int
    tenant: str | None
    """None, like the reason, for what was released before this log was kept."""
    reason: DisclosureReason | None
    log_index: int | None
    """Where the release is in the log, by the proof that was shown; None if nobody has shown one."""
    handed_out_at: int | None
    """When the share first left, ms; None if it has not."""


@dataclass(frozen=True, slots=True)
class Report:
    """A refusal by one of the custodian's own rules (protocol §6.2.1)."""

    rule: Rule
    epoch: int | None
    """None if a tenant asked for what was refused."""
    detail: str
    about: bytes
    """Entry of the statement that asked for too much: each is reported once."""
    shown: Mapping[str, bytes]
    """The evidence: statements by name, and their tlog-proofs."""
    at: int
    """When it was first refused, ms."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many releases and reports there are; nothing of what they are about."""

    released: Mapping[DisclosureReason, int]
    """In the last 24 hours, by the rule that drew them."""
    handed_out: int
    reports: Mapping[str, int]
    """By rule."""
    escrow_reports: int


Decide = Callable[[Released], None]


class ReleaseStore:
    """One release or escrow report per request, forever: asking again gives the same bytes. Safe for several threads."""

    def __init__(self, path: Path) -> None:
        self._journal = Journal(
            path, schema=_SCHEMA, version=VERSION, upgrades={1: _SECOND, 2: _THIRD}
        )

    def close(self) -> None:
        """Close the database."""
        self._journal.close()

    def find(self, request: bytes) -> Release | None:
        """Return the release made for a request, if there is one."""
        return self._journal.read(lambda db: _find(db, request))

    def find_report(self, request: bytes) -> bytes | None:
        """Return the escrow report made for a request, if there is one."""
        return self._journal.read(lambda db: _find_report(db, request))

    def keep(
        self, request: bytes, release: Release, account: Account, *, now: int, decide: Decide
    ) -> Release:
        """Store and count a release unless there is one; return the one that counts. Durable on return.

        `decide` gets the releases of the last 24 hours, in the transaction that adds this one; if it raises,
        nothing changes. A clock that is set back forgets nothing.
        """

        def write(db: Connection) -> Release:
            known = _find(db, request)
            if known is not None:
                return known
            decide(_released(db, account, now))
            db.execute(
                "INSERT INTO releases VALUES (?, ?, ?, ?)",
                (request, release.statement, release.share, now),
            )
            db.execute(
                "INSERT INTO counted VALUES (?, ?, ?)", (request, account.drawn_by.value, now)
            )
            db.execute(
                "INSERT INTO accounts VALUES (?, ?, ?, ?, ?)",
                (request, account.receipt, account.tenant, account.reason.value, account.authority),
            )
            return release

        return self._journal.write_now(write)

    def keep_report(self, request: bytes, statement: bytes, *, now: int) -> bytes:
        """Store an escrow report unless there is one; return the one that counts. Durable on return."""

        def write(db: Connection) -> bytes:
            known = _find_report(db, request)
            if known is not None:
                return known
            db.execute("INSERT INTO escrow_reports VALUES (?, ?, ?)", (request, statement, now))
            return statement

        return self._journal.write_now(write)

    def hand_out(self, request: bytes, *, log_index: int, now: int) -> None:
        """Record that a release was shown to be in the log and its share leaves; the first time counts. Durable on return."""

        def write(db: Connection) -> None:
            db.execute(
                "INSERT OR IGNORE INTO handed_out VALUES (?, ?, ?)", (request, log_index, now)
            )

        self._journal.write_now(write)

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

    def counts(self, now: int) -> Counts:
        """Return how many there are of each kind at `now` (ms)."""
        return self._journal.read(lambda db: _counts(db, now))

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


def read_releases(path: Path) -> list[Logged]:
    """Return what a custodian's file holds of its releases, oldest first; it may be running. NOT_FOUND without a file."""
    db = connect(path, read_only=True)
    try:
        rows = db.execute(
            "SELECT r.request, r.statement, r.released_at, a.tenant, a.reason, h.log_index, h.at FROM releases r"
            " LEFT JOIN accounts a USING (request) LEFT JOIN handed_out h USING (request)"
            " ORDER BY r.released_at, r.rowid"
        ).fetchall()
    finally:
        db.close()
    return [
        Logged(
            request=request,
            statement=statement,
            released_at=released_at,
            tenant=tenant,
            reason=None if reason is None else DisclosureReason(reason),
            log_index=log_index,
            handed_out_at=handed_out_at,
        )
        for request, statement, released_at, tenant, reason, log_index, handed_out_at in rows
    ]


def read_escrow_reports(path: Path) -> list[bytes]:
    """Return the escrow reports in a custodian's file, oldest first; it may be running. NOT_FOUND without a file."""
    db = connect(path, read_only=True)
    try:
        return [
            bytes(raw) for (raw,) in db.execute("SELECT statement FROM escrow_reports ORDER BY at")
        ]
    finally:
        db.close()


def _find(db: Connection, request: bytes) -> Release | None:
    row = db.execute(
        "SELECT statement, share FROM releases WHERE request = ?", (request,)
    ).fetchone()
    return None if row is None else Release(*row)


def _find_report(db: Connection, request: bytes) -> bytes | None:
    row = db.execute(
        "SELECT statement FROM escrow_reports WHERE request = ?", (request,)
    ).fetchone()
    return None if row is None else bytes(row[0])


def _released(db: Connection, account: Account, now: int) -> Released:
    of_tenant, of_authority = db.execute(
        "SELECT count(*) FILTER (WHERE tenant = ?), count(*) FILTER (WHERE authority = ?)"
        " FROM counted JOIN accounts USING (request) WHERE at > ?",
        (account.tenant, account.authority, now - DAY_MS),
    ).fetchone()
    return Released(_count(db, now), of_tenant, of_authority)


def _count(db: Connection, now: int) -> dict[DisclosureReason, int]:
    rows = db.execute(
        "SELECT drawn_by, count(*) FROM counted WHERE at > ? GROUP BY drawn_by", (now - DAY_MS,)
    ).fetchall()
    return {DisclosureReason(kind): count for kind, count in rows}


def _counts(db: Connection, now: int) -> Counts:
    (handed_out,) = db.execute("SELECT count(*) FROM handed_out").fetchone()
    (escrow,) = db.execute("SELECT count(*) FROM escrow_reports").fetchone()
    rules = db.execute("SELECT rule, count(*) FROM reports GROUP BY rule ORDER BY rule").fetchall()
    return Counts(_count(db, now), handed_out, dict(rules), escrow)


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
