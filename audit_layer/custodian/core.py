"""The custodian's decision, apart from HTTP: protocol §6.2."""

import logging
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_layer.custodian.store import Release, ReleaseStore, Report
from shared.codec import cbor
from shared.codec.hashing import sha256
from shared.codec.moment import now_ms
from shared.envelope.body import Audit
from shared.envelope.hpke import HpkePrivateKey
from shared.envelope.release import ReleaseContext, seal_release
from shared.envelope.sealing import open_escrow
from shared.parties.reveal_memory import Kept, RevealMemory
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.faults import fault_point
from shared.statements.cose import entry_of, open_as, parse_statement, read_as, sign
from shared.statements.disclosures import DisclosureRelease, DisclosureRequest
from shared.statements.epochs import EpochSeal
from shared.verification.limits import InsistenceError, Terms
from shared.verification.release_check import MAX_CASE, Permitted, ReleaseCase, check_release
from shared.verification.trust import Role, Trust

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Custodian:
    """Holds the keys of one custodian. Safe for several threads."""

    name: str
    signing_key: Ed25519PrivateKey
    hpke_key: HpkePrivateKey
    trust: Trust
    terms: Terms
    store: ReleaseStore
    memory: RevealMemory

    def __post_init__(self) -> None:
        if not self.trust.named(Role.PARTY, self.terms.own):
            raise CounterfoilError(Code.CONFIGURATION, "a custodian pins its own key")

    def release(self, message: bytes) -> bytes:
        """Check a release case and answer `{release, share}`; the same request always gets the same answer.

        Errors: those of `check_release`; UNREADABLE for a wrap that does not open, FORBIDDEN by the tenant's policy,
        QUOTA when a daily limit is reached. A refusal by the custodian's own rules is kept as a report.
        """
        case = ReleaseCase.from_cbor(message, max_bytes=MAX_CASE)
        # Strangers get no further: nothing else is parsed before the authority's signature over the request verifies.
        kid = parse_statement(case.request, expected=DisclosureRequest.TYPE).kid
        open_as(DisclosureRequest, case.request, self.trust.authority_key(kid, "the request"))
        known = self.store.find(entry_of(case.request))
        if known is None:
            epoch = read_as(EpochSeal, case.seal).epoch
            own: Kept | None = None
            try:
                with self.memory.lock:
                    own = self.memory.find(epoch)
                    revealed = None if own is None else own.revealed
                    permitted = check_release(case, self.trust, self.terms, revealed=revealed)
                    if (
                        permitted.without_own
                    ):  # epoch seals are public: nobody may make it reveal now
                        self.memory.pass_over(epoch)
                known = self._make(case, permitted)
            except InsistenceError as refused:
                self._report(case, refused, epoch, own)
                raise
        return cbor.encode({"release": known.statement, "share": known.share})

    def _make(self, case: ReleaseCase, permitted: Permitted) -> Release:
        opened = open_escrow(  # (7), (8)
            case.envelope, custodian_key_id=self.hpke_key.key_id, hpke_private=self.hpke_key
        )
        if opened.policy.audit is Audit.NEVER:
            raise CounterfoilError(
                Code.FORBIDDEN, "the tenant's policy permits no audit of this request"
            )
        context = ReleaseContext(
            permitted.request_entry, self.hpke_key.key_id, opened.ctx, opened.kc
        )
        share = seal_release(permitted.recipient.hpke_key, context, opened.index, opened.share)
        statement = sign(
            DisclosureRelease(
                request=permitted.request_entry,
                receipt=permitted.request.receipt,
                custodian=self.name,
                share=sha256(share),
            ),
            key=self.signing_key,
            issuer=self.name,
        )
        fault_point("custodian.release.before-keep")
        kept = self.store.keep(  # (9)
            permitted.request_entry,
            Release(statement, share),
            drawn_by=permitted.drawn_by,
            now=now_ms(),
            decide=lambda released: self.terms.limits.check_day(permitted.drawn_by, released),
        )
        fault_point("custodian.release.after-keep")
        return kept

    def _report(
        self, case: ReleaseCase, refused: InsistenceError, epoch: int, own: Kept | None
    ) -> None:
        """Keep and log a refusal once. Its evidence was verified: only the authority can cause a report."""
        statement: bytes = getattr(case, refused.shown)
        proof: str = getattr(case, f"{refused.shown}_proof")
        shown = {refused.shown: statement, f"{refused.shown}_proof": proof.encode()}
        if own is not None:
            shown["own_reveal"] = own.statement
        about = entry_of(statement)
        report = Report(refused.rule, epoch, refused.detail, about, shown, now_ms())
        if self.store.report(report):
            logger.warning(
                "refused by rule %s: %s (%s %s)",
                refused.rule,
                refused.detail,
                refused.shown,
                about.hex(),
            )
