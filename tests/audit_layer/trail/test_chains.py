"""What intake takes of a chain of nodes, and how a tenant's numbers go by whole answers (protocol §4.10, §5.1)."""

from dataclasses import replace

import pytest

from audit_layer.trail.gap_watch import GapWatch
from audit_layer.trail.service import Submission
from shared.runtime.errors import Code
from shared.statements.cose import entry_of, read_as, sign
from shared.statements.receipts import Chain, Finish, Receipt
from tests.audit_layer.api import chain as chained
from tests.audit_layer.api import statements as made
from tests.audit_layer.trail.conftest import World

GAMMA = "gamma"


@pytest.fixture
def parties(world: World) -> chained.Parties:
    """Alpha's head, and stages of beta and gamma."""
    world.trail.add_party(GAMMA, "operator", made.public(GAMMA))
    stages = []
    for operator, first in (("beta", 1), (GAMMA, 2)):
        bundle, card = world.put(
            Submission(chained.stage_bundle(operator, first, first + 1)),
            Submission(made.rate_card(operator)),
        )
        stages.append(made.Node(operator, bundle.entry, card.entry))
    return chained.Parties(world.node, stages)


def test_the_receipts_of_a_chain_are_taken_in_whichever_comes_first(world: World, parties):
    submissions = parties.answer()
    assert chained.is_ring([read_as(Receipt, item.statement) for item in submissions])
    entries = [item.entry for item in world.put(*reversed(submissions))]
    assert world.rows(
        "SELECT r.entry, r.part, o.place, r.stages FROM trail_receipts r"
        " JOIN trail_orders o ON o.entry = r.order_entry ORDER BY log_index"
    ) == [
        (entries[0], True, 2, None),
        (entries[1], True, 1, None),
        (entries[2], False, None, entries[1] + entries[0]),
    ]
    assert world.fsck() == []


@pytest.mark.parametrize(
    "changes",
    [
        {1: {"chain": None}},
        {1: {"chain": Chain(2, made.some("a"), made.some("b"))}},
        {1: {"chain": Chain(0, made.some("a"), made.some("b"), (made.some("r"),))}},
        {0: {"chain": Chain(1, made.some("a"), made.some("b"))}},
        {1: {"finish": Finish.LENGTH}},
        {1: {"evidence": made.some("evidence")}},
        {1: {"settings": made.some("settings")}},
        {1: {"finish": Finish.FAILED}},
        {0: {"finish": Finish.FAILED}},
    ],
    ids=repr,
)
def test_a_receipt_that_is_not_of_its_orders_place_is_refused(world: World, parties, changes):
    ((place, _),) = changes.items()
    submission = parties.answer(changes=changes)[place]
    assert world.code(submission.statement, submission.order) is Code.NO_ORDER


def test_layers_answer_orders_for_parts_and_nothing_else(world: World, parties):
    whole = made.Node("beta", parties.stages[0].bundle, parties.stages[0].card).receipt("acme")
    assert world.code(whole.statement, whole.order) is Code.NO_ORDER
    parties.stages[0] = made.Node("alpha", world.bundle, world.card)
    part = parties.answer()[1]
    assert world.code(part.statement, part.order) is Code.NO_ORDER


def test_a_stage_that_failed_is_taken_in_and_says_nothing_of_a_chain(world: World, parties):
    world.put(parties.answer(changes={1: chained.failed()})[1])
    assert world.fsck() == []


def test_a_part_is_refused_by_no_statement(world: World, parties):
    """A refusal would close the request's number, which is the head's."""
    order = parties.answer()[1].order
    refusal = made.refusal_of(order, operator="beta")
    assert world.code(refusal.statement, refusal.order) is Code.COMMITMENT_MISMATCH


def test_numbers_of_a_tenant_go_by_whole_answers(world: World, parties):
    """Without its head's receipt, number 1 is missing, however many parts of it have come."""
    watch = GapWatch(world.database.engine("server"), grace_ms=0)
    for number in (0, 1, 2):
        submissions = parties.answer(number)
        world.put(*submissions[number == 1 :])
    watch.look(made.NOW)
    (gap,) = [row for row in watch.open_gaps() if row.kind == "tenant"]
    assert (gap.issuer, gap.first, gap.last) == ("acme", 1, 1)
    assert [problem for problem in world.fsck() if "trail_" in problem] == []


def test_a_second_receipt_for_a_part_is_a_finding_as_for_any_order(world: World, parties):
    first = parties.answer()[1]
    node = parties.stages[0]
    value = replace(
        read_as(Receipt, first.statement), node_nonce=made.some("again"),
        node_sequence=node.number, previous=node.previous,
    )  # fmt: skip
    again = sign(value, key=made.key("beta/one"), issuer="beta/one")
    world.put(first, Submission(again, first.order))
    ((kind, detail),) = world.rows("SELECT kind, detail FROM trail_findings")
    assert kind == "order-answered-twice"
    assert entry_of(again).hex() in detail
