"""Makes the document that shows a tenant all disclosures of its requests, with everything needed to check it."""

import base64
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

from sqlalchemy import Engine, Select, select
from sqlalchemy.orm import Session

from audit_layer.log.proof_service import ProofService
from audit_layer.storage.engine import session
from audit_layer.trail.at_rest import decrypted
from audit_layer.trail.completeness import tenant_seals
from audit_layer.trail.disclosures import disclosures_of
from audit_layer.trail.models import PartyRow, ReceiptRow, StatementRow
from shared.codec.moment import Period, now_ms
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import read_as
from shared.statements.disclosures import DisclosureRequest
from shared.statements.epochs import Draw
from shared.translog.policy import LogPolicy
from shared.verification.disclosure_record import DisclosureDocument, Line, SignersPart

MAX_RECEIPTS: Final = 20_000
"""Receipts in one document."""
BATCH: Final = 10_000
_SIGNERS: Final[Mapping[str, Literal["worker", "party", "tenant"]]] = {
    "worker": "worker",
    "custodian": "party",
    "witness": "party",
    "tenant": "tenant",
}


def build(engine: Engine, proofs: ProofService, tenant: str, period: Period) -> DisclosureDocument:
    """Return the document as of the newest witnessed checkpoint.

    NOT_WITNESSED before the first; INVALID_ARGUMENT when the period has more than `MAX_RECEIPTS` receipts.
    """
    size = proofs.witnessed().checkpoint.size
    with session(engine, isolation="REPEATABLE READ") as db:
        rows = _Reader(db, tenant, size).all(period)
        trust = _trust(db, proofs.policy)
        shown = {row.entry: _readable(db, row.raw) for row in rows}
    together = proofs.prove_together({row.entry: row.log_index for row in rows})
    return DisclosureDocument(
        tenant=tenant,
        start=period.start,
        end=period.end,
        made_at=now_ms(),
        trust=trust,
        checkpoint=together.note,
        lines=tuple(
            Line(
                index=row.log_index,
                entry=row.entry.hex(),
                statement=shown[row.entry],
                path=tuple(_base64(node) for node in together.paths[row.entry]),
            )
            for row in rows
        ),
    )


class _Reader:
    """Reads what the log had of one tenant at a size."""

    def __init__(self, db: Session, tenant: str, size: int) -> None:
        self._db, self._tenant, self._size = db, tenant, size

    def all(self, period: Period) -> list[StatementRow]:
        """Return everything that a document about a period shows, by rising index."""
        receipts = self._of_period(period)
        oldest = min((index for _, index in receipts), default=self._size)
        seals = [item for item in tenant_seals(self._db, self._tenant) if self._known(item[0])]
        before = [at for at, (_, seal) in enumerate(seals) if seal.size <= oldest]
        first = before[-1] if before else 0
        # The seal before says only where the next begins, unless it is the first: that counts from 0.
        since = seals[first][1].size if first else 0
        about = self._where(disclosures_of(self._tenant).where(StatementRow.log_index >= since))
        entries = {entry for entry, _ in receipts} | {bytes.fromhex(row.subject) for row in about}
        about += self._about(entries, before=since)
        found = [*about, *self._named(entries), *(row for row, _ in seals[first:])]
        draws = self._draws(about, oldest)
        found += [*draws, *self._named({read_as(Draw, row.raw).seal for row in draws})]
        return sorted(found, key=lambda row: row.log_index)

    def _of_period(self, period: Period) -> Sequence[tuple[bytes, int]]:
        rows = self._db.execute(
            select(ReceiptRow.entry, ReceiptRow.log_index)
            .where(
                ReceiptRow.tenant == self._tenant,
                ReceiptRow.started >= period.start,
                ReceiptRow.started < period.end,
                ReceiptRow.log_index < self._size,
            )
            .order_by(ReceiptRow.log_index)
            .limit(MAX_RECEIPTS + 1)
        ).all()
        if len(rows) > MAX_RECEIPTS:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT,
                f"the period has more than {MAX_RECEIPTS} receipts",
                remedy="Ask for a shorter period.",
            )
        return [(entry, index) for entry, index in rows]

    def _about(self, receipts: Iterable[bytes], *, before: int) -> list[StatementRow]:
        """Return what is older about these receipts: what came later may name it."""
        older = disclosures_of(self._tenant).where(StatementRow.log_index < before)
        return [
            row
            for some in _batches(receipts)
            for row in self._where(older.where(ReceiptRow.entry.in_(some)))
        ]

    def _named(self, entries: Iterable[bytes]) -> list[StatementRow]:
        found = select(StatementRow)
        return [
            row
            for some in _batches(entries)
            for row in self._where(found.where(StatementRow.entry.in_(some)))
        ]

    def _draws(self, about: Iterable[StatementRow], oldest: int) -> list[StatementRow]:
        """Return the draws that requests name, and all those since the oldest receipt."""
        requests = [row for row in about if row.type == DisclosureRequest.TYPE]
        named = self._named({read_as(DisclosureRequest, row.raw).draw for row in requests})
        later = select(StatementRow).where(
            StatementRow.type == Draw.TYPE, StatementRow.log_index > oldest
        )
        draws = [*self._where(later), *(row for row in named if row.type == Draw.TYPE)]
        return list({row.entry: row for row in draws}.values())

    def _where(self, found: Select[Any]) -> list[StatementRow]:
        return list(self._db.scalars(found.where(StatementRow.log_index < self._size)))

    def _known(self, row: StatementRow) -> bool:
        return row.log_index < self._size


def _batches(entries: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Split entries into lists that one query takes."""
    every = sorted(entries)
    for start in range(0, len(every), BATCH):
        yield every[start : start + BATCH]


def _readable(db: Session, stored: bytes) -> str | None:
    """Return a statement as it was signed, in base64, or None when it was erased."""
    try:
        return _base64(decrypted(db, stored))
    except CounterfoilError as error:
        if error.code is not Code.ERASED:
            raise
        return None


def _trust(db: Session, policy: LogPolicy) -> SignersPart:
    """Return whom this log believes, with keys that it has ceased to believe: they signed what is older."""
    keys: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    authority: list[str] = []
    for row in db.scalars(select(PartyRow).order_by(PartyRow.id)):
        if row.role == "authority":
            authority.append(row.public_key.hex())
        elif row.role in _SIGNERS:
            keys[_SIGNERS[row.role]][row.name].append(row.public_key.hex())
    return SignersPart(
        logs=tuple(verifier.vkey() for verifier in policy.logs),
        witnesses=tuple(verifier.vkey() for verifier in policy.witnesses),
        quorum=policy.threshold,
        authority=tuple(authority),
        signers={
            role: {name: tuple(found) for name, found in keys[role].items()}
            for role in ("worker", "party", "tenant")
        },
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
