"""A disclosure yields the secret once enough custodians have released their shares, visibly in the log, and blames nobody else."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from audit_layer.disclosure import service
from audit_layer.disclosure.at_once import THREAD
from audit_layer.disclosure.audit_client import Logged, Proof
from audit_layer.disclosure.evidence import Asking, Ciphertexts, check_evidence
from audit_layer.disclosure.service import Answering, Disclosed, Disclosure
from shared.codec.hashing import sha256
from shared.envelope.delivered import receipt_context
from shared.envelope.header import envelope_hash
from shared.envelope.release import ReleaseContext, seal_release
from shared.envelope.sealing import open_escrow
from shared.envelope.stream import final_signature_message
from shared.parties.custody import CaseAnswer
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import Payload, entry_of, open_as, parse_statement, sign
from shared.statements.disclosures import DisclosureRelease, EscrowReport, ShareReport
from shared.statements.orders import Part
from shared.statements.verdicts import Reason
from shared.translog.tlog_proof import verify_tlog_proof
from shared.verification.escrow_check import escrow_is_bad
from shared.verification.release_case import MAX_CASE, ReleaseCase
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
from tests.vectors.samples import ORDER, hpke_key

__all__ = ["world"]
PART_ORDER = replace(ORDER, part=Part(made.some("the head's order"), 1))


class FakeCustodian:
    """A double of a custodian that does not look at the draw. `lie` changes what it releases, `hand_out` what it hands out."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.key = hpke_key(name)
        self.asked = 0
        self.refuse: Code | None = None
        self.away: threading.Event | None = None
        """Until it is set, no answer comes."""
        self.reports = False
        self.lie: Callable[[FakeCustodian, ReleaseCase], tuple[bytes, bytes]] | None = None
        self.hand_out: Callable[[bytes], bytes] = lambda sealed: sealed
        self.shown: list[str] = []
        self._sealed: dict[bytes, bytes] = {}

    def release(self, message: bytes) -> CaseAnswer:
        self.asked += 1
        if self.away is not None:
            self.away.wait(60)
        case = ReleaseCase.from_cbor(message, max_bytes=MAX_CASE)
        if self.refuse is not None:
            raise CounterfoilError(self.refuse, f"{self.name} refuses")
        if self.reports:
            return CaseAnswer(report=self.report(case))
        try:
            statement, sealed = self.honest(case) if self.lie is None else self.lie(self, case)
        except CounterfoilError:  # its wrap does not open
            return CaseAnswer(report=self.report(case))
        self._sealed[entry_of(case.request)] = sealed
        return CaseAnswer(release=statement)

    def share(self, request: bytes, proof: str) -> bytes:
        self.shown.append(proof)
        return self.hand_out(self._sealed[request])

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

    def report(self, case: ReleaseCase, key=None, **changes) -> bytes:
        value = EscrowReport(
            request=entry_of(case.request),
            receipt=entry_of(case.receipt),
            envelope=envelope_hash(case.envelope),
            custodian=self.name,
            key=self.key.key_id,
        )
        return sign(replace(value, **changes), key=key or made.key(self.name), issuer=self.name)


class Server(FakeAuditServer):
    """A log whose witnesses sign as soon as a release is in it; one call at a time."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.publishes = True
        self._one = threading.Lock()

    def submit(self, statements: Sequence[bytes]) -> list[Logged]:
        with self._one:
            logged = super().submit(statements)
            if self.publishes and parse_statement(statements[0]).type == DisclosureRelease.TYPE:
                self.publish()
            return logged

    def proof(self, entry: bytes, *, wait_s: float = 0.0) -> Proof | None:
        with self._one:
            return super().proof(entry, wait_s=wait_s)


class FakeDeposits:
    """A double of the trail's deposits: what somebody deposited for a receipt."""

    def __init__(self) -> None:
        self.kept: list[Ciphertexts] = []
        self.asked: list[bytes] = []

    def find(self, receipt_entry: bytes) -> Sequence[Ciphertexts]:
        self.asked.append(receipt_entry)
        return self.kept


@dataclass
class Desk:
    """A worker's disclosure with five custodians, three of whom suffice."""

    world: World
    server: Server
    custodians: list[FakeCustodian]
    deposits: FakeDeposits
    subject: SealedReceipt
    disclosure: Disclosure

    def open(self, *, past_deadline: bool = False, witnessed: bool = True) -> Disclosed:
        if witnessed:
            self.server.submit([*self.subject.case.ground.before, self.subject.case.request])
            self.server.publish()
        return self.disclosure.open(self.subject.case, past_deadline=past_deadline)

    def secret(self) -> bytes:
        disclosed = self.open()
        assert disclosed.secret is not None, disclosed.missing
        return disclosed.secret

    def logged(self, kind: type[Payload]) -> list[Any]:
        """Return what the log holds of a type of statement, in its order."""
        rows = self.world.rows(
            "SELECT raw FROM trail_statements WHERE type = %s ORDER BY log_index", kind.TYPE
        )
        return [open_as(kind, raw, None)[0] for (raw,) in rows]

    def releases(self) -> list[DisclosureRelease]:
        return self.logged(DisclosureRelease)


def settle() -> None:
    """Wait until nothing of an earlier disclosure is on its way."""
    for thread in threading.enumerate():
        if thread.name == THREAD:
            thread.join(60)


@contextmanager
def opened_desk(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **spoiled: Any
) -> Iterator[Desk]:
    log = make_world(
        world.database.engine("server"), tmp_path / "log", names=["w1.example"], threshold=1
    )
    custodians = [FakeCustodian(name) for name in CUSTODIANS]
    for name in CUSTODIANS:
        world.trail.add_party(name, "custodian", made.public(name))
    server, deposits, subject = Server(world.trail, log), FakeDeposits(), make(world, **spoiled)

    def no_node(*_arguments: object, **_options: object) -> Ciphertexts:
        raise CounterfoilError(Code.UNAVAILABLE, "the node does not answer")

    monkeypatch.setattr(service, "fetch_from_node", no_node)
    deposits.kept.append(subject.ciphertexts)
    disclosure = Disclosure(
        name="worker",
        server=server,  # type: ignore[arg-type]  # a double
        custodians={item.key.key_id: item for item in custodians},  # type: ignore[misc]  # doubles
        deposits=deposits,
        private_key=WORKER,
        signing_key=made.key("worker"),
        ca_file=tmp_path / "unused",
        evidence_timeout_s=1,
    )
    try:
        yield Desk(world, server, custodians, deposits, subject, disclosure)
    finally:
        for custodian in custodians:
            if custodian.away is not None:
                custodian.away.set()
        settle()
        log.close()


@pytest.fixture
def desk(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    with opened_desk(world, tmp_path, monkeypatch) as opened:
        yield opened


# -- of chains ----------------------------------------------------------------------------------------------------


def test_a_stages_receipt_is_opened_by_what_its_head_was_sent(desk: Desk, monkeypatch):
    """Its custodians see its own order; deposits and the node that is asked are the head's."""
    own = desk.subject.case
    head = Answering(own.entry, own.receipt, "head.example:1", own.signing_key)
    stage = replace(own.receipt, order=made.some("a part"), h_final=made.some("nothing"))
    order, orders = sign(PART_ORDER, key=made.key("acme"), issuer="acme"), []
    desk.subject = replace(desk.subject, case=replace(own, receipt=stage, order=order, head=head))

    def noted(custodian: FakeCustodian, case: ReleaseCase) -> tuple[bytes, bytes]:
        orders.append(case.order)
        return custodian.honest(case)

    for custodian in desk.custodians:
        custodian.lie = noted
    assert desk.secret() == desk.subject.sealed.ts
    settle()
    assert set(orders) == {order}
    assert desk.deposits.asked == [own.entry]
    asked: list[tuple[str, Asking]] = []

    def fetched(endpoint: str, _ca: Path, asking: Asking, **_options: object) -> Ciphertexts:
        asked.append((endpoint, asking))
        return desk.subject.ciphertexts

    desk.deposits.kept.clear()
    monkeypatch.setattr(service, "fetch_from_node", fetched)
    assert desk.secret() == desk.subject.sealed.ts
    ((endpoint, asking),) = asked
    assert (endpoint, asking.receipt, asking.for_stage) == ("head.example:1", own.entry, True)
    assert asking.message().receipt == own.entry


def test_that_a_head_signed_two_final_records_is_nothing_to_its_stages(desk: Desk):
    own = desk.subject.case
    head = Answering(own.entry, own.receipt, own.endpoint, own.signing_key)
    twice = desk.subject.ciphertexts
    message = final_signature_message(receipt_context(own.receipt), own.receipt.h_final, b"second")
    second = replace(
        twice.sent,
        final_record=b"second",
        final_signature=made.key("alpha/one").sign(message),
    )
    desk.deposits.kept.append(Ciphertexts(twice.order, second))
    assert desk.open().signed_twice
    desk.subject = replace(desk.subject, case=replace(own, head=head))
    assert desk.secret() == desk.subject.sealed.ts


# -- shares -------------------------------------------------------------------------------------------------------


def test_all_custodians_are_asked_and_the_first_that_suffice_give_the_secret(desk: Desk):
    assert desk.secret() == desk.subject.sealed.ts
    settle()
    assert [item.asked for item in desk.custodians] == [1] * len(CUSTODIANS)
    assert {release.custodian for release in desk.releases()} == set(CUSTODIANS)
    for release in desk.releases():
        assert release.request == entry_of(desk.subject.case.request)
        assert release.receipt == entry_of(desk.subject.case.receipt_statement)


def test_any_three_of_five_custodians_suffice_whatever_the_others_say(desk: Desk):
    for away in combinations(desk.custodians, 2):
        for custodian in desk.custodians:
            custodian.refuse = None
        away[0].refuse, away[1].refuse = Code.UNAVAILABLE, Code.FORBIDDEN
        assert desk.secret() == desk.subject.sealed.ts
        settle()


def test_nobody_waits_for_custodians_that_do_not_answer(desk: Desk):
    """The two that are slow answer only when the test ends: waiting for them would take that long."""
    for custodian in desk.custodians[:2]:
        custodian.away = threading.Event()
    assert desk.secret() == desk.subject.sealed.ts
    assert [item.asked for item in desk.custodians] == [1] * len(CUSTODIANS)
    assert {release.custodian for release in desk.releases()} == set(CUSTODIANS[2:])


def test_fewer_than_k_custodians_open_nothing(desk: Desk):
    """Each share that comes fits, and they are one too few, before the deadline and after it."""
    for custodian in desk.custodians[THRESHOLD - 1 :]:
        custodian.refuse = Code.FORBIDDEN
    with pytest.raises(CounterfoilError) as caught:
        desk.open()
    assert caught.value.code is Code.UNAVAILABLE
    assert f"of {THRESHOLD} shares" in caught.value.detail
    late = desk.open(past_deadline=True)
    assert (late.secret, late.missing) == (None, "unavailable")


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


def of_another_request(custodian: FakeCustodian, case: ReleaseCase) -> tuple[bytes, bytes]:
    """The right share, sealed for another request of the same worker."""
    opened = open_escrow(
        case.envelope, custodian_key_id=custodian.key.key_id, hpke_private=custodian.key
    )
    context = ReleaseContext(
        made.some("another request"), custodian.key.key_id, opened.ctx, opened.kc
    )
    sealed = seal_release(WORKER.public_bytes, context, opened.index, opened.share)
    return custodian.statement(case, sealed), sealed


UNFIT = {
    "a share that does not open": sealed_junk,
    "a share that the header does not commit to": wrong_share,
    "a share that was sealed for another request": of_another_request,
}
LIES = {
    **UNFIT,
    "a share that is not the one it signed for": junk,
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


def test_two_hostile_custodians_of_five_stop_no_audit_and_blame_nobody_else(desk: Desk):
    """Otherwise two of them could shield a node for ever, or have a client blamed."""
    for name, lie in LIES.items():
        for liar in desk.custodians[:2]:
            liar.lie = lie
        assert desk.secret() == desk.subject.sealed.ts, name
        settle()
    assert desk.logged(EscrowReport) == []


@pytest.mark.parametrize("name", UNFIT)
def test_a_custodian_whose_share_does_not_fit_is_named_and_nobody_else(desk: Desk, name: str):
    desk.custodians[1].lie = UNFIT[name]
    assert desk.secret() == desk.subject.sealed.ts
    settle()
    (report,) = desk.logged(ShareReport)
    (release,) = [item for item in desk.releases() if item.custodian == "custodian-2"]
    assert (report.custodian, report.worker) == ("custodian-2", "worker")
    assert (report.request, report.receipt) == (release.request, release.receipt)
    (found,) = desk.world.trail.findings()
    assert (found[0].kind, found[0].issuer) == ("share-mismatch", "custodian-2")
    assert open_as(DisclosureRelease, found[0].first_statement, None)[0] == release
    assert open_as(ShareReport, found[0].second_statement, made.public("worker"))[0] == report
    assert desk.world.fsck() == []


def test_bytes_that_a_custodian_did_not_sign_for_are_no_finding_against_it(desk: Desk):
    """Whoever sits between could have changed them."""
    desk.custodians[1].hand_out = lambda sealed: sealed[:-1] + b"x"
    assert desk.secret() == desk.subject.sealed.ts
    settle()
    assert desk.logged(ShareReport) == []


def test_too_few_shares_mean_waiting_until_the_deadline(desk: Desk):
    for code in (Code.UNAVAILABLE, Code.FORBIDDEN, Code.FORK, Code.NOT_WITNESSED):
        for custodian in desk.custodians[2:]:
            custodian.refuse = code
        with pytest.raises(CounterfoilError) as caught:
            desk.open()
        assert caught.value.code is Code.UNAVAILABLE
        assert "custodian-3 refuses" in caught.value.detail
        late = desk.open(past_deadline=True)
        assert (late.secret, late.missing) == (None, "unavailable")
        settle()


# -- who is to blame for a bad escrow -----------------------------------------------------------------------------


def test_a_client_whose_wraps_do_not_fit_is_blamed_by_as_many_custodians_as_leave_too_few(
    world: World, tmp_path, monkeypatch
):
    """n − k + 1 reports: at least one is honest, or else k custodians lie. They are in the log, for anyone to count."""
    bad = {name: made.some("another share") for name in CUSTODIANS[:3]}
    with opened_desk(world, tmp_path, monkeypatch, spoil=bad) as desk:
        disclosed = desk.open()
        assert (disclosed.secret, disclosed.missing) == (None, "escrow")
        for name in bad:
            assert name in disclosed.why
        reports = desk.logged(EscrowReport)
        header = desk.subject.sealed.header
        assert {(report.custodian, report.key) for report in reports} == {
            (name, hpke_key(name).key_id) for name in bad
        }
        assert {report.envelope for report in reports} == {desk.subject.case.receipt.envelope}
        about = (header, desk.subject.case.entry, desk.subject.case.receipt.envelope)
        assert escrow_is_bad(*about, reports)
        assert not escrow_is_bad(*about, reports[1:])


def test_a_client_that_frames_two_custodians_gains_nothing_and_they_are_not_blamed(
    world: World, tmp_path, monkeypatch
):
    bad = {name: made.some("another share") for name in CUSTODIANS[:2]}
    with opened_desk(world, tmp_path, monkeypatch, spoil=bad) as desk:
        assert desk.secret() == desk.subject.sealed.ts
        settle()
        assert {report.custodian for report in desk.logged(EscrowReport)} == set(bad)
        assert desk.logged(ShareReport) == []
        assert desk.world.trail.findings() == []


def test_two_custodians_that_blame_an_honest_client_do_not_convict_it(desk: Desk):
    """Nor if a third is away: then the audit waits, and says so."""
    for custodian in desk.custodians[:2]:
        custodian.reports = True
    assert desk.secret() == desk.subject.sealed.ts
    settle()
    desk.custodians[2].refuse = Code.UNAVAILABLE
    with pytest.raises(CounterfoilError) as caught:
        desk.open()
    assert caught.value.code is Code.UNAVAILABLE
    assert desk.open(past_deadline=True).missing == "unavailable"


REPORTS: dict[str, dict[str, Any]] = {
    "another's signature": {"key": made.key("custodian-1")},
    "another's name": {"custodian": "custodian-1"},
    "another wrap": {"key_id": hpke_key("custodian-1").key_id},
    "another envelope": {"envelope": made.some("another envelope")},
    "another receipt": {"receipt": made.some("another receipt")},
    "another request": {"request": made.some("another request")},
}


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_that_is_not_the_custodians_own_about_its_wrap_does_not_count(
    desk: Desk, monkeypatch, name: str
):
    """A custodian cannot speak for others, nor an old report be shown again."""
    for custodian in desk.custodians[:3]:
        custodian.reports = True
    changes = dict(REPORTS[name])
    signing = changes.pop("key", None)
    if "key_id" in changes:
        changes["key"] = changes.pop("key_id")
    third = desk.custodians[2]
    monkeypatch.setattr(third, "report", lambda case: _report(third, case, signing, changes))
    with pytest.raises(CounterfoilError) as caught:
        desk.open()
    assert caught.value.code is Code.UNAVAILABLE


def _report(custodian: FakeCustodian, case: ReleaseCase, signing: Any, changes: Any) -> bytes:
    value = open_as(EscrowReport, FakeCustodian.report(custodian, case), None)[0]
    return sign(
        replace(value, **changes), key=signing or made.key(custodian.name), issuer=custodian.name
    )


# -- the log comes first --------------------------------------------------------------------------------------------


def test_a_share_is_asked_for_with_the_proof_that_its_release_is_witnessed(desk: Desk):
    desk.secret()
    settle()
    assert desk.server.log is not None
    for custodian in desk.custodians:
        (proof,) = custodian.shown
        entries = [
            entry_of(raw)
            for raw in desk.server.submitted
            if parse_statement(raw).issuer == custodian.name
        ]
        assert len(entries) == 1
        found = verify_tlog_proof(proof, entries[0], desk.server.log.policy)
        assert found.index < found.checkpoint.size


def test_while_a_release_is_not_witnessed_no_share_is_asked_for(desk: Desk):
    desk.server.publishes = False
    impatient = replace(desk.disclosure, publication_s=0)
    desk.disclosure = impatient
    with pytest.raises(CounterfoilError) as caught:
        desk.open()
    assert caught.value.code is Code.UNAVAILABLE
    settle()
    assert [custodian.shown for custodian in desk.custodians] == [[]] * len(CUSTODIANS)
    desk.server.publishes = True
    assert desk.secret() == desk.subject.sealed.ts
    settle()
    assert len(desk.releases()) == 2 * len(CUSTODIANS)  # these doubles sign anew each time


def test_while_the_log_is_away_no_share_is_asked_for(desk: Desk):
    def away(types: list[str]) -> None:
        if "disclosure-release" in types:
            raise CounterfoilError(Code.UNAVAILABLE, "the log is away")

    desk.server.before = away
    with pytest.raises(CounterfoilError) as caught:
        desk.open()
    assert caught.value.code is Code.UNAVAILABLE
    settle()
    assert [custodian.shown for custodian in desk.custodians] == [[]] * len(CUSTODIANS)


# -- order of things ------------------------------------------------------------------------------------------------


def test_nobody_is_asked_before_the_request_is_witnessed(desk: Desk):
    with pytest.raises(CounterfoilError) as caught:
        desk.open(witnessed=False)
    assert caught.value.code is Code.NOT_WITNESSED
    assert [item.asked for item in desk.custodians] == [0] * len(CUSTODIANS)


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
    assert [item.asked for item in desk.custodians] == [0] * len(CUSTODIANS)


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
    settle()
    assert {item.asked for item in desk.custodians} == {1}, "nothing more is released"


def test_the_nodes_own_answer_is_as_good_as_a_deposit(desk: Desk, monkeypatch):
    desk.deposits.kept.clear()
    asked = []

    def answer(endpoint: str, *_arguments: object, **_options: object) -> Ciphertexts:
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
    server, deposits = Server(world.trail, log), FakeDeposits()
    deposits.kept.append(subject.ciphertexts)
    disclosure = Disclosure(
        name="worker",
        server=server,  # type: ignore[arg-type]  # a double
        custodians={},
        deposits=deposits,
        private_key=WORKER,
        signing_key=made.key("worker"),
        ca_file=tmp_path / "unused",
        evidence_timeout_s=1,
    )
    server.submit([*subject.case.ground.before, subject.case.request])
    server.publish()
    disclosed = disclosure.open(subject.case, past_deadline=False)
    log.close()
    assert (disclosed.secret, disclosed.missing) == (None, "escrow")


def test_secrets_do_not_appear_in_representations(desk: Desk):
    disclosed = desk.open()
    assert desk.subject.sealed.ts.hex() not in repr(disclosed)
    assert repr(desk.subject.sealed.ts)[2:-1] not in repr(disclosed)
