"""A custodian's share leaves for one worker, once a witnessed draw demands it, and for nothing else.

`tests/shared/verification/test_release_check.py` goes through every single check; here the custodian as a whole is tested,
with its keys and its memory: what it answers, and that a refusal leaves no trace.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from audit_layer.custodian.core import Custodian
from shared.codec.hashing import sha256
from shared.codec.moment import now_ms
from shared.envelope.body import Audit
from shared.envelope.release import ReleaseContext, open_release
from shared.envelope.shares import split
from shared.parties.beacon_service import RevealRequest
from shared.parties.custody import ShareRequest
from shared.runtime import faults
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import public_bytes
from shared.selection.party import Revealed
from shared.statements.beacons import BeaconReveal
from shared.statements.cose import entry_of, open_as, sign
from shared.statements.disclosures import (
    DisclosureReason,
    DisclosureRelease,
    DisclosureRequest,
    EscrowReport,
)
from shared.statements.epochs import Draw
from shared.statements.orders import Order
from shared.translog.notes import parse_note
from shared.translog.tlog_proof import parse_tlog_proof
from shared.verification.trust import Role
from tests.audit_layer.custodian import custody
from tests.shared.selection import world as worlds
from tests.shared.selection.world import (
    BUNDLE_RAW,
    NODE,
    OPERATOR,
    RECEIPTS,
    TENANT,
    TERMS,
    WORKERS,
    World,
    not_by_rate,
    sealed,
    trusting,
)
from tests.vectors.samples import BUNDLE, NOW, hpke_key, octets, signing_key

GOOD = World()
STRANGER = signing_key("stranger")


@pytest.fixture
def holder(tmp_path):
    with custody.custodian(tmp_path) as opened:
        yield opened


def answer(holder: Custodian, world: World = GOOD, **changes) -> tuple[bytes, bytes]:
    """Take both steps; return the release and the share."""
    release = custody.release(holder, world, **changes)
    return release, custody.share(holder, world, release)


def context(world: World = GOOD) -> ReleaseContext:
    return ReleaseContext(entry_of(world.request), custody.KEY.key_id, sealed().ctx, sealed().kc)


# -- what is released --------------------------------------------------------------------------------


def test_a_drawn_request_gets_the_share_sealed_for_the_worker_it_names(holder):
    statement, share = answer(holder)
    opened = open_release(hpke_key("worker-1"), context(), sealed().header, share)
    assert opened == (1, split(sealed().ts, 1, 1)[0])
    release, signed = open_as(DisclosureRelease, statement, custody.PUBLIC)
    assert release == DisclosureRelease(
        request=entry_of(GOOD.request),
        receipt=entry_of(GOOD.receipts[GOOD.chosen]),
        custodian=custody.NAME,
        share=sha256(share),
    )
    assert signed.issuer == custody.NAME


def test_nobody_but_that_worker_opens_the_share_and_it_fits_no_other_request(holder):
    _, share = answer(holder)
    for name in ("worker-2", "node", "custodian"):
        with pytest.raises(CounterfoilError) as caught:
            open_release(hpke_key(name), context(), sealed().header, share)
        assert caught.value.code is Code.UNREADABLE
    for elsewhere in (
        replace(context(), request=octets("another request")),
        replace(context(), custodian=octets("another custodian")),
        replace(context(), kc=octets("another kc")),
    ):
        with pytest.raises(CounterfoilError) as caught:
            open_release(hpke_key("worker-1"), elsewhere, sealed().header, share)
        assert caught.value.code is Code.UNREADABLE


def test_a_key_bundle_that_expired_after_the_work_does_not_shield_its_receipt(holder):
    """Draws come after the day for which a key bundle is valid; otherwise a node could wait out its audit."""
    assert now_ms() > BUNDLE.not_after
    assert answer(holder)


@pytest.mark.parametrize(
    "options",
    [
        {"reason": DisclosureReason.FLOOR, "rate_ppm": 0, "floor": 1},
        {"reason": DisclosureReason.WHOLE, "missing": 1},
        {"reason": DisclosureReason.CONFIRM},
    ],
    ids=["floor", "whole", "confirm"],
)
def test_every_reason_of_the_protocol_opens_its_own_receipts(holder, options):
    world = World(**options)
    _, share = answer(holder, world)
    assert open_release(hpke_key("worker-1"), context(world), sealed().header, share)[0] == 1


def test_a_custodian_releases_under_the_epoch_seal_for_which_it_revealed(holder):
    shown = RevealRequest(3, GOOD.open, GOOD.proof(GOOD.open), GOOD.seal, GOOD.proof(GOOD.seal))
    reveal, _ = open_as(
        BeaconReveal, custody.beacon(holder).reveal(shown.to_cbor()), custody.PUBLIC
    )
    assert reveal.seal == entry_of(GOOD.seal)
    assert answer(holder)


def test_a_stranger_s_case_is_refused_before_the_rest_of_it_is_parsed(holder):
    case = GOOD.case()
    request, _ = open_as(DisclosureRequest, case.request, None)
    forged = sign(request, key=STRANGER, issuer="authority")
    with pytest.raises(CounterfoilError) as caught:
        holder.release(replace(case, request=forged, seal=b"\x00", draw=b"\x00").to_cbor())
    assert caught.value.code is Code.UNTRUSTED_KEY


# -- once and for ever --------------------------------------------------------------------------------


def test_a_repeated_request_is_answered_with_the_same_bytes_even_after_a_restart(holder, tmp_path):
    first = answer(holder)
    assert answer(holder) == first
    with custody.custodian(tmp_path) as again:
        assert answer(again) == first
    assert custody.kept(tmp_path) == 1


def test_requests_that_come_at_once_get_one_answer(holder, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        answers = set(pool.map(lambda _: custody.release(holder, GOOD), range(8)))
    assert len(answers) == 1
    assert custody.kept(tmp_path) == 1


def test_a_repeat_needs_no_second_look_at_the_chain(holder):
    """A request's answer is on disk; a bad case for it gets no other bytes, and so no oracle."""
    first = answer(holder)
    assert answer(holder, draw_proof="junk", envelope=b"x") == first


@pytest.mark.parametrize(("point", "left"), [("before-keep", 0), ("after-keep", 1)])
def test_a_crash_around_keeping_leaves_one_release_and_one_answer(
    holder, tmp_path, monkeypatch, point, left
):
    faults._reached.clear()
    monkeypatch.setenv(faults.VARIABLE, f"custodian.release.{point}:raise")
    with pytest.raises(faults.InjectedFault):
        answer(holder)
    assert custody.kept(tmp_path) == left
    monkeypatch.delenv(faults.VARIABLE)
    with custody.custodian(tmp_path) as again:
        assert answer(again) == answer(again)
    assert custody.kept(tmp_path) == 1


def test_two_requests_about_one_receipt_are_two_releases(holder, tmp_path):
    later = World(request=lambda r: replace(r, deadline=r.deadline + 1), subject=_same_place)
    assert answer(holder) != answer(holder, later)
    assert custody.kept(tmp_path) == 2


def _same_place(world: World) -> int:
    return GOOD.chosen if GOOD.chosen in world.drawn else world.drawn[0]


# -- what is refused ----------------------------------------------------------------------------------


def forged_path() -> str:
    """A proof of the request with one hash of its path changed."""
    proof = parse_tlog_proof(GOOD.proof(GOOD.request))
    wrong = bytes([proof.path[0][0] ^ 1]) + proof.path[0][1:]
    return replace(proof, path=(wrong, *proof.path[1:])).encode()


def forked_proof(world: World) -> str:
    """A proof in another history of the log, dressed with the cosignatures that the witness gave the first."""
    proof = parse_tlog_proof(world.proof(world.request, witnesses=()))
    seen = parse_note(parse_tlog_proof(GOOD.proof(GOOD.request)).note).signatures
    note = parse_note(proof.note)
    return replace(
        proof, note=note.with_signatures((*note.signatures, *seen[1:])).encode()
    ).encode()


FORKED = World(request=lambda r: replace(r, deadline=r.deadline + 9))


def everything(draw: Draw) -> Draw:
    """A draw that lists every receipt, whatever the seed says."""
    return replace(draw, drawn=tuple(range(4, 4 + RECEIPTS)))


LONGER = sign(replace(BUNDLE, not_after=BUNDLE.not_after - 1), key=OPERATOR, issuer="gpu-farm")
REFUSALS = {
    "a forged inclusion path": (Code.BAD_PROOF, GOOD, {"request_proof": forged_path()}),
    "a proof of another statement": (
        Code.BAD_PROOF,
        GOOD,
        {"draw_proof": GOOD.proof(GOOD.seal)},
    ),
    "an unwitnessed checkpoint": (
        Code.NOT_WITNESSED,
        GOOD,
        {"draw_proof": GOOD.proof(GOOD.draw, witnesses=())},
    ),
    "a fork that no witness has seen": (
        Code.NOT_WITNESSED,
        FORKED,
        {"request_proof": FORKED.proof(FORKED.request, witnesses=())},
    ),
    "a fork with the cosignatures of the first history": (
        Code.BAD_SIGNATURE,
        FORKED,
        {"request_proof": forked_proof(FORKED)},
    ),
    "a receipt that was not drawn": (Code.BAD_PROOF, World(subject=not_by_rate, draw=everything), {}),
    "a draw that does not list the receipt": (
        Code.BAD_PROOF,
        World(draw=lambda d: replace(d, drawn=d.drawn[1:])),
        {},
    ),
    "a beacon that opens to something else": (
        Code.COMMITMENT_MISMATCH,
        World(reveal=lambda r: replace(r, reveal=octets("chosen"))),
        {},
    ),
    "a seed that is not the beacon's": (
        Code.BAD_PROOF,
        World(draw=lambda d: replace(d, seed=octets("chosen"))),
        {},
    ),
    "a worker that is not pinned": (
        Code.UNTRUSTED_KEY,
        World(request=lambda r: replace(r, recipient=octets("worker-9"))),
        {},
    ),
    "a request that the authority did not sign": (
        Code.UNTRUSTED_KEY,
        World(signer={"request": STRANGER}),
        {},
    ),
    "a receipt that its node did not sign": (
        Code.UNTRUSTED_KEY,
        World(signer={"receipt": STRANGER}),
        {},
    ),
    "the node's bundle with other times": (Code.BAD_PROOF, GOOD, {"bundle": LONGER}),
    "a bundle for another key": (
        Code.BAD_PROOF,
        World(signer={"receipt": STRANGER}),
        {
            "bundle": sign(
                replace(BUNDLE, signing_key=public_bytes(STRANGER)),
                key=OPERATOR, issuer="gpu-farm",
            )
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_a_case_that_does_not_hold_is_refused_and_leaves_nothing(holder, tmp_path, name):
    code, world, changes = REFUSALS[name]
    with pytest.raises(CounterfoilError) as caught:
        answer(holder, world, **changes)
    assert caught.value.code is code, caught.value
    assert custody.kept(tmp_path) == 0


def test_the_same_statements_are_released_once_their_proofs_are_honest(holder):
    """The refusals above are due to what was spoiled, not to how the world is built."""
    assert answer(holder, FORKED)
    assert answer(holder, World(subject=lambda world: world.drawn[0]))


def test_a_second_seal_of_an_epoch_that_this_custodian_revealed_is_a_fork(holder, tmp_path):
    shown = RevealRequest(3, GOOD.open, GOOD.proof(GOOD.open), GOOD.seal, GOOD.proof(GOOD.seal))
    custody.beacon(holder).reveal(shown.to_cbor())
    second = World(seal=lambda seal: replace(seal, at=seal.at + 1))
    with pytest.raises(CounterfoilError) as caught:
        answer(holder, second)
    assert caught.value.code is Code.FORK
    assert custody.kept(tmp_path) == 0


def test_what_was_revealed_is_remembered_across_restarts(holder, tmp_path):
    shown = RevealRequest(3, GOOD.open, GOOD.proof(GOOD.open), GOOD.seal, GOOD.proof(GOOD.seal))
    custody.beacon(holder).reveal(shown.to_cbor())
    value = GOOD.seal_value
    with custody.custodian(tmp_path) as again:
        found = again.memory.find(3)
        assert found is not None
        assert found.revealed == Revealed(3, entry_of(GOOD.seal), value.first, value.size)
        second = World(seal=lambda seal: replace(seal, at=seal.at + 1))
        with pytest.raises(CounterfoilError) as caught:
            answer(again, second)
    assert caught.value.code is Code.FORK


def test_a_draw_in_which_this_custodian_took_no_part_is_refused(tmp_path):
    """A custodian pins itself: an authority with parties of its own making cannot draw what it likes."""
    alone = trusting(Role.PARTY, {"custodian-9": (custody.PUBLIC,)})
    terms = replace(TERMS, own="custodian-9")
    with (
        custody.custodian(tmp_path, trust=alone, terms=terms) as outsider,
        pytest.raises(CounterfoilError) as caught,
    ):
        answer(outsider)
    assert caught.value.code is Code.BAD_PROOF
    assert custody.kept(tmp_path) == 0


def test_an_accomplices_node_cannot_have_somebody_elses_envelope_drawn(holder, tmp_path):
    other = sign(
        replace(BUNDLE, node="n9", signing_key=public_bytes(NODE), not_before=NOW + 1),
        key=OPERATOR,
        issuer="gpu-farm",
    )
    assert other != BUNDLE_RAW
    edit = lambda value: replace(value, bundle=entry_of(other))  # noqa: E731
    with pytest.raises(CounterfoilError) as caught:
        answer(holder, World(order=edit, receipt=edit), bundle=other)
    assert caught.value.code is Code.BAD_PROOF
    assert custody.kept(tmp_path) == 0


# -- the custodian's own wrap ---------------------------------------------------------------------------


def lying_requests():
    """Envelopes that a client sealed in conflict with its own commitments, each wrong in a different place."""
    good = custody.request()
    return {
        "a wrap for nobody": custody.with_wrap(good, bytes(custody.WRAP)),
        "a share that the header does not commit to": custody.rewrapped(good, share=octets("x")),
        "a policy that the header does not commit to": custody.rewrapped(
            good, policy_nonce=octets("x")
        ),
        "another place than its own": custody.rewrapped(good, i=2),
        "a policy that is none": custody.rewrapped(good, policy=b"junk"),
    }


LIES = lying_requests()


@pytest.mark.parametrize("name", LIES)
def test_what_a_lying_client_wrapped_is_reported_whichever_part_is_wrong(
    holder, tmp_path, monkeypatch, name
):
    """The report says which wrap, and nothing of what is in it."""
    monkeypatch.setattr(worlds, "sealed", lambda **_: LIES[name])
    world = World()
    answered = custody.case_answer(holder, world)
    assert answered.release is None
    assert answered.report is not None
    report, signed = open_as(EscrowReport, answered.report, custody.PUBLIC)
    assert report == EscrowReport(
        request=entry_of(world.request),
        receipt=entry_of(world.receipts[world.chosen]),
        envelope=LIES[name].envelope_hash,
        custodian=custody.NAME,
        key=custody.KEY.key_id,
    )
    assert signed.issuer == custody.NAME
    assert custody.kept(tmp_path) == 0
    with custody.custodian(tmp_path) as again:  # for ever, as a release would be
        assert custody.case_answer(again, world) == answered
        with pytest.raises(CounterfoilError) as caught:
            again.share(
                ShareRequest(entry_of(world.request), world.publish(answered.report)).to_cbor()
            )
    assert caught.value.code is Code.NOT_FOUND


def test_a_wrap_for_another_custodian_is_unreadable_and_a_stranger_holds_nothing(tmp_path):
    with (
        custody.custodian(tmp_path, hpke=hpke_key("custodian 2")) as other,
        pytest.raises(CounterfoilError) as caught,
    ):
        answer(other)
    assert caught.value.code is Code.NOT_FOUND
    assert custody.kept(tmp_path) == 0


@pytest.mark.parametrize("audit", [Audit.NEVER, Audit.ALWAYS, Audit.SAMPLED])
def test_the_tenants_never_is_kept_even_for_a_valid_draw(holder, tmp_path, monkeypatch, audit):
    made = custody.request(audit)
    monkeypatch.setattr(worlds, "sealed", lambda **_: made)
    world = World()
    if audit is Audit.NEVER:
        with pytest.raises(CounterfoilError) as caught:
            answer(holder, world)
        assert caught.value.code is Code.FORBIDDEN
    else:
        assert answer(holder, world)
    assert custody.kept(tmp_path) == (audit is not Audit.NEVER)


@pytest.mark.parametrize("message", [b"", b"\xa0", b"junk", bytes(100), b"\xa1\x61x\x01"])
def test_a_message_that_is_not_a_case_is_malformed(holder, message):
    with pytest.raises(CounterfoilError) as caught:
        holder.release(message)
    assert caught.value.code is Code.MALFORMED


def test_an_order_of_another_tenant_does_not_unlock_the_receipt(holder, tmp_path):
    order, _ = open_as(Order, GOOD.order, None)
    other = sign(replace(order, tenant="bolt"), key=TENANT, issuer="issuer")
    with pytest.raises(CounterfoilError) as caught:
        answer(holder, order=other)
    assert caught.value.code is Code.BAD_PROOF
    assert custody.kept(tmp_path) == 0


def test_a_worker_is_known_by_the_key_that_the_configuration_pins(holder):
    """The authority cannot bring in a worker of its own, whatever it is called."""
    impostor = replace(WORKERS[0], hpke_key=hpke_key("impostor").public_bytes)
    world = World(request=lambda r: replace(r, recipient=impostor.key_id))
    with pytest.raises(CounterfoilError) as caught:
        answer(holder, world)
    assert caught.value.code is Code.UNTRUSTED_KEY


def test_a_custodian_pins_itself(tmp_path):
    terms = replace(TERMS, own="custodian-9")
    with (
        pytest.raises(CounterfoilError) as caught,
        custody.custodian(tmp_path, terms=terms),
    ):
        pytest.fail("it began")
    assert caught.value.code is Code.CONFIGURATION
