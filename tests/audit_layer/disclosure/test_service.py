"""A disclosure yields the secret once enough custodians have released their shares, visibly in the log, and blames nobody else."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from audit_layer.disclosure import service
from audit_layer.disclosure.evidence import Ciphertexts, check_evidence
from audit_layer.disclosure.service import Disclosed, Disclosure
from shared.codec.hashing import sha256
from shared.envelope.delivered import receipt_context
from shared.envelope.release import ReleaseContext, open_release, seal_release
from shared.envelope.sealing import open_escrow
from shared.envelope.stream import final_signature_message
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import entry_of, open_as, sign
from shared.statements.disclosures import DisclosureRelease
from shared.statements.verdicts import Reason
from shared.verification.release_check import MAX_CASE, ReleaseCase
from tests.audit_layer.api import statements as made
from tests.audit_layer.disclosure.sealed_receipt import (
    CUSTODIANS,
    THRESHOLD,
    WORKER,
    SealedReceipt,
    make,
)
from tests.audit_layer.log.world import make_world
from tests.audit_layer.replay.court import FakeAuditServer
from tests.audit_layer.trail.conftest import World, world
from tests.vectors.samples import hpke_key

__all__ = ["world"]


class FakeCustodian:
    """A double of a custodian that releases without looking at the draw. `lie` changes what it answers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.key = hpke_key(name)
        self.asked = 0
        self.refuse: Code | None = None
        self.lie: Callable[[FakeCustodian, ReleaseCase], tuple[bytes, bytes]] | None = None

    def release(self, message: bytes) -> tuple[bytes, bytes]:
        self.asked += 1
        case = ReleaseCase.from_cbor(message, max_bytes=MAX_CASE)
        if self.refuse is not None:
            raise CounterfoilError(self.refuse, f"{self.name} refuses")
        return self.honest(case) if self.lie is None else self.lie(self, case)

    def honest(self, case: ReleaseCase, **changes) -> tuple[bytes, bytes]:
        opened = open_escrow(case.envelope, custodian_key_id=self.key.key_id, hpke_private=self.key)
        context = ReleaseContext(entry_of(case.request), self.key.key_id, opened.ctx, opened.kc)
        sealed = seal_release(WORKER.public_bytes, context, opened.index, opened.share)
        return self.statement(case, sealed, **changes), sealed

    def statement(self, case: ReleaseCase, sealed: bytes, key=None, **changes) -> bytes:
        value = DisclosureRelease(
            request=entry_of(case.request),
            receipt=entry_of(case.receipt),
            custodian=self.name,
            share=sha256(sealed),
        )
        return sign(
            replace(value, **changes),
            key=key or made.key(self.name),
            issuer=self.name,
        )


class FakeDeposits:
    """A double of the trail's deposits: what somebody deposited for a receipt."""

    def __init__(self) -> None:
        self.kept: list[Ciphertexts] = []

    def find(self, receipt_entry: bytes) -> Sequence[Ciphertexts]:
        return self.kept


@dataclass
class Desk:
    """A worker's disclosure with three custodians, two of whom suffice."""

    world: World
    server: FakeAuditServer
    custodians: list[FakeCustodian]
    deposits: FakeDeposits
    subject: SealedReceipt
    disclosure: Disclosure

    def open(self, *, past_deadline: bool = False, witnessed: bool = True) -> Disclosed:
        if witnessed:
            self.server.submit([self.subject.case.draw, self.subject.case.request])
            self.server.publish()
        return self.disclosure.open(self.subject.case, past_deadline=past_deadline)

    def secret(self) -> bytes:
        disclosed = self.open()
        assert disclosed.secret is not None, disclosed.missing
        return disclosed.secret

    def releases(self) -> list[DisclosureRelease]:
        rows = self.world.rows(
            "SELECT raw FROM trail_statements WHERE type = 'disclosure-release' ORDER BY log_index"
        )
        return [open_as(DisclosureRelease, raw, None)[0] for (raw,) in rows]


@pytest.fixture
def desk(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    log = make_world(
        world.database.engine("server"), tmp_path / "log", names=["w1.example"], threshold=1
    )
    custodians = [FakeCustodian(name) for name in CUSTODIANS]
    for name in CUSTODIANS:
        world.trail.add_party(name, "custodian", made.public(name))
    server, deposits, subject = FakeAuditServer(world.trail, log), FakeDeposits(), make(world)

    def no_node(*_arguments: object, **_options: object) -> Ciphertexts:
        raise CounterfoilError(Code.UNAVAILABLE, "the node does not answer")

    monkeypatch.setattr(service, "fetch_from_node", no_node)
    deposits.kept.append(subject.ciphertexts)
    disclosure = Disclosure(
        server=server,  # type: ignore[arg-type]  # a double
        custodians={item.key.key_id: item for item in custodians},  # type: ignore[misc]  # doubles
        deposits=deposits,
        private_key=WORKER,
        signing_key=made.key("worker"),
        ca_file=tmp_path / "unused",
        evidence_timeout_s=1,
    )
    yield Desk(world, server, custodians, deposits, subject, disclosure)
    log.close()


# -- shares -------------------------------------------------------------------------------------------------------


def test_enough_shares_give_the_secret_and_nobody_more_is_asked(desk: Desk):
    assert desk.secret() == desk.subject.sealed.ts
    assert [item.asked for item in desk.custodians] == [1, 1, 0]
    assert [release.custodian for release in desk.releases()] == list(CUSTODIANS[:THRESHOLD])
    for release in desk.releases():
        assert release.request == entry_of(desk.subject.case.request)
        assert release.receipt == entry_of(desk.subject.case.receipt_statement)


def test_any_two_of_three_custodians_suffice(desk: Desk):
    for away in desk.custodians:
        away.refuse = Code.UNAVAILABLE
        assert desk.secret() == desk.subject.sealed.ts
        away.refuse = None


def junk(custodian: FakeCustodian, case: ReleaseCase) -> tuple[bytes, bytes]:
    return custodian.honest(case)[0], b"junk"


def sealed_junk(custodian: FakeCustodian, case: ReleaseCase) -> tuple[bytes, bytes]:
    return custodian.statement(case, b"junk"), b"junk"


def wrong_share(custodian: FakeCustodian, case: ReleaseCase) -> tuple[bytes, bytes]:
    opened = open_escrow(
        case.envelope, custodian_key_id=custodian.key.key_id, hpke_private=custodian.key
    )
    context = ReleaseContext(entry_of(case.request), custodian.key.key_id, opened.ctx, opened.kc)
    sealed = seal_release(WORKER.public_bytes, context, opened.index, bytes(32))
    return custodian.statement(case, sealed), sealed


LIES = {
    "a share that is not the one it signed for": junk,
    "a share that does not open": sealed_junk,
    "a share that the header does not commit to": wrong_share,
    "a statement that is none": lambda custodian, case: (b"junk", custodian.honest(case)[1]),
    "a statement with another's signature": lambda custodian, case: custodian.honest(
        case, key=made.key("stranger")
    ),
    "a statement in another's name": lambda custodian, case: custodian.honest(
        case, custodian="custodian-3"
    ),
    "a statement about another request": lambda custodian, case: custodian.honest(
        case, request=made.some("another request")
    ),
    "a statement about another receipt": lambda custodian, case: custodian.honest(
        case, receipt=made.some("another receipt")
    ),
}


def test_one_hostile_custodian_of_three_stops_no_audit(desk: Desk):
    """Otherwise one of them could shield a node forever."""
    for name, lie in LIES.items():
        desk.custodians[0].lie = lie
        for custodian in desk.custodians:
            custodian.asked = 0
        assert desk.secret() == desk.subject.sealed.ts, name
        assert [item.asked for item in desk.custodians] == [1, 1, 1], name


def test_too_few_shares_mean_waiting_until_the_deadline(desk: Desk):
    for code in (Code.UNAVAILABLE, Code.FORBIDDEN, Code.FORK, Code.NOT_WITNESSED):
        desk.custodians[0].refuse = desk.custodians[2].refuse = code
        with pytest.raises(CounterfoilError) as caught:
            desk.open()
        assert caught.value.code is Code.UNAVAILABLE
        assert "1 of 2" in caught.value.detail
        assert "custodian-3 refuses" in caught.value.detail
        late = desk.open(past_deadline=True)
        assert (late.secret, late.missing) == (None, "unavailable")


def test_wraps_that_no_custodian_can_open_are_the_escrows_fault_at_once(desk: Desk):
    """The client sealed them, so the node is not to blame, and waiting does not help."""
    desk.custodians[0].refuse = desk.custodians[1].refuse = Code.UNREADABLE
    disclosed = desk.open()
    assert (disclosed.secret, disclosed.missing) == (None, "escrow")


def test_a_release_is_in_the_log_before_its_share_is_used(desk: Desk, monkeypatch):
    order: list[str] = []

    def watched(*arguments):
        order.append("opened")
        return open_release(*arguments)

    monkeypatch.setattr(service, "open_release", watched)
    desk.server.after = order.extend
    desk.secret()
    tail = order[-2 * THRESHOLD :]
    assert tail == ["disclosure-release", "opened"] * THRESHOLD


def test_while_the_log_is_away_no_share_is_used(desk: Desk, monkeypatch):
    def away(types: list[str]) -> None:
        if "disclosure-release" in types:
            raise CounterfoilError(Code.UNAVAILABLE, "the log is away")

    def never(*_arguments: object) -> None:
        raise AssertionError("a share was used that nobody can see")

    desk.server.before = away
    monkeypatch.setattr(service, "open_release", never)
    with pytest.raises(CounterfoilError) as caught:
        desk.open()
    assert caught.value.code is Code.UNAVAILABLE


# -- order of things ------------------------------------------------------------------------------------------------


def test_nobody_is_asked_before_the_request_is_witnessed(desk: Desk):
    with pytest.raises(CounterfoilError) as caught:
        desk.open(witnessed=False)
    assert caught.value.code is Code.NOT_WITNESSED
    assert [item.asked for item in desk.custodians] == [0, 0, 0]


def test_draw_and_request_are_resubmitted_by_the_worker(desk: Desk):
    """An authority that died in between left them in its table."""
    with pytest.raises(CounterfoilError):
        desk.open(witnessed=False)
    rows = desk.world.rows("SELECT type FROM trail_statements ORDER BY log_index DESC LIMIT 2")
    assert rows == [("disclosure-request",), ("draw",)]


# -- evidence -------------------------------------------------------------------------------------------------------


def test_without_evidence_it_waits_until_the_deadline_and_then_reports_it_withheld(desk: Desk):
    desk.deposits.kept.clear()
    with pytest.raises(CounterfoilError) as caught:
        desk.open()
    assert caught.value.code is Code.UNAVAILABLE
    late = desk.open(past_deadline=True)
    assert (late.ciphertexts, late.secret, late.missing) == (None, None, "withheld")
    assert [item.asked for item in desk.custodians] == [0, 0, 0]


def test_what_does_not_hash_to_the_receipt_was_not_delivered_whoever_sends_it(
    desk: Desk, monkeypatch
):
    good = desk.subject.ciphertexts
    forged = [
        replace(good, order=made.bundle("alpha")),
        replace(good, order=b"junk"),
        *(
            replace(good, sent=replace(good.sent, **change))
            for change in (
                {"envelope": good.sent.envelope[:-1] + b"x"},
                {"frames": good.sent.frames[:-1]},
                {"frames": tuple(reversed(good.sent.frames))},
                {"frames": (*good.sent.frames, b"frame")},
            )
        ),
    ]
    for item in forged:
        with pytest.raises(CounterfoilError) as caught:
            check_evidence(item, desk.subject.case.receipt, made.public("alpha/one"))
        assert caught.value.code is Code.COMMITMENT_MISMATCH
    desk.deposits.kept[:] = forged
    monkeypatch.setattr(service, "fetch_from_node", lambda *_, **__: forged[2])
    late = desk.open(past_deadline=True)
    assert late.missing is Reason.WITHHELD
    assert late.why.count("the order is") == 2
    assert late.why.count("the frames are not the receipt's") == 3
    desk.deposits.kept.append(good)
    assert desk.secret() == desk.subject.sealed.ts


@pytest.mark.parametrize("final", [b"", b"junk"])
def test_frames_count_without_a_final_record_that_the_node_signed(
    desk: Desk, monkeypatch, final: bytes
):
    good = desk.subject.ciphertexts
    partial = replace(good, sent=replace(good.sent, final_record=final))
    asked = []

    def answer(*_arguments: object, **_options: object) -> Ciphertexts:
        asked.append(1)
        raise CounterfoilError(Code.NOT_FOUND, "it is not kept")

    monkeypatch.setattr(service, "fetch_from_node", answer)
    desk.deposits.kept[:] = [partial]
    with pytest.raises(CounterfoilError, match="it is not kept"):  # the rest may still come
        desk.open()
    assert asked == [1]
    late = desk.open(past_deadline=True)
    assert late.missing is None
    assert late.secret == desk.subject.sealed.ts
    assert late.ciphertexts is not None
    assert late.ciphertexts.sent.frames == good.sent.frames
    assert (late.ciphertexts.sent.final_record, late.ciphertexts.sent.final_signature) == (b"", b"")
    assert late.why.count("final record") == 1
    desk.deposits.kept.append(good)  # a whole deposit behind it is found, and nobody is asked
    whole = desk.open(past_deadline=True)
    assert (whole.ciphertexts, whole.why, len(asked)) == (good, "", 2)


def test_two_final_records_that_the_node_signed_convict_it(desk: Desk):
    good = desk.subject.ciphertexts
    receipt = desk.subject.case.receipt
    message = final_signature_message(receipt_context(receipt), receipt.h_final, b"another")
    signature = made.key("alpha/one").sign(message)
    other = replace(good.sent, final_record=b"another", final_signature=signature)
    desk.deposits.kept[:] = [good, good]
    assert not desk.open().signed_twice
    desk.deposits.kept.append(replace(good, sent=other))
    assert desk.open().signed_twice
    assert [item.asked for item in desk.custodians].count(0) == 1, "nothing more is released"


def test_the_nodes_own_answer_is_as_good_as_a_deposit(desk: Desk, monkeypatch):
    desk.deposits.kept.clear()
    asked = []

    def answer(endpoint: str, *_arguments: object, timeout_s: float) -> Ciphertexts:
        asked.append(endpoint)
        return desk.subject.ciphertexts

    monkeypatch.setattr(service, "fetch_from_node", answer)
    assert desk.secret() == desk.subject.sealed.ts
    assert asked == [desk.subject.case.endpoint]


@pytest.mark.parametrize("envelope", [b"", b"junk", b"\xa0"])
def test_a_malformed_envelope_ends_in_an_answer_and_not_in_an_endless_case(
    world: World, tmp_path, envelope
):
    """Tenant and node signed for it together; nobody can open it, and the worker must not try forever."""
    subject = make(world, envelope)
    log = make_world(
        world.database.engine("server"), tmp_path / "log", names=["w1.example"], threshold=1
    )
    server, deposits = FakeAuditServer(world.trail, log), FakeDeposits()
    deposits.kept.append(subject.ciphertexts)
    disclosure = Disclosure(
        server=server,  # type: ignore[arg-type]  # a double
        custodians={},
        deposits=deposits,
        private_key=WORKER,
        signing_key=made.key("worker"),
        ca_file=tmp_path / "unused",
        evidence_timeout_s=1,
    )
    server.submit([subject.case.draw, subject.case.request])
    server.publish()
    disclosed = disclosure.open(subject.case, past_deadline=False)
    log.close()
    assert (disclosed.secret, disclosed.missing) == (None, "escrow")


def test_secrets_do_not_appear_in_representations(desk: Desk):
    disclosed = desk.open()
    assert desk.subject.sealed.ts.hex() not in repr(disclosed)
    assert repr(desk.subject.sealed.ts)[2:-1] not in repr(disclosed)
