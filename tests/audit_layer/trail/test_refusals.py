"""Refusals in the trail: admitted with their orders, one for each order, closing numbers, and convicting who answers anyway."""

import pytest

from audit_layer.trail.columns import REFUSED_AND_ANSWERED
from audit_layer.trail.gap_watch import GapWatch
from audit_layer.trail.pages import Span
from audit_layer.trail.service import Submission
from shared.runtime.errors import Code
from shared.statements.cose import read_as, sign, sign_statement
from shared.statements.orders import Order
from shared.statements.refusals import Refusal, RefusalReason
from tests.audit_layer.api import statements as made
from tests.audit_layer.trail.conftest import World, world

__all__ = ["world"]


def order_of(submission: Submission) -> bytes:
    assert submission.order is not None
    return submission.order


def test_a_refusal_is_taken_in_once_found_again_and_whole(world: World):
    refusal = world.node.refusal("acme")
    (first,) = world.put(refusal)
    (again,) = world.put(refusal)
    assert (again.entry, again.index, again.duplicate) == (first.entry, first.index, True)
    (row,) = world.trail.refusals(tenant="acme", page=Span())
    assert (row.entry, row.number, row.operator, row.node) == (first.entry, 0, "alpha", "one")
    assert row.reason == RefusalReason.REQUEST.value
    assert world.trail.refusals(tenant="bolt", page=Span()) == []
    assert len(world.trail.refusals(operator="alpha", node="one", page=Span())) == 1
    held = world.trail.statement(first.entry)
    assert held is not None
    assert held.raw == refusal.statement
    assert world.fsck() == []


@pytest.mark.parametrize(
    ("forged", "code"),
    [
        ({"signer": "stranger"}, Code.UNTRUSTED_KEY),
        ({"signer": "beta/one"}, Code.UNTRUSTED_KEY),
        ({"number": 7}, Code.COMMITMENT_MISMATCH),
        ({"attempt": 7}, Code.COMMITMENT_MISMATCH),
        ({"tenant": "bolt"}, Code.COMMITMENT_MISMATCH),
        ({"bundle": bytes(32)}, Code.STALE_KEY),
        ({"at": made.NOW + 10**9}, Code.INVALID_ARGUMENT),
        ({"at": 1}, Code.STALE_KEY),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else value.name,
)
def test_a_forged_refusal_is_not_taken_in(world: World, forged, code):
    order = order_of(world.node.refusal("acme"))
    refusal = made.refusal_of(order, **forged)
    assert world.code(refusal.statement, refusal.order) is code


def test_a_refusal_needs_its_own_order(world: World):
    refusal, other = world.node.refusal("acme"), world.node.refusal("acme")
    assert world.code(refusal.statement) is Code.NO_ORDER
    assert world.code(refusal.statement, other.order) is Code.NO_ORDER
    value = read_as(Order, order_of(refusal))
    stranger = sign(value, key=made.key("stranger"), issuer="acme")
    unknown = made.refusal_of(stranger)
    assert world.code(unknown.statement, stranger) is Code.UNTRUSTED_KEY


def test_a_reason_outside_the_set_is_refused(world: World):
    refusal = world.node.refusal("acme")
    payload = {**read_as(Refusal, refusal.statement).to_payload(), "reason": "about taxes"}
    raw = sign_statement(
        Refusal.TYPE,
        payload,
        key=made.key("alpha/one"),
        issuer="alpha/one",
        subject=subject(refusal),
    )
    assert world.code(raw, refusal.order) is Code.MALFORMED


def subject(submission: Submission) -> str:
    return read_as(Refusal, submission.statement).subject


def test_a_refusal_in_another_nodes_name_is_refused(world: World):
    refusal = world.node.refusal("acme")
    value = read_as(Refusal, refusal.statement)
    other = sign(value, key=made.key("alpha/one"), issuer="beta/one")
    assert world.code(other, refusal.order) is Code.UNTRUSTED_KEY


def test_a_refusal_after_the_revocation_of_its_key_is_refused(world: World):
    world.put(Submission(made.revocation("alpha", world.bundle)))
    refusal = made.refusal_of(order_of(world.node.refusal("acme")), at=made.NOW + 60_000)
    assert world.code(refusal.statement, refusal.order) is Code.STALE_KEY


def test_a_second_refusal_of_an_order_is_equivocation(world: World):
    first = world.node.refusal("acme")
    world.put(first)
    second = made.refusal_of(order_of(first), reason=RefusalReason.MODEL)
    assert world.code(second.statement, second.order) is Code.EQUIVOCATION
    ((kind, issuer),) = world.rows("SELECT kind, issuer FROM trail_findings")
    assert (kind, issuer) == ("equivocation", "alpha/one")
    assert world.fsck() == []


@pytest.mark.parametrize("order", ["receipt first", "refusal first", "at once"])
def test_a_node_that_refuses_and_answers_one_order_is_convicted_by_both(world: World, order):
    receipt = world.node.receipt("acme")
    refusal = made.refusal_of(order_of(receipt))
    both = [receipt, refusal] if order != "refusal first" else [refusal, receipt]
    if order == "at once":
        world.put(*both)
    else:
        for item in both:
            world.put(item)
    ((kind, issuer, first, second),) = world.rows(
        "SELECT kind, issuer, first_statement, second_statement FROM trail_findings"
    )
    assert (kind, issuer) == (REFUSED_AND_ANSWERED, "alpha/one")
    assert (first, second) == (refusal.statement, receipt.statement)
    assert world.fsck() == []


def test_fsck_misses_a_conviction_and_a_changed_row(world: World):
    receipt = world.node.receipt("acme")
    world.put(receipt, made.refusal_of(order_of(receipt)))
    world.rows("DELETE FROM trail_findings")
    world.rows("UPDATE trail_refusals SET reason = 'times'")
    told = "\n".join(world.fsck())
    assert "the order was refused, and no row says so" in told
    assert "trail_refusals[entry=" in told
    assert ".reason: is not what was signed" in told
    world.rows("DELETE FROM trail_refusals")
    assert "no row has it as trail_refusals.entry" in "\n".join(world.fsck())


def test_a_refusal_closes_its_number_and_no_gap_of_the_nodes_own_opens(world: World):
    first, refusal, third = (
        world.node.receipt("acme"),
        world.node.refusal("acme"),
        world.node.receipt("acme"),
    )
    world.put(first, third)
    watch = GapWatch(world.database.engine("server"), grace_ms=1000)
    ((latest,),) = world.rows("SELECT max(recorded_at) FROM trail_statements")
    found = watch.look(latest + 2000)
    assert (found.reported, found.open) == (1, 1)
    ((detail,),) = world.rows("SELECT detail FROM trail_findings")
    assert "no receipt or refusal for number 1" in detail
    assert world.fsck() == []
    world.put(refusal)
    found = watch.look(latest + 3000)
    assert (found.receipts, found.resolved, found.open) == (1, 1, 0)
    assert world.fsck() == []


def test_a_refusals_number_above_all_others_opens_the_gap_below_it(world: World):
    world.put(world.node.receipt("acme"))
    world.node.receipt("acme")  # never handed in
    world.put(world.node.refusal("acme"))
    ((latest,),) = world.rows("SELECT max(recorded_at) FROM trail_statements")
    found = GapWatch(world.database.engine("server"), grace_ms=1000).look(latest)
    assert (found.receipts, found.open) == (2, 1)
    assert world.fsck() == []
