"""Public statements, without a token: what anyone who monitors the log may read, as it was signed.

The tree shows hashes only; these routes show the statements behind those hashes that concern
everybody (`permissions.PUBLIC_TYPES`). Readers check each against the tree.
"""

import base64
from typing import Annotated, Final

from fastapi import APIRouter, Query
from sqlalchemy import select, text

from audit_layer.api.parts import Parts
from audit_layer.api.permissions import IDENTITY_TYPES, PUBLIC_TYPES
from audit_layer.api.schemas import Page, View
from audit_layer.storage.engine import session
from audit_layer.trail.models import StatementRow
from shared.runtime.errors import Code, CounterfoilError

LISTED: Final = PUBLIC_TYPES | IDENTITY_TYPES
"""Of identity statements, those of operators."""
MAX_LIMIT: Final = 256
MAX_PAGE_BYTES: Final = 2 * 2**20
"""Signed bytes on one page, not counting its first statement: strangers may ask as often as they like."""

# A lookup by (type, log_index) for each type: public statements are sparse among receipts.
_PAGE: Final = text(
    """
    SELECT found.log_index, found.bytes
    FROM unnest(CAST(:types AS text[])) AS wanted(type)
    CROSS JOIN LATERAL (
        SELECT log_index, length(raw) AS bytes FROM trail_statements
        WHERE type = wanted.type AND log_index > :after
        AND (type NOT IN ('identity-key', 'identity-key-end') OR starts_with(subject, 'operator/')) ORDER BY log_index LIMIT :limit
    ) AS found
    ORDER BY found.log_index LIMIT :limit
    """
)


class PublicStatement(View):
    """A public statement as it was signed, and its place in the log."""

    entry: str
    """SHA-256 of the statement: the leaf at that index."""
    log_index: int
    type: str
    raw: str
    """The signed bytes, base64."""

    @classmethod
    def of(cls, row: StatementRow) -> "PublicStatement":
        """Translate a row."""
        raw = base64.b64encode(row.raw).decode("ascii")
        return cls(entry=row.entry.hex(), log_index=row.log_index, type=row.type, raw=raw)


def public_statements_router(parts: Parts) -> APIRouter:
    """Return `GET /v1/public/statements`."""
    router = APIRouter(prefix="/v1/public", tags=["public"])

    @router.get("/statements")
    def statements(
        after: Annotated[
            int, Query(ge=-1, le=2**63 - 1, description="Log index after which the page begins.")
        ] = -1,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 100,
        kinds: Annotated[
            list[str] | None,
            Query(alias="type", max_length=len(LISTED), description="Only these types."),
        ] = None,
    ) -> Page[PublicStatement]:
        """Key bundles, revocations, operators' identity keys, rate cards and the beacon's statements, in log order."""
        return _page(parts, _types(kinds), after, limit)

    return router


def _types(asked: list[str] | None) -> list[str]:
    """Return the types to search for; INVALID_ARGUMENT for any that is not public."""
    wanted = frozenset(asked) if asked else LISTED
    if not wanted <= LISTED:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            "only public types can be read without a token",
            remedy=f"Ask for {', '.join(sorted(LISTED))}.",
        )
    return sorted(wanted)


def _page(parts: Parts, types: list[str], after: int, limit: int) -> Page[PublicStatement]:
    with session(parts.engine) as db:
        found = db.execute(_PAGE, {"types": types, "after": after, "limit": limit}).all()
        indexes: list[int] = []
        room = MAX_PAGE_BYTES
        for index, size in found:
            room -= size
            if indexes and room < 0:
                break
            indexes.append(index)
        rows = db.scalars(
            select(StatementRow)
            .where(StatementRow.log_index.in_(indexes))
            .order_by(StatementRow.log_index)
        ).all()
        items = [PublicStatement.of(row) for row in rows]
    more = len(items) < len(found) or len(items) == limit
    return Page[PublicStatement](items=items, next=indexes[-1] if indexes and more else None)
