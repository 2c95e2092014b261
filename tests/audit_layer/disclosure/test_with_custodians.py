"""A worker and five real custodians, three of whom suffice, over the bytes that pass between them: protocol §6.2 as a whole."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from audit_layer.custodian.core import Custodian
from audit_layer.custodian.store import ReleaseStore, read_releases
from audit_layer.disclosure import service
from audit_layer.disclosure.audit_client import Logged, Proof
from audit_layer.disclosure.evidence import Ciphertexts
from audit_layer.disclosure.ground import AskedGround, DrawnGround
from audit_layer.disclosure.service import Disclosed, Disclosure, DueCase
from shared.envelope.body import Audit, AuditPolicy
from shared.envelope.delivered import Delivered
from shared.envelope.sealing import Candidate, SealedRequest, seal_request
from shared.parties.custody import CaseAnswer, ShareAnswer, ShareRequest
from shared.parties.identity_book import IdentityBook
from shared.parties.reveal_memory import RevealMemory
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import public_bytes
from shared.selection.party import BeaconParty
from shared.statements.cose import entry_of, parse_statement
from shared.statements.disclosures import DisclosureReason
from shared.statements.request import RequestBody, SamplingSettings
from shared.translog.tlog_proof import parse_tlog_proof
from shared.verification.trust import Role
from tests.audit_layer.custodian.test_identity_keys import LED, PINNING
from tests.audit_layer.disclosure.test_service import FakeDeposits, settle
from tests.shared.selection import world as worlds
from tests.shared.selection.world import (
    BUNDLE_RAW,
    LOG_POLICY,
    PARTIES,
    TERMS,
    World,
    not_by_rate,
    trusting,
)
from tests.vectors.samples import BUNDLE, NOW, ORIGIN, hpke_key, octets, signing_key

NAMES = tuple(f"custodian-{place}" for place in range(1, 6))
BEACON = (
    PARTIES[0],
    *(BeaconParty(name, ORIGIN, octets(f"beacon of {name}"), signing_key(name)) for name in NAMES),
)
TRUST = trusting(Role.PARTY, {party.name: (public_bytes(party.key),) for party in BEACON})
RELEASES = "releases.sqlite"


def sealed(audit: Audit = Audit.SAMPLED) -> SealedRequest:
    return seal_request(
        RequestBody(settings=SamplingSettings(max_tokens=4), prompt="x"),
        tenant="acme",
        candidates=[Candidate(entry_of(BUNDLE_RAW), BUNDLE.hpke_key)],
        custodians=[hpke_key(name).public_bytes for name in NAMES],
        threshold=3,
        model_root=octets("model"),
        max_output_tokens=4,
        policy=AuditPolicy(audit),
        expiry_ms=NOW + 1000,
    )


@dataclass
class Client:
    """A custodian as its worker's client reaches it, without the network; `down`: nothing answers there."""

    custodian: Custodian
    down: bool = False

    @property
    def name(self) -> str:
        return self.custodian.name

    def release(self, case: bytes) -> CaseAnswer:
        if self.down:
            raise CounterfoilError(Code.UNAVAILABLE, f"{self.name} does not answer")
        return CaseAnswer.from_cbor(self.custodian.release(case), max_bytes=2**20)

    def share(self, request: bytes, proof: str) -> bytes:
        answer = self.custodian.share(ShareRequest(request, proof).to_cbor())
        return ShareAnswer.from_cbor(answer, max_bytes=2**20).share


@dataclass
class Log:
    """The world's log as a server; `deaf`: it takes no releases."""

    world: World
    deaf: bool = False
    submitted: list[bytes] = field(default_factory=list)
    keys: tuple[bytes, ...] = ()
    """Statements about identities' keys."""

    def submit(self, statements: Sequence[bytes]) -> list[Logged]:
        if self.deaf and parse_statement(statements[0]).type == "disclosure-release":
            raise CounterfoilError(Code.UNAVAILABLE, "the log is away")
        for raw in statements:
            self.world.publish(raw)
        self.submitted += statements
        return []

    def proof(self, entry: bytes, *, wait_s: float = 0.0) -> Proof:
        raw = next(raw for raw in self._known() if entry_of(raw) == entry)
        proof = self.world.proof(raw)
        return Proof(proof, parse_tlog_proof(proof).index)

    def identities(self, subjects: Sequence[str]) -> list[tuple[bytes, str]]:
        assert set(subjects) == {"operator/gpu-farm", "tenant/acme"}
        return [(raw, self.world.publish(raw)) for raw in self.keys]

    def _known(self) -> list[bytes]:
        world = self.world
        known = [world.open, world.seal, world.audit, *world.receipts.values(), *self.submitted]
        known.append(BUNDLE_RAW)
        return [raw for raw in known if raw]


@dataclass
class Court:
    """A drawn case, its five custodians, and the worker that opens it."""

    sealed: SealedRequest
    clients: list[Client]
    folder: Path
    log: Log
    case: DueCase
    disclosure: Disclosure

    def open(self) -> Disclosed:
        found = self.disclosure.open(self.case, past_deadline=True)
        settle()
        return found

    def handed_out(self) -> set[str]:
        """Name the custodians whose shares have left."""
        return {
            client.name
            for client in self.clients
            if any(
                row.handed_out_at is not None
                for row in read_releases(self.folder / client.name / RELEASES)
            )
        }


@pytest.fixture
def court(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Court]:
    with convened(tmp_path, monkeypatch) as found:
        yield found


@contextmanager
def convened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, audit: Audit = Audit.SAMPLED, **options: Any
) -> Iterator[Court]:
    """Have a case heard, of a receipt that a draw lists or, with the world's `options`, that its tenant wants audited."""
    request = sealed(audit)
    monkeypatch.setattr(worlds, "sealed", lambda **_: request)
    monkeypatch.setattr(service, "check_evidence", lambda found, *_: (found, ""))
    world = World(parties=BEACON, **options)
    receipt = world.receipts[world.chosen]
    case = DueCase(
        request=world.request, receipt_statement=receipt, receipt=world.receipt, bundle=BUNDLE_RAW,
        endpoint="unused", signing_key=BUNDLE.signing_key,
        ground=AskedGround(world.audit) if world.audit else DrawnGround(
            opened=world.open, seal=world.seal, draw=world.draw,
            commitments=tuple(world.commitments), reveals=tuple(world.reveals),
        ),
    )  # fmt: skip
    deposits = FakeDeposits()
    sent = Delivered(request.envelope_bytes, octets("nonce"), (), b"final", b"")
    deposits.kept.append(Ciphertexts(world.order, sent))
    with ExitStack() as stack:
        clients = []
        for name in NAMES:
            store = ReleaseStore(tmp_path / name / RELEASES)
            memory = RevealMemory(tmp_path / name / "reveals.sqlite")
            stack.callback(store.close)
            stack.callback(memory.close)
            clients.append(
                Client(
                    Custodian(
                        name, signing_key(name), hpke_key(name), TRUST, replace(TERMS, own=name), store, memory
                    )
                )
            )  # fmt: skip
        log = Log(world)
        disclosure = Disclosure(
            name="worker-1",
            server=log,  # type: ignore[arg-type]  # a double
            custodians={c.custodian.hpke_key.key_id: c for c in clients},  # type: ignore[misc]  # without the network
            deposits=deposits,
            private_key=hpke_key("worker-1"),
            signing_key=signing_key("worker-1"),
            ca_file=tmp_path / "unused",
            evidence_timeout_s=1,
        )
        yield Court(request, clients, tmp_path, log, case, disclosure)
        settle()


def test_the_secret_comes_of_shares_whose_releases_are_all_in_the_log(court: Court):
    assert court.open().secret == court.sealed.ts
    logged = {parse_statement(raw).issuer for raw in court.log.submitted}
    assert court.handed_out() <= logged
    assert len(court.handed_out()) >= 3


@pytest.mark.parametrize(
    ("audit", "opens"), [(Audit.ALWAYS, True), (Audit.SAMPLED, True), (Audit.NEVER, False)]
)
def test_what_its_tenant_asks_for_is_opened_without_a_draw_unless_its_policy_is_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, audit: Audit, opens: bool
):
    asked = {"asked": True, "reason": DisclosureReason.TENANT, "subject": not_by_rate}
    with convened(tmp_path, monkeypatch, audit, **asked) as court:
        found = court.open()
        assert (found.secret == court.sealed.ts) is opens
        assert found.missing == (None if opens else "unavailable")


def test_custodians_that_pin_first_keys_release_what_later_ones_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The worker shows each of them how the log continues its pins; by these alone it would release nothing."""
    with convened(tmp_path, monkeypatch, before=LED) as court:
        for client in court.clients:
            book = IdentityBook(tmp_path / f"{client.name}.json", LOG_POLICY)
            trust = replace(PINNING, pins={**PINNING.pins, Role.PARTY: TRUST.pins[Role.PARTY]})
            client.custodian = replace(client.custodian, trust=trust, book=book)
        assert court.open().missing == "unavailable"
        court.log.keys = LED
        assert court.open().secret == court.sealed.ts


def test_two_that_are_dead_change_nothing_and_a_third_stops_the_disclosure(court: Court):
    for client in court.clients[:2]:
        client.down = True
    assert court.open().secret == court.sealed.ts
    court.clients[2].down = True
    assert court.open().missing == "unavailable"


def test_shares_that_were_altered_on_two_disks_change_nothing(court: Court):
    """Their custodians notice: they hand nothing out, and nobody is blamed."""
    court.log.deaf = True
    assert court.open().missing == "unavailable"
    for client in court.clients[:2]:
        with sqlite3.connect(court.folder / client.name / RELEASES) as db:
            db.execute("UPDATE releases SET share = zeroblob(length(share))")
        db.close()
    court.log.deaf = False
    assert court.open().secret == court.sealed.ts
    assert court.handed_out() == set(NAMES[2:])
    assert {parse_statement(raw).type for raw in court.log.submitted} >= {"disclosure-release"}
    assert "share-report" not in {parse_statement(raw).type for raw in court.log.submitted}


def test_while_the_log_takes_no_releases_no_share_is_out(court: Court):
    court.log.deaf = True
    assert court.open().missing == "unavailable"
    assert court.handed_out() == set()
    court.log.deaf = False
    assert court.open().secret == court.sealed.ts
