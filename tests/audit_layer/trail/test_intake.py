"""What the trail takes in is there once and forever; what it refuses has its code and leaves nothing behind."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg
import pytest

from audit_layer.costs.service import Costs
from audit_layer.trail.admission import KINDS
from audit_layer.trail.service import Accepted, Refused, Submission
from shared.runtime import faults
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import public_bytes
from shared.statements.cancellations import sign_cancellation
from shared.statements.cose import (
    Payload,
    entry_of,
    open_as,
    parse_statement,
    read_as,
    sign,
    sign_statement,
)
from shared.statements.keys import KeyBundle
from shared.statements.orders import Order
from shared.statements.receipts import Finish, Receipt
from shared.statements.schema import Statement
from shared.statements.verdicts import Outcome, Reason, Verdict
from tests.audit_layer.api import statements as made
from tests.audit_layer.trail.conftest import World, opened

STRANGER = made.key("stranger")


def resigned(submission: Submission, key=None, **changes) -> Submission:
    """The same receipt with other contents, signed by its node or by `key`."""
    receipt, _ = open_as(Receipt, submission.statement, None)
    raw = sign(
        replace(receipt, **changes),
        key=key or made.key("alpha/one"),
        issuer="alpha/one",
    )
    return Submission(raw, submission.order)


def reordered(submission: Submission, key=None, **changes) -> Submission:
    """The same receipt for another order, whose hash it names."""
    order, _ = open_as(Order, submission.order or b"", None)
    raw = sign(replace(order, **changes), key=key or made.key("acme"), issuer="acme")
    return replace(resigned(submission, order=entry_of(raw)), order=raw)


# -- what is taken in ---------------------------------------------------------------------------------


def test_what_was_acknowledged_is_read_by_another_connection_as_it_was_signed(world: World):
    submission = world.node.receipt("acme")
    (accepted,) = world.put(submission)
    assert accepted.entry == entry_of(submission.statement)
    assert not accepted.duplicate
    ((raw, index),) = world.rows(
        "SELECT raw, log_index FROM trail_statements WHERE entry = %s", accepted.entry
    )
    assert (raw, index) == (submission.statement, accepted.index)
    ((logged,),) = world.rows("SELECT entry FROM log_entries WHERE index = %s", accepted.index)
    assert logged == accepted.entry
    ((order,),) = world.rows(
        "SELECT o.raw FROM trail_orders o JOIN trail_receipts r ON r.order_entry = o.entry"
        " WHERE r.entry = %s",
        accepted.entry,
    )
    assert order == submission.order
    assert world.fsck() == []


def test_a_receipt_that_is_delivered_twice_is_one_receipt(world: World):
    submission = world.node.receipt("acme")
    (first,) = world.put(submission)
    again = world.put(submission, submission)
    assert [(item.index, item.duplicate) for item in again] == [(first.index, True)] * 2
    for table in ("trail_receipts", "trail_orders"):
        assert world.rows(f"SELECT count(*) FROM {table}") == [(1,)]  # noqa: S608  # a constant


def test_two_servers_that_get_one_receipt_at_once_give_it_one_index(world: World):
    submissions = [world.node.receipt("acme") for _ in range(6)]
    with (
        opened(world.database.engine("server")) as other,
        ThreadPoolExecutor(4) as pool,
    ):
        trails = [world.trail, other, world.trail, other]
        answers = list(pool.map(lambda trail: trail.submit(submissions), trails))
    places = [[(item.entry, item.index) for item in answer] for answer in answers]
    assert places == [places[0]] * 4
    assert len({index for _, index in places[0]}) == 6
    fresh = sum(not item.duplicate for answer in answers for item in answer)
    assert fresh == 6
    assert world.fsck() == []


def test_a_receipt_survives_the_restart_of_the_server_that_took_it(world: World):
    submission = world.node.receipt("acme")
    (first,) = world.put(submission)
    with opened(world.database.engine("server")) as restarted:
        (again,) = restarted.submit([submission])
    assert again == replace(first, duplicate=True)


def test_log_and_trail_have_a_statement_both_or_neither(world: World, monkeypatch):
    for point in ("before-commit", "after-entries", "after-tiles"):
        submission = world.node.receipt("acme")
        faults._reached.clear()
        monkeypatch.setenv(faults.VARIABLE, f"log.sequence.{point}:raise")
        with pytest.raises((CounterfoilError, faults.InjectedFault)):
            world.trail.submit([submission])
        monkeypatch.delenv(faults.VARIABLE)
        entry = entry_of(submission.statement)
        for table in ("log_entries", "trail_statements", "trail_receipts"):
            query = f"SELECT count(*) FROM {table} WHERE entry = %s"  # noqa: S608  # a constant
            assert world.rows(query, entry) == [(0,)], point
        (accepted,) = world.put(submission)
        assert not accepted.duplicate
    assert world.fsck() == []


def test_one_bad_statement_does_not_spoil_its_neighbours(world: World):
    good, late = world.node.receipt("acme"), world.node.receipt("bolt")
    results = world.trail.submit([good, Submission(b"junk"), Submission(good.statement), late])
    assert [type(result) for result in results] == [Accepted, Refused, Refused, Accepted]
    codes = [result.error.code for result in results if isinstance(result, Refused)]
    assert codes == [Code.MALFORMED, Code.NO_ORDER]


def test_the_server_role_cannot_change_or_remove_what_it_wrote(world: World):
    world.put(world.node.receipt("acme"))
    with psycopg.connect(world.database.server_dsn, autocommit=True) as server:
        for table in ("trail_statements", "trail_orders", "trail_receipts", "trail_verdicts"):
            for change in (f"DELETE FROM {table}", f"UPDATE {table} SET entry = entry"):  # noqa: S608
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    server.execute(change.encode())


# -- signatures and parties -----------------------------------------------------------------------------


def test_a_receipt_with_a_foreign_signature_is_refused(world: World):
    submission = world.node.receipt("acme")
    assert world.code(*_pair(resigned(submission, STRANGER))) is Code.UNTRUSTED_KEY
    assert world.code(*_pair(resigned(submission, made.key("beta/one")))) is Code.UNTRUSTED_KEY
    flipped = submission.statement[:-1] + bytes([submission.statement[-1] ^ 1])
    assert world.code(flipped, submission.order) is Code.BAD_SIGNATURE
    world.put(submission)


def _pair(submission: Submission) -> tuple[bytes, bytes | None]:
    return submission.statement, submission.order


def test_a_receipt_of_an_unknown_tenant_is_refused(world: World):
    unknown = world.node.receipt("nobody")
    assert world.code(*_pair(unknown)) is Code.UNTRUSTED_KEY
    world.trail.add_party("nobody", "tenant", made.public("nobody"))
    world.put(unknown)


def test_a_tenant_whose_key_was_disabled_can_order_no_more(world: World):
    submission = world.node.receipt("acme")
    world.trail.disable_party("acme", "tenant")
    assert world.code(*_pair(submission)) is Code.UNTRUSTED_KEY
    world.trail.add_party("acme", "tenant", made.public("acme"))
    world.put(submission)


def test_what_is_in_the_log_stays_there_even_when_its_signer_is_no_longer_believed(world: World):
    """A node whose acknowledgement was lost asks again, and must not conclude that its receipt was refused."""
    submission = world.node.receipt("acme")
    (first,) = world.put(submission)
    world.trail.disable_party("acme", "tenant")
    world.trail.disable_party("alpha", "operator")
    assert world.put(submission, Submission(made.bundle("alpha"))) == [
        replace(first, duplicate=True),
        Accepted(world.bundle, 0, duplicate=True),
    ]


def test_an_order_in_another_tenants_name_is_refused(world: World):
    stolen = reordered(world.node.receipt("acme"), made.key("bolt"))
    assert world.code(*_pair(stolen)) is Code.NO_ORDER


def test_an_operator_that_is_not_registered_has_no_bundles_and_no_receipts(world: World):
    raw = made.bundle("gamma")
    assert world.code(raw) is Code.UNTRUSTED_KEY
    node = made.Node("gamma", entry_of(raw), world.card)
    assert world.code(*_pair(node.receipt("acme"))) is Code.STALE_KEY
    world.trail.add_party("gamma", "operator", made.public("gamma"))
    world.put(Submission(raw))
    world.put(made.Node("gamma", entry_of(raw), world.card, orders={"acme": 9}).receipt("acme"))


def test_a_statement_names_the_party_that_signs_it(world: World):
    bundle, _ = open_as(type(_bundle_value()), made.bundle("beta"), None)
    for value in (bundle, replace(bundle, node="two")):
        raw = sign(value, key=made.key("alpha"), issuer="alpha")
        assert world.code(raw) is Code.UNTRUSTED_KEY


def _bundle_value():
    from shared.statements.keys import KeyBundle

    return read_as(KeyBundle, made.bundle("alpha"))


def test_a_key_serves_only_the_role_for_which_it_is_registered(world: World):
    """A tenant is not a worker, even with a valid signature."""
    (receipt,) = world.put(world.node.receipt("acme"))
    verdict = Verdict(
        receipt=receipt.entry, request=made.some("r"), worker="acme", outcome=Outcome.PASS,
        reason=Reason.EXACT, evidence=made.some("e"), numeric_profile=made.PROFILE, at=made.NOW,
    )  # fmt: skip
    raw = sign(verdict, key=made.key("acme"), issuer="acme")
    assert world.code(raw) is Code.UNTRUSTED_KEY
    named = replace(verdict, worker="worker-2")
    raw = sign(named, key=made.key("worker"), issuer="worker")
    assert world.code(raw) is Code.UNTRUSTED_KEY
    world.put(Submission(made.verdict(receipt.entry)))


def test_a_verdict_about_a_receipt_that_is_not_in_the_log_is_refused(world: World):
    assert world.code(made.verdict(made.some("no receipt"))) is Code.NOT_FOUND
    assert world.code(made.verdict(world.bundle)) is Code.NOT_FOUND


def test_only_the_operator_of_a_bundle_revokes_it(world: World):
    assert world.code(made.revocation("beta", world.bundle)) is Code.NOT_FOUND
    assert world.code(made.revocation("alpha", made.some("no bundle"))) is Code.NOT_FOUND
    world.put(Submission(made.revocation("alpha", world.bundle)))


# -- bytes ------------------------------------------------------------------------------------------------


def test_every_truncation_and_extension_of_a_statement_is_malformed(world: World):
    submission = world.node.receipt("acme")
    raw, order = submission.statement, submission.order or b""
    cuts = [raw[:end] for end in (*range(12), *range(12, len(raw), 61), len(raw) - 1)]
    results = world.trail.submit([Submission(cut, order) for cut in (*cuts, raw + b"\0")])
    assert {result.error.code for result in results if isinstance(result, Refused)} == {
        Code.MALFORMED
    }
    assert len(results) == len(cuts) + 1
    assert not [result for result in results if isinstance(result, Accepted)]
    for cut in (order[:-1], order + b"\0", b"junk"):
        assert world.code(raw, cut) is Code.MALFORMED


def test_no_single_bit_of_a_receipt_or_of_its_order_may_change(world: World):
    submission = world.node.receipt("acme")
    raw, order = submission.statement, submission.order or b""
    changed = [
        *(Submission(_flip(raw, at), order) for at in range(0, len(raw), 7)),
        *(Submission(raw, _flip(order, at)) for at in range(0, len(order), 7)),
    ]
    assert not [item for item in world.trail.submit(changed) if isinstance(item, Accepted)]
    world.put(submission)


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_types_that_are_not_log_entries_are_refused(world: World):
    submission = world.node.receipt("acme")
    assert world.code(submission.order or b"") is Code.UNSUPPORTED
    assert world.code(made.bundle("beta"), submission.order) is Code.INVALID_ARGUMENT


# -- orders ------------------------------------------------------------------------------------------------


def test_a_receipt_without_its_order_is_refused(world: World):
    submission, other = world.node.receipt("acme"), world.node.receipt("acme")
    assert world.code(submission.statement) is Code.NO_ORDER
    assert world.code(submission.statement, b"") is Code.NO_ORDER
    assert world.code(submission.statement, other.order) is Code.NO_ORDER


def test_receipt_and_order_agree_on_every_shared_field(world: World):
    submission = world.node.receipt("acme")
    receipt, _ = open_as(Receipt, submission.statement, None)
    for name in ("tenant", "number", "attempt", "ctx", "kc", "envelope", "bundle", "rate_card"):
        other = {int: 77, bytes: made.some("other"), str: "bolt"}[type(getattr(receipt, name))]
        if name == "bundle":  # the receipt's own must be live, so the order names another
            changed = reordered(submission, bundle=other)
        else:
            changed = resigned(submission, **{name: other})
        error = world.refusal(*_pair(changed))
        assert error.code is Code.NO_ORDER
        assert name in error.detail


def test_more_tokens_than_were_ordered_are_refused(world: World):
    submission = world.node.receipt("acme", tokens=65)
    assert world.code(*_pair(submission)) is Code.INVALID_ARGUMENT
    world.node.number -= 1
    world.node.previous = bytes(32)
    world.put(world.node.receipt("acme", tokens=64))


def test_a_cancellation_is_the_orders_tenants_own(world: World):
    submission = world.node.receipt("acme", cancelled=True)
    receipt, _ = open_as(Receipt, submission.statement, None)
    true, order = receipt.cancel or b"", receipt.order
    other = entry_of(world.node.receipt("acme").order or b"")
    for forged in (
        sign_cancellation(order, made.key("bolt")),  # another tenant of this log
        sign_cancellation(order, made.key("alpha/one")),  # the node itself
        sign_cancellation(other, made.key("acme")),  # of another order of this tenant
        (submission.order or b"")[-64:],  # the order's own signature
        _flip(true, 0),
        bytes(64),
    ):
        changed = resigned(submission, cancel=forged)
        assert world.code(*_pair(changed)) is Code.BAD_SIGNATURE
    world.put(submission)


def test_an_unsigned_end_is_taken_in_for_everyone_to_see(world: World):
    """That it is unfounded is for rating and audits to say: what the log refused, nobody could hold against the node."""
    world.put(resigned(world.node.receipt("acme"), finish=Finish.CANCELLED))


# -- key bundles ---------------------------------------------------------------------------------------------


def test_a_receipt_stays_within_its_key_bundle(world: World):
    hour = made.HOUR
    for changes, code in (
        ({"started": made.NOW - 5 * hour, "ended": made.NOW - hour}, Code.STALE_KEY),
        ({"started": made.NOW + 30 * hour, "ended": made.NOW + 31 * hour}, Code.STALE_KEY),
        ({"bundle": made.some("bundle")}, Code.STALE_KEY),
        ({"model_root": made.some("model")}, Code.UNKNOWN_MODEL),
        ({"numeric_profile": made.some("profile")}, Code.INVALID_ARGUMENT),
        ({"ended": made.NOW + hour}, Code.INVALID_ARGUMENT),
    ):
        changed = resigned(world.node.receipt("acme"), **changes)
        assert world.code(*_pair(changed)) is code, changes


def test_work_that_began_after_a_revocation_is_refused_and_earlier_work_is_not(world: World):
    world.put(Submission(made.revocation("alpha", world.bundle)))  # at NOW - 1
    late = world.node.receipt("acme", started=made.NOW - 1)
    assert world.code(*_pair(late)) is Code.STALE_KEY
    world.node.number, world.node.previous = 0, bytes(32)
    world.put(world.node.receipt("acme", started=made.NOW - 2000))


# -- one number, one receipt -----------------------------------------------------------------------------------


def test_a_second_receipt_under_one_number_is_refused_and_kept_as_a_finding(world: World):
    submission = world.node.receipt("acme")
    (first,) = world.put(submission)
    second = resigned(submission, finish=open_as(Receipt, submission.statement, None)[0].finish,
                      ended=made.NOW - 500)  # fmt: skip
    for _ in range(2):
        error = world.refusal(*_pair(second))
        assert error.code is Code.EQUIVOCATION
        assert error.metadata["index"] == str(first.index)
    ((finding, resolved_at),) = world.trail.findings()
    assert resolved_at is None
    assert (finding.kind, finding.issuer) == ("equivocation", "alpha/one")
    assert finding.first_statement == submission.statement
    assert finding.second_statement == second.statement


def test_a_new_key_bundle_does_not_start_the_numbers_again(world: World):
    world.put(world.node.receipt("acme"))
    (renewed,) = world.put(Submission(made.bundle("alpha", not_after=made.NOW + made.HOUR)))
    fresh = made.Node("alpha", renewed.entry, world.card, orders={"acme": 5})
    assert world.code(*_pair(fresh.receipt("acme"))) is Code.EQUIVOCATION


# -- deposits and parties ----------------------------------------------------------------------------------------


def test_deposits_are_kept_once_and_bounded(world: World):
    signed = world.node.receipt("acme")
    (receipt,) = world.put(signed)

    def deposit(final: bytes, entry: bytes = receipt.entry) -> None:
        world.trail.deposit(entry, made.delivered(signed, final))

    for _ in range(2):
        deposit(b"0")
    assert world.rows("SELECT count(*) FROM trail_evidence") == [(1,)]
    for number in range(1, 4):
        deposit(b"%d" % number)
    for code, arguments in (
        (Code.QUOTA, (b"4",)),
        (Code.NOT_FOUND, (b"0", made.some("none"))),
        (Code.INVALID_ARGUMENT, (bytes(17 << 20),)),
    ):
        with pytest.raises(CounterfoilError) as caught:
            deposit(*arguments)
        assert caught.value.code is code


@pytest.mark.parametrize(
    "change",
    [
        {"envelope": b"another"},
        {"node_nonce": bytes(32)},
        {"frames": ()},
        {"frames": (b"two", b"one")},
        {"frames": (b"one", b"two", b"three")},
        {"frames": (b"",) * 100},
        {"final_record": b"junk"},
        {"final_record": b""},
        {"final_signature": bytes(64)},
        {"final_signature": b""},
    ],
    ids=repr,
)
def test_what_receipt_and_node_did_not_sign_is_not_kept(world: World, change):
    """Otherwise strangers could fill the places, or spoil what an honest node would be judged by."""
    signed = world.node.receipt("acme")
    (receipt,) = world.put(signed)
    with pytest.raises(CounterfoilError) as caught:
        world.trail.deposit(receipt.entry, replace(made.delivered(signed), **change))
    assert caught.value.code is Code.COMMITMENT_MISMATCH
    assert world.rows("SELECT count(*) FROM trail_evidence") == [(0,)]
    world.trail.deposit(receipt.entry, made.delivered(signed))


# -- one receipt for an order -------------------------------------------------------------------------------------


def _again(world: World, signed: Submission) -> Submission:
    """Return a receipt of the same node for the same order, under its next number."""
    value = replace(
        read_as(Receipt, signed.statement),
        node_sequence=world.node.number,
        previous=world.node.previous,
    )
    raw = sign(value, key=made.key("alpha/one"), issuer="alpha/one")
    world.node.number, world.node.previous = world.node.number + 1, entry_of(raw)
    return Submission(raw, signed.order)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_second_receipt_for_an_order_is_kept_as_a_conviction_of_its_node(world: World, at_once):
    signed = world.node.receipt("acme")
    copies = [_again(world, signed) for _ in range(3)]
    batches = [[signed, *copies]] if at_once else [[item] for item in (signed, *copies)]
    entries = [accepted.entry for batch in batches for accepted in world.put(*batch)]
    assert len(set(entries)) == 4
    found = world.rows(
        "SELECT kind, issuer, first_statement, second_statement FROM trail_findings ORDER BY id"
    )
    assert found == [
        ("order-answered-twice", "alpha/one", signed.statement, copy.statement) for copy in copies
    ]
    assert world.fsck() == []


def test_fsck_notices_a_conviction_that_was_removed(world: World):
    signed = world.node.receipt("acme")
    world.put(signed, _again(world, signed))
    world.rows("DELETE FROM trail_findings RETURNING id")
    (problem,) = world.fsck()
    assert problem.startswith("trail_receipts[log_index=")
    assert "the order was answered before" in problem


# -- what is signed bounds what is billed ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "taken"),
    [
        ({"input": 64, "output": 64}, True),
        ({"input": 65, "output": 1}, False),
        ({"input": 10**12, "output": 1}, False),
        ({"input": 1, "output": 65}, False),
    ],
)
def test_no_receipt_counts_more_than_the_tenant_ordered(world: World, usage, taken):
    signed = world.node.receipt("acme")
    value = read_as(Receipt, signed.statement)
    raw = sign(
        replace(value, usage=replace(value.usage, **usage)),
        key=made.key("alpha/one"),
        issuer="alpha/one",
    )
    if taken:
        world.put(Submission(raw, signed.order))
    else:
        assert world.code(raw, signed.order) is Code.INVALID_ARGUMENT


# -- statements of other versions (protocol §2.2) --------------------------------------------------------------------


def _of_an_earlier_version(submission: Submission) -> Submission:
    """The same work under an order from before the prompt was bounded by it."""
    return reordered(submission, max_input_tokens=None)


def _of_a_later_version(submission: Submission) -> Submission:
    """The same work, with a field in its receipt unknown to this version."""
    receipt = parse_statement(submission.statement)
    payload = {**receipt.payload, "region": "eu"}
    later = sign_statement(
        Receipt.TYPE,
        payload,
        key=made.key("alpha/one"),
        issuer="alpha/one",
        subject=receipt.subject,
    )
    return Submission(later, submission.order)


OTHER_VERSIONS = pytest.mark.parametrize("other", [_of_an_earlier_version, _of_a_later_version])


@OTHER_VERSIONS
def test_a_statement_of_another_version_is_refused(world: World, other):
    submission = other(world.node.receipt("acme"))
    assert world.code(submission.statement, submission.order) is Code.MALFORMED


@OTHER_VERSIONS
def test_a_statement_of_another_version_that_is_in_the_log_is_read_checked_and_paid(
    world: World, monkeypatch, other
):
    strict = Statement.from_payload

    def lenient(cls, payload, *, new=False):
        return strict.__func__(cls, payload)

    submission = other(world.node.receipt("acme"))
    with monkeypatch.context() as patch:  # a log of that version took it in
        patch.setattr(Statement, "from_payload", classmethod(lenient))
        (accepted,) = world.put(submission)
    assert world.fsck() == []
    with opened(world.database.engine("server")) as trail:
        row = trail.statement(accepted.entry)
    assert row is not None
    assert read_as(Receipt, row.raw).tenant == "acme"
    costs = Costs(world.database.engine("worker"))
    assert costs.rate_new() == 1
    assert [total["receipts"] for total in costs.totals()] == [1]
    assert costs.check() == []


# -- issuer, subject, profile ----------------------------------------------------------------------------------------


def _one_of_each(world: World) -> dict[str, tuple[Payload, str]]:
    """Return a statement of every type that can be submitted alone here, and who signs it."""
    (receipt,) = world.put(world.node.receipt("acme"))
    raws = {
        "alpha": [
            made.bundle("alpha", not_after=made.NOW + made.HOUR),
            made.rate_card("alpha", "b"),
            made.revocation("alpha", world.bundle),
        ],
        "authority": [
            made.epoch_open(),
            made.disclosure_request(receipt.entry),
        ],
        "worker": [made.verdict(receipt.entry)],
    }
    found = {}
    for signer, statements in raws.items():
        for raw in statements:
            statement = parse_statement(raw)
            found[statement.type] = (statement.read(KINDS[statement.type][0]), signer)
    return found


def test_a_statement_whose_header_says_another_subject_is_refused(world: World):
    """Lists and watches go by the subject; with a wrong one, a disclosure would be hidden from its tenant."""
    for kind, (value, signer) in _one_of_each(world).items():
        raw = sign(value, key=made.key(signer), issuer=signer, subject="weekly-maintenance")
        assert world.code(raw) is Code.MALFORMED, kind


def test_a_statement_in_anothers_name_is_refused(world: World):
    for kind, (value, signer) in _one_of_each(world).items():
        raw = sign(value, key=made.key(signer), issuer="beta")
        assert world.code(raw) is Code.UNTRUSTED_KEY, kind


def test_a_key_bundle_that_no_auditor_can_compute_is_refused(world: World):
    """Nobody could ever judge its receipts."""
    value = replace(read_as(KeyBundle, made.bundle("alpha")), numeric_profile=made.some("odd"))
    assert world.code(sign(value, key=made.key("alpha"), issuer="alpha")) is Code.UNSUPPORTED


def test_a_key_has_one_name_in_its_role(world: World):
    with pytest.raises(CounterfoilError) as caught:
        world.trail.add_party("other", "tenant", made.public("acme"))
    assert caught.value.code is Code.CONFLICT
    with pytest.raises(CounterfoilError) as caught:
        world.trail.add_party("acme", "king", made.public("acme"))
    assert caught.value.code is Code.INVALID_ARGUMENT
    with pytest.raises(CounterfoilError) as caught:
        world.trail.disable_party("zoe", "tenant")
    assert caught.value.code is Code.NOT_FOUND
    assert public_bytes(made.key("acme")) in {party.public_key for party in world.trail.parties()}


def test_a_tenant_that_used_one_number_twice_costs_no_node_its_order(world: World):
    """A node cannot know what a tenant signs for others: both receipts count, each with its own order."""
    mine = world.node.receipt("acme")
    (bundle, card) = world.put(Submission(made.bundle("beta")), Submission(made.rate_card("beta")))
    theirs = made.Node("beta", bundle.entry, card.entry, orders={"acme": -1000}).receipt("acme")
    numbers = [open_as(Receipt, item.statement, None)[0].number for item in (mine, theirs)]
    assert numbers == [0, 0]
    for accepted in world.put(mine, theirs):
        found = world.rows(
            "SELECT count(*) FROM trail_orders o JOIN trail_receipts r ON r.order_entry = o.entry"
            " WHERE r.entry = %s",
            accepted.entry,
        )
        assert found == [(1,)]
    assert world.fsck() == []
