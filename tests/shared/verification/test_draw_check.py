"""The check of a draw: what the rule makes passes, and each way of spoiling it has its name."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.runtime.errors import CounterfoilError
from shared.statements.beacons import BeaconReveal
from shared.statements.cose import open_as, sign
from shared.statements.disclosures import DisclosureReason
from shared.verification.draw_check import DAY_MS, HOUR_MS, Known, Wrong
from shared.verification.epoch_record import TYPES, epoch_of, gather
from shared.verification.trust import Trust
from tests.shared.verification.epochs import DEADLINE, KEYS, PARTIES, Book, Spec, reveal
from tests.vectors.samples import NOW, octets, signing_key

PUBLIC = Known()
STRANGER = signing_key("stranger")
LATE = DEADLINE + DAY_MS + 1


def book(**spoiled) -> Book:
    """Three epochs, the middle one spoiled."""
    return Book(Spec(), Spec(**spoiled), Spec())


def kinds(made: Book, **options) -> set[Wrong]:
    found = made.wrong(**options)
    assert {epoch for epoch, _, _ in found} <= {1, 2}
    return {wrong for _, _, wrong in found}


# -- honest ------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    epochs=st.lists(
        st.tuples(
            st.lists(st.integers(0, 3), max_size=12),
            st.integers(0, 1_000_000),
            st.integers(0, 4),
            st.integers(0, 3),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=4,
    ),
    late=st.booleans(),
)
def test_what_the_rule_makes_passes_every_step(epochs, late):
    specs = [
        Spec(bundles, rate_ppm, floor, PARTIES[:parties], min(silent, parties))
        for bundles, rate_ppm, floor, parties, silent in epochs
    ]
    made = Book(*specs)
    assert made.wrong(now=LATE if late else NOW) == []
    assert made.wrong(now=LATE, known=PUBLIC, trust=Trust()) == []
    assert {checked.steps for checked in made.check()} == {tuple(range(1, 13))}


def test_unknown_parts_are_skipped_and_the_steps_say_so():
    made = book()
    some = made.receipts[:3]
    for known, steps in (
        (PUBLIC, range(1, 8)),
        (Known(entries=dict(enumerate(made.entries))), range(1, 9)),
        (Known(receipts=some), (*range(1, 8), 10)),
        (Known(receipts=some, requests=made.requests), (*range(1, 8), 10, 11)),
    ):
        assert [checked.steps for checked in made.check(known=known)] == [tuple(steps)] * 3


# -- the sample ----------------------------------------------------------------------------------------


def left_out(reason: DisclosureReason, **options) -> tuple[Book, int]:
    """A draw without one receipt that is due for a reason."""
    index = next(item.index for item in book(**options).rules[1] if item.reason is reason)
    spoil = lambda d: replace(d, drawn=tuple(i for i in d.drawn if i != index))  # noqa: E731
    return book(draw=spoil, **options), index


@pytest.mark.parametrize("options", [{}, {"silent": 1}], ids=["rate", "whole"])
def test_one_receipt_left_out_is_missing(options):
    reason = DisclosureReason.WHOLE if options else DisclosureReason.DRAW
    made, index = left_out(reason, **options)
    assert kinds(made) == {Wrong.MISSING}
    (fault,) = made.check()[1].faults
    assert (fault.step, str(index) in fault.detail) == (10, True)


def test_a_tenant_finds_its_own_receipt_left_out_and_strangers_cannot():
    made, index = left_out(DisclosureReason.DRAW)
    mine = [receipt for receipt in made.receipts if receipt.index == index]
    assert kinds(made, known=Known(receipts=mine)) == {Wrong.MISSING}
    others = [receipt for receipt in made.receipts if receipt.index != index]
    assert kinds(made, known=Known(receipts=others)) == set()
    assert kinds(made, known=PUBLIC) == set()


def test_a_floor_that_is_too_small_is_named():
    made, _ = left_out(DisclosureReason.FLOOR, rate_ppm=0, floor=2)
    assert kinds(made) == {Wrong.FLOOR}


def inside(made: Book) -> list[int]:
    """Indexes of the middle epoch's receipts."""
    seal = gather(made.statements)[1].seal.value
    return [r.index for r in made.receipts if seal.first <= r.index < seal.size]


def test_one_receipt_too_many_is_extra():
    honest = book()
    drawn = {item.index for item in honest.rules[1]}
    index = next(i for i in inside(honest) if i not in drawn)
    made = book(draw=lambda d: replace(d, drawn=tuple(sorted({*d.drawn, index}))))
    assert kinds(made) == {Wrong.EXTRA}


def test_more_than_all_floors_is_seen_from_the_entries_alone():
    everything = tuple(inside(book(rate_ppm=0)))
    made = book(rate_ppm=0, draw=lambda d: replace(d, drawn=everything))
    assert kinds(made, known=Known(entries=dict(enumerate(made.entries)))) == {Wrong.EXTRA}


def test_a_receipt_from_outside_the_epoch_is_extra_foreverybody():
    made = book(draw=lambda d: replace(d, drawn=(4, *d.drawn)))
    assert kinds(made, known=PUBLIC) == {Wrong.EXTRA}


# -- seed, whole, beacon -------------------------------------------------------------------------------


def test_a_wrong_seed_is_named():
    made = book(draw=lambda d: replace(d, seed=octets("chosen")))
    assert kinds(made, known=PUBLIC) == {Wrong.SEED}


def test_whole_without_cause_is_named():
    made = book(draw=lambda d: replace(d, whole=True))
    assert kinds(made, known=PUBLIC) == {Wrong.WHOLE}


def test_not_whole_although_a_reveal_is_missing_is_named():
    made = book(silent=1, draw=lambda d: replace(d, whole=False))
    assert kinds(made, known=PUBLIC) == {Wrong.NOT_WHOLE}
    without = book(parties=(), draw=lambda d: replace(d, whole=False))
    assert kinds(without, known=PUBLIC) == {Wrong.NOT_WHOLE}


def test_a_reveal_called_missing_that_the_log_has_is_whole_without_cause():
    made = book(draw=lambda d: replace(d, whole=True, reveals=d.reveals[:2]))
    assert Wrong.WHOLE in kinds(made, known=PUBLIC)
    (fault,) = [f for f in made.check(known=PUBLIC)[1].faults if f.wrong is Wrong.WHOLE]
    assert "custodian-2" in fault.detail


def test_a_reveal_that_came_after_the_draw_is_not_a_fault():
    made = book(silent=1)
    record = gather(made.statements)[1]
    made.put(reveal(PARTIES[2], 1, record.seal.statement.raw))
    assert made.wrong() == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda told: [told[1], told[0], told[2]],
        lambda told: [told[0], told[0], told[2]],
        lambda told: [reveal(PARTIES[0], 1, book().statements[0][1]), *told[1:]],
        lambda told: [_forged(told[0]), *told[1:]],
    ],
    ids=["out of order", "twice", "another seal", "another key"],
)
def test_reveals_that_are_not_those_of_the_commitments_in_order_are_named(spoil):
    made = book(reveals=spoil)
    for trust in (KEYS, Trust()):
        assert Wrong.REVEAL in kinds(made, known=PUBLIC, trust=trust)


def _forged(raw: bytes) -> bytes:
    """The same reveal, signed by a key that its commitment does not have."""
    value, _ = open_as(BeaconReveal, raw, None)
    return sign(value, key=STRANGER, issuer=value.party, subject="epoch-1")


def test_a_commitment_of_another_epoch_or_after_the_opening_is_named():
    made = book(commitment=lambda raw: PARTIES[0].commit(7) if raw == PARTIES[0].commit(1) else raw)
    assert Wrong.COMMITMENT in kinds(made, known=PUBLIC)
    absent = book(opened=lambda o: replace(o, commitments=(octets("none"), *o.commitments[1:])))
    assert Wrong.COMMITMENT in kinds(absent, known=PUBLIC)


# -- the seal and the succession -------------------------------------------------------------------------


def test_a_wrong_node_hash_is_named_and_a_node_left_out_too():
    wrong = book(seal=lambda s: replace(s, nodes={**s.nodes, min(s.nodes): octets("x")}))
    assert kinds(wrong) == {Wrong.NODES}
    without = book(
        seal=lambda s: replace(s, nodes={k: v for k, v in s.nodes.items() if k != min(s.nodes)})
    )
    assert kinds(without) == {Wrong.NODES}


def test_a_range_that_overlaps_or_skips_is_named():
    overlapping = book(seal=lambda s: replace(s, first=s.first - 2))
    assert Wrong.OVERLAP in kinds(overlapping, known=PUBLIC)
    skipping = book(seal=lambda s: replace(s, first=s.first + 2))
    assert Wrong.SKIPPED in kinds(skipping, known=PUBLIC)


def test_an_epoch_that_is_never_sealed_is_skipped_by_the_next():
    made = book()
    seal = gather(made.statements)[1].seal
    made.statements = [item for item in made.statements if item[0] != seal.index]
    assert kinds(made, known=PUBLIC) == {Wrong.SKIPPED}
    details = [fault.detail for fault in made.check(known=PUBLIC)[1].faults]
    assert any("sealed before it is 0" in detail for detail in details)


def test_a_seal_that_ends_beyond_itself_or_names_another_opening_is_out_of_order():
    assert Wrong.ORDER in kinds(book(seal=lambda s: replace(s, size=s.size + 9)), known=PUBLIC)
    assert Wrong.ORDER in kinds(book(seal=lambda s: replace(s, open=octets("x"))), known=PUBLIC)
    assert Wrong.ORDER in kinds(book(draw=lambda d: replace(d, seal=octets("x"))), known=PUBLIC)


@pytest.mark.parametrize("name", ["open", "seal", "draw"])
def test_a_statement_by_another_key_is_named_also_where_no_key_is_known(name):
    made = book(keys={name: STRANGER})
    for trust in (KEYS, Trust()):
        assert kinds(made, known=PUBLIC, trust=trust) == {Wrong.ORDER}


@pytest.mark.parametrize("at", [-1, -2], ids=["draw", "seal"])
def test_a_second_statement_for_one_epoch_is_named(at):
    made = book(silent=3)
    record = gather(made.statements)[1]
    again = (record.draw if at == -1 else record.seal).value
    change = {"whole": False} if at == -1 else {"at": NOW + 1}
    made.signed(replace(again, **change))
    assert kinds(made, known=PUBLIC) == {Wrong.SECOND}


def test_a_sealed_epoch_that_is_never_drawn_is_named_once_it_is_due():
    made = book(drawn=False)
    assert kinds(made, now=NOW + HOUR_MS) == set()
    assert kinds(made, now=NOW + HOUR_MS + 1) == {Wrong.UNDRAWN}


# -- what follows a draw -------------------------------------------------------------------------------


def test_a_missing_request_is_named_once_it_is_due():
    made = book()
    gone = made.requests.pop(
        next(i for i, r in enumerate(made.requests) if r.index in inside(made))
    )
    assert kinds(made, now=NOW + HOUR_MS) == set()
    assert kinds(made, now=NOW + HOUR_MS + 1) == {Wrong.REQUEST}
    assert str(gone.index) in made.check(now=LATE)[1].faults[0].detail


@pytest.mark.parametrize(
    "change",
    [{"draw": octets("draw")}, {"index": 1}, {"reason": DisclosureReason.WHOLE}],
    ids=["draw", "index", "reason"],
)
def test_a_request_that_says_something_else_is_none(change):
    made = book()
    at = next(i for i, r in enumerate(made.requests) if r.index in inside(made))
    made.requests[at] = replace(made.requests[at], **change)
    assert kinds(made, now=LATE) == {Wrong.REQUEST}


def test_a_missing_verdict_is_named_a_day_after_the_deadline():
    made = book()
    assert made.wrong(now=LATE - 1, judged=False) == []
    assert {wrong for _, _, wrong in made.wrong(now=LATE, judged=False)} == {Wrong.OUTCOME}


# -- reading -------------------------------------------------------------------------------------------


def test_statements_are_gathered_by_epoch_in_any_order_and_broken_ones_are_refused():
    made = book()
    assert [r.epoch for r in gather(made.statements[::-1])] == [0, 1, 2]
    assert gather(made.statements[::-1]) == gather(made.statements)
    assert {epoch_of(raw) for _, raw in made.statements} == {0, 1, 2, 3}
    assert len(TYPES) == 5
    with pytest.raises(CounterfoilError):
        gather([(0, b"junk")])


def test_an_opening_without_a_seal_and_a_seal_without_its_opening_give_no_record():
    made = book()
    record = gather(made.statements)[1]
    for gone in (record.seal, record.opened):
        rest = [(index, raw) for index, raw in made.statements if index != gone.index]
        assert [r.epoch for r in gather(rest)] == [0, 2]


# -- (13): strictness -------------------------------------------------------------------------------------------------


STRICT = Spec(rate_ppm=0, floor=1, strict_floor=4, strict=(0,))
"""Five receipts of bundle 0, three of bundle 1."""


def strictly(book: Book, due: Sequence[int]) -> list[tuple[int, Wrong]]:
    """Return (step, fault) of the first epoch, checked by an auditor who finds these key bundles in need of strictness."""
    known = Known(
        entries=dict(enumerate(book.entries)),
        receipts=book.receipts,
        all_receipts=True,
        strict=frozenset(octets(f"bundle {number}") for number in due),
    )
    (first, *_) = book.check(known=known)
    assert first.steps[-1] == 13
    return [(fault.step, fault.wrong) for fault in first.faults]


def test_a_strict_key_bundle_is_drawn_at_the_strict_floor():
    book = Book(STRICT)
    assert strictly(book, due=[0]) == []
    by_bundle: Counter[bytes] = Counter()
    places = {receipt.entry: receipt.bundle for receipt in book.receipts}
    for item in book.rules[0]:
        by_bundle[places[item.entry]] += 1
    assert by_bundle == {octets("bundle 0"): 4, octets("bundle 1"): 1}


def test_13_strictness_follows_standing_in_both_directions():
    assert strictly(Book(STRICT), due=[]) == [(13, Wrong.STANDING)]
    assert strictly(Book(STRICT), due=[0, 1]) == [(13, Wrong.STANDING)]
    assert strictly(Book(replace(STRICT, strict=())), due=[0]) == [(13, Wrong.STANDING)]
    assert strictly(Book(Spec()), due=[0]) == [], (
        "an epoch without a strict floor is strict with nobody"
    )


def test_10_a_draw_that_leaves_out_what_the_strict_floor_draws_is_wrong():
    book = Book(replace(STRICT, draw=lambda d: replace(d, drawn=d.drawn[1:])))
    assert strictly(book, due=[0]) == [(10, Wrong.FLOOR)]


def test_8_strict_floors_count_in_what_floors_can_draw():
    book = Book(replace(STRICT, strict_floor=5))
    (first, *_) = book.check(known=Known(entries=dict(enumerate(book.entries))))
    assert first.faults == ()


def test_a_seal_is_strict_only_where_the_open_statement_says_how():
    with pytest.raises(CounterfoilError, match="not above the floor"):
        Book(replace(STRICT, strict_floor=1))
    with pytest.raises(CounterfoilError, match="not among its nodes"):
        Book(replace(STRICT, strict=(7,)))
