"""Which order numbers have no receipt."""

from itertools import permutations

from audit_layer.monitor.orders import Numbers


def after(*numbers: int) -> Numbers:
    known = Numbers()
    for now_s, number in enumerate(numbers):
        known = known.with_number(number, now_s)
    return known


def ranges(known: Numbers) -> list[tuple[int, int]]:
    return sorted((gap.first, gap.last) for gap in known.gaps)


def test_in_any_order_exactly_the_missing_numbers_are_gaps():
    for order in permutations([0, 2, 3, 6, 6]):
        known = after(*order)
        assert known.end == 7
        missing = [n for first, last in ranges(known) for n in range(first, last + 1)]
        assert missing == [1, 4, 5]


def test_a_number_of_any_size_costs_one_range():
    assert ranges(after(2**62)) == [(0, 2**62 - 1)]


def test_a_gap_is_reported_once_it_is_older_than_the_grace_period_and_not_before():
    known = after(0, 3)  # seen missing at second 1
    assert known.overdue("acme", 11, 10) == []
    (finding,) = known.overdue("acme", 12, 10)
    assert "orders 1 to 2 of tenant acme" in finding.detail
    assert known.with_number(1, 5).with_number(2, 6).overdue("acme", 10**6, 10) == []
