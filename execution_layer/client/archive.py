"""The client's own records: without them there is no client-held disclosure, and no proof against a node.

One sqlite file that only its owner can read. A transcript is on disk before its order is sent. Numbers are
assigned in the same transaction, so no number is in use twice at a time, even by two processes. So that the log sees no gap, a
number under which nothing was accepted is closed by the node's signed refusal, or goes to the next request.
"""

import contextlib
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from execution_layer.client.audit_records import note_new
from execution_layer.client.order_numbers import (
    CLOSING,
    FORGOTTEN,
    FORGOTTEN_MS,
    give_back,
    next_attempt,
    next_number,
)
from execution_layer.client.part_records import (
    NewPart,
    Part,
    PartRecords,
    note_part_receipts,
    note_parts,
    parts_in,
)
from execution_layer.client.schema import SCHEMA, UPGRADES, VERSION
from shared.codec.ids import parse_hex32
from shared.codec.moment import now_ms
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.journal import Journal, connect


class State(StrEnum):
    """How far an attempt got."""

    ORDERED = "ordered"
    """The order is on disk and may have been sent."""
    ANSWERED = "answered"
    """A checked receipt has been received."""
    REFUSED = "refused"
    """The node did not accept the request."""
    BROKEN = "broken"
    """The stream ended without a receipt."""
    LOST = "lost"
    """The stream ended without a receipt, and its node has no more of it."""
    DISBELIEVED = "disbelieved"
    """The node's response did not pass the checks; it is kept as evidence."""


@dataclass(frozen=True, slots=True, repr=False)
class NewTranscript:
    """One attempt, before it is sent."""

    node: str
    bundle: bytes
    """Entry of the key bundle."""
    secret: bytes
    envelope: bytes
    tags: Mapping[str, str] | None
    audited: bool = False
    """Whether its audit is to be asked for, once it is answered."""
    canary: bool = False
    """Whether it is sent to test its node: only the archive knows."""
    parts: tuple[NewPart, ...] = ()
    """What the stages of a chain are ordered to do, in order."""


@dataclass(frozen=True, slots=True)
class Ordered:
    """What the archive assigned to an attempt."""

    id: int
    number: int
    attempt: int
    statement: bytes
    entry: bytes
    parts: tuple[tuple[bytes, bytes], ...] = ()
    """(statement, entry) of the order for each stage of a chain, in order."""


@dataclass(frozen=True, slots=True, repr=False)
class Received:
    """What came back: everything, even if it is not believed."""

    node_nonce: bytes | None
    accepted_signature: bytes | None
    """Over h_0."""
    frames: tuple[tuple[bytes, bytes], ...]
    """(ciphertext, signature) in order."""
    final_record: bytes | None
    final_signature: bytes | None


@dataclass(frozen=True, slots=True, repr=False)
class Transcript:
    """One attempt as it is archived."""

    id: int
    number: int
    attempt: int
    node: str
    bundle: bytes
    created: int
    secret: bytes
    envelope: bytes
    order_statement: bytes
    order_entry: bytes
    tags: Mapping[str, str] | None
    state: State
    problem: str | None
    node_nonce: bytes | None
    accepted_signature: bytes | None
    final_record: bytes | None
    final_signature: bytes | None
    receipt: bytes | None
    receipt_entry: bytes | None
    finished: int | None
    proof: str | None
    log_index: int | None
    handed_in: int | None
    refusal: bytes | None
    refusal_entry: bytes | None
    rejected: str | None
    frames: tuple[bytes, ...]
    signatures: tuple[bytes, ...]
    parts: tuple[Part, ...] = ()
    """The stages' parts, in order, if the node is the head of a chain."""

    @property
    def evidence(self) -> tuple[bytes, bytes] | None:
        """(statement, entry) of what the node signed for the log about this attempt: its receipt, or else its refusal."""
        if self.receipt is not None and self.receipt_entry is not None:
            return self.receipt, self.receipt_entry
        if self.refusal is not None and self.refusal_entry is not None:
            return self.refusal, self.refusal_entry
        return None


SignOrder = Callable[[int, int], tuple[bytes, bytes]]
"""(number, attempt) -> (statement, entry)"""
SignPart = Callable[[int, int, bytes, int], tuple[bytes, bytes]]
"""(number, attempt, entry of the head's order, place) -> (statement, entry)"""
LATEST: Final = "latest"
_LATEST_FIRST = "SELECT * FROM transcripts ORDER BY id DESC LIMIT ?"


class Archive(PartRecords):
    """Transcripts of one tenant, and what it knows of the log."""

    def __init__(self, path: Path) -> None:
        super().__init__(Journal(path, schema=SCHEMA, version=VERSION, upgrades=UPGRADES))
        before = now_ms() - FORGOTTEN_MS
        if self._journal.read(lambda db: db.execute(FORGOTTEN, (before,)).fetchone()):
            self._journal.write_now(
                lambda db: db.execute(f"INSERT OR IGNORE INTO free_numbers {FORGOTTEN}", (before,))
            )

    def close(self) -> None:
        """Close the file."""
        self._journal.close()

    async def order(
        self,
        new: NewTranscript,
        sign: SignOrder,
        *,
        number: int | None = None,
        key: bytes | None = None,
        sign_part: SignPart | None = None,
    ) -> Ordered:
        """Assign a number (or the next attempt of `number`), sign with the private half of `key`, also what `new.parts` are ordered
        to do (`sign_part`), and record it all.
        A number that was given back is used before a new one, with its next attempt: by signing it the tenant states that no
        earlier attempt was delivered, so whatever a refusing node kept of them is not payable (protocol §8).
        """

        def write(db: sqlite3.Connection) -> Ordered:
            given, attempt = next_number(db) if number is None else next_attempt(db, number)
            statement, entry = sign(given, attempt)
            tags = None if new.tags is None else json.dumps(dict(new.tags), ensure_ascii=False)
            cursor = db.execute(
                "INSERT INTO transcripts (number, attempt, node, bundle, created, secret, envelope,"
                " order_statement, order_entry, tags) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(given, attempt, new.node, new.bundle, now_ms(), new.secret, new.envelope),
                    *(statement, entry, tags),
                ),
            )
            if key is not None:
                db.execute("INSERT INTO own_keys VALUES (?) ON CONFLICT DO NOTHING", (key,))
            assert cursor.lastrowid is not None
            note_new(db, cursor.lastrowid, audited=new.audited, canary=new.canary)
            parts = _sign_parts(new, given, attempt, entry, sign_part)
            note_parts(db, cursor.lastrowid, new.parts, parts)
            return Ordered(cursor.lastrowid, given, attempt, statement, entry, parts)

        return await self._journal.write(write)

    async def give_back(self, number: int) -> None:
        """Free a number for the next request, unless an attempt under it was, or may yet be, accepted, or the last one was
        refused with a signature: that closes the number.
        """
        await self._journal.write(lambda db: give_back(db, number))

    async def keep(self, transcript: int, received: Received, known: int) -> None:
        """Record what has arrived so far; the first `known` frames are recorded already."""

        def write(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE transcripts SET node_nonce = ?, accepted_signature = ? WHERE id = ?",
                (received.node_nonce, received.accepted_signature, transcript),
            )
            _insert_frames(db, transcript, received, known)

        await self._journal.write(write)

    async def keep_contradiction(
        self, transcript: int, position: int, value: bytes, signature: bytes
    ) -> None:
        """Record what a node signed beside a frame that it had sent, or (position 0) beside its nonce."""
        row = (transcript, position, value, signature, now_ms())
        await self._journal.write(
            lambda db: db.execute(
                "INSERT INTO contradictions VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", row
            )
        )

    async def close_attempt(
        self,
        transcript: int,
        state: State,
        received: Received,
        *,
        receipt: tuple[bytes, bytes] | None = None,
        refusal: tuple[bytes, bytes] | None = None,
        problem: str | None = None,
        parts: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        """Record how an attempt ended; `receipt` or `refusal` is (statement, entry) of one that passed the checks, as are those of
        the stages in order (`parts`).
        """
        statement, entry = receipt or (None, None)
        refused, refusal_entry = refusal or (None, None)

        def write(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE transcripts SET state = ?, problem = ?, node_nonce = ?, accepted_signature = ?,"
                " final_record = ?, final_signature = ?, receipt = ?, receipt_entry = ?, finished = ?, refusal = ?,"
                " refusal_entry = ? WHERE id = ?",
                (
                    *(state.value, problem, received.node_nonce, received.accepted_signature),
                    *(received.final_record, received.final_signature),
                    *(statement, entry, now_ms(), refused, refusal_entry, transcript),
                ),
            )
            _insert_frames(db, transcript, received, 0)
            note_part_receipts(db, transcript, parts)

        await self._journal.write(write)

    async def attach_proof(self, transcript: int, proof: str, index: int) -> None:
        """Store a receipt's or a refusal's verified tlog-proof."""
        await self._journal.write(
            lambda db: db.execute(
                "UPDATE transcripts SET proof = ?, log_index = ? WHERE id = ?",
                (proof, index, transcript),
            )
        )

    async def note_handed_in(self, transcript: int) -> None:
        """Record that the client itself submitted the receipt, or the refusal, to the log."""
        at = now_ms()
        await self._journal.write(
            lambda db: db.execute(
                "UPDATE transcripts SET handed_in = ? WHERE id = ?", (at, transcript)
            )
        )

    async def note_rejected(self, transcript: Transcript, reason: str) -> None:
        """Record why the log does not take a refusal, which then closes nothing: its number goes to the next request."""

        def write(db: sqlite3.Connection) -> None:
            db.execute("UPDATE transcripts SET rejected = ? WHERE id = ?", (reason, transcript.id))
            give_back(db, transcript.number)

        await self._journal.write(write)

    def get(self, transcript: int) -> Transcript:
        """Return a transcript by its id; NOT_FOUND if there is none."""
        return self._one("SELECT * FROM transcripts WHERE id = ?", transcript)

    def by_entry(self, entry: bytes) -> Transcript:
        """Return the transcript of a receipt, a refusal or an order, by its entry; NOT_FOUND if there is none."""
        query = (
            "SELECT * FROM transcripts WHERE receipt_entry = ?1 OR order_entry = ?1"
            " OR refusal IS NOT NULL AND refusal_entry = ?1"
        )
        return self._one(query, entry)

    def find(self, which: str) -> Transcript:
        """Return a transcript as people name it: by the hexadecimal entry of its receipt, refusal or order, or `latest`."""
        if which == LATEST:
            return self._one(_LATEST_FIRST, 1)
        return self.by_entry(parse_hex32(which, "an entry"))

    def whole(self, which: str) -> Transcript:
        """Return a transcript as `find` does, or that of which an entry names a stage's part."""
        part = self.named_part(which)
        return self.find(which) if part is None else self.get(part.transcript)

    def named_part(self, which: str) -> Part | None:
        """Return the stage's part whose order or receipt is named by its hexadecimal entry; None if it is not a part's."""
        return None if which == LATEST else self.part(parse_hex32(which, "an entry"))

    def latest(self, limit: int) -> list[Transcript]:
        """Return the newest transcripts, newest first."""
        return self._many(_LATEST_FIRST, limit)

    def unproved(self) -> list[Transcript]:
        """Return the transcripts whose receipts, or handed in refusals, have no proof yet."""
        return self._many(
            "SELECT * FROM transcripts WHERE receipt IS NOT NULL AND proof IS NULL UNION ALL"
            " SELECT * FROM transcripts WHERE refusal IS NOT NULL AND receipt IS NULL AND handed_in IS NOT NULL AND proof IS NULL"
        )

    def closing(self, *, before_ms: int, limit: int) -> list[Transcript]:
        """Return attempts that ended by `before_ms` and whose refusals the log is to have: the last attempts of their numbers, and
        those whose nodes contradict themselves. Each is returned until the log has answered.
        """
        return self._many(CLOSING, before_ms, limit)

    def unfinished(self) -> list[Transcript]:
        """Return the attempts whose answers may have a rest at their nodes: the last ones of their numbers, oldest first."""
        return self._many(
            "SELECT * FROM transcripts AS one WHERE state IN ('ordered', 'broken') AND NOT EXISTS (SELECT 1 FROM"
            " transcripts AS later WHERE later.number = one.number AND later.attempt > one.attempt) ORDER BY id"
        )

    def contradictions(self, transcript: int) -> list[tuple[int, bytes, bytes]]:
        """Return (position, value, signature) of what the node signed beside what it had sent."""
        query = "SELECT position, value, signature FROM contradictions WHERE transcript = ?"
        rows = self._journal.read(lambda db: db.execute(query, (transcript,)).fetchall())
        return [tuple(row) for row in rows]

    def accused(self) -> list[Transcript]:
        """Return the attempts about which their nodes signed things that cannot both be true, oldest first."""
        return self._many(
            "SELECT * FROM transcripts WHERE id IN (SELECT transcript FROM contradictions) OR refusal IS NOT NULL"
            " AND (receipt IS NOT NULL OR accepted_signature IS NOT NULL) ORDER BY id"
        )

    def tagged(self) -> list[tuple[bytes, Mapping[str, str]]]:
        """Return (order statement, tags) of every attempt that has tags, oldest first."""
        query = "SELECT order_statement, tags FROM transcripts WHERE tags IS NOT NULL ORDER BY id"
        rows = self._journal.read(lambda db: db.execute(query).fetchall())
        return [(row["order_statement"], json.loads(row["tags"])) for row in rows]

    def counts(self) -> dict[str, int]:
        """Return how many numbers were assigned, how many receipts (stages' included) and refusals are held, and how many receipts
        are proved.
        """
        names = ("numbers", "receipts", "proofs", "refusals")
        query = (
            "SELECT count(DISTINCT number), count(receipt) + (SELECT count(receipt) FROM parts), count(proof) FILTER (WHERE"
            " receipt IS NOT NULL) + (SELECT count(proof) FROM parts), count(refusal) FROM transcripts"
        )
        row = self._journal.read(lambda db: db.execute(query).fetchone())
        return dict(zip(names, row, strict=True))

    def _one(self, query: str, *arguments: int | bytes) -> Transcript:
        found = self._many(query, *arguments)
        if not found:
            raise CounterfoilError(Code.NOT_FOUND, "the archive has no such transcript")
        return found[0]

    def _many(self, query: str, *arguments: int | bytes) -> list[Transcript]:
        return self._journal.read(
            lambda db: [_transcript(db, row) for row in db.execute(query, arguments).fetchall()]
        )


def _sign_parts(
    new: NewTranscript, number: int, attempt: int, head: bytes, sign: SignPart | None
) -> tuple[tuple[bytes, bytes], ...]:
    if sign is None:
        return ()
    places = range(1, len(new.parts) + 1)
    return tuple(sign(number, attempt, head, place) for place in places)


def own_keys_in(path: Path) -> tuple[bytes, ...]:
    """Return the public keys with which the orders in an archive were signed, as far as it knows; none if there is no archive."""
    if not path.exists():
        return ()
    with contextlib.closing(connect(path, read_only=True)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'own_keys'").fetchone():
            return ()  # of an earlier version
        return tuple(bytes(row["key"]) for row in db.execute("SELECT key FROM own_keys"))


def _insert_frames(db: sqlite3.Connection, transcript: int, received: Received, known: int) -> None:
    db.executemany(
        "INSERT OR IGNORE INTO frames VALUES (?, ?, ?, ?)",
        [
            (transcript, position, ciphertext, signature)
            for position, (ciphertext, signature) in enumerate(received.frames, start=1)
            if position > known
        ],
    )


def _transcript(db: sqlite3.Connection, row: sqlite3.Row) -> Transcript:
    query = "SELECT ciphertext, signature FROM frames WHERE transcript = ? ORDER BY position"
    frames = db.execute(query, (row["id"],)).fetchall()
    tags = None if row["tags"] is None else json.loads(row["tags"])
    values = {**dict(row), "tags": tags, "state": State(row["state"])}
    return Transcript(
        **values,
        frames=tuple(frame["ciphertext"] for frame in frames),
        signatures=tuple(frame["signature"] for frame in frames),
        parts=parts_in(db, row["id"]),
    )
