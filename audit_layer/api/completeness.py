"""The document that answers "is that all?" for one tenant and period, with everything that its check needs."""

import base64
from collections.abc import Sequence
from typing import Annotated, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Engine

from audit_layer.api.parts import proof_or_none
from audit_layer.log.proof_service import ProofService
from audit_layer.trail.completeness import Listed, SealWithReceipts, authority_keys, holdings
from shared.codec.moment import MAX_MS, Period, now_ms
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import key_id
from shared.translog.policy import Policy

MAX_LISTED: Final = 2_000_000
"""Receipts in one document."""
MAX_SEALS: Final = 20_000

Hex32 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Unsigned = Annotated[int, Field(ge=0, le=2**63 - 1, strict=True)]
Moment = Annotated[int, Field(ge=0, le=MAX_MS, strict=True)]
Base64 = Annotated[str, Field(max_length=1 << 17)]

T = TypeVar("T", bound="Part")


class Part(BaseModel):
    """Base of the document's parts: exactly their fields. Their docstrings become the schema's descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Trust(Part):
    """Whom the check believes: a log, its witnesses, and the audit authority."""

    logs: Annotated[tuple[str, ...], Field(max_length=64)]
    """The log's keys, vkeys."""
    witnesses: Annotated[tuple[str, ...], Field(max_length=256)]
    quorum: Annotated[int, Field(ge=1, le=64)]
    authority: Annotated[tuple[Hex32, ...], Field(max_length=64)]
    """Ed25519 public keys that may have signed a seal."""

    def policy(self) -> Policy:
        """Return the rule for a witnessed checkpoint."""
        return Policy.from_vkeys(logs=self.logs, witnesses=self.witnesses, threshold=self.quorum)

    def authority_key(self, kid: bytes) -> bytes:
        """Return the authority's key with this key id; UNTRUSTED_KEY when it has none."""
        for text in self.authority:
            key = bytes.fromhex(text)
            if key_id(key) == kid:
                return key
        raise CounterfoilError(
            Code.UNTRUSTED_KEY, "a seal is not signed with a key of the audit authority"
        )


class ReceiptLine(Part):
    """One receipt: an inference, or another attempt at one."""

    index: Unsigned
    entry: Hex32
    number: Unsigned
    """The order's number."""
    attempt: Unsigned
    started: Moment
    statement: Base64 | None = None
    """The signed receipt; there where it was asked for, or where only it shows that the receipt is of the period."""
    erased: bool = False
    """Whether the signed receipt would be there, but was erased."""


class SealPart(Part):
    """A seal, its proof of inclusion, and the receipts that it counts."""

    statement: Base64
    tlog_proof: Annotated[str, Field(max_length=1 << 18)] | None
    """C2SP tlog-proof; null while no witnessed checkpoint covers the seal."""
    receipts: tuple[ReceiptLine, ...] | None
    """The receipts that it counts as on time, in order of index; null for a seal outside of the period."""
    late: tuple[ReceiptLine, ...] | None
    """The receipts that it counts as late; null for the seal before the period."""


class Document(Part):
    """What the log has of one tenant's inferences that began in [start, end)."""

    format: Literal["counterfoil-completeness/1"] = "counterfoil-completeness/1"
    tenant: Annotated[str, Field(max_length=63)]
    start: Moment
    end: Annotated[int, Field(ge=0, le=MAX_MS + 1, strict=True)]
    made_at: Moment
    trust: Trust
    """Whom the maker of the document believes. Whoever checks it should put their own in its place."""
    seals: Annotated[tuple[SealPart, ...], Field(max_length=MAX_SEALS)]
    """In order: the one before the period, those that cover it, and all later ones for their late receipts."""
    unsealed: tuple[ReceiptLine, ...]
    """Receipts of the period that no seal counts yet; nothing proves that there are no others."""


def parse_document(data: bytes) -> Document:
    """Read a document strictly; MALFORMED says what is wrong."""
    return _parse(Document, data, "the document")


def parse_trust(data: bytes) -> Trust:
    """Read a policy file: a JSON object as `trust` in a document; MALFORMED says what is wrong."""
    return _parse(Trust, data, "the policy")


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
    trust = Trust(
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
        tlog_proof=proof_or_none(proofs, item.entry),
        receipts=None if item.receipts is None else _lines(item.receipts),
        late=None if item.late is None else _lines(item.late),
    )


def _lines(receipts: Sequence[Listed]) -> tuple[ReceiptLine, ...]:
    return tuple(
        ReceiptLine(
            index=item.index,
            entry=item.entry.hex(),
            number=item.number,
            attempt=item.attempt,
            started=item.started,
            statement=(
                None if item.statement is None else base64.b64encode(item.statement).decode("ascii")
            ),
        )
        for item in receipts
    )


def _parse(kind: type[T], data: bytes, what: str) -> T:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "it"
        raise CounterfoilError(
            Code.MALFORMED, f"{what} cannot be read: {where}: {first['msg']}"
        ) from None  # the cause would repeat what a stranger wrote
