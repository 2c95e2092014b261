"""The custodian's decision, apart from HTTP: protocol §6.2."""

import logging
from dataclasses import dataclass

from audit_layer.custodian.store import Account, Release, ReleaseStore, Report
from shared.codec.hashing import sha256
from shared.codec.moment import now_ms
from shared.envelope.hpke import Opener
from shared.envelope.release import ReleaseContext, seal_release
from shared.envelope.sealing import EscrowShare, open_escrow
from shared.parties.custody import MAX_SHARE_REQUEST, CaseAnswer, ShareAnswer, ShareRequest
from shared.parties.identity_book import IdentityBook
from shared.parties.reveal_memory import Kept, RevealMemory
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.faults import fault_point
from shared.runtime.keys import Signer
from shared.selection.epoch import open_witnessed
from shared.statements.cose import entry_of, open_as, parse_statement, read_as, sign
from shared.statements.disclosures import DisclosureRelease, DisclosureRequest, EscrowReport
from shared.statements.epochs import EpochSeal
from shared.statements.identities import Holder, identity
from shared.statements.keys import KeyBundle
from shared.statements.orders import Order
from shared.verification.limits import InsistenceError, Terms
from shared.verification.release_case import MAX_CASE, ReleaseCase
from shared.verification.release_check import Permitted, check_release
from shared.verification.trust import Role, Trust

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Custodian:
    """Holds the keys of one custodian. Safe for several threads."""

    name: str
    signing_key: Signer
    hpke_key: Opener
    trust: Trust
    terms: Terms
    store: ReleaseStore
    memory: RevealMemory
    book: IdentityBook | None = None
    """What it remembers of the keys of the operators and tenants that it pins; without it, pins are all there is."""

    def __post_init__(self) -> None:
        if not self.trust.named(Role.PARTY, self.terms.own):
            raise CounterfoilError(Code.CONFIGURATION, "a custodian pins its own key")

    def release(self, message: bytes) -> bytes:
        """Check a release case and answer with a `CaseAnswer`; the same request always gets the same answer.

        What is signed is kept before it leaves. Errors: those of `check_release`; FORBIDDEN by the tenant's policy,
        QUOTA when a daily limit is reached. A refusal by the custodian's own rules is kept as a report.
        """
        case = ReleaseCase.from_cbor(message, max_bytes=MAX_CASE)
        # Strangers get no further: nothing else is parsed before the authority's signature over the request verifies.
        kid = parse_statement(case.request, expected=DisclosureRequest.TYPE).kid
        open_as(DisclosureRequest, case.request, self.trust.authority_key(kid, "the request"))
        request = entry_of(case.request)
        if (known := self.store.find(request)) is not None:
            return CaseAnswer(release=known.statement).to_cbor()
        if (reported := self.store.find_report(request)) is not None:
            return CaseAnswer(report=reported).to_cbor()
        trust = self._followed(case)
        epoch = None if case.seal is None else read_as(EpochSeal, case.seal).epoch
        own: Kept | None = None
        try:
            with self.memory.lock:
                own = None if epoch is None else self.memory.find(epoch)
                revealed = None if own is None else own.revealed
                permitted = check_release(case, trust, self.terms, revealed=revealed)
                if (
                    permitted.without_own and epoch is not None
                ):  # epoch seals are public: nobody may make it reveal now
                    self.memory.pass_over(epoch)
            return self._answer(case, permitted, kid).to_cbor()
        except InsistenceError as refused:
            self._report(case, refused, epoch, own)
            raise

    def _followed(self, case: ReleaseCase) -> Trust:
        """Return the trust with the pinned keys of the case's operator and tenant as the log continues them, by what is shown
        and by what was seen earlier. What is new about them is remembered.
        """
        if self.book is None:
            return self.trust
        signers = (
            (Holder.OPERATOR, read_as(KeyBundle, case.bundle).operator),
            (Holder.TENANT, read_as(Order, case.order).tenant),
        )
        about = [
            (holder, name) for holder, name in signers if self.trust.named(Role(holder.value), name)
        ]
        self.book.learn(
            ((item.statement, item.proof) for item in case.identities or ()),
            only={identity(holder, name) for holder, name in about},
        )
        return self.trust.continued(
            self.book.history(holder, name, self.trust.named(Role(holder.value), name))
            for holder, name in about
        )

    def share(self, message: bytes) -> bytes:
        """Answer a `ShareRequest` with the sealed share, once the release that names it is in the witnessed log.

        Errors: NOT_FOUND without a release for the request; BAD_PROOF, BAD_SIGNATURE and NOT_WITNESSED for a proof that
        does not hold; CORRUPT if the share on disk is not the one that was released.
        """
        asked = ShareRequest.from_cbor(message, max_bytes=MAX_SHARE_REQUEST)
        known = self.store.find(asked.request)
        if known is None:
            raise CounterfoilError(Code.NOT_FOUND, "this custodian made no release for the request")
        log = self.trust.required_log()
        released, _, index = open_witnessed(
            DisclosureRelease, known.statement, asked.proof, None, log=log, origin=self.trust.origin
        )
        if sha256(known.share) != released.share:
            raise CounterfoilError(
                Code.CORRUPT, "the share on disk is not the one that was released"
            )
        fault_point("custodian.share.before-note")
        self.store.hand_out(asked.request, log_index=index, now=now_ms())
        fault_point("custodian.share.after-note")
        return ShareAnswer(known.share).to_cbor()

    def _answer(self, case: ReleaseCase, permitted: Permitted, authority: bytes) -> CaseAnswer:
        """Take steps (7) to (9), and keep what comes of them."""
        try:
            opened = open_escrow(  # (7), (8)
                case.envelope, custodian_key_id=self.hpke_key.key_id, hpke_private=self.hpke_key
            )
        except CounterfoilError as error:
            if error.code is not Code.UNREADABLE:
                raise
            return CaseAnswer(report=self._report_escrow(permitted))
        permitted.check_policy(opened.policy.audit)
        account = Account(
            permitted.request.receipt,
            permitted.receipt.tenant,
            permitted.request.reason,
            permitted.drawn_by,
            authority,
        )
        made = self._make(permitted, opened)
        fault_point("custodian.release.before-keep")
        kept = self.store.keep(  # (9)
            permitted.request_entry,
            made,
            account,
            now=now_ms(),
            decide=lambda released: self.terms.limits.check_day(account.drawn_by, released),
        )
        fault_point("custodian.release.after-keep")
        return CaseAnswer(release=kept.statement)

    def _make(self, permitted: Permitted, opened: EscrowShare) -> Release:
        """Seal the share for the worker, and sign the release that names it."""
        context = ReleaseContext(
            permitted.request_entry, self.hpke_key.key_id, opened.ctx, opened.kc
        )
        share = seal_release(permitted.recipient.hpke_key, context, opened.index, opened.share)
        release = DisclosureRelease(
            request=permitted.request_entry,
            receipt=permitted.request.receipt,
            custodian=self.name,
            share=sha256(share),
        )
        return Release(sign(release, key=self.signing_key, issuer=self.name), share)

    def _report_escrow(self, permitted: Permitted) -> bytes:
        report = EscrowReport(
            request=permitted.request_entry,
            receipt=permitted.request.receipt,
            envelope=permitted.receipt.envelope,
            custodian=self.name,
            key=self.hpke_key.key_id,
        )
        statement = sign(report, key=self.signing_key, issuer=self.name)
        fault_point("custodian.report.before-keep")
        kept = self.store.keep_report(permitted.request_entry, statement, now=now_ms())
        fault_point("custodian.report.after-keep")
        return kept

    def _report(
        self, case: ReleaseCase, refused: InsistenceError, epoch: int | None, own: Kept | None
    ) -> None:
        """Keep and log a refusal by the custodian's own rules once. Its evidence was verified: only the authority can
        cause one."""
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
