"""The trail's use cases: take statements in; `reading` finds them again.

A statement's row is written in the transaction that gives it its index: there is no entry without a statement, and no
statement without an entry.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from sqlalchemy import Engine, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert

from audit_layer.log.batcher import Batcher
from audit_layer.log.sequencer import Result, Sequenced
from audit_layer.log.sequencer import Submission as LogSubmission
from audit_layer.storage.engine import session
from audit_layer.trail.admission import ROLES, Admitted, admit
from audit_layer.trail.columns import evidence_digest, finding_values
from audit_layer.trail.identities import TYPES as IDENTITY_TYPES
from audit_layer.trail.identities import note_late
from audit_layer.trail.lookups import DatabaseLookups
from audit_layer.trail.models import (
    EvidenceRow,
    FindingRow,
    PartyRow,
    StatementRow,
)
from audit_layer.trail.reading import Reading
from audit_layer.trail.write_rows import stored_forms
from shared.codec.ids import check_name
from shared.codec.moment import now_ms
from shared.envelope.delivered import Delivered, check_final, check_stream
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import check_signing_key, parse_statement
from shared.statements.disclosures import DisclosureRelease, DisclosureRequest
from shared.statements.identities import IdentityKey, IdentityKeyEnd
from shared.statements.keys import Revocation

MAX_EVIDENCE = 16 << 20
MAX_DEPOSITS = 4
"""Deposits kept for one receipt: a node may sign several final records, and each is evidence against it."""

AWAITED = frozenset(
    {DisclosureRequest.TYPE, DisclosureRelease.TYPE, Revocation.TYPE, IdentityKeyEnd.TYPE}
)
"""What is published at once: a worker waits for it, or everybody who still trusts a key."""
REMEMBERED = (Revocation, IdentityKey, IdentityKeyEnd)
"""What changes what admission remembers."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A statement to be taken in; a receipt or a refusal comes with its order."""

    statement: bytes
    order: bytes | None = None
    types: frozenset[str] | None = None
    """What its caller may bring; None if it may bring any."""


def check_bringer(submission: Submission) -> None:
    """Raise FORBIDDEN for a type of statement that its caller may not bring."""
    if submission.types is None:
        return
    kind = parse_statement(submission.statement).type
    if kind not in submission.types:
        raise CounterfoilError(
            Code.FORBIDDEN,
            f"a statement of type {kind} comes from a node or a worker that shows its certificate; the call shows none",
            remedy="Call the address for parties: [party] in the caller's configuration.",
        )


@dataclass(frozen=True, slots=True)
class Accepted:
    """Where the log has the statement, forever."""

    entry: bytes
    index: int
    duplicate: bool
    receipt: bytes | None = None
    """A COSE Receipt of grade *sequenced*, if one was asked for."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why one statement was not taken in."""

    error: CounterfoilError


@dataclass(frozen=True, slots=True)
class Pending:
    """Submissions that have been admitted or refused, and wait for the log."""

    results: Sequence["Accepted | Refused | None"]
    """What is already decided."""
    admitted: Sequence[tuple[int, Admitted]]
    """Place among the submissions, and what was admitted."""
    outcomes: Future[list[Result]]
    """One per admitted submission."""


class Trail(Reading):
    """All methods block; all are safe to call from several threads."""

    def __init__(
        self, engine: Engine, batcher: Batcher, numeric_profiles: frozenset[bytes]
    ) -> None:
        super().__init__(engine)
        self._batcher = batcher
        self._lookups = DatabaseLookups(engine, numeric_profiles)

    # -- taking in -------------------------------------------------------------------------------------

    def submit(
        self, submissions: Sequence[Submission], *, receipts: bool = False
    ) -> list[Accepted | Refused]:
        """Take statements in, durably; one result each, in their order. With `receipts`, prove each at once.

        What the log already holds is answered with its index, even when its signer is no longer believed.
        UNAVAILABLE (raised) means that nothing is known to have happened; sending the same again is safe. Statements of one
        call may build only on those already in the log: submit a key bundle before its receipts.
        """
        pending = self.begin(submissions, receipts=receipts)
        return self.finish(pending, pending.outcomes.result())

    def begin(self, submissions: Sequence[Submission], *, receipts: bool = False) -> "Pending":
        """Admit statements and queue them for the log; `finish` turns the outcome into results."""
        results: list[Accepted | Refused | None] = [None] * len(submissions)
        admitted: list[tuple[int, Admitted]] = []
        now = now_ms()
        for place, submission in enumerate(submissions):
            try:
                check_bringer(submission)
                item = admit(submission.statement, submission.order, self._lookups, now)
                admitted.append((place, item))
            except CounterfoilError as error:
                results[place] = self._held(submission.statement) or Refused(error)
                self._note_late(submission.statement, error, now)
        items = [
            LogSubmission(
                item.statement.entry,
                item.issuer,
                item.number,
                attachment=item,
                awaited=item.statement.type in AWAITED,
            )
            for _, item in admitted
        ]
        return Pending(results, admitted, self._batcher.submit(items, receipts=receipts))

    def finish(self, pending: "Pending", outcomes: Sequence[Result]) -> list[Accepted | Refused]:
        """Return one result for each submission of `begin`, in their order."""
        results = list(pending.results)
        for (place, item), outcome in zip(pending.admitted, outcomes, strict=True):
            if isinstance(outcome, Sequenced):
                results[place] = Accepted(
                    outcome.entry, outcome.index, outcome.duplicate, outcome.receipt
                )
            else:
                self._note_equivocation(item, outcome)
                results[place] = Refused(outcome)
        if any(isinstance(item.value, REMEMBERED) for _, item in pending.admitted):
            self._lookups.forget()
        return [result for result in results if result is not None]

    def _note_late(self, raw: bytes, error: CounterfoilError, now: int) -> None:
        """Keep what a key that has ended says about its identity."""
        if error.code is not Code.UNTRUSTED_KEY:
            return
        statement = parse_statement(raw)
        if statement.type in IDENTITY_TYPES:
            role = statement.subject.partition("/")[0]
            if (ended := self._lookups.ended_key(role, statement.kid)) is not None:
                note_late(self._engine, statement, ended, now)

    def _held(self, raw: bytes) -> Accepted | None:
        """Return where the log has these very bytes."""
        try:
            entry = parse_statement(raw).entry
        except CounterfoilError:
            return None
        with session(self._engine) as db:
            row = db.get(StatementRow, entry)
        return None if row is None else Accepted(row.entry, row.log_index, duplicate=True)

    def _note_equivocation(self, item: Admitted, error: CounterfoilError) -> None:
        if error.code is not Code.EQUIVOCATION:
            return
        with session(self._engine) as db:
            held = db.get(StatementRow, bytes.fromhex(error.metadata["entry"]))
            if held is None:
                return
            second = stored_forms(db.connection(), [item] if item.order else [])
            finding = finding_values(
                "equivocation",
                item.statement.issuer,
                error.detail,
                (held.raw, second.get(item.statement.entry, item.statement.raw)),
                now_ms(),
            )
            db.execute(upsert(FindingRow).values(finding).on_conflict_do_nothing())

    def deposit(self, receipt: bytes, found: Delivered) -> None:
        """Keep ciphertexts that somebody deposits for a receipt in the log.

        NOT_FOUND without the receipt, COMMITMENT_MISMATCH when they are not what receipt and node signed: so only
        ciphertexts that the node signed take up room, and what is kept can be judged. INVALID_ARGUMENT, QUOTA for too much.
        """
        if found.size > MAX_EVIDENCE:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT, f"evidence is at most {MAX_EVIDENCE} bytes long"
            )
        signed = self._lookups.receipt(receipt)
        bundle = None if signed is None else self._lookups.bundle(signed.bundle)
        if signed is None or bundle is None:
            raise CounterfoilError(Code.NOT_FOUND, "the receipt is not in the log")
        check_stream(found, signed)
        if found.final_record or found.final_signature:  # a client may never have got it
            check_final(found, signed, bundle.signing_key)
        row = EvidenceRow(
            receipt=receipt,
            envelope=found.envelope,
            node_nonce=found.node_nonce,
            frames=list(found.frames),
            final_record=found.final_record,
            final_signature=found.final_signature,
            deposited_at=now_ms(),
        )
        row.digest = evidence_digest(row)
        with session(self._engine) as db:
            db.execute(text("SELECT pg_advisory_xact_lock(hashtext(:of))"), {"of": receipt.hex()})
            kept = db.scalars(
                select(EvidenceRow.digest).where(EvidenceRow.receipt == receipt)
            ).all()
            if row.digest in kept:
                return
            if len(kept) >= MAX_DEPOSITS:
                raise CounterfoilError(
                    Code.QUOTA, "enough evidence has been deposited for this receipt"
                )
            db.add(row)

    # -- parties -----------------------------------------------------------------------------------------

    def add_party(self, name: str, role: str, public_key: bytes) -> None:
        """Trust a key in a role. Adding it again re-enables it; CONFLICT when it has a different name."""
        check_name(name, "a party")
        if role not in ROLES:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT, f"a role is one of {', '.join(sorted(ROLES))}"
            )
        check_signing_key(public_key)
        with session(self._engine) as db:
            known = db.scalar(
                select(PartyRow).where(PartyRow.role == role, PartyRow.public_key == public_key)
            )
            if known is None:
                db.add(PartyRow(name=name, role=role, public_key=public_key, added_at=now_ms()))
            elif known.name != name:
                raise CounterfoilError(
                    Code.CONFLICT, f"this key is registered as {role} {known.name!r}"
                )
            else:
                known.disabled_at = None
        self._lookups.forget()

    def disable_party(self, name: str, role: str) -> None:
        """Stop believing a party's keys. NOT_FOUND when it has none enabled."""
        with session(self._engine) as db:
            found = db.scalars(
                update(PartyRow)
                .where(PartyRow.name == name, PartyRow.role == role, PartyRow.disabled_at.is_(None))
                .values(disabled_at=now_ms())
                .returning(PartyRow.id)
            ).all()
        self._lookups.forget()
        if not found:
            raise CounterfoilError(Code.NOT_FOUND, f"there is no enabled {role} named {name!r}")

    def numeric_profiles(self) -> frozenset[bytes]:
        """Return the numeric profiles that this log's auditors compute."""
        return self._lookups.numeric_profiles()

    def parties(self) -> list[PartyRow]:
        """Return all parties."""
        return self._all(select(PartyRow).order_by(PartyRow.role, PartyRow.name, PartyRow.id))
