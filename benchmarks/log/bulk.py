"""Straight into the store: the sequencer's batches, without the trail's rows and with them."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from hashlib import sha256

from audit_layer.log.sequencer import Hook, Sequenced, Sequencer, Submission
from audit_layer.storage.engine import make_engine
from audit_layer.trail.admission import Admitted
from audit_layer.trail.write_rows import write_rows
from benchmarks.log.platform import Store
from benchmarks.log.statements import Source
from shared.statements.receipts import NO_RECEIPT, Receipt

ISSUERS = 8
"""Number domains over which bare entries are spread."""


def bare(seed: bytes, first: int, count: int) -> list[Submission]:
    """Return entries without statements behind them, numbered without gaps in a few domains."""
    issuers = [sha256(seed + b"issuer %d" % place).digest() for place in range(ISSUERS)]
    return [
        Submission(bare_entry(seed, index), issuers[index % ISSUERS], index // ISSUERS)
        for index in range(first, first + count)
    ]


def bare_entry(seed: bytes, index: int) -> bytes:
    """Return the entry that `bare` puts at an index."""
    return sha256(seed + b"entry %d" % index).digest()


def admitted(source: Source, count: int) -> list[Submission]:
    """Return genuinely signed and admitted receipts, as the trail passes them to the sequencer."""
    return [
        Submission(item.statement.entry, item.issuer, item.number, attachment=item)
        for item in source.admitted(source.receipts(count))
    ]


def copies(source: Source) -> Callable[[int, int], list[Submission]]:
    """Return a maker of numbered copies of one admitted receipt, faster than signing each.

    A copy has the rows of a receipt of its number, under its own entry and order's entry; its bytes are the original's,
    so nothing that reads the trail back would accept it.
    """
    (model,) = admitted(source, 1)
    item = model.attachment
    assert isinstance(item, Admitted)
    assert isinstance(item.value, Receipt)
    assert item.order is not None
    statement, receipt, order = item.statement, item.value, item.order

    def make(first: int, count: int) -> list[Submission]:
        made = []
        for number in range(first, first + count):
            entry, ordered = bare_entry(source.seed, number), bare_entry(source.seed, ~number)
            attachment = replace(
                item,
                statement=replace(statement, entry=entry),
                value=replace(
                    receipt,
                    number=number,
                    node_sequence=number,
                    order=ordered,
                    previous=bare_entry(source.seed, number - 1) if number else NO_RECEIPT,
                ),
                number=number,
                order=replace(order, entry=ordered),
            )
            made.append(Submission(entry, model.issuer, number, attachment=attachment))
        return made

    return make


def measure(store: Store, items: Sequence[Submission], batch: int) -> float:
    """Append everything to an empty log in batches of one size; return entries per second.

    Items with attachments bring the trail's rows along.
    """
    database = store.fresh_database()
    engine = make_engine(store.dsn("server", database))
    try:
        sequencer = Sequencer(engine)
        engine.connect().close()  # connecting is not part of appending
        began = time.perf_counter()
        for part in cut(items, batch):
            results = sequencer.append(part, in_transaction=hook_of(part))
            assert all(isinstance(result, Sequenced) for result in results)
        return len(items) / (time.perf_counter() - began)
    finally:
        engine.dispose()
        store.drop(database)


def hook_of(items: Sequence[Submission]) -> Hook | None:
    """Return what the server's batcher runs in the transaction, where items have rows of the trail."""
    return write_rows if isinstance(items[0].attachment, Admitted) else None


def cut(items: Sequence[Submission], batch: int) -> Iterator[Sequence[Submission]]:
    """Yield batches in order; the last one may be smaller."""
    for at in range(0, len(items), batch):
        yield items[at : at + batch]
