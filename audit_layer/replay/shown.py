"""Judging what a tenant's client shows by itself: no disclosure, no custodian, and nobody knew before (protocol §6.2.8).

Of the file only bytes are used that the receipt in the log commits to, so a tenant cannot have a node judged by others.
"""

from dataclasses import dataclass

from sqlalchemy import Engine, select

from audit_layer.disclosure.audit_client import AuditServer
from audit_layer.disclosure.evidence import Ciphertexts, check_evidence
from audit_layer.replay.case import Case
from audit_layer.replay.due_case import answered_before, chain_of
from audit_layer.replay.judge import Judged, judge_claims
from audit_layer.replay.replayer import Replayer
from audit_layer.storage.engine import session
from audit_layer.trail.at_rest import decrypted
from audit_layer.trail.models import OrderRow, StatementRow, VerdictRow
from shared.codec.moment import now_ms
from shared.envelope.delivered import Delivered
from shared.envelope.sealing import open_with_secret
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import Signer
from shared.statements.cose import entry_of, read_as, sign
from shared.statements.keys import KeyBundle
from shared.statements.orders import Order
from shared.statements.receipts import Receipt
from shared.statements.verdicts import Blame, Outcome, Reason, Verdict
from shared.verification.judgement import Judgement
from shared.verification.share import Share


@dataclass(frozen=True, slots=True)
class Heard:
    """What judging a shown answer came to."""

    verdict: Verdict
    entry: bytes | None
    """The verdict's log entry; None if it was not logged, since it says nothing about the node."""
    judgement: Judgement | None
    """None if this worker had judged the receipt before: then the verdict is that one."""


@dataclass(frozen=True, slots=True)
class ShownJudge:
    """One worker, judging what clients show."""

    name: str
    engine: Engine
    server: AuditServer
    replayer: Replayer
    key: Signer

    def judge(self, share: Share) -> Heard:
        """Judge a share by replay, and log the verdict, which names the receipt as its request.

        A verdict that blames the node confirms another worker's on what was shown, if the log has one. One that neither blames
        nor clears it is not logged: what was in the way may be gone another time. Of a chain of nodes, whoever gave another one
        what was wrong is judged too. NOT_FOUND if the receipt is not in the log,
        COMMITMENT_MISMATCH or UNREADABLE for what is not the receipt's or does not open it: such a file says nothing about
        anybody, and has no verdict.
        """
        case, receipt = self._case(share)
        entry = entry_of(case.receipt)
        known = self._verdicts(entry)
        for verdict, its_entry in known:
            if verdict.worker == self.name:
                return Heard(verdict, its_entry, None)
        judged = self._judged(case, receipt, entry)
        judgement, profile = judged.judgement, receipt.numeric_profile
        verdict = self._verdict(entry, judgement, profile)
        logged = [verdict] if _says(judgement) else []
        logged += [
            self._verdict(other, found, profile)
            for other, found in judged.others.items()
            if found.reason.blame is Blame.NODE and not self._has_judged(other)
        ]
        if statements := [sign(each, key=self.key, issuer=self.name) for each in logged]:
            self.server.submit(statements)
        own = entry_of(statements[0]) if _says(judgement) else None
        return Heard(verdict, own, judgement)

    def _has_judged(self, receipt: bytes) -> bool:
        return any(verdict.worker == self.name for verdict, _ in self._verdicts(receipt))

    def _verdict(self, receipt: bytes, judgement: Judgement, profile: bytes) -> Verdict:
        """Return a verdict on what a client showed; it confirms the first one of another worker that blames the node too."""
        known = self._verdicts(receipt) if judgement.reason.blame is Blame.NODE else []
        blaming = (
            its for one, its in known if one.reason.blame is Blame.NODE and one.worker != self.name
        )
        return Verdict(
            receipt=receipt,
            request=receipt,
            worker=self.name,
            outcome=judgement.outcome,
            reason=judgement.reason,
            evidence=judgement.digest,
            numeric_profile=profile,
            at=now_ms(),
            confirms=next(blaming, None),
        )

    def _case(self, share: Share) -> tuple[Case, Receipt]:
        """Return the case of a share, with receipt, order and keys as the trail has them."""
        entry = entry_of(share.bundle.statement)
        with session(self.engine) as db:
            row = db.get(StatementRow, entry)
            if row is None or row.type != Receipt.TYPE:
                raise CounterfoilError(
                    Code.NOT_FOUND,
                    "the log has no such receipt",
                    remedy="Its tenant hands it in with `counterfoil client proofs`.",
                )
            raw = decrypted(db, row.raw)
            receipt = read_as(Receipt, raw)
            bundle, order = db.get(StatementRow, receipt.bundle), db.get(OrderRow, receipt.order)
            if bundle is None or order is None:
                raise CounterfoilError(Code.CORRUPT, "a receipt's order or key bundle is missing")
            signing_key = read_as(KeyBundle, bundle.raw).signing_key
            order_raw = decrypted(db, order.raw)
        frames = tuple(ciphertext for ciphertext, _ in share.frames)
        sent = Delivered(
            share.envelope, share.node_nonce, frames, share.final_record, share.final_signature
        )
        _, lack = check_evidence(Ciphertexts(order_raw, sent), receipt, signing_key)
        if lack:
            raise CounterfoilError(
                Code.COMMITMENT_MISMATCH, f"the final record is not the node's: {lack}"
            )
        opened = open_with_secret(share.envelope, share.secret)
        if (opened.ctx, opened.kc) != (receipt.ctx, receipt.kc):
            raise CounterfoilError(Code.COMMITMENT_MISMATCH, "the secret is another request's")
        chain = None
        if receipt.chain is not None:
            chain = chain_of(self.engine, entry, share.envelope)
            if chain is None:
                raise CounterfoilError(
                    Code.NOT_FOUND, "the log lacks a key bundle of a stage that the envelope names"
                )
        case = Case(raw, order_raw, share.envelope, frames, share.final_record, share.secret, chain)
        return case, receipt

    def _verdicts(self, receipt: bytes) -> list[tuple[Verdict, bytes]]:
        """Return the verdicts on what was shown of a receipt, with their entries, in the order of the log."""
        with session(self.engine) as db:
            rows = db.scalars(
                select(StatementRow.raw)
                .join(VerdictRow, VerdictRow.entry == StatementRow.entry)
                .where(VerdictRow.receipt == receipt)
                .order_by(VerdictRow.log_index)
            ).all()
        found = [(read_as(Verdict, raw), entry_of(raw)) for raw in rows]
        return [(verdict, entry) for verdict, entry in found if verdict.request == receipt]

    def _judged(self, case: Case, receipt: Receipt, entry: bytes) -> Judged:
        if (first := answered_before(self.engine, entry)) is not None:
            return Judged(Judgement(Reason.ORDER, {"answered_by": first.hex()}))
        if (found := judge_claims(read_as(Order, case.order), receipt)) is not None:
            return Judged(found)
        tokens = receipt.usage.input + receipt.usage.output
        kind = (receipt.model_root, receipt.numeric_profile)
        return self.replayer.judge_chain(case, kind=kind, tokens=tokens)


def _says(judgement: Judgement) -> bool:
    """Whether a judgement says something about the node itself."""
    return judgement.reason.blame is Blame.NODE or judgement.outcome is Outcome.PASS
