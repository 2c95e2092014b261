"""What a node's store has of responses, for those who read them again."""

import sqlite3

from execution_layer.node.request_records import StoredStream


def stream_of(db: sqlite3.Connection, order_entry: bytes) -> StoredStream | None:
    """Return what is known of the response to an order; None if it was never accepted."""
    row = db.execute(
        "SELECT *, (SELECT count(*) FROM frames WHERE request = requests.id) AS frames,"
        " EXISTS (SELECT 1 FROM receipts WHERE request = requests.id) AS finished"
        " FROM requests WHERE order_entry = ?",
        (order_entry,),
    ).fetchone()
    if row is None:
        return None
    return StoredStream(
        request=row["id"],
        order=row["order_statement"],
        tenant_key=row["tenant_key"],
        node_nonce=row["node_nonce"],
        frames=row["frames"],
        finished=bool(row["finished"]),
        kept=row["envelope"] is not None,
        final_record=row["final_record"] or b"",
        final_signature=row["final_signature"] or b"",
    )


def frames_after(
    db: sqlite3.Connection, request: int, position: int, limit: int
) -> list[tuple[int, bytes]]:
    """Return up to `limit` (position, ciphertext) of a request's frames behind `position`, in order."""
    query = (
        "SELECT position, ciphertext FROM frames WHERE request = ? AND position > ?"
        " ORDER BY position LIMIT ?"
    )
    rows = db.execute(query, (request, position, limit)).fetchall()
    return [(row["position"], row["ciphertext"]) for row in rows]
