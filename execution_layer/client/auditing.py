"""Audit requests: what its tenant wants audited is asked for by the client itself, once the receipt is in the log (§6.2.7). Of an
answer by a chain, every stage's part is.

The archive is the queue. An attempt is in it from its order on, and its audit request is kept before it is sent, so that
whoever is killed in between loses nothing, and what is sent again is the same statement.
"""

import logging
from collections.abc import Sequence
from typing import Final

from execution_layer.client.archive import Archive
from execution_layer.client.audit_records import WantedAudit
from execution_layer.client.proofs import BATCH, LATER, Proofs
from shared.codec.moment import now_ms
from shared.proto.counterfoil.audit.v1 import audit_pb2
from shared.runtime.errors import Code
from shared.runtime.faults import fault_point
from shared.runtime.keys import Signer
from shared.statements.cose import entry_of, sign
from shared.statements.disclosures import AuditRequest

_AGAIN: Final = frozenset(code.name for code in LATER)

_log = logging.getLogger(__name__)


class Auditing:
    """Hands in what the archive wants audited."""

    def __init__(self, archive: Archive, proofs: Proofs, tenant: str, key: Signer) -> None:
        self._archive = archive
        self._proofs = proofs
        self._tenant = tenant
        self._key = key

    async def hand_in(self) -> int:
        """Submit every audit request that is due; return how many the log has taken.

        Where the log has not heard of a receipt yet, it gets the receipt first. What it does not answer, or cannot take
        now, is found again by the next call.
        """
        taken, after = 0, (0, 0)
        while batch := self._archive.wanted_audits(after=after, limit=BATCH):
            early, answered = await self._submit(batch)
            taken += answered
            if early:
                await self._proofs.hand_in_receipts(sorted({item.transcript for item in early}))
                taken += (await self._submit(early))[1]
            after = batch[-1].transcript, batch[-1].place
        return taken

    async def _submit(self, batch: Sequence[WantedAudit]) -> tuple[list[WantedAudit], int]:
        """Submit audit requests; return those whose receipts the log does not know, and how many it has taken."""
        submissions = [
            audit_pb2.Submission(statement=await self._statement(item)) for item in batch
        ]
        fault_point("client.audit.kept")
        early: list[WantedAudit] = []
        taken = 0
        for item, result in zip(batch, await self._proofs.submit(submissions), strict=False):
            if result.WhichOneof("result") == "sequenced":
                await self._archive.note_audit(item, index=result.sequenced.index)
                taken += 1
                continue
            code, detail = result.rejected.code[:64], result.rejected.detail[:200]
            if code == Code.NOT_FOUND.name:
                early.append(item)
            elif code not in _AGAIN:
                _log.warning("the log does not take an audit request: %s: %s", code, detail)
                await self._archive.note_audit(item, rejected=f"{code}: {detail}")
        return early, taken

    async def _statement(self, item: WantedAudit) -> bytes:
        if item.statement is not None:
            return item.statement

        def signed() -> tuple[bytes, bytes]:
            wanted = AuditRequest(tenant=self._tenant, receipt=item.receipt, at=now_ms())
            statement = sign(wanted, key=self._key, issuer=self._tenant)
            return statement, entry_of(statement)

        return await self._archive.keep_audit_request(item, signed)
