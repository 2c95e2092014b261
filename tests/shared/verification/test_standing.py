"""A node's standing follows from the verdicts in the log alone, and only what was confirmed suspends it."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.statements.verdicts import Blame, Outcome, Reason
from shared.verification.opinions import Opinion
from shared.verification.standing import (
    KNOWN_PASSES,
    MANY_WITHHELD,
    TRUSTED_PASSES,
    Record,
    Standing,
    record_of,
    standing_in,
)

FAIL, HELD_BACK = Reason.TOKENS, Reason.WITHHELD


class Log:
    """Opinions in the order in which they are logged."""

    def __init__(self) -> None:
        self.opinions: list[Opinion] = []
        self._receipts = 0

    def verdict(
        self,
        reason: Reason,
        receipt: bytes | None = None,
        *,
        worker: str = "carol",
        confirms: Opinion | None = None,
        asked: bool = False,
    ) -> Opinion:
        self._receipts += 1
        index = len(self.opinions)
        opinion = Opinion(
            index.to_bytes(32, "big"),
            index,
            self._receipts.to_bytes(32, "big") if receipt is None else receipt,
            worker,
            reason.outcome,
            reason,
            None if confirms is None else confirms.entry,
            asked,
        )
        self.opinions.append(opinion)
        return opinion

    def passes(self, count: int) -> None:
        for _ in range(count):
            self.verdict(Reason.EXACT)

    def charge(self, reason: Reason = FAIL) -> Opinion:
        """Log a verdict against the node and another worker's confirmation; return the latter."""
        first = self.verdict(reason)
        return self.verdict(reason, first.receipt, worker="dave", confirms=first)

    @property
    def record(self) -> Record:
        return record_of(self.opinions)


@pytest.mark.parametrize(
    ("passes", "standing"),
    [
        (0, Standing.NEW),
        (KNOWN_PASSES - 1, Standing.NEW),
        (KNOWN_PASSES, Standing.GOOD),
        (TRUSTED_PASSES, Standing.GOOD),
    ],
)
def test_passes_make_a_node_known(passes, standing):
    log = Log()
    log.passes(passes)
    assert log.record == Record(passed=passes, standing=standing)


def test_the_numbers_are_those_of_the_geometric_law():
    """Cheating in one request of a hundred is found by so many audits with probability 1/2 and 95 %."""
    assert 0.99 ** (KNOWN_PASSES - 1) > 0.5 > 0.99**KNOWN_PASSES
    assert 0.99**TRUSTED_PASSES <= 0.0501 < 0.99 ** (TRUSTED_PASSES - 3)


def test_a_confirmed_fail_suspends_until_enough_passes_since():
    log = Log()
    log.passes(1000)
    charge = log.charge()
    assert log.record == Record(1000, 1, standing=Standing.SUSPENDED, because=charge.entry)
    log.passes(TRUSTED_PASSES - 1)
    assert log.record.standing is Standing.SUSPENDED
    log.passes(1)
    assert log.record.standing is Standing.GOOD


def test_one_worker_alone_only_has_a_node_watched():
    log = Log()
    log.passes(KNOWN_PASSES)
    first = log.verdict(FAIL)
    for _ in range(3):  # the same worker again confirms nothing
        log.verdict(FAIL, first.receipt, confirms=first)
    assert log.record.standing is Standing.WATCHED
    assert log.record.open == 1
    log.verdict(Reason.EXACT, first.receipt, worker="dave")
    assert log.record == Record(KNOWN_PASSES + 1, standing=Standing.GOOD)


def test_a_third_worker_decides_between_two():
    log = Log()
    first = log.verdict(FAIL)
    log.verdict(Reason.EXACT, first.receipt, worker="dave")
    third = log.verdict(FAIL, first.receipt, worker="erin", confirms=first)
    assert log.record == Record(convicted=1, standing=Standing.SUSPENDED, because=third.entry)


def test_withholding_once_has_a_node_watched_and_again_and_again_suspended():
    log = Log()
    log.passes(KNOWN_PASSES)
    log.charge(HELD_BACK)
    assert log.record.standing is Standing.WATCHED
    log.passes(KNOWN_PASSES)
    assert log.record.standing is Standing.GOOD
    for _ in range(MANY_WITHHELD - 1):
        log.charge(HELD_BACK)
    assert log.record.standing is Standing.SUSPENDED
    assert log.record.withheld == MANY_WITHHELD
    log.passes(TRUSTED_PASSES)
    assert log.record.standing is Standing.GOOD


@pytest.mark.parametrize(
    "reason", [reason for reason in Reason if reason.blame in {Blame.AUDIT, Blame.TENANT}]
)
def test_what_is_not_the_nodes_doing_counts_as_nothing(reason):
    log = Log()
    log.passes(KNOWN_PASSES)
    for _ in range(10):
        first = log.verdict(reason)
        log.verdict(reason, first.receipt, worker="dave", confirms=first)
    assert log.record == Record(KNOWN_PASSES, standing=Standing.GOOD)


def test_a_pass_that_the_tenant_asked_for_is_none_of_the_passes():
    """Otherwise a node's friend could ask for the audit of what the node did well."""
    log = Log()
    for _ in range(TRUSTED_PASSES):
        log.verdict(Reason.EXACT, asked=True)
    assert log.record == Record()
    once = log.verdict(Reason.EXACT)
    log.verdict(Reason.EXACT, once.receipt, worker="dave", asked=True)
    assert log.record == Record(passed=1)


def test_a_pass_that_was_asked_for_lifts_no_suspension_and_hides_no_withholding():
    log = Log()
    log.charge()
    for _ in range(TRUSTED_PASSES):
        log.verdict(Reason.EXACT, asked=True)
    assert log.record.standing is Standing.SUSPENDED
    log = Log()
    held = log.verdict(HELD_BACK)
    log.verdict(Reason.EXACT, held.receipt, worker="dave", asked=True)
    assert (log.record.open, log.record.standing) == (1, Standing.WATCHED)


def test_a_confirmed_charge_counts_whoever_asked_for_the_audit():
    log = Log()
    first = log.verdict(FAIL, asked=True)
    assert log.record.standing is Standing.WATCHED
    confirmed = log.verdict(FAIL, first.receipt, worker="dave", confirms=first, asked=True)
    assert log.record == Record(convicted=1, standing=Standing.SUSPENDED, because=confirmed.entry)
    alone = Log()
    alone.verdict(HELD_BACK, asked=True)
    assert alone.record == Record()


@given(st.lists(st.sampled_from(Reason), max_size=30), st.randoms(use_true_random=False))
def test_only_the_log_orders_verdicts(reasons, shuffle: random.Random):
    log = Log()
    for reason in reasons:
        first = log.verdict(reason)
        if shuffle.random() < 0.5:
            second = shuffle.choice([reason, Reason.EXACT])
            confirms = first if second.blame is Blame.NODE else None
            log.verdict(second, first.receipt, worker="dave", confirms=confirms)
    mixed = list(log.opinions)
    shuffle.shuffle(mixed)
    assert record_of(mixed) == log.record
    guilty = {o.receipt for o in log.opinions if o.confirms and o.outcome == Outcome.FAIL}
    assert log.record.convicted == len(guilty)


def test_a_new_node_stands_no_better_than_its_operators_worst():
    bad, good = Log(), Log()
    bad.charge()
    good.passes(KNOWN_PASSES)
    records = {("op", "bad"): bad.record, ("op", "good"): good.record, ("other", "x"): Record()}
    assert standing_in(records, ("op", "another")) is Standing.SUSPENDED
    assert standing_in(records, ("op", "good")) is Standing.GOOD
    assert standing_in(records, ("other", "y")) is Standing.NEW
