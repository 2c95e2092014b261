"""What is paid over a rotation: all that was ordered in time, by whichever key; nothing that an ended key ordered afterwards."""

from audit_layer.trail.service import Submission
from shared.codec.moment import now_ms
from shared.runtime.errors import Code
from shared.verification.identities import END_SKEW_MS
from tests.audit_layer.api import statements as made
from tests.audit_layer.costs.test_books import Scene, scene
from tests.audit_layer.costs.test_service import EACH, Books, books
from tests.audit_layer.trail.conftest import world
from tests.audit_layer.trail.test_identities import MINUTE, add, end, put
from tests.audit_layer.trail.test_intake import reordered

from shared.statements.identities import Holder  # isort: skip

__all__ = ["Books", "books", "scene", "world"]


def log(scene: Scene, submission: Submission) -> bytes:
    (accepted,) = scene.books.world.put(submission)
    return accepted.entry


def test_a_receipt_before_and_one_after_are_paid_and_what_an_ended_key_orders_later_is_not(
    scene: Scene,
):
    """Attacks: a tenant rotates to disown a receipt; whoever has its old key goes on ordering at its expense."""
    trail, node = scene.books.world, scene.books.world.node
    before = log(scene, node.receipt("acme"))
    ended = now_ms() - 4 * MINUTE
    put(trail, add("acme", "acme 2", "acme"), end("acme 2", "acme", "acme", at=ended))
    delivered = log(scene, node.receipt("acme", started=ended + MINUTE))  # it was on its way
    after = log(scene, reordered(node.receipt("acme"), key=made.key("acme 2")))
    at, previous = node.number, node.previous
    stolen = node.receipt("acme", started=ended + END_SKEW_MS)
    assert trail.code(stolen.statement, stolen.order) is Code.UNTRUSTED_KEY
    node.number, node.previous = at, previous
    scene.catch_up()
    assert scene.paid() == 3 * EACH
    for receipt in (before, delivered, after):
        assert scene.standing(receipt) == (True, None, None)
    assert scene.books.world.rows("SELECT count(*) FROM costs_rated_receipts") == [(3,)]
    assert trail.fsck() == []


def test_an_operators_rotation_leaves_its_node_paid_under_bundles_of_both_keys(scene: Scene):
    """Attack: an operator's key is ended so that what its node has served is owed to nobody."""
    trail, node = scene.books.world, scene.books.world.node
    before = log(scene, node.receipt("acme"))
    put(trail, add("alpha", "alpha 2", "alpha", Holder.OPERATOR))
    put(trail, end("alpha 2", "alpha", "alpha", Holder.OPERATOR))
    after = log(scene, node.receipt("acme"))
    scene.catch_up()
    assert scene.paid() == 2 * EACH
    assert {scene.standing(entry) for entry in (before, after)} == {(True, None, None)}
