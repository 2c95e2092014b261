"""Pages of a list in log order, from either end, and entries found by prefix."""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Engine, Select, select
from sqlalchemy.orm import InstrumentedAttribute

from audit_layer.storage.engine import session
from audit_layer.trail.models import StatementRow
from shared.codec.ids import parse_hex_prefix
from shared.runtime.errors import Code, CounterfoilError

MAX_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Span:
    """One page: at most `limit` items (never more than MAX_PAGE) that follow the log index `after`.

    Oldest first, these have higher indexes; newest first, lower ones. -1 is before the first item in either order. What
    the log admits meanwhile changes no later page, only where the newest begin.
    """

    after: int = -1
    limit: int = 100
    newest_first: bool = False

    def of(self, query: Select[Any], index: InstrumentedAttribute[int]) -> Select[Any]:
        """Return the query for this part of a list, in its order."""
        limit = min(self.limit, MAX_PAGE)
        if not self.newest_first:
            return query.where(index > self.after).order_by(index).limit(limit)
        if self.after >= 0:
            query = query.where(index < self.after)
        return query.order_by(index.desc()).limit(limit)


def find_entry(engine: Engine, text: str) -> bytes:
    """Return the entry that begins with these 12 to 64 hexadecimal digits; given all 64, it need not be in the log.

    NOT_FOUND when there is none, INVALID_ARGUMENT when there are several.
    """
    low, high = parse_hex_prefix(text, "an entry")
    if low == high:
        return low
    with session(engine) as db:
        found = db.scalars(
            select(StatementRow.entry).where(StatementRow.entry.between(low, high)).limit(2)
        ).all()
    if not found:
        raise CounterfoilError(Code.NOT_FOUND, f"no entry begins with {text}")
    if len(found) > 1:
        raise CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"several entries begin with {text}",
            remedy="Give more of its digits.",
        )
    return found[0]
