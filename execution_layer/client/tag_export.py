"""What the archive knows about the tags of its orders, as a tag book for the tenant's finance people."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from shared.runtime.errors import CounterfoilError
from shared.runtime.keys import PRIVATE_FILE, write_result
from shared.statements.cose import open_as
from shared.statements.orders import Order
from shared.statements.tag_book import TagBook
from shared.statements.tags import canonical_tags


@dataclass(frozen=True, slots=True)
class Exported:
    """A tag book, and what it lacks."""

    book: TagBook
    left_out: int
    """Orders whose tag an earlier version of the client accepted, and which is outside today's limits."""


def book_of(tenant: str, orders: Iterable[tuple[bytes, Mapping[str, str]]]) -> Exported:
    """Return the book of (order statement, its tags). The values are the orders' own, whatever key made them."""
    entries: dict[bytes, Mapping[str, str]] = {}
    left_out = 0
    for statement, tags in orders:
        order, _ = open_as(Order, statement, None)
        try:
            canonical = canonical_tags(tags)
        except CounterfoilError:
            left_out += 1
            continue
        if order.cost_centre is not None:
            entries[order.cost_centre] = canonical
    return Exported(TagBook(tenant, entries), left_out)


def write_book(path: Path, book: TagBook, others: Iterable[Path]) -> TagBook:
    """Write a book, merged with those in other files, for its owner's eyes; return what was written."""
    for other in others:
        book = book.merged(TagBook.load(other))
    write_result(path, book.encode(), mode=PRIVATE_FILE)
    return book
