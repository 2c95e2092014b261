"""A number that does not arrive is reported once, after the grace period, and the report says if it arrives after all."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_layer.trail import gap_watch
from audit_layer.trail.gap_watch import GapWatch
from audit_layer.trail.gaps import Gap, advance
from audit_layer.trail.service import Submission
from shared.statements.cose import parse_statement
from tests.audit_layer.trail.conftest import World

GRACE = 60_000


def look(world: World, passed: int = 0):
    """Look as the audit server does, `passed` ms after the last receipt."""
    ((latest,),) = world.rows("SELECT max(recorded_at) FROM trail_statements")
    return GapWatch(world.database.engine("server"), grace_ms=GRACE).look(latest + passed)


def gaps(world: World) -> list[tuple]:
    return world.rows("SELECT kind, issuer, first, last FROM trail_gaps ORDER BY kind, first")


# -- the pure part -------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 30), max_size=8), max_size=6))
def test_batches_of_any_size_leave_the_same_gaps_as_the_whole(batches):
    following, known = 0, []
    seen: dict[int, int] = {}
    for at, batch in enumerate(batches):
        arrived = dict.fromkeys(batch, at)
        following, known = advance(following, known, arrived)
        seen = arrived | seen
    missing = {n for gap in known for n in range(gap.first, gap.last + 1)}
    assert missing == set(range(following)) - seen.keys()
    assert following == max(seen, default=-1) + 1
    for gap in known:  # since the first higher number
        assert gap.since == min(at for number, at in seen.items() if number > gap.last)


def test_what_is_left_of_a_gap_keeps_its_age_and_its_finding():
    following, parts = advance(10, [Gap(3, 7, since=50, finding=9)], {5: 900})
    assert following == 10
    assert parts == [Gap(3, 4, 50, 9), Gap(6, 7, 50, 9)]


# -- over the tables -----------------------------------------------------------------------------------


def test_a_gap_is_reported_after_the_grace_period_and_once(world: World):
    first, second, third = (world.node.receipt("acme") for _ in range(3))
    world.put(first, third)
    found = look(world, GRACE - 1)
    assert (found.receipts, found.reported, found.open) == (2, 0, 2)
    assert gaps(world) == [("node", "alpha/one", 1, 1), ("tenant", "acme", 1, 1)]
    assert world.trail.findings() == []
    assert look(world, GRACE).reported == 2
    assert look(world, 10 * GRACE).reported == 0
    (tenant, _), (node, _) = world.trail.findings()
    assert (node.kind, node.issuer, tenant.issuer) == ("gap", "alpha/one", "acme")
    assert (node.first_statement, node.second_statement) == (first.statement, third.statement)
    assert (tenant.first_statement, tenant.second_statement) == (first.order, third.order)
    assert "number 1" in node.detail
    assert second.statement not in {node.first_statement, node.second_statement}


def test_a_gap_that_is_filled_in_time_is_nobodys_business(world: World):
    first, second = (world.node.receipt("acme") for _ in range(2))
    world.put(second)
    assert look(world).open == 2
    world.put(first)
    found = look(world, 10 * GRACE)
    assert (found.open, found.reported, found.resolved) == (0, 0, 0)
    assert world.trail.findings() == []


def test_a_finding_says_when_the_last_of_its_numbers_came_and_not_before(world: World):
    receipts = [world.node.receipt("acme") for _ in range(5)]
    world.put(receipts[4])
    assert look(world, GRACE).reported == 2
    before = [row.detail for row, _ in world.trail.findings()]
    world.put(receipts[2], receipts[0])
    found = look(world, GRACE)
    assert (found.reported, found.resolved) == (0, 0)
    assert gaps(world)[:2] == [("node", "alpha/one", 1, 1), ("node", "alpha/one", 3, 3)]
    assert [resolved for _, resolved in world.trail.findings()] == [None, None]
    world.put(receipts[1], receipts[3])
    assert look(world).resolved == 2
    assert gaps(world) == []
    after = world.trail.findings()
    assert [row.detail for row, _ in after] == before
    assert all(resolved is not None and resolved >= row.at - GRACE for row, resolved in after)


def test_a_retry_under_the_same_number_fills_nothing_else(world: World):
    """Two attempts at one order are two receipts of the node and one number of the tenant."""
    world.put(world.node.receipt("acme"))
    world.node.orders["acme"] = 0
    retry = world.node.receipt("acme")
    world.put(retry)
    assert look(world, GRACE).open == 0
    assert world.rows("SELECT kind, issuer, next FROM trail_counters ORDER BY kind") == [
        ("log", "", world.put(retry)[0].index + 1),
        ("node", "alpha/one", 2),
        ("tenant", "acme", 1),
    ]


def test_every_receipt_is_looked_at_once_whatever_the_size_of_a_batch(world: World, monkeypatch):
    monkeypatch.setattr(gap_watch, "BATCH", 3)
    receipts = [world.node.receipt(name) for name in ("acme", "bolt") * 6]
    late = receipts.pop(4)
    world.put(*receipts)
    assert look(world, GRACE).receipts == 11
    assert gaps(world) == [("node", "alpha/one", 4, 4), ("tenant", "acme", 2, 2)]
    world.put(late)
    found = look(world)
    assert (found.receipts, found.resolved, found.open) == (1, 2, 0)


def test_servers_that_look_at_once_report_once(world: World):
    receipts = [world.node.receipt("acme") for _ in range(4)]
    world.put(receipts[1], receipts[3])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: look(world, GRACE), range(4)))
    assert sum(item.receipts for item in found) == 2
    assert sum(item.reported for item in found) == 4
    assert len(world.trail.findings()) == 4


@pytest.mark.parametrize("number", [10**6, 2**62])
def test_a_node_that_jumps_far_ahead_makes_one_gap(world: World, number):
    world.node.number, world.node.previous = number, b"\x07" * 32
    submission: Submission = world.node.receipt("acme")
    world.put(submission)
    assert look(world, GRACE).reported == 1
    ((finding, _),) = world.trail.findings()
    assert finding.first_statement == b""
    assert parse_statement(finding.second_statement).raw == submission.statement
