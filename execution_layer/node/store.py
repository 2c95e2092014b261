"""The node's memory: accepted requests, frames, receipts in sequence, and the meter (sqlite).
When a method returns, its write is on disk. The order of writes makes a crash harmless: a request is
stored as accepted before the client hears of it, a frame before it is sent, and the receipt, with its
unique number and predecessor, before the final record is sent.
"""

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from execution_layer.node.at_rest import AtRest
from execution_layer.node.request_records import (
    AcceptedRecord,
    MeterRow,
    SignedReceipt,
    StoredEvidence,
    UnfinishedRecord,
)
from execution_layer.node.schema import SCHEMA, UPGRADES, VERSION
from shared.codec import cbor
from shared.codec.moment import day_of
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.journal import Journal
from shared.statements.cose import entry_of
from shared.statements.receipts import NO_RECEIPT, Finish, Receipt
from shared.statements.refusals import Refusal

Sign = Callable[[Receipt], bytes]
SignRefusal = Callable[[Refusal], bytes]
SealFinal = Callable[[bytes], tuple[bytes, bytes]]
"""Receipt statement -> (final record's ciphertext, signature over it)"""


class NodeStore:
    """Requests and receipts of one node. One process at a time."""

    def __init__(self, path: Path, storage_key: bytes) -> None:
        self.journal = Journal(
            path, schema=SCHEMA, version=VERSION, upgrades=UPGRADES, exclusive=True
        )
        self.at_rest = AtRest(storage_key)

    def close(self) -> None:
        """Finish queued writes and close the file."""
        self.journal.close()

    def was_seen(self, order_entry: bytes, ctx: bytes) -> bool:
        """Return whether an order or an envelope was accepted, or the order refused, before."""
        query = "SELECT 1 FROM seen WHERE hash IN (?, ?)"
        return (
            self.journal.read(lambda db: db.execute(query, (order_entry, ctx)).fetchone())
            is not None
        )

    async def accept(self, record: AcceptedRecord, *, until_ms: int) -> int:
        """Record an accepted request and return its id; REPLAYED if its order, envelope or number was seen before.
        `until_ms` is when order and envelope have expired: both are remembered at least until then.
        """
        secret = self.at_rest.seal(record.secret, record.order_entry)

        def insert(db: sqlite3.Connection) -> int:
            db.executemany(
                "INSERT INTO seen VALUES (?, ?)",
                [(record.order_entry, until_ms), (record.ctx, until_ms)],
            )
            cursor = db.execute(
                "INSERT INTO requests (order_entry, ctx, tenant, number, attempt, order_statement,"
                " request_id, envelope, secret, node_nonce, model_root, numeric_profile, settings,"
                " input, prompt_tokens, started, tenant_key, stage_orders) VALUES"
                " (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (
                    record.order_entry,
                    record.ctx,
                    record.tenant,
                    record.number,
                    record.attempt,
                    record.order,
                    record.request_id,
                    record.envelope or None,
                    secret,
                    record.node_nonce,
                    record.model_root,
                    record.numeric_profile,
                    record.settings,
                    record.input,
                    record.prompt_tokens,
                    record.started,
                    record.tenant_key,
                    cbor.encode([*record.parts]) if record.parts else None,
                ),
            )
            assert cursor.lastrowid is not None
            if record.head is not None:
                db.execute("INSERT INTO parts VALUES (?, ?)", (cursor.lastrowid, record.head))
            return cursor.lastrowid

        try:
            return await self.journal.write(insert)
        except sqlite3.IntegrityError as error:
            raise CounterfoilError(
                Code.REPLAYED,
                f"order {record.number} attempt {record.attempt} of {record.tenant} was used before",
                remedy="Seal the request again and order it under the next attempt.",
            ) from error

    def refusal_of(self, order_entry: bytes) -> bytes | None:
        """Return the signed refusal of an order, None if it was not refused."""
        return self.journal.read(lambda db: _refusal_of(db, order_entry))

    async def refuse(
        self, refusal: Refusal, sign: SignRefusal, *, until_ms: int, most: int
    ) -> bytes | None:
        """Sign and record that an order is refused, and return what was signed: what was signed before, if there is that.

        None if the order, or another one under its number and attempt, was accepted, and if the tenant already has `most` refusals.
        The order is remembered at least until `until_ms`, and never accepted.
        """

        def write(db: sqlite3.Connection) -> bytes | None:
            if (kept := _refusal_of(db, refusal.order)) is not None:
                return kept
            if _was_accepted(db, refusal) or _refusals(db, refusal.tenant) >= most:
                return None
            statement = sign(refusal)
            db.execute("INSERT INTO seen VALUES (?, ?)", (refusal.order, until_ms))
            db.execute(
                "INSERT INTO refusals VALUES (?, ?, ?, ?)",
                (refusal.order, refusal.tenant, statement, until_ms),
            )
            return statement

        return await self.journal.write(write)

    async def forget_expired(self, *, before_ms: int) -> int:
        """Forget orders, envelopes and refusals that expired before `before_ms`; return how many hashes."""

        def forget(db: sqlite3.Connection) -> int:
            db.execute("DELETE FROM refusals WHERE until < ?", (before_ms,))
            return db.execute("DELETE FROM seen WHERE until < ?", (before_ms,)).rowcount

        return await self.journal.write(forget)

    async def append_frame(
        self, request: int, position: int, ciphertext: bytes, *, cached: int | None = None
    ) -> None:
        """Store frame `position` (from 1) of a request; with the first token, the prompt positions that were not computed."""

        def write(db: sqlite3.Connection) -> None:
            db.execute("INSERT INTO frames VALUES (?, ?, ?)", (request, position, ciphertext))
            if cached is not None:
                db.execute("UPDATE requests SET cached = ? WHERE id = ?", (cached, request))

        await self.journal.write(write)

    async def note_cancel(self, request: int, signature: bytes) -> None:
        """Record that a tenant has cancelled its request: it does not go on after a restart."""
        await self.journal.write(
            lambda db: db.execute(
                "UPDATE requests SET cancel = ? WHERE id = ?", (signature, request)
            )
        )

    async def note_interruption(self, request: int) -> None:
        """Count a restart after which a request goes on."""
        query = "UPDATE requests SET interruptions = interruptions + 1 WHERE id = ?"
        await self.journal.write(lambda db: db.execute(query, (request,)))

    async def note_stop(self, request: int) -> None:
        """Take back the restart to come: that the node was asked to stop is no sign that a request ends its processes."""
        query = "UPDATE requests SET interruptions = interruptions - 1 WHERE id = ?"
        await self.journal.write(lambda db: db.execute(query, (request,)))

    async def finish(
        self, request: int, draft: Receipt, *, sign: Sign, seal_final: SealFinal | None
    ) -> SignedReceipt:
        """Number, sign and store a receipt with its final record, and meter it; one transaction.

        `draft` is the receipt without its number and predecessor. `seal_final` turns the signed receipt
        into the final record's ciphertext and the signature over it; None if it cannot be sealed any more.
        """

        def write(db: sqlite3.Connection) -> SignedReceipt:
            sequence, statement = write_receipt(db, request, draft, sign)
            final = (b"", b"") if seal_final is None else seal_final(statement)
            db.execute(
                "UPDATE requests SET final_record = ?, final_signature = ? WHERE id = ?",
                (*final, request),
            )
            return SignedReceipt(sequence, entry_of(statement), statement, *final)

        return await self.journal.write(write)

    def unfinished(self) -> list[UnfinishedRecord]:
        """Return the accepted requests for whole answers without a receipt, oldest first."""
        query = (
            "SELECT *, NULL AS head FROM requests WHERE id NOT IN (SELECT request FROM receipts)"
            " AND id NOT IN (SELECT request FROM parts) ORDER BY id"
        )
        rows = self.journal.read(lambda db: db.execute(query).fetchall())
        return [
            UnfinishedRecord(
                id=row["id"],
                accepted=self.record(row),
                frames=self._frames(row["id"]),
                cancelled=row["cancel"] is not None,
                cached=row["cached"] or 0,
                interruptions=row["interruptions"],
            )
            for row in rows
        ]

    def evidence_of(self, receipt_entry: bytes) -> StoredEvidence | None:
        """Return the ciphertexts behind a receipt, None if there is no such receipt or they are gone."""
        return self.journal.read(lambda db: stored_evidence(db, receipt_entry))

    async def remember_rate_card(self, entry: bytes, statement: bytes) -> None:
        """Store a rate card, so that what was ordered under it can be billed later."""
        await self.journal.write(
            lambda db: db.execute(
                "INSERT OR IGNORE INTO rate_cards VALUES (?, ?)", (entry, statement)
            )
        )

    async def purge_evidence(self, *, before_ms: int, max_bytes: int) -> int:
        """Remove evidence older than `before_ms`, then the oldest above `max_bytes`; return how many requests.

        Only requests whose receipt the log has acknowledged are touched.
        """

        def purge(db: sqlite3.Connection) -> int:
            doomed = _purgeable(db, before_ms=before_ms, max_bytes=max_bytes)
            for request in doomed:
                db.execute("DELETE FROM frames WHERE request = ?", (request,))
                db.execute(
                    "UPDATE requests SET envelope = NULL, secret = NULL, final_record = NULL"
                    " WHERE id = ?",
                    (request,),
                )
            return len(doomed)

        return await self.journal.write(purge)

    def _frames(self, request: int) -> tuple[bytes, ...]:
        return self.journal.read(lambda db: _frames_of(db, request))

    def record(self, row: sqlite3.Row) -> AcceptedRecord:
        """Return the request that is stored in a row of `requests`, with the `head` of `parts`."""
        return AcceptedRecord(
            order=row["order_statement"],
            order_entry=row["order_entry"],
            tenant=row["tenant"],
            number=row["number"],
            attempt=row["attempt"],
            ctx=row["ctx"],
            envelope=row["envelope"] or b"",
            request_id=row["request_id"],
            secret=self.at_rest.open(row["secret"], row["order_entry"]),
            node_nonce=row["node_nonce"],
            model_root=row["model_root"],
            numeric_profile=row["numeric_profile"],
            settings=row["settings"],
            input=row["input"],
            prompt_tokens=row["prompt_tokens"],
            started=row["started"],
            tenant_key=row["tenant_key"],
            head=row["head"],
            parts=_parts(row["stage_orders"]),
        )


def stored_evidence(db: sqlite3.Connection, receipt_entry: bytes) -> StoredEvidence | None:
    """Return the ciphertexts behind a receipt, None if there is no such receipt or they are gone."""
    row = db.execute(
        "SELECT requests.*, receipts.statement AS receipt FROM requests JOIN receipts ON receipts.request = requests.id"
        " WHERE receipts.entry = ? AND envelope IS NOT NULL",
        (receipt_entry,),
    ).fetchone()
    if row is None:
        return None
    return StoredEvidence(
        receipt=row["receipt"],
        order=row["order_statement"],
        envelope=row["envelope"],
        node_nonce=row["node_nonce"],
        frames=_frames_of(db, row["id"]),
        final_record=row["final_record"] or b"",
        final_signature=row["final_signature"] or b"",
    )


def _refusal_of(db: sqlite3.Connection, order_entry: bytes) -> bytes | None:
    query = "SELECT statement FROM refusals WHERE order_entry = ?"
    row = db.execute(query, (order_entry,)).fetchone()
    return None if row is None else bytes(row["statement"])


def _was_accepted(db: sqlite3.Connection, refusal: Refusal) -> bool:
    query = (
        "SELECT 1 FROM seen WHERE hash = ?"
        " UNION ALL SELECT 1 FROM requests WHERE tenant = ? AND number = ? AND attempt = ?"
    )
    asked = (refusal.order, refusal.tenant, refusal.number, refusal.attempt)
    return db.execute(query, asked).fetchone() is not None


def _refusals(db: sqlite3.Connection, tenant: str) -> int:
    (count,) = db.execute("SELECT count(*) FROM refusals WHERE tenant = ?", (tenant,)).fetchone()
    return int(count)


def _frames_of(db: sqlite3.Connection, request: int) -> tuple[bytes, ...]:
    query = "SELECT ciphertext FROM frames WHERE request = ? ORDER BY position"
    return tuple(row["ciphertext"] for row in db.execute(query, (request,)).fetchall())


def meter_rows(db: sqlite3.Connection, *, first_day: str, end_day: str) -> list[MeterRow]:
    """Return the meter rows for the days first_day <= day < end_day (ISO form)."""
    rows = db.execute(
        "SELECT * FROM meter WHERE day >= ? AND day < ? ORDER BY day, tenant, model_root, rate_card",
        (first_day, end_day),
    )
    return [MeterRow(**dict(row)) for row in rows]


def rate_card_statements(db: sqlite3.Connection) -> dict[bytes, bytes]:
    """Return every rate card that the node has used, by entry."""
    return {row["entry"]: row["statement"] for row in db.execute("SELECT * FROM rate_cards")}


def write_receipt(
    db: sqlite3.Connection, request: int, draft: Receipt, sign: Sign
) -> tuple[int, bytes]:
    """Number, sign, store and meter a request's receipt; return its number and the statement."""
    sequence, previous = _next_in_sequence(db)
    receipt = replace(draft, node_sequence=sequence, previous=previous)
    statement = sign(receipt)
    db.execute(
        "INSERT INTO receipts (sequence, request, entry, statement) VALUES (?, ?, ?, ?)",
        (sequence, request, entry_of(statement), statement),
    )
    _meter(db, receipt)
    return sequence, statement


def _next_in_sequence(db: sqlite3.Connection) -> tuple[int, bytes]:
    last = db.execute(
        "SELECT sequence, entry FROM receipts ORDER BY sequence DESC LIMIT 1"
    ).fetchone()
    if last is None:
        return 0, NO_RECEIPT
    return last["sequence"] + 1, last["entry"]


def _meter(db: sqlite3.Connection, receipt: Receipt) -> None:
    """Count a receipt's tokens; a request that failed at the node, or got no token, is not charged (protocol §8.3)."""
    usage = receipt.usage
    if receipt.finish is Finish.FAILED or not usage.output:
        return
    key = (receipt.tenant, receipt.model_root, day_of(receipt.ended).isoformat(), receipt.rate_card)
    db.execute(
        "INSERT INTO meter VALUES (?, ?, ?, ?, ?, ?, ?, 1)"
        " ON CONFLICT (day, tenant, model_root, rate_card) DO UPDATE SET"
        " input = input + excluded.input, cached = cached + excluded.cached,"
        " output = output + excluded.output, requests = requests + 1",
        (*key, usage.input, usage.cached, usage.output),
    )


def _purgeable(db: sqlite3.Connection, *, before_ms: int, max_bytes: int) -> list[int]:
    """Return the requests whose evidence is to be removed: too old, or the oldest above the limit."""
    rows = db.execute(
        "SELECT id, started, length(envelope) + coalesce(length(final_record), 0) + coalesce((SELECT"
        " sum(length(ciphertext)) FROM frames WHERE request = requests.id), 0) AS size,"
        " EXISTS (SELECT 1 FROM receipts WHERE request = requests.id AND log_index IS NOT NULL) AS done"
        " FROM requests WHERE envelope IS NOT NULL ORDER BY id"
    ).fetchall()
    excess = sum(row["size"] for row in rows) - max_bytes
    doomed = []
    for row in rows:
        if row["done"] and (row["started"] < before_ms or excess > 0):
            doomed.append(row["id"])
            excess -= row["size"]
    return doomed


def _parts(stored: bytes | None) -> tuple[bytes, ...]:
    """Return the orders for stages; CORRUPT if they are not what was stored."""
    found = [] if stored is None else cbor.decode(stored)
    if not isinstance(found, list) or not all(isinstance(part, bytes) for part in found):
        raise CounterfoilError(Code.CORRUPT, "stored orders for stages are not orders")
    return tuple(part for part in found if isinstance(part, bytes))
