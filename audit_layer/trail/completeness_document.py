"""Makes the document that answers "is that all?" for one tenant and period, with everything needed to check it."""

import base64
from collections.abc import Sequence
from typing import Final

from sqlalchemy import Engine

from audit_layer.log.proof_service import ProofService
from audit_layer.trail.completeness import Listed, SealWithReceipts, authority_keys, holdings
from shared.codec.moment import Period, now_ms
from shared.verification.completeness import (
    Document,
    ReceiptLine,
    RefusalLine,
    SealPart,
    TrustPart,
)

MAX_LISTED: Final = 2_000_000
"""Receipts in one document."""


def build(
    engine: Engine,
    proofs: ProofService,
    tenant: str,
    period: Period,
    *,
    limit: int = MAX_LISTED,
    statements: bool = False,
) -> Document:
    """Return the document as of now. INVALID_ARGUMENT when more than `limit` receipts would have to be listed."""
    found = holdings(engine, tenant, period, limit=limit, statements=statements)
    policy = proofs.policy
    trust = TrustPart(
        logs=tuple(verifier.vkey() for verifier in policy.logs),
        witnesses=tuple(verifier.vkey() for verifier in policy.witnesses),
        quorum=policy.threshold,
        authority=tuple(key.hex() for key in authority_keys(engine)),
    )
    return Document(
        tenant=tenant,
        start=period.start,
        end=period.end,
        made_at=now_ms(),
        trust=trust,
        seals=tuple(_seal_part(item, proofs) for item in found.seals),
        unsealed=_lines(found.unsealed),
    )


def _seal_part(item: SealWithReceipts, proofs: ProofService) -> SealPart:
    return SealPart(
        statement=base64.b64encode(item.raw).decode("ascii"),
        tlog_proof=proofs.tlog_proof_or_none(item.entry),
        receipts=None if item.receipts is None else _lines(item.receipts),
        late=None if item.late is None else _lines(item.late),
        refusals=tuple(
            RefusalLine(
                index=refusal.index,
                entry=refusal.entry.hex(),
                statement=base64.b64encode(refusal.statement).decode("ascii"),
            )
            for refusal in item.refusals
        ),
    )


def _lines(receipts: Sequence[Listed]) -> tuple[ReceiptLine, ...]:
    return tuple(
        ReceiptLine(
            index=item.index,
            entry=item.entry.hex(),
            number=item.number,
            attempt=item.attempt,
            started=item.started,
            part=item.part,
            statement=(
                None if item.statement is None else base64.b64encode(item.statement).decode("ascii")
            ),
        )
        for item in receipts
    )
