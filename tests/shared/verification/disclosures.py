"""One tenant's disclosures in a small witnessed log, made by the rule; a test can leave out, add or spoil any of them."""

import base64
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.codec.moment import MAX_MS
from shared.runtime.keys import public_bytes
from shared.statements.cose import entry_of, parse_statement, sign
from shared.statements.disclosures import (
    DISCLOSURE_TYPES,
    AuditRequest,
    DisclosureReason,
    DisclosureRelease,
    DisclosureRequest,
    EscrowReport,
    ShareReport,
)
from shared.statements.epochs import Draw, EpochSeal
from shared.statements.receipts import Receipt
from shared.statements.seals import NO_SEAL, OrderNumbers, TenantSeal, counted, entries_digest
from shared.statements.verdicts import Reason, Verdict
from shared.translog.checkpoint import Checkpoint
from shared.translog.cosignature import cosign
from shared.translog.proofs import inclusion_proof, lookup_in, root_at
from shared.translog.signed_checkpoint import sign as sign_checkpoint
from shared.translog.tree import leaf_hash
from shared.verification.disclosure_record import (
    Answer,
    DisclosureDocument,
    judge_record,
    parse_record,
)
from shared.verification.trust import Trust
from tests.shared.selection.world import AUTHORITY, LOG, LOG_POLICY, TENANT, WITNESS
from tests.vectors.samples import NOW, RECEIPT, octets, signing_key

CUSTODIANS = ("custodian-1", "custodian-2", "custodian-3")
DEADLINE = NOW + 86_400_000
TRUST = Trust.of(
    LOG_POLICY,
    authority=public_bytes(AUTHORITY),
    parties={name: public_bytes(signing_key(name)) for name in CUSTODIANS},
    workers={name: public_bytes(signing_key(name)) for name in ("worker-1", "worker-2")},
    tenants={"acme": public_bytes(TENANT)},
)


class Book:
    """The log, statement by statement."""

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        self.seals: list[tuple[TenantSeal, bytes]] = []

    # -- what there is ----------------------------------------------------------------------------------

    def put(self, value: Any, key: Ed25519PrivateKey, issuer: str) -> bytes:
        """Log a statement; return its entry."""
        return self.log(sign(value, key=key, issuer=issuer))

    def log(self, raw: bytes) -> bytes:
        self.raw.append(raw)
        return entry_of(raw)

    def receipt(self, tenant: str = "acme") -> bytes:
        value = replace(RECEIPT, tenant=tenant, node_sequence=len(self.raw) + 1)
        return self.put(value, signing_key("node"), "gpu-farm/n1")

    def index(self, entry: bytes) -> int:
        return self.entries.index(entry)

    @property
    def entries(self) -> list[bytes]:
        return [entry_of(raw) for raw in self.raw]

    def draw(self, *receipts: bytes, whole: bool = False, at: int = NOW) -> bytes:
        """Seal and draw an epoch that draws these receipts."""
        size = len(self.raw)
        seal = EpochSeal(
            epoch=size,
            at=at,
            open=octets("open"),
            first=0,
            size=size,
            root=octets("root"),
            nodes={},
        )
        sealed = self.put(seal, AUTHORITY, "authority")
        return self.put(
            Draw(
                epoch=size,
                seal=sealed,
                reveals=(octets("reveal"),),
                whole=whole,
                seed=octets("seed"),
                drawn=tuple(sorted(self.index(receipt) for receipt in receipts)),
            ),
            AUTHORITY,
            "authority",
        )

    def audit_request(
        self, receipt: bytes, *, tenant: str = "acme", key: Ed25519PrivateKey = TENANT
    ) -> bytes:
        return self.put(AuditRequest(tenant=tenant, receipt=receipt, at=NOW), key, tenant)

    def request(
        self,
        receipt: bytes,
        basis: bytes,
        reason: DisclosureReason = DisclosureReason.DRAW,
        *,
        key: Ed25519PrivateKey = AUTHORITY,
        **changes: Any,
    ) -> bytes:
        known = self.entries
        value = DisclosureRequest(
            receipt=receipt,
            index=known.index(receipt) if receipt in known else 0,
            draw=basis,
            reason=reason,
            recipient=octets("worker"),
            deadline=DEADLINE,
        )
        return self.put(replace(value, **changes), key, "authority")

    def release(self, request: bytes, receipt: bytes, custodian: str = "custodian-1") -> bytes:
        value = DisclosureRelease(
            request=request, receipt=receipt, custodian=custodian, share=octets(custodian)
        )
        return self.put(value, signing_key(custodian), custodian)

    def verdict(
        self,
        request: bytes,
        receipt: bytes,
        reason: Reason = Reason.EXACT,
        worker: str = "worker-1",
    ) -> bytes:
        value = Verdict(
            receipt=receipt,
            request=request,
            worker=worker,
            outcome=reason.outcome,
            reason=reason,
            evidence=octets("judgement"),
            numeric_profile=octets("profile"),
            at=NOW,
        )
        return self.put(value, signing_key(worker), worker)

    def disclosed(self, receipt: bytes, basis: bytes, **options: Any) -> bytes:
        """A whole disclosure: request, two releases, verdict; returns the request."""
        request = self.request(receipt, basis, **options)
        for name in CUSTODIANS[:2]:
            self.release(request, receipt, name)
        self.verdict(request, receipt)
        return request

    def share_report(self, release: bytes, request: bytes, receipt: bytes, custodian: str) -> bytes:
        value = ShareReport(
            release=release,
            request=request,
            receipt=receipt,
            custodian=custodian,
            worker="worker-1",
        )
        return self.put(value, signing_key("worker-1"), "worker-1")

    def escrow_report(self, request: bytes, receipt: bytes, custodian: str) -> bytes:
        value = EscrowReport(
            request=request,
            receipt=receipt,
            envelope=octets("envelope"),
            custodian=custodian,
            key=octets(custodian),
        )
        return self.put(value, signing_key(custodian), custodian)

    def seal(
        self, *, hiding: Iterable[bytes] = (), counts: bool = True, at: int | None = None
    ) -> bytes:
        """Seal what there is for the tenant, as an authority would that hides some of it."""
        number, size = len(self.seals), len(self.raw)
        before = self.seals[-1][0].size if self.seals else 0
        about = [
            entry_of(raw)
            for raw in self.raw[before:size]
            if parse_statement(raw).type in DISCLOSURE_TYPES and entry_of(raw) not in hiding
        ]
        value = TenantSeal(
            tenant="acme",
            number=number,
            start=NOW + number,
            end=NOW + number + 1,
            at=NOW + number + 1 if at is None else at,
            previous=self.seals[-1][1] if self.seals else NO_SEAL,
            size=size,
            root=octets("root"),
            receipts=0,
            entries=entries_digest([]),
            late=0,
            late_entries=entries_digest([]),
            orders=OrderNumbers(next=0, missing=()),
            disclosures=counted(about) if counts else None,
        )
        entry = self.put(value, AUTHORITY, "authority")
        self.seals.append((value, entry))
        return entry

    # -- what is shown ----------------------------------------------------------------------------------

    def document(
        self, *, hiding: Iterable[bytes] = (), erased: Iterable[bytes] = (), seen: int = NOW
    ) -> DisclosureDocument:
        """The document that a server gives which leaves these entries out."""
        hidden, gone, size = set(hiding), set(erased), len(self.raw)
        lookup = lookup_in([leaf_hash(entry) for entry in self.entries])
        checkpoint = Checkpoint(LOG.verifier.name, size, root_at(size, lookup))
        note = sign_checkpoint(checkpoint, [LOG], time_s=NOW // 1000)
        note = note.with_signatures((cosign(WITNESS, checkpoint, time_s=seen // 1000),))
        lines = [
            {
                "index": index,
                "entry": entry_of(raw).hex(),
                "statement": None if entry_of(raw) in gone else _base64(raw),
                "path": [_base64(node) for node in inclusion_proof(index, size, lookup)],
            }
            for index, raw in enumerate(self.raw)
            if entry_of(raw) not in hidden
        ]
        document = DisclosureDocument(
            tenant="acme",
            start=0,
            end=MAX_MS,
            made_at=NOW,
            trust={"logs": [], "witnesses": [], "quorum": 1, "authority": [], "signers": {}},  # type: ignore[arg-type]
            checkpoint=note.encode(),
            lines=lines,  # type: ignore[arg-type]
        )
        return parse_record(document.model_dump_json().encode())

    def answer(
        self,
        *,
        now: int = NOW,
        threshold: int = 2,
        trust: Trust = TRUST,
        edit: Callable[[dict[str, Any]], None] | None = None,
        **options: Any,
    ) -> Answer:
        """What a verifier makes of that document; `edit` changes it on the way."""
        document = self.document(**options)
        if edit is not None:
            data = document.model_dump(mode="json")
            edit(data)
            document = DisclosureDocument.model_validate(data)
        return judge_record(document, trust, now=now, threshold=threshold)

    def faults(self, **options: Any) -> set[tuple[int, str]]:
        """(step, what is wrong) of what is found."""
        return {(fault.step, fault.wrong.value) for fault in self.answer(**options).faults}


def receipt_of(raw: bytes) -> Receipt:
    """Return the receipt of a statement."""
    return parse_statement(raw).read(Receipt)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
