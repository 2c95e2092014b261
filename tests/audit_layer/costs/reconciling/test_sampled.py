"""What the sample says about an invoice: from the log's epochs, draws and verdicts, never from what anybody claims of them."""

from decimal import Decimal

from audit_layer.costs.reconciling.sampled import interval_of
from audit_layer.storage.engine import session
from audit_layer.trail.service import Submission
from shared.selection.draw import drawn_by_rate
from shared.statements.cose import entry_of, sign
from shared.statements.epochs import Draw, EpochOpen, EpochSeal
from tests.audit_layer.api import statements as made
from tests.audit_layer.costs.test_books import verdict
from tests.audit_layer.costs.test_service import EACH, MONTH, Books, books
from tests.audit_layer.trail.conftest import world

__all__ = ["books", "world"]

RATE = 500_000


def by_authority(value) -> bytes:
    return sign(value, key=made.key("authority"), issuer="authority")


def epoch(books: Books, entries: list[bytes], *, commitments=(b"\x01" * 32,), whole=False) -> Draw:
    """Log an epoch over everything so far, with a draw by its rate; return the draw."""
    rows = books.world.rows("SELECT entry, log_index FROM trail_receipts ORDER BY log_index")
    opened = by_authority(
        EpochOpen(epoch=0, at=made.NOW, first=0, commitments=commitments, rate_ppm=RATE, floor=0)
    )
    size = 1 + max(index for _, index in rows)
    seal = by_authority(
        EpochSeal(
            epoch=0,
            at=made.NOW,
            open=entry_of(opened),
            first=0,
            size=size,
            root=bytes(32),
            nodes={},
        )
    )
    seed = made.some("seed")
    drawn = tuple(
        index for entry, index in rows if whole or drawn_by_rate(seed, bytes(entry), RATE)
    )
    draw = Draw(epoch=0, seal=entry_of(seal), reveals=(), whole=whole, seed=seed, drawn=drawn)
    books.world.put(Submission(opened), Submission(seal), Submission(by_authority(draw)))
    return draw


def found(books: Books):
    with session(books.world.database.engine("server")) as db:
        return interval_of(db, "alpha", MONTH, tenant=None, rate=Decimal(1))


def drawn_of(books: Books, draw: Draw) -> list[bytes]:
    rows = books.world.rows("SELECT entry, log_index FROM trail_receipts ORDER BY log_index")
    return [bytes(entry) for entry, index in rows if index in draw.drawn]


def test_without_receipts_there_is_nothing_to_say(books: Books):
    assert found(books) is None


def test_what_was_never_drawn_may_all_be_overbilled(books: Books):
    for _ in range(4):
        books.receipt()
    books.costs.rate_new()
    interval = found(books)
    assert (interval.low, interval.high, interval.unaudited) == (0, 4 * EACH, 4 * EACH)


def test_clean_audits_narrow_it_and_a_confirmed_failure_is_a_lower_limit(books: Books):
    entries = [books.receipt() for _ in range(40)]
    books.costs.rate_new()
    chosen = drawn_of(books, epoch(books, entries))
    assert 5 < len(chosen) < 35
    unanswered = found(books)
    assert (unanswered.found, unanswered.open) == (0, len(chosen) * EACH)
    books.world.put(*(Submission(verdict(entry, "PASS")) for entry in chosen))
    clean = found(books)
    assert (clean.low, clean.found, clean.open) == (0, 0, 0)
    assert clean.high < unanswered.high == 40 * EACH
    first = verdict(chosen[0], "FAIL", "worker")
    second = verdict(chosen[0], "FAIL", "second", entry_of(first))
    books.world.trail.add_party("second", "worker", made.public("second"))
    books.world.put(Submission(first), Submission(second))
    books.costs.heed_new()
    convicted = found(books)
    assert convicted.found == EACH
    assert convicted.low >= EACH
    assert convicted.high > clean.high


def test_an_epoch_that_is_whole_for_a_missing_reveal_says_nothing_about_others(books: Books):
    """Whoever keeps a reveal back could choose by the draw which epochs are sampled: each limit takes the worst case."""
    entries = [books.receipt() for _ in range(10)]
    books.costs.rate_new()
    draw = epoch(books, entries, whole=True)
    books.world.put(*(Submission(verdict(entry, "PASS")) for entry in drawn_of(books, draw)))
    interval = found(books)
    assert (interval.low, interval.high, interval.unaudited) == (0, 0, 0)
