"""One disclosure, from the logged request to the transcript secret.

Order matters: the request must be witnessed before anyone is asked; ciphertexts are checked against the receipt before
a custodian sees them; a disclosure release is logged and witnessed before its custodian hands out the share.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from audit_layer.disclosure.audit_client import AuditServer, Proof
from audit_layer.disclosure.custody import Gathered, Heard, ask_all
from audit_layer.disclosure.evidence import Asking, Ciphertexts, check_evidence, fetch_from_node
from audit_layer.disclosure.ground import Ground
from audit_layer.disclosure.parties import CustodianClient
from shared.codec.hashing import sha256
from shared.envelope.header import Envelope, Header
from shared.envelope.hpke import Opener
from shared.envelope.release import ReleaseContext, open_release
from shared.envelope.shares import combine
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import Signer
from shared.runtime.party import PartyFiles
from shared.statements.cose import entry_of, open_as, read_as, sign
from shared.statements.disclosures import DisclosureRelease, EscrowReport, ShareReport
from shared.statements.identities import Holder, identity
from shared.statements.keys import KeyBundle
from shared.statements.orders import Order
from shared.statements.receipts import Receipt
from shared.statements.verdicts import Reason
from shared.verification.release_case import MAX_IDENTITIES, ReleaseCase, ShownIdentity

WAIT_S: Final = 1.0
"""How long one question whether a release is witnessed waits for the answer."""
POLL_S: Final = 0.1
"""The pause between two such questions."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answering:
    """A receipt to which ciphertexts belong, and its node."""

    entry: bytes
    receipt: Receipt
    endpoint: str
    signing_key: bytes


@dataclass(frozen=True, slots=True)
class DueCase:
    """What is known about a receipt that is to be disclosed, before anything is: statements as they are in the log."""

    request: bytes
    receipt_statement: bytes
    receipt: Receipt
    bundle: bytes
    """The key bundle that the receipt names."""
    endpoint: str
    """The node's address, from its key bundle."""
    signing_key: bytes
    """The node's signing key, from its key bundle."""
    ground: Ground
    first_verdict: bytes | None = None
    """The verdict to be confirmed."""
    order: bytes | None = None
    """The order that a stage's receipt answers; None for a whole answer, whose order comes with its ciphertexts."""
    head: Answering | None = None
    """Of a stage's receipt: the head's, whose ciphertexts are its request's."""

    @property
    def entry(self) -> bytes:
        """The receipt's log entry."""
        return entry_of(self.receipt_statement)

    @property
    def answering(self) -> Answering:
        """The receipt to which its ciphertexts belong: itself, or its chain's head's."""
        own = Answering(self.entry, self.receipt, self.endpoint, self.signing_key)
        return self.head or own


@dataclass(frozen=True, slots=True, repr=False)
class Disclosed:
    """The result of a disclosure: the ciphertexts and the secret, or why there is no secret."""

    ciphertexts: Ciphertexts | None
    secret: bytes | None
    missing: Reason | None = None
    """Why there is no secret."""
    why: str = ""
    """What the sources answered that had not everything, for people."""
    signed_twice: bool = False
    """Whether the node signed two final records for this receipt: both were deposited."""


class Deposits(Protocol):
    """Ciphertexts that somebody other than the node deposited."""

    def find(self, receipt_entry: bytes) -> Sequence[Ciphertexts]:
        """Return all deposits for one receipt; none of them is believed."""


@dataclass(frozen=True, slots=True)
class Disclosure:
    """Opens due cases for one worker."""

    name: str
    """The worker's."""
    server: AuditServer
    custodians: Mapping[bytes, CustodianClient]
    """By key id of their HPKE key."""
    deposits: Deposits
    private_key: Opener
    signing_key: Signer
    """The worker's signing key, by which nodes know who asks."""
    ca_file: Path
    evidence_timeout_s: float
    party: PartyFiles | None = None
    """What the worker shows to nodes."""
    publication_s: float = 5.0
    """How long to wait for a release to be witnessed before the case is left for later."""

    def open(self, case: DueCase, *, past_deadline: bool) -> Disclosed:
        """Disclose one case.

        Raises NOT_WITNESSED while the log has not caught up, and UNAVAILABLE while evidence or shares may still arrive;
        after the deadline the same is an answer: `withheld` (evidence) or `unavailable` (custodians).
        """
        self.server.submit([*case.ground.before, case.request])
        proofs = self._proofs(case)
        found = self._gathered(case, proofs["request_proof"])
        ciphertexts, why = found.best, found.why
        if len(found.finals) > 1 and case.head is None:  # of a head's, its stages know nothing
            return Disclosed(ciphertexts, None, signed_twice=True)
        if why and not past_deadline:
            raise CounterfoilError(
                Code.UNAVAILABLE, f"the node has not delivered its evidence yet: {why}"
            )
        if ciphertexts is None:
            return Disclosed(None, None, Reason.WITHHELD, why)
        try:
            header = Envelope.from_bytes(ciphertexts.sent.envelope).header
        except CounterfoilError as error:  # order and receipt name these bytes: anyone sees it
            return Disclosed(ciphertexts, None, Reason.ESCROW, str(error))
        gathered = self._ask_custodians(case, ciphertexts, proofs, header)
        if gathered.enough:
            secret = combine(gathered.shares, header.threshold)
            return Disclosed(ciphertexts, secret, why=why)
        if gathered.convicts:
            return Disclosed(ciphertexts, None, Reason.ESCROW, gathered.why)
        if past_deadline:
            return Disclosed(ciphertexts, None, Reason.UNAVAILABLE, gathered.why)
        raise CounterfoilError(Code.UNAVAILABLE, gathered.why)

    def _proofs(self, case: DueCase) -> dict[str, Any]:
        """Gather witnessed proofs of every statement that a custodian will want to see."""
        statements = {
            "request": case.request,
            "receipt": case.receipt_statement,
            "bundle": case.bundle,
            **case.ground.witnessed,
        }
        if case.first_verdict is not None:
            statements["verdict"] = case.first_verdict
        shown: dict[str, Any] = {}
        for name, statement in statements.items():
            proof = self.server.proof(entry_of(statement))
            if proof is None:
                raise CounterfoilError(Code.NOT_WITNESSED, f"the {name} is not witnessed yet")
            shown[name], shown[f"{name}_proof"] = statement, proof.text
        return shown

    def _identities(self, bundle: bytes, order: bytes) -> tuple[ShownIdentity, ...] | None:
        """Return what leads custodians from the keys that they pin to those that signed key bundle and order."""
        about = (
            identity(Holder.OPERATOR, read_as(KeyBundle, bundle).operator),
            identity(Holder.TENANT, read_as(Order, order).tenant),
        )
        shown = self.server.identities(about)[:MAX_IDENTITIES]
        return tuple(ShownIdentity(*item) for item in shown) or None

    def _gathered(self, case: DueCase, proof: str) -> "_Gathered":
        """Gather the ciphertexts that are the receipt's: all deposits', and the node's if none of those is whole."""
        found, answering = _Gathered(case.answering), case.answering
        for number, deposit in enumerate(self.deposits.find(answering.entry), start=1):
            found.add(f"deposit {number}", partial(_kept, deposit))
        if not found.whole:
            found.add(answering.endpoint, partial(self._from_node, case, proof))
        return found

    def _from_node(self, case: DueCase, proof: str) -> Ciphertexts:
        answering, for_stage = case.answering, case.head is not None
        asking = Asking(case.request, proof, answering.entry, self.signing_key, for_stage)
        return fetch_from_node(
            answering.endpoint,
            self.ca_file,
            asking,
            timeout_s=self.evidence_timeout_s,
            party=self.party,
        )

    def _ask_custodians(
        self, case: DueCase, found: Ciphertexts, proofs: Mapping[str, Any], header: Header
    ) -> Gathered:
        order = case.order or found.order
        release_case = ReleaseCase(
            **proofs,
            **case.ground.besides,
            identities=self._identities(case.bundle, order),
            order=order,
            envelope=found.sent.envelope,
        ).to_cbor()
        known = {
            key_id: self.custodians[key_id]
            for key_id in header.custodians
            if key_id in self.custodians
        }
        asking = {
            custodian.name: partial(self._ask, custodian, release_case, key_id, header, case)
            for key_id, custodian in known.items()
        }
        gathered = Gathered(header, case.entry, case.receipt.envelope, len(asking))
        ask_all(asking, gathered)
        return gathered

    def _ask(
        self,
        custodian: CustodianClient,
        release_case: bytes,
        key_id: bytes,
        header: Header,
        case: DueCase,
        over: threading.Event,
    ) -> Heard:
        """Have one custodian release; log its release; show it the proof; open its share. Raises on any fault of its."""
        answer = custodian.release(release_case)
        if answer.report is not None:
            report = _check_report(answer.report, custodian.name, key_id, case)
            self.server.submit([answer.report])
            return Heard(report=report)
        assert answer.release is not None
        release = _check_release(answer.release, custodian.name, case)
        self.server.submit([answer.release])
        entry = entry_of(answer.release)
        sealed = custodian.share(release.request, self._published(entry, over).text)
        if sha256(sealed) != release.share:
            raise CounterfoilError(
                Code.COMMITMENT_MISMATCH,
                f"{custodian.name} handed out other bytes than its release names",
            )
        context = ReleaseContext(release.request, key_id, case.receipt.ctx, case.receipt.kc)
        try:
            return Heard(share=open_release(self.private_key, context, header, sealed))
        except CounterfoilError as error:
            if error.code is not Code.UNREADABLE:
                raise
            self.server.submit([self._share_report(entry, release)])
            return Heard(why=f"{custodian.name} released a share that does not fit")

    def _published(self, entry: bytes, over: threading.Event) -> Proof:
        """Return the proof of a release once it is witnessed; NOT_WITNESSED if that takes too long."""
        until = time.monotonic() + self.publication_s
        while (proof := self.server.proof(entry, wait_s=WAIT_S)) is None:
            if over.wait(POLL_S) or time.monotonic() > until:
                raise CounterfoilError(Code.NOT_WITNESSED, "a release is not witnessed yet")
        return proof

    def _share_report(self, entry: bytes, release: DisclosureRelease) -> bytes:
        report = ShareReport(
            release=entry,
            request=release.request,
            receipt=release.receipt,
            custodian=release.custodian,
            worker=self.name,
        )
        return sign(report, key=self.signing_key, issuer=self.name)


class _Gathered:
    """Ciphertexts of one receipt, from sources of which none is believed."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._lacks: list[str] = []
        self.best: Ciphertexts | None = None
        """What is whole, or else frames that are the receipt's."""
        self.whole = False
        self.finals: set[bytes] = set()
        """Final records under the node's signature; what failed may have none."""

    @property
    def why(self) -> str:
        """Why there is nothing whole; empty if there is."""
        return "" if self.whole else "; ".join(self._lacks)

    def add(self, source: str, fetch: Callable[[], Ciphertexts]) -> None:
        """Ask a source, and keep what is the receipt's."""
        answering = self._answering
        try:
            found, lack = check_evidence(fetch(), answering.receipt, answering.signing_key)
        except CounterfoilError as error:
            lack = str(error)
        else:
            if not lack:
                self._keep_whole(found)
                return
            self.best = self.best or found
        self._lacks.append(f"{source}: {lack}")
        logger.warning(
            "no evidence from %s: %s", source, lack, extra={"receipt": answering.entry.hex()}
        )

    def _keep_whole(self, found: Ciphertexts) -> None:
        if not self.whole or (found.sent.final_record and not self.finals):
            self.best = found
        self.whole = True
        if found.sent.final_record:
            self.finals.add(found.sent.final_record)


def _kept(deposit: Ciphertexts) -> Ciphertexts:
    return deposit


def _check_release(statement: bytes, name: str, case: DueCase) -> DisclosureRelease:
    """Check that a disclosure release is this custodian's, for this request; the log checks its signature."""
    release, _ = open_as(DisclosureRelease, statement, None)
    about = (name, entry_of(case.request), case.entry)
    if (release.custodian, release.request, release.receipt) != about:
        raise CounterfoilError(
            Code.COMMITMENT_MISMATCH, f"the release of {name} is about something else"
        )
    return release


def _check_report(statement: bytes, name: str, key_id: bytes, case: DueCase) -> EscrowReport:
    """Check that an escrow report is this custodian's, about its wrap; the log checks its signature."""
    report, _ = open_as(EscrowReport, statement, None)
    expected = EscrowReport(
        request=entry_of(case.request),
        receipt=case.entry,
        envelope=case.receipt.envelope,
        custodian=name,
        key=key_id,
    )
    if report != expected:
        raise CounterfoilError(
            Code.COMMITMENT_MISMATCH, f"the escrow report of {name} is about something else"
        )
    return report
