"""One disclosure, from the logged request to the transcript secret.

Order matters: the request must be witnessed before anyone is asked; ciphertexts are checked against the receipt before
a custodian sees them; a disclosure release is logged before its share is used.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_layer.disclosure.audit_client import AuditServer
from audit_layer.disclosure.evidence import Asking, Ciphertexts, check_evidence, fetch_from_node
from audit_layer.disclosure.parties import CustodianClient
from shared.codec.hashing import sha256
from shared.envelope.header import Envelope, Header
from shared.envelope.hpke import HpkePrivateKey
from shared.envelope.release import ReleaseContext, open_release
from shared.envelope.shares import combine
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import entry_of, open_as
from shared.statements.disclosures import DisclosureRelease
from shared.statements.receipts import Receipt
from shared.statements.verdicts import Reason
from shared.verification.release_check import ReleaseCase

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DrawnCase:
    """What is known about a drawn receipt before anything is disclosed: statements as they are in the log."""

    request: bytes
    receipt_statement: bytes
    receipt: Receipt
    bundle: bytes
    """The key bundle that the receipt names."""
    endpoint: str
    """The node's address, from its key bundle."""
    signing_key: bytes
    """The node's signing key, from its key bundle."""
    opened: bytes
    seal: bytes
    draw: bytes
    commitments: tuple[bytes, ...]
    reveals: tuple[bytes, ...]
    floor_entries: tuple[bytes, ...] = ()
    """The node's receipts of the epoch, when the reason is `floor`."""
    first_verdict: bytes | None = None
    """The FAIL to be confirmed."""

    @property
    def entry(self) -> bytes:
        """The receipt's log entry."""
        return entry_of(self.receipt_statement)


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


class _LogAwayError(Exception):
    """The log did not admit a disclosure release: not the custodian's fault, but the share must not be used yet."""

    def __init__(self, error: CounterfoilError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True)
class Disclosure:
    """Opens drawn cases for one worker."""

    server: AuditServer
    custodians: Mapping[bytes, CustodianClient]
    """By key id of their HPKE key."""
    deposits: Deposits
    private_key: HpkePrivateKey
    signing_key: Ed25519PrivateKey
    """The worker's signing key, by which nodes know who asks."""
    ca_file: Path
    evidence_timeout_s: float

    def open(self, case: DrawnCase, *, past_deadline: bool) -> Disclosed:
        """Disclose one case.

        Raises NOT_WITNESSED while the log has not caught up, and UNAVAILABLE while evidence or shares may still arrive;
        after the deadline the same is an answer: `withheld` (evidence) or `unavailable` (custodians).
        """
        self.server.submit([case.draw, case.request])
        proofs = self._proofs(case)
        found = self._gathered(case, proofs["request_proof"])
        ciphertexts, why = found.best, found.why
        if len(found.finals) > 1:
            return Disclosed(ciphertexts, None, signed_twice=True)
        if why and not past_deadline:
            raise CounterfoilError(
                Code.UNAVAILABLE, f"the node has not delivered its evidence yet: {why}"
            )
        if ciphertexts is None:
            return Disclosed(None, None, Reason.WITHHELD, why)
        try:
            secret = self._secret(case, ciphertexts, proofs)
        except CounterfoilError as error:
            if error.code in {
                Code.UNREADABLE,
                Code.MALFORMED,
            }:  # the envelope is malformed, or does not open
                return Disclosed(ciphertexts, None, Reason.ESCROW)
            if error.code.value.retryable and past_deadline:
                return Disclosed(ciphertexts, None, Reason.UNAVAILABLE)
            raise
        return Disclosed(ciphertexts, secret, why=why)

    def _proofs(self, case: DrawnCase) -> dict[str, Any]:
        """Gather witnessed proofs of every statement that a custodian will want to see."""
        statements = {
            "request": case.request,
            "receipt": case.receipt_statement,
            "open": case.opened,
            "seal": case.seal,
            "draw": case.draw,
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

    def _gathered(self, case: DrawnCase, proof: str) -> "_Gathered":
        """Gather the ciphertexts that are the receipt's: all deposits', and the node's if none of those is whole."""
        found = _Gathered(case)
        for number, deposit in enumerate(self.deposits.find(case.entry), start=1):
            found.add(f"deposit {number}", partial(_kept, deposit))
        if not found.whole:
            found.add(case.endpoint, partial(self._from_node, case, proof))
        return found

    def _from_node(self, case: DrawnCase, proof: str) -> Ciphertexts:
        asking = Asking(case.request, proof, case.entry, self.signing_key)
        return fetch_from_node(
            case.endpoint, self.ca_file, asking, timeout_s=self.evidence_timeout_s
        )

    def _secret(self, case: DrawnCase, found: Ciphertexts, proofs: Mapping[str, Any]) -> bytes:
        header = Envelope.from_bytes(found.sent.envelope).header
        release_case = ReleaseCase(
            **proofs,
            bundle=case.bundle,
            commitments=case.commitments,
            reveals=case.reveals,
            order=found.order,
            envelope=found.sent.envelope,
            floor_entries=case.floor_entries or None,
        ).to_cbor()
        shares: dict[int, bytes] = {}
        refusals: list[CounterfoilError] = []
        for key_id in header.custodians:
            custodian = self.custodians.get(key_id)
            if custodian is None or len(shares) == header.threshold:
                continue
            try:
                index, share = self._share(custodian, release_case, key_id, header, case)
                shares[index] = share
            except _LogAwayError as away:
                raise away.error from away
            except (
                CounterfoilError
            ) as error:  # one bad custodian among several must not stop an audit
                refusals.append(error)
        if len(shares) < header.threshold:
            raise _too_few(len(shares), header, refusals)
        return combine(shares, header.threshold)

    def _share(
        self,
        custodian: CustodianClient,
        release_case: bytes,
        key_id: bytes,
        header: Header,
        case: DrawnCase,
    ) -> tuple[int, bytes]:
        """Have one custodian release, log its release, and open its share; raises on any fault of its."""
        statement, sealed = custodian.release(release_case)
        _check_release(statement, sealed, case)
        try:
            self.server.submit([statement])
        except CounterfoilError as error:
            if error.code.value.retryable:
                raise _LogAwayError(error) from error
            raise
        context = ReleaseContext(entry_of(case.request), key_id, case.receipt.ctx, case.receipt.kc)
        return open_release(self.private_key, context, header, sealed)


class _Gathered:
    """Ciphertexts of one receipt, from sources of which none is believed."""

    def __init__(self, case: DrawnCase) -> None:
        self._case = case
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
        case = self._case
        try:
            found, lack = check_evidence(fetch(), case.receipt, case.signing_key)
        except CounterfoilError as error:
            lack = str(error)
        else:
            if not lack:
                self._keep_whole(found)
                return
            self.best = self.best or found
        self._lacks.append(f"{source}: {lack}")
        logger.warning("no evidence from %s: %s", source, lack, extra={"receipt": case.entry.hex()})

    def _keep_whole(self, found: Ciphertexts) -> None:
        if not self.whole or (found.sent.final_record and not self.finals):
            self.best = found
        self.whole = True
        if found.sent.final_record:
            self.finals.add(found.sent.final_record)


def _kept(deposit: Ciphertexts) -> Ciphertexts:
    return deposit


def _check_release(statement: bytes, sealed: bytes, case: DrawnCase) -> None:
    """Check that a disclosure release is about this request, receipt and share; the log checks its signature."""
    release, _ = open_as(DisclosureRelease, statement, None)
    about = (entry_of(case.request), entry_of(case.receipt_statement), sha256(sealed))
    if (release.request, release.receipt, release.share) != about:
        raise CounterfoilError(Code.COMMITMENT_MISMATCH, "the release is about something else")


def _too_few(count: int, header: Header, refusals: Sequence[CounterfoilError]) -> CounterfoilError:
    """UNREADABLE when too many wraps or shares fail to open for waiting to help, else UNAVAILABLE."""
    reasons = "; ".join(map(str, refusals))
    problem = f"{count} of {header.threshold} shares were released: {reasons}"
    closed = sum(error.code is Code.UNREADABLE for error in refusals)
    hopeless = len(header.custodians) - closed < header.threshold
    return CounterfoilError(Code.UNREADABLE if hopeless else Code.UNAVAILABLE, problem)
