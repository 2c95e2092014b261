"""One piece of work, from disclosure to verdict. May be killed anywhere and run again."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from sqlalchemy import Engine

from audit_layer.disclosure.audit_client import AuditServer
from audit_layer.disclosure.service import Disclosed, Disclosure, DueCase
from audit_layer.replay import work_list
from audit_layer.replay.case import Case
from audit_layer.replay.counts import WorkerCounts
from audit_layer.replay.due_case import (
    answered_before,
    chain_of,
    charged,
    first_verdict_entry,
    load_case,
    order_of,
)
from audit_layer.replay.judge import Judged, judge_claims, two_finals
from audit_layer.replay.lease import LeaseTerms
from audit_layer.replay.models import WorkRow
from audit_layer.replay.replayer import Replayer, ReplayFailedError
from audit_layer.replay.work_list import Found
from audit_layer.storage.engine import session
from shared.codec.moment import now_ms
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import Signer
from shared.runtime.printable import printable
from shared.statements.cose import entry_of, sign
from shared.statements.receipts import Receipt
from shared.statements.verdicts import Blame, Outcome, Reason, Verdict
from shared.verification.judgement import Judgement

MAX_FAILURES: Final = 5
"""Replay failures on the auditor's own side after which the verdict says so, and the work is done."""
MAX_WHY: Final = 1000
"""Characters of the sources' answers that a judgement keeps: some are a node's own words."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Worker:
    """Replays what the authority assigned to it and signs what it finds."""

    name: str
    engine: Engine
    server: AuditServer
    disclosure: Disclosure
    replayer: Replayer
    key: Signer
    lease: LeaseTerms
    counts: WorkerCounts = field(default_factory=WorkerCounts)

    def run(self, work_id: int) -> str:
        """Do one row of the work list, as `_run` says, and count what became of it."""
        became = "failed"
        try:
            said = self._run(work_id)
            became = said.partition(":")[0]
            return said
        finally:
            self.counts.runs.add(became)

    def _run(self, work_id: int) -> str:
        """Do one row of the work list; return what became of it, for the log.

        Work that cannot be done yet gives its lease back. What fails on our own side is retried after a growing pause, and
        a replay that fails `MAX_FAILURES` times ends in a verdict that says so.

        The first lease is for what comes before the replay, which then has one of its own predicted length.
        """
        floor_ms = self.lease.floor_ms
        with session(self.engine) as db:
            row = work_list.claim(db, work_id, self.name, now=now_ms(), lease_ms=floor_ms)
        if row is None:
            return "not due"
        try:
            with self._lease_kept(work_id):
                verdict = row.verdict_statement or self._decide(row)
                with session(self.engine) as db:
                    found = work_list.found_verdicts(db, work_id)
                self.server.submit([verdict, *found])
        except CounterfoilError as error:
            return self._undecided(row, error)
        with session(self.engine) as db:
            work_list.finish(db, work_id, now=now_ms())
        return "done"

    def _undecided(self, row: WorkRow, error: CounterfoilError) -> str:
        """Record why a row could not be done now; return the reason for the log, or raise what needs a person's attention."""
        if error.code is Code.ERASED:  # nothing is left to judge, and nobody is to blame
            with session(self.engine) as db:
                work_list.finish(db, row.id, now=now_ms())
            return "erased"
        waits = error.code.value.retryable or error.code is Code.NOT_WITNESSED
        failed = isinstance(error, ReplayFailedError)
        with session(self.engine) as db:
            if waits and not failed:
                work_list.give_back(db, row.id, str(error))
            else:
                work_list.fail(db, row.id, str(error), now=now_ms())
        if not (waits or failed):
            raise error
        return f"later: {error}"

    @contextlib.contextmanager
    def _lease_kept(self, work_id: int) -> Iterator[None]:
        """Extend the lease while the block runs, so that nobody else begins the same long work."""
        done = threading.Event()
        floor_ms = self.lease.floor_ms

        def extend() -> None:
            while not done.wait(floor_ms / 3000):
                with contextlib.suppress(CounterfoilError), session(self.engine) as db:
                    work_list.extend(db, work_id, until=now_ms() + floor_ms)

        thread = threading.Thread(target=extend, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _decide(self, row: WorkRow) -> bytes:
        case = load_case(self.engine, row)
        if (
            row.epoch is None
        ):  # its request tells its verdict from a draw's, so it must be in the log before
            self.server.submit([case.request])
        judged = self._judge(row, case)
        judgement = judged.judgement
        blamed = judgement.reason.blame is Blame.NODE
        confirms = first_verdict_entry(case) if blamed else None
        profile = case.receipt.numeric_profile
        statement = self._signed(row, row.receipt, judgement, profile, confirms)
        found = list(self._found(row, judged, profile))
        with session(self.engine) as db:
            kept = work_list.store_verdict(
                db,
                row.id,
                statement=statement,
                judgement=judgement.to_bytes(),
                outcome=judgement.outcome,
                reason=judgement.reason,
            )
            if kept == statement:  # or another process of this worker was first
                self.counts.verdicts.add(judgement.outcome.value, judgement.reason.value)
                work_list.store_found(db, row.id, found)
        return kept

    def _signed(
        self,
        row: WorkRow,
        receipt: bytes,
        judgement: Judgement,
        profile: bytes,
        confirms: bytes | None,
    ) -> bytes:
        verdict = Verdict(
            receipt=receipt,
            request=entry_of(row.request_statement),
            worker=self.name,
            outcome=judgement.outcome,
            reason=judgement.reason,
            evidence=judgement.digest,
            numeric_profile=profile,
            at=now_ms(),
            confirms=confirms,
        )
        return sign(verdict, key=self.key, issuer=self.name)

    def _found(self, row: WorkRow, judged: Judged, profile: bytes) -> Iterator[Found]:
        """Yield a verdict about each other receipt of the chain that fails, or that another worker says does and does not."""
        for receipt, judgement in judged.others.items():
            charge = charged(self.engine, receipt, self.name)
            fails = judgement.outcome is Outcome.FAIL
            if fails or (charge is not None and judgement.outcome is Outcome.PASS):
                confirms = charge if fails else None
                statement = self._signed(row, receipt, judgement, profile, confirms)
                shown = judgement.to_bytes()
                yield Found(receipt, statement, shown, judgement.outcome, judgement.reason)

    def _judge(self, row: WorkRow, case: DueCase) -> Judged:
        first = answered_before(self.engine, row.receipt)
        if first is not None:  # both receipts are in the log: nothing needs to be disclosed
            return Judged(Judgement(Reason.ORDER, {"answered_by": first.hex()}))
        if row.failures >= MAX_FAILURES:
            logger.error(
                "a replay failed %d times and was given up: %s", row.failures, row.last_error
            )
            return Judged(Judgement(Reason.UNREPLAYABLE, {"failures": row.failures}))
        if (found := judge_claims(order_of(self.engine, case.receipt), case.receipt)) is not None:
            return Judged(found)
        now = now_ms()
        if case.order is not None and (without := _unheard(case, late=now > row.deadline)):
            return Judged(without)
        with session(self.engine) as db:
            work_list.note_asked(db, row.id, now=now)
        disclosed = self._disclosed(case, past_deadline=now > row.deadline)
        if disclosed.signed_twice:
            return Judged(two_finals())
        if disclosed.missing is not None:
            missing = disclosed.missing
            if case.head is not None and missing is Reason.WITHHELD:  # the head's doing
                missing = Reason.UNAVAILABLE
            return Judged(_as_asked(Judgement(missing), row, disclosed.why))
        assert disclosed.ciphertexts is not None
        assert disclosed.secret is not None
        sent, chain = disclosed.ciphertexts.sent, None
        if case.head is not None or case.receipt.chain is not None:
            chain = chain_of(self.engine, case.answering.entry, sent.envelope)
            if chain is None:
                why = "a key bundle that the envelope names as a stage is not in the log"
                return Judged(Judgement(Reason.UNAVAILABLE, {"why": why}))
        judged = self._replay(
            row,
            case.receipt,
            Case(
                receipt=case.receipt_statement,
                order=case.order or disclosed.ciphertexts.order,
                envelope=sent.envelope,
                frames=sent.frames,
                final_record=sent.final_record,
                secret=disclosed.secret,
                chain=chain,
            ),
        )
        return replace(judged, judgement=_as_asked(judged.judgement, row, disclosed.why))

    def _disclosed(self, case: DueCase, *, past_deadline: bool) -> Disclosed:
        began = time.monotonic()
        disclosed = self.disclosure.open(case, past_deadline=past_deadline)
        if disclosed.secret is not None:
            took_ms = round(1000 * (time.monotonic() - began))
            logger.info("disclosed", extra={"receipt": case.entry.hex(), "took_ms": took_ms})
        return disclosed

    def _replay(self, row: WorkRow, receipt: Receipt, case: Case) -> Judged:
        """Have a case judged, under a lease as long as its replay is predicted to take."""
        kind = (receipt.model_root, receipt.numeric_profile)
        speeds, tokens = self.replayer.speeds, receipt.usage.input + receipt.usage.output
        length_ms = self.lease.length_ms(speeds.predicted_s(kind, tokens))
        with session(self.engine) as db:
            work_list.extend(db, row.id, until=now_ms() + length_ms)
        longest = speeds.longest(kind, self.lease.cap_ms / 1000)
        with self.counts.replay(tokens):
            return self.replayer.judge_chain(case, kind=kind, tokens=tokens, longest=longest)


def _unheard(case: DueCase, *, late: bool) -> Judgement | None:
    """Return the judgement of a stage's receipt that nothing can be held against; None if there is a head's to go by.

    UNAVAILABLE (raised) while the head's may still come.
    """
    if case.receipt.chain is None:
        why = "a stage that failed commits to nothing"
    elif case.head is None:
        why = "the receipt of its chain's head is not in the log"
        if not late:
            raise CounterfoilError(Code.UNAVAILABLE, why)
    else:
        return None
    return Judgement(Reason.UNAVAILABLE, {"why": why})


def _as_asked(found: Judgement, row: WorkRow, why: str) -> Judgement:
    """Add what the sources answered where something is missing.

    Nobody is blamed for withholding who was never asked in time.
    """
    if found.outcome is not Outcome.INCONCLUSIVE:
        return found
    unasked = found.reason is Reason.WITHHELD and row.asked_at is None
    told = {"why": printable(why, MAX_WHY, " ")} if why else {}
    reason = Reason.UNAVAILABLE if unasked else found.reason
    return replace(found, reason=reason, facts={**found.facts, **told})
