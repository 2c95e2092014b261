"""One piece of work, from disclosure to verdict. Safe to be killed anywhere and run again."""

import logging
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine

from audit_layer.disclosure.audit_server import AuditServer
from audit_layer.disclosure.service import Disclosure, DrawnCase
from audit_layer.replay import work
from audit_layer.replay.case import Case, Judgement
from audit_layer.replay.cases import first_verdict_entry, load_case
from audit_layer.replay.judge import fact_digest
from audit_layer.replay.models import WorkRow
from audit_layer.replay.replayer import Replayer
from audit_layer.storage.engine import session
from shared.codec.moment import now_ms
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.audits import Outcome, Verdict
from shared.statements.cose import entry_of, sign

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Worker:
    """Re-executes what the authority assigned to it and signs what it found."""

    name: str
    engine: Engine
    server: AuditServer
    disclosure: Disclosure
    replayer: Replayer
    key: Ed25519PrivateKey
    lease_ms: int

    def run(self, work_id: int) -> str:
        """Do one row of the work list; return what became of it, for the log.

        What cannot be done yet gives its lease back; what went wrong unexpectedly keeps it until it runs out.
        """
        with session(self.engine) as db:
            row = work.claim(db, work_id, self.name, now=now_ms(), lease_ms=self.lease_ms)
        if row is None:
            return "not due"
        try:
            verdict = row.verdict_statement or self._decide(row)
            self.server.submit([verdict])
        except CounterfoilError as error:
            if error.code is Code.ERASED:  # nothing is left to judge, and nobody is to blame
                with session(self.engine) as db:
                    work.finish(db, work_id, now=now_ms())
                return "erased"
            if not (error.code.value.retryable or error.code is Code.NOT_WITNESSED):
                raise
            with session(self.engine) as db:
                work.release(db, work_id, str(error))
            return f"later: {error}"
        with session(self.engine) as db:
            work.finish(db, work_id, now=now_ms())
        return "done"

    def _decide(self, row: WorkRow) -> bytes:
        case = load_case(self.engine, row)
        judgement = self._judge(row, case)
        confirms = first_verdict_entry(case) if judgement.outcome == Outcome.FAIL else None
        verdict = Verdict(
            receipt=row.receipt,
            request=entry_of(row.request_statement),
            worker=self.name,
            outcome=judgement.outcome,
            reason=judgement.reason,
            evidence=fact_digest(judgement),
            numeric_profile=case.receipt.numeric_profile,
            at=now_ms(),
            confirms=confirms,
        )
        statement = sign(verdict, key=self.key, issuer=self.name)
        with session(self.engine) as db:
            return work.store_verdict(
                db,
                row.id,
                statement=statement,
                judgement=judgement.to_bytes(),
                outcome=judgement.outcome,
                reason=judgement.reason,
            )

    def _judge(self, row: WorkRow, case: DrawnCase) -> Judgement:
        disclosed = self.disclosure.open(case, past_deadline=now_ms() > row.deadline)
        if disclosed.missing is not None:
            facts: dict[str, int | str] = {"why": disclosed.why} if disclosed.why else {}
            return Judgement(disclosed.missing, facts)
        assert disclosed.ciphertexts is not None
        assert disclosed.secret is not None
        sent = disclosed.ciphertexts.sent
        return self.replayer.judge(
            Case(
                receipt=case.receipt_statement,
                envelope=sent.envelope,
                frames=sent.frames,
                final_record=sent.final_record,
                secret=disclosed.secret,
            )
        )
