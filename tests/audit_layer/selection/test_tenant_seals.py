"""Tenant seals: every receipt is in exactly one, anyone recomputes them, and a crash makes no second one."""

from dataclasses import replace
from itertools import pairwise

import pytest

from audit_layer.selection.tenant_seals import SEAL_LOCK, period_at
from audit_layer.trail.fsck_whole import check_all
from audit_layer.trail.service import Submission
from shared.codec.moment import parse_rfc3339
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import entry_of, open_as, sign
from shared.statements.receipts import Receipt
from shared.statements.seals import (
    NO_SEAL,
    entries_digest,
    follows,
    order_numbers,
    refusals_of,
)
from tests.audit_layer.api import statements as made
from tests.audit_layer.selection.sealing_court import (
    BEGAN,
    DAY,
    END,
    GRACE,
    Court,
    court,
    make,
    world,
)

__all__ = ["court", "make", "world"]


def test_periods_are_utc_days_or_months():
    at = parse_rfc3339("2026-02-28T23:59:59.999Z")
    assert str(period_at("day", at)) == "2026-02-28T00:00:00.000Z/2026-03-01T00:00:00.000Z"
    assert str(period_at("month", at)) == "2026-02-01T00:00:00.000Z/2026-03-01T00:00:00.000Z"
    assert period_at("day", at + 1).start == period_at("month", at + 1).start


def test_a_day_is_sealed_after_its_grace_as_anyone_who_holds_the_receipts_recomputes(court: Court):
    mine = court.put(BEGAN, BEGAN, BEGAN)
    court.put(BEGAN, tenant="bolt")
    assert court.tick(END + GRACE - 1) == 0
    assert court.tick(END + GRACE) == 2
    ((seal, _, index),) = court.seals()
    assert (seal.number, seal.start, seal.end, seal.previous) == (0, END - DAY, END, NO_SEAL)
    assert (seal.receipts, seal.late) == (3, 0)
    assert seal.entries == entries_digest(mine)
    assert seal.orders == order_numbers(None, (0, 1, 2))
    witnessed = court.log.proofs().witnessed().checkpoint
    assert (seal.size, seal.root) == (witnessed.size, witnessed.root)
    assert index >= seal.size
    ((other, _, _),) = court.seals("bolt")
    assert other.receipts == 1
    assert court.tick(END + GRACE) == 0  # each period once


def test_what_comes_after_its_seal_is_late_in_the_next_and_nothing_is_counted_twice(court: Court):
    """Whatever the order of arrival, every receipt is in exactly one seal."""
    midnight = made.NOW // DAY * DAY  # a midnight that the bundle's 24 hours lie around
    bundle = made.bundle("alpha", not_after=midnight + DAY // 2)
    (accepted,) = court.world.put(Submission(bundle))
    court.world.node.bundle = accepted.entry
    before, after = midnight - 5_000, midnight + 5_000
    entries = court.put(before, after)
    assert court.tick(midnight + GRACE) == 1
    entries += court.put(before + 1, after + 1)
    assert court.tick(midnight + DAY + GRACE) == 1
    entries += court.put(before + 2, after + 2)
    assert court.tick(midnight + 2 * DAY + GRACE) == 1
    (one, two, three) = (seal for seal, _, _ in court.seals())
    assert [(s.receipts, s.late) for s in (one, two, three)] == [(1, 0), (2, 1), (0, 2)]
    assert one.entries == entries_digest(entries[:1])
    assert two.entries == entries_digest([entries[1], entries[3]])
    assert two.late_entries == entries_digest([entries[2]])
    assert three.late_entries == entries_digest(entries[4:])
    for (seal, entry, _), (following, _, _) in pairwise(court.seals()):
        assert follows(seal, entry, following) is None
    assert three.orders == order_numbers(None, range(6))


def test_numbers_that_are_missing_are_stated_until_they_come(court: Court):
    court.put(BEGAN)
    held = [court.world.node.receipt("acme") for _ in range(3)]
    court.world.put(held[2])
    assert court.tick(END + GRACE) == 1
    court.world.put(held[0])
    assert court.tick(END + DAY + GRACE) == 1
    (one, two) = (seal for seal, _, _ in court.seals())
    assert [(run.first, run.last) for run in one.orders.missing] == [(1, 2)]
    assert [(run.first, run.last) for run in two.orders.missing] == [(2, 2)]
    assert one.orders.next == two.orders.next == 4


def test_days_without_receipts_are_sealed_too_and_missed_days_are_caught_up(court: Court):
    court.put(BEGAN)
    assert court.tick(END + 6 * DAY + GRACE) == 7
    seals = court.seals()
    assert [seal.number for seal, _, _ in seals] == list(range(7))
    assert [seal.receipts for seal, _, _ in seals] == [1] + 6 * [0]
    assert all(
        follows(one, entry, other) is None for (one, entry, _), (other, _, _) in pairwise(seals)
    )


def test_a_tenant_without_receipts_has_no_seal_and_an_unwitnessed_log_none_at_all(court: Court):
    assert court.sealing.tick(made.NOW + 100 * DAY) == 0
    assert court.tick(made.NOW + 100 * DAY) == 0


def test_a_seal_waits_until_the_witnesses_have_seen_what_came_in_time(court: Court):
    court.put(BEGAN)
    court.server.publish()
    (unseen,) = court.put(BEGAN)
    assert court.sealing.tick(END + GRACE) == 0
    assert court.tick(END + GRACE) == 1
    ((seal, _, _),) = court.seals()
    assert seal.receipts == 2
    assert seal.entries != entries_digest([unseen])


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_crash_around_the_sending_of_a_seal_makes_no_second_one(court: Court, moment: str):
    court.put(BEGAN)

    def fail(_types: list[str]) -> None:
        raise CounterfoilError(Code.UNAVAILABLE, "the answer was lost")

    setattr(court.server, moment, fail)
    with pytest.raises(CounterfoilError):
        court.tick(END + GRACE)
    setattr(court.server, moment, lambda _types: None)
    assert court.tick(END + GRACE + 5) == 0
    assert len(court.seals()) == 1
    assert court.world.rows("SELECT log_index FROM replay_seals") == [(court.seals()[0][2],)]
    assert court.world.trail.findings() == []


def test_two_ticks_at_once_are_one(court: Court):
    court.put(BEGAN)
    with court.engine.connect() as other:
        other.exec_driver_sql(f"SELECT pg_advisory_lock({SEAL_LOCK})")
        assert court.tick(END + GRACE) == 0
        other.exec_driver_sql(f"SELECT pg_advisory_unlock({SEAL_LOCK})")
    assert court.tick(END + GRACE) == 1


def test_the_log_takes_no_second_seal_for_one_number_and_none_under_another_subject(court: Court):
    court.put(BEGAN)
    court.tick(END + GRACE)
    ((seal, _, _),) = court.seals()
    key = made.key("authority")
    other = replace(seal, receipts=0, entries=entries_digest([]))
    second = sign(other, key=key, issuer="authority")
    assert court.world.code(second) is Code.EQUIVOCATION
    assert [row.kind for row, _ in court.world.trail.findings()] == ["equivocation"]
    following = replace(seal, number=1, previous=b"\1" * 32)
    misplaced = sign(following, key=key, issuer="authority", subject="bolt")
    assert court.world.code(misplaced) is Code.MALFORMED
    stranger = sign(other, key=made.key("worker"), issuer="worker")
    assert court.world.code(stranger) is Code.UNTRUSTED_KEY


def test_fsck_knows_the_number_under_which_the_log_has_a_seal(court: Court):
    court.put(BEGAN)
    court.tick(END + GRACE)
    court.server.publish()

    def found() -> list[str]:
        return check_all(
            court.world.database.engine("server"),
            policy=court.log.policy,
            files=court.log.files,
            second_place=court.log.second_place,
        )

    assert found() == []
    ((_, _, index),) = court.seals()
    court.world.rows("UPDATE log_entries SET issuer_seq = 5 WHERE index = %s", index)
    assert found()


def test_the_receipts_alone_are_enough_to_recompute_a_seal(court: Court):
    """By the rule of the protocol, from signed receipts with their indexes and nothing else."""
    court.put(made.NOW - 3000, made.NOW - 2000)
    court.tick(END + GRACE)
    held = []
    for raw, index in court.world.rows(
        "SELECT raw, log_index FROM trail_statements WHERE type = 'receipt' ORDER BY log_index"
    ):
        receipt, statement = open_as(Receipt, raw, made.public("alpha/one"))
        held.append((index, statement.entry, receipt))
    for seal, _, _ in court.seals():
        mine = [e for i, e, r in held if i < seal.size and seal.start <= r.started < seal.end]
        assert (seal.receipts, seal.entries) == (len(mine), entries_digest(mine))


def test_refusals_close_numbers_and_are_each_in_exactly_one_seal(court: Court):
    """On time by when the order was refused, late by when it came; a seal without any has the form that it always had."""
    node = court.world.node
    court.put(BEGAN)
    on_time = node.refusal("acme", at=BEGAN)
    court.world.put(on_time)
    court.put(BEGAN)
    court.tick(END + GRACE)
    late = node.refusal("acme", at=BEGAN)
    court.world.put(late)
    court.tick(END + DAY + GRACE)
    court.tick(END + 2 * DAY + GRACE)
    first, second, third = (seal for seal, _, _ in court.seals())
    assert first.refusals == refusals_of([entry_of(on_time.statement)])
    assert first.orders == order_numbers(None, range(3))
    assert second.refusals == refusals_of([entry_of(late.statement)])
    assert second.orders == order_numbers(None, range(4))
    assert third.refusals is None
    assert "crit" not in third.to_payload()
    assert second.to_payload()["crit"] == ["refusals"]


def test_a_tenant_whose_orders_were_all_refused_has_no_seal_yet(court: Court):
    court.world.put(court.world.node.refusal("acme", at=BEGAN))
    assert court.tick(END + GRACE) == 0
    court.put(BEGAN)
    court.tick(END + GRACE)
    ((seal, _, _),) = court.seals()
    assert (seal.refusals is None, seal.orders.next) == (False, 2)
