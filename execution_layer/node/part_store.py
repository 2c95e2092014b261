"""A stage's memory of the parts that it has accepted: in the node's store, among its other requests."""

from dataclasses import dataclass

from execution_layer.node.request_records import AcceptedRecord
from execution_layer.node.store import NodeStore, Sign, write_receipt
from shared.statements.receipts import Receipt

_PARTS = (
    "SELECT requests.*, parts.head, receipts.statement FROM requests JOIN parts ON parts.request = requests.id"
    " LEFT JOIN receipts ON receipts.request = requests.id"
)


@dataclass(frozen=True, slots=True, repr=False)
class StoredPart:
    """What is stored of an accepted part."""

    head: str
    receipt: bytes | None
    """The statement, once there is one."""


class PartStore:
    """Parts by the entries of their orders."""

    def __init__(self, store: NodeStore) -> None:
        self._store = store

    async def accept(self, record: AcceptedRecord, *, until_ms: int) -> int:
        """Record an accepted part and return its id; REPLAYED as for whole answers."""
        return await self._store.accept(record, until_ms=until_ms)

    def find(self, order: bytes) -> StoredPart | None:
        """Return what is stored of the part that an order (by its entry) asks for."""
        query = f"{_PARTS} WHERE order_entry = ?"
        row = self._store.journal.read(lambda db: db.execute(query, (order,)).fetchone())
        return None if row is None else StoredPart(row["head"], row["statement"])

    def kept(self) -> list[tuple[int, AcceptedRecord, bool]]:
        """Return the parts whose secrets are kept, with their ids, and whether they have a receipt; oldest first."""
        query = f"{_PARTS} WHERE secret IS NOT NULL ORDER BY id"
        rows = self._store.journal.read(lambda db: db.execute(query).fetchall())
        return [(row["id"], self._store.record(row), row["statement"] is not None) for row in rows]

    async def finish(self, request: int, draft: Receipt, sign: Sign) -> bytes:
        """Number, sign, store and meter a part's receipt; one transaction. Returns the statement."""
        return await self._store.journal.write(
            lambda db: write_receipt(db, request, draft, sign)[1]
        )

    async def forget(self, request: int) -> None:
        """Forget a part's secrets."""
        await self._store.journal.write(
            lambda db: db.execute("UPDATE requests SET secret = NULL WHERE id = ?", (request,))
        )
