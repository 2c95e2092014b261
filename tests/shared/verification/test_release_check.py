"""What a custodian refuses, step by step of protocol §6.2."""

from dataclasses import replace

import pytest

from shared.codec import cbor
from shared.envelope.header import Envelope
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import public_bytes
from shared.selection.draw import ticket
from shared.selection.party import Revealed
from shared.statements.cose import entry_of, sign
from shared.statements.disclosures import DisclosureReason
from shared.statements.orders import Part
from shared.statements.verdicts import Outcome, Reason
from shared.translog.notes import SignatureType, Signer
from shared.verification.release_case import MAX_CASE, ReleaseCase
from shared.verification.trust import Role
from tests.shared.selection.world import (
    AUTHORITY,
    BUNDLE_RAW,
    NODE,
    OPERATOR,
    PARTIES,
    RECEIPTS,
    TERMS,
    TRUST,
    WITNESS,
    WORKERS,
    World,
    not_by_rate,
    sealed,
    trusting,
)
from tests.vectors.samples import BUNDLE, NOW, octets, signing_key

STRANGER = signing_key("stranger")
GOOD = World()


def refused(expected, world=GOOD, **arguments):
    with pytest.raises(CounterfoilError) as caught:
        world.check(**arguments)
    assert caught.value.code is expected, caught.value
    return caught.value.detail


# -- what is permitted -------------------------------------------------------------------------------


def test_a_receipt_that_the_rate_draws_is_released_to_its_worker():
    permitted = GOOD.check()
    assert permitted.recipient == WORKERS[0]
    assert permitted.request_entry == entry_of(GOOD.request)
    assert permitted.request.index == GOOD.chosen
    assert (permitted.receipt, permitted.epoch) == (GOOD.receipt, 3)


def test_a_receipt_that_only_the_floor_draws_is_released_for_that_reason():
    world = World(reason=DisclosureReason.FLOOR, rate_ppm=0, floor=2)
    assert len(world.drawn) == 2
    assert world.check().request.reason is DisclosureReason.FLOOR


def test_every_receipt_of_an_epoch_with_a_missing_reveal_is_released_as_whole():
    world = World(reason=DisclosureReason.WHOLE, missing=1, rate_ppm=0)
    assert len(world.drawn) == RECEIPTS
    assert world.check(floor_entries=None).epoch == 3


def test_what_the_strict_floor_of_a_key_bundle_draws_is_released():
    options = {"reason": DisclosureReason.FLOOR, "rate_ppm": 0, "floor": 1, "strict_floor": 2}
    world = World(**options, subject=lambda world: world.drawn[-1])
    assert len(world.drawn) == 2
    assert world.check().epoch == 3
    lenient = World(
        **options,
        seal=lambda seal: replace(seal, strict=None),
        subject=lambda world: max(
            world.drawn, key=lambda index: ticket(world.seed, entry_of(world.receipts[index]))
        ),
    )
    assert "the floor does not draw" in refused(Code.BAD_PROOF, lenient)


@pytest.mark.parametrize("options", [{}, {"rate_ppm": 0, "floor": 1}, {"missing": 2}])
def test_a_fail_of_another_worker_is_released_for_confirmation_however_it_was_drawn(options):
    assert (
        World(reason=DisclosureReason.CONFIRM, **options).check().request.reason
        is DisclosureReason.CONFIRM
    )


def test_a_stages_receipt_is_released_if_the_header_names_it_at_its_place():
    assert World(stage=True).check().request.reason is DisclosureReason.DRAW
    for part in (Part(octets("the head's order"), 2), None):
        elsewhere = World(stage=True, order=lambda order, part=part: replace(order, part=part))
        assert "not sealed for the node" in refused(Code.BAD_PROOF, elsewhere)
    unnamed = World(order=lambda order: replace(order, part=Part(octets("the head's order"), 1)))
    assert "not sealed for the node" in refused(Code.BAD_PROOF, unnamed)


def test_a_wrong_boundary_that_another_worker_found_is_released_for_confirmation():
    """Of a chain only: whose fault it is, the second worker says too."""

    def boundary(verdict):
        return replace(verdict, outcome=Outcome.INCONCLUSIVE, reason=Reason.BOUNDARY)

    confirming = {"reason": DisclosureReason.CONFIRM, "verdict": boundary}
    assert World(stage=True, **confirming).check().request.reason is DisclosureReason.CONFIRM
    assert "does not blame" in refused(Code.BAD_PROOF, World(**confirming))


def test_a_case_survives_the_wire():
    case = GOOD.case()
    assert ReleaseCase.from_cbor(case.to_cbor(), max_bytes=MAX_CASE) == case
    without = cbor.encode({k: v for k, v in case.to_payload().items() if k != "bundle"})
    with pytest.raises(CounterfoilError) as caught:
        ReleaseCase.from_cbor(without, max_bytes=MAX_CASE)
    assert caught.value.code is Code.MALFORMED


# -- (1) the request ---------------------------------------------------------------------------------


def test_step_1_a_request_of_another_signer_is_refused():
    refused(Code.UNTRUSTED_KEY, World(signer={"request": STRANGER}))


def test_step_1_a_request_that_is_not_in_the_log_is_refused():
    elsewhere = World(request=lambda r: replace(r, deadline=r.deadline + 1))
    refused(Code.BAD_PROOF, request=elsewhere.request)


@pytest.mark.parametrize("name", ["request", "receipt", "open", "seal", "draw"])
def test_steps_1_2_3_5_a_statement_that_no_witness_has_seen_is_refused(name):
    raw = GOOD.receipts[GOOD.chosen] if name == "receipt" else getattr(GOOD, name)
    refused(Code.NOT_WITNESSED, **{f"{name}_proof": GOOD.proof(raw, witnesses=())})


@pytest.mark.parametrize("name", ["request", "receipt", "open", "seal", "draw"])
def test_steps_1_2_3_5_a_statement_of_a_log_that_is_not_pinned_is_refused(name):
    other = Signer("other.example/log", SignatureType.ED25519, octets("other log"))
    raw = GOOD.receipts[GOOD.chosen] if name == "receipt" else getattr(GOOD, name)
    proof = GOOD.proof(raw, log=other)
    refused(Code.UNTRUSTED_KEY, **{f"{name}_proof": proof})
    both = replace(TRUST.log, logs=(*TRUST.log.logs, other.verifier))
    detail = refused(Code.BAD_PROOF, trust=replace(TRUST, log=both), **{f"{name}_proof": proof})
    assert "another log" in detail


def test_step_1_a_recipient_that_is_not_pinned_is_refused():
    refused(Code.UNTRUSTED_KEY, World(request=lambda r: replace(r, recipient=octets("key"))))
    refused(Code.UNTRUSTED_KEY, terms=replace(TERMS, recipients=()))


# -- (2) the receipt ---------------------------------------------------------------------------------


def test_step_2_a_request_about_another_receipt_or_index_is_refused():
    assert "another receipt" in refused(
        Code.BAD_PROOF, World(request=lambda r: replace(r, receipt=octets("receipt")))
    )
    assert "not at the index" in refused(
        Code.BAD_PROOF, World(request=lambda r: replace(r, index=r.index + 1))
    )


def test_step_2_a_receipt_made_up_by_the_logs_operator_is_refused():
    refused(Code.UNTRUSTED_KEY, World(signer={"receipt": STRANGER}))


def test_step_2_a_bundle_other_than_the_receipts_is_refused():
    forged = replace(BUNDLE, signing_key=public_bytes(STRANGER))
    raw = sign(forged, key=OPERATOR, issuer="gpu-farm")
    assert "another key bundle" in refused(
        Code.BAD_PROOF, World(signer={"receipt": STRANGER}), bundle=raw
    )


# -- (3) the epoch -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["open", "seal", "draw"])
def test_steps_3_5_an_epoch_statement_of_another_signer_is_refused(name):
    refused(Code.UNTRUSTED_KEY, World(signer={name: STRANGER}))


def test_step_3_an_epoch_that_does_not_cover_the_receipt_is_refused():
    assert "cover" in refused(Code.BAD_PROOF, World(seal=lambda s: replace(s, first=s.size)))
    last = World(seal=lambda s: replace(s, size=s.size - 1), subject=lambda w: max(w.receipts))
    assert "cover" in refused(Code.BAD_PROOF, last)


def test_step_3_seal_and_open_statement_must_belong_together():
    other_open = World(seal=lambda s: replace(s, open=octets("open")))
    assert "another open statement" in refused(Code.BAD_PROOF, other_open)
    assert "different epochs" in refused(Code.BAD_PROOF, World(seal=lambda s: replace(s, epoch=4)))


def test_step_3_the_open_statement_must_precede_the_epoch_and_the_seal_follow_it():
    assert "do not enclose" in refused(Code.BAD_PROOF, World(seal=lambda s: replace(s, first=0)))
    assert "do not enclose" in refused(
        Code.BAD_PROOF, World(seal=lambda s: replace(s, size=s.size + 1))
    )


def test_step_3_a_second_seal_is_refused_by_a_custodian_that_revealed_under_the_first():
    value = GOOD.seal_value
    mine = Revealed(3, entry_of(GOOD.seal), value.first, value.size)
    assert GOOD.check(revealed=mine).epoch == 3
    refused(Code.FORK, revealed=replace(mine, seal=octets("first seal")))
    refused(Code.FORK, revealed=replace(mine, epoch=2))


# -- (4) the reveals ---------------------------------------------------------------------------------


def test_step_4_a_reveal_that_does_not_open_its_commitment_is_refused():
    world = World(reveal=lambda r: replace(r, reveal=octets("chosen later")))
    refused(Code.COMMITMENT_MISMATCH, world)


def test_step_4_the_commitments_are_those_of_the_open_statement_in_its_order():
    refused(Code.BAD_PROOF, commitments=tuple(GOOD.commitments[::-1]))
    refused(Code.BAD_PROOF, commitments=tuple(GOOD.commitments[:1]))
    refused(Code.BAD_PROOF, commitments=(*GOOD.commitments, PARTIES[0].commit(3)))
    refused(Code.BAD_PROOF, commitments=())


def test_step_4_reveals_are_in_order_and_no_party_reveals_twice():
    assert "order" in refused(Code.BAD_PROOF, reveals=tuple(GOOD.reveals[::-1]))
    assert "order" in refused(Code.BAD_PROOF, reveals=(GOOD.reveals[0], GOOD.reveals[0]))


def test_step_4_a_reveal_for_another_seal_epoch_or_log_is_refused():
    for says, edit in (
        ("another seal", lambda r: replace(r, seal=octets("seal"))),
        ("another log or epoch", lambda r: replace(r, epoch=4)),
        ("another log or epoch", lambda r: replace(r, origin="other")),
        ("no commitment", lambda r: replace(r, party="nobody")),
    ):
        assert says in refused(Code.BAD_PROOF, World(reveal=edit))


def test_step_4_a_commitment_for_another_epoch_is_refused():
    detail = refused(Code.BAD_PROOF, World(commitment=lambda party: party.commit(4)))
    assert "another log or epoch" in detail


def test_step_4_a_party_cannot_commit_twice():
    twin = replace(PARTIES[0], secret=octets("second secret"))
    world = World(commitment=lambda party: (party if party is PARTIES[0] else twin).commit(3))
    assert "two commitments" in refused(Code.BAD_PROOF, world)


def test_step_4_statements_in_a_pinned_partys_name_carry_its_signature():
    pinned = TRUST.pins[Role.PARTY]
    parties = {**pinned, "witness-1": (public_bytes(STRANGER),)}
    refused(Code.UNTRUSTED_KEY, trust=trusting(Role.PARTY, parties))
    stranger = {"custodian-1": pinned["custodian-1"]}
    assert GOOD.check(trust=trusting(Role.PARTY, stranger)).epoch == 3
    refused(Code.UNTRUSTED_KEY, World(signer={"reveal": STRANGER}))
    forged = World(commitment=lambda party: replace(party, key=STRANGER).commit(3))
    refused(Code.UNTRUSTED_KEY, forged)


# -- (5) the draw ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 4},
        {"seal": octets("seal")},
        {"reveals": ()},
        {"whole": True},
        {"seed": octets("seed")},
        {"drawn": ()},
    ],
    ids=lambda change: next(iter(change)),
)
def test_step_5_a_draw_that_does_not_follow_from_seal_and_reveals_is_refused(change):
    refused(Code.BAD_PROOF, World(draw=lambda d: replace(d, **change)))


def test_step_5_a_request_under_another_draw_is_refused():
    refused(Code.BAD_PROOF, World(request=lambda r: replace(r, draw=octets("draw"))))


def test_step_5_a_withheld_reveal_cannot_be_hidden():
    assert "whole exactly" in refused(
        Code.BAD_PROOF, World(missing=1, draw=lambda d: replace(d, whole=False))
    )
    world = World(missing=1, draw=lambda d: replace(d, whole=False))
    shown = tuple(world.commitments[:1])
    assert "other commitments" in refused(Code.BAD_PROOF, world, commitments=shown)


def test_step_5_a_receipt_that_the_rate_does_not_draw_is_refused_even_if_the_draw_lists_it():
    everything = lambda world: replace(world, drawn=tuple(range(4, 4 + RECEIPTS)))  # noqa: E731
    world = World(draw=everything, subject=not_by_rate)
    assert world.chosen not in world.drawn
    assert "rate" in refused(Code.BAD_PROOF, world)


def test_nobody_releases_in_the_tenants_name_under_a_draw():
    refused(Code.BAD_PROOF, World(reason=DisclosureReason.TENANT))


@pytest.mark.parametrize("reason", [DisclosureReason.DRAW, DisclosureReason.FLOOR])
def test_step_5_rate_and_floor_are_no_reasons_in_a_whole_epoch(reason):
    refused(Code.BAD_PROOF, World(reason=reason, missing=1, rate_ppm=500_000, floor=2))


def test_step_5_whole_is_not_a_reason_in_a_complete_epoch():
    refused(Code.BAD_PROOF, World(reason=DisclosureReason.WHOLE))


def test_step_5_the_floors_entries_must_be_those_of_the_seal():
    world = World(reason=DisclosureReason.FLOOR, rate_ppm=0, floor=1)
    subset = (entry_of(world.receipts[world.chosen]),)
    for entries in (
        subset,
        tuple(world.node_entries[::-1]),
        (*world.node_entries, octets("x")),
        None,
    ):
        refused(Code.COMMITMENT_MISMATCH, world, floor_entries=entries)


def test_step_5_a_receipt_that_is_not_among_the_smallest_is_not_drawn_by_the_floor():
    everything = lambda draw: replace(draw, drawn=tuple(range(4, 4 + RECEIPTS)))  # noqa: E731
    world = World(
        reason=DisclosureReason.FLOOR, rate_ppm=0, floor=1, draw=everything, subject=not_by_rate
    )
    assert "floor" in refused(Code.BAD_PROOF, world)


def test_step_5_a_confirmation_needs_a_witnessed_fail_of_another_pinned_worker_on_this_receipt():
    def confirming(**options):
        return World(reason=DisclosureReason.CONFIRM, **options)

    good = confirming()
    refused(Code.BAD_PROOF, good, verdict=None, verdict_proof=None)
    refused(Code.BAD_PROOF, good, verdict_proof=None)
    refused(Code.NOT_WITNESSED, good, verdict_proof=good.proof(good.verdict, witnesses=()))
    passed = confirming(verdict=lambda v: replace(v, outcome=Outcome.PASS, reason=Reason.EXACT))
    refused(Code.BAD_PROOF, passed)
    refused(Code.BAD_PROOF, confirming(verdict=lambda v: replace(v, receipt=octets("receipt"))))
    refused(Code.UNTRUSTED_KEY, confirming(signer={"verdict": STRANGER}))
    refused(Code.UNTRUSTED_KEY, confirming(verdict=lambda v: replace(v, worker="worker-9")))
    own = confirming(
        verdict=lambda v: replace(v, worker="worker-1"), signer={"verdict": signing_key("worker-1")}
    )
    assert "its own verdict" in refused(Code.BAD_PROOF, own)


def test_step_5_a_confirmation_of_a_receipt_that_was_never_drawn_is_refused():
    everything = lambda draw: replace(draw, drawn=tuple(range(4, 4 + RECEIPTS)))  # noqa: E731
    world = World(reason=DisclosureReason.CONFIRM, draw=everything, subject=not_by_rate)
    refused(Code.BAD_PROOF, world)


# -- (6) order, receipt, envelope ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"ctx": octets("x")},
        {"kc": octets("x")},
        {"envelope": octets("x")},
        {"bundle": octets("x")},
        {"tenant": "other"},
        {"number": 5},
        {"attempt": 5},
    ],
    ids=lambda change: next(iter(change)),
)
def test_step_6_an_order_that_disagrees_with_the_receipt_is_refused(change):
    world = World(order=lambda o: replace(o, **change))
    detail = refused(Code.BAD_PROOF, world, trust=trusting(Role.TENANT, None))
    assert next(iter(change)) in detail


def test_step_6_another_order_or_envelope_is_refused():
    refused(Code.BAD_PROOF, order=World(order=lambda o: replace(o, created=o.created - 1)).order)
    good = Envelope.from_bytes(sealed().envelope_bytes)
    wrap = good.escrow[0]
    for other in (
        replace(good, kc=octets("kc")),
        replace(good, escrow=(wrap[:-1] + bytes([wrap[-1] ^ 1]),)),
    ):
        assert "not the receipt's" in refused(Code.BAD_PROOF, envelope=other.to_bytes())


def test_step_6_a_receipt_whose_ctx_or_kc_is_not_the_envelopes_is_refused():
    for name in ("ctx", "kc"):
        edit = lambda value, name=name: replace(value, **{name: octets("x")})  # noqa: E731
        world = World(order=edit, receipt=edit)
        assert "another ctx" in refused(Code.BAD_PROOF, world)


def test_step_6_a_node_that_the_envelope_does_not_name_cannot_sign_for_it():
    """An accomplice's node cannot have somebody else's envelope drawn by signing receipts about it."""
    accomplice = sign(
        replace(BUNDLE, node="n9", signing_key=public_bytes(NODE), not_before=NOW + 1),
        key=OPERATOR,
        issuer="gpu-farm",
    )
    assert entry_of(accomplice) != entry_of(BUNDLE_RAW)
    edit = lambda value: replace(value, bundle=entry_of(accomplice))  # noqa: E731
    detail = refused(Code.BAD_PROOF, World(order=edit, receipt=edit), bundle=accomplice)
    assert "not sealed for the node" in detail


def test_hostile_cases_are_errors_of_the_catalogue():
    junk = b"\xd2\x84\x40\xa0\x40\x40"
    statements = ("request", "receipt", "bundle", "open", "seal", "draw", "order")
    for name in statements:
        refused(Code.MALFORMED, **{name: junk})
    for name in ("request", "receipt", "open", "seal", "draw"):
        refused(Code.MALFORMED, **{f"{name}_proof": "junk"})
    refused(Code.MALFORMED, commitments=(junk,))
    refused(Code.MALFORMED, reveals=(junk,))
    assert AUTHORITY is not STRANGER
    assert WITNESS.verifier in TRUST.log.witnesses
