"""Bundles of statements in the log, for auditors who check them offline (`docs/bundle.md`)."""

from collections.abc import Sequence

from sqlalchemy import Engine, select

from audit_layer.log.proof_service import ProofService
from audit_layer.storage.engine import session
from audit_layer.trail.models import OrderRow, PartyRow, StatementRow
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import Signer, key_id, public_bytes
from shared.statements.cose import SignedStatement, attach, entry_of, parse_statement
from shared.statements.identities import TYPES, identity
from shared.statements.receipts import Receipt
from shared.statements.refusals import Refusal
from shared.translog.cose_receipt import issue_receipt
from shared.translog.policy import LogPolicy
from shared.translog.policy_file import PolicyFile
from shared.translog.tlog_proof import TlogProof
from shared.verification.bundle import MAX_IDENTITIES, Bundle, OrderContext
from shared.verification.trust import SIGNED_BY, Role


class Bundles:
    """Makes bundles; all of a bundle's proofs lead to the newest witnessed checkpoint."""

    def __init__(
        self, engine: Engine, proofs: ProofService, policy: LogPolicy, cose_key: Signer
    ) -> None:
        self._engine = engine
        self._proofs = proofs
        self._policy = policy
        self._cose_key = cose_key

    def make(self, entry: bytes) -> Bundle:
        """Return the bundle of a statement, with a COSE Receipt for the checkpoint's root attached.

        Errors: NOT_FOUND for an entry that the trail does not have, and those of `ProofService.prove`.
        """
        raw = self._statement(entry)
        statement = parse_statement(raw)
        signers = [statement.kid]
        context, about = None, [statement]
        answer = _answer(statement)
        if answer is not None:
            context = OrderContext(
                order=self._order(answer.order),
                key_bundle=self._statement(answer.bundle),
                key_bundle_proof=self._proofs.prove(answer.bundle).encode(),
            )
            about = [parse_statement(part) for part in (context.key_bundle, context.order)]
            signers = [part.kid for part in about]
        proof = self._proofs.prove(entry)
        return Bundle(
            statement=attach(raw, [self._cose_receipt(entry, proof)]),
            tlog_proof=proof.encode(),
            policy=PolicyFile.of(self._policy).encode(),
            keys=(*self._keys(signers), public_bytes(self._cose_key)),
            context=context,
            identities=tuple(self._identities(about)),
        )

    def _identities(self, signed: Sequence[SignedStatement]) -> list[tuple[bytes, str]]:
        """Return what the log has about the keys of those who signed these statements, with proofs, in its order."""
        subjects = [
            identity(role, item.issuer)
            for item in signed
            if (role := SIGNED_BY.get(item.type)) in (Role.OPERATOR, Role.TENANT) and role
        ]
        with session(self._engine) as db:
            found = db.scalars(
                select(StatementRow.raw)
                .where(StatementRow.type.in_(TYPES), StatementRow.subject.in_(subjects))
                .order_by(StatementRow.log_index)
                .limit(MAX_IDENTITIES)
            ).all()
        return [(raw, self._proofs.prove(entry_of(raw)).encode()) for raw in found]

    def _cose_receipt(self, entry: bytes, proof: TlogProof) -> bytes:
        head = proof.claimed
        return issue_receipt(
            entry, proof.index, head.size, proof.path, head.root, key=self._cose_key
        )

    def _statement(self, entry: bytes) -> bytes:
        with session(self._engine) as db:
            raw = db.scalar(select(StatementRow.raw).where(StatementRow.entry == entry))
        if raw is None:
            raise CounterfoilError(Code.NOT_FOUND, f"there is no statement {entry.hex()}")
        return raw

    def _order(self, entry: bytes) -> bytes:
        with session(self._engine) as db:
            raw = db.scalar(select(OrderRow.raw).where(OrderRow.entry == entry))
        if raw is None:
            raise CounterfoilError(
                Code.CORRUPT,
                f"the order {entry.hex()} of a receipt or refusal in the log is missing from the trail",
                remedy="Run `counterfoil log fsck`.",
            )
        return raw

    def _keys(self, kids: list[bytes]) -> list[bytes]:
        """Return the parties' keys with these ids, including those no longer believed."""
        with session(self._engine) as db:
            known = db.scalars(select(PartyRow.public_key).distinct()).all()
        by_id = {key_id(key): key for key in known}
        return [by_id[kid] for kid in dict.fromkeys(kids) if kid in by_id]


def _answer(statement: SignedStatement) -> Receipt | Refusal | None:
    """Return what a statement says about an order, if it is a node's answer to one."""
    if statement.type == Receipt.TYPE:
        return statement.read(Receipt)
    return statement.read(Refusal) if statement.type == Refusal.TYPE else None
