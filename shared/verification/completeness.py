"""The format of the document that answers "is that all?" for one tenant and period. Pure."""

import base64
import binascii
from typing import Annotated, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.codec.moment import MAX_MS
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.policy import LogPolicy
from shared.verification.trust import AUTHORITY, Role, Trust

MAX_SEALS: Final = 20_000

Hex32 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Unsigned = Annotated[int, Field(ge=0, le=2**63 - 1, strict=True)]
Moment = Annotated[int, Field(ge=0, le=MAX_MS, strict=True)]
Base64 = Annotated[str, Field(max_length=1 << 17)]

T = TypeVar("T", bound="Part")


class Part(BaseModel):
    """Base of the document's parts: no unknown fields. Their docstrings become the schema's descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class TrustPart(Part):
    """Whom the check believes: a log, its witnesses, and the audit authority."""

    logs: Annotated[tuple[str, ...], Field(max_length=64)]
    """The log's keys, vkeys."""
    witnesses: Annotated[tuple[str, ...], Field(max_length=256)]
    quorum: Annotated[int, Field(ge=1, le=64)]
    authority: Annotated[tuple[Hex32, ...], Field(max_length=64)]
    """Ed25519 public keys that may have signed a seal."""

    def trust(self) -> Trust:
        """Return it in the form that every check takes."""
        policy = LogPolicy.from_vkeys(
            logs=self.logs, witnesses=self.witnesses, threshold=self.quorum
        )
        keys = [bytes.fromhex(key) for key in self.authority]
        return Trust(policy, {Role.AUTHORITY: {AUTHORITY: keys}})


class ReceiptLine(Part):
    """One receipt: an inference, another attempt at one, or a part of either."""

    index: Unsigned
    entry: Hex32
    number: Unsigned
    """The order's number."""
    attempt: Unsigned
    started: Moment
    statement: Base64 | None = None
    """The signed receipt; present if requested, or if nothing else shows that the receipt belongs to the period."""
    part: bool = False
    """Whether it is for a part of a chain's answer: such an order has no number of its own."""
    erased: bool = False
    """Whether the signed receipt is missing because it was erased."""


class RefusalLine(Part):
    """One refusal: an attempt that its node did not accept."""

    index: Unsigned
    entry: Hex32
    statement: Base64
    """The signed refusal."""


class SealPart(Part):
    """A seal, its proof of inclusion, and the receipts and refusals that it counts."""

    statement: Base64
    tlog_proof: Annotated[str, Field(max_length=1 << 18)] | None
    """C2SP tlog-proof; null while no witnessed checkpoint covers the seal."""
    receipts: tuple[ReceiptLine, ...] | None
    """The receipts that it counts as on time, in order of index; null for a seal outside the period."""
    late: tuple[ReceiptLine, ...] | None
    """The receipts that it counts as late; null for the seal before the period."""
    refusals: tuple[RefusalLine, ...] = ()
    """The refusals that it counts, in order of index; none for a seal outside the period."""


class Document(Part):
    """What the log has of one tenant's inferences that began in [start, end)."""

    format: Literal["counterfoil-completeness/1"] = "counterfoil-completeness/1"
    tenant: Annotated[str, Field(max_length=63)]
    start: Moment
    end: Annotated[int, Field(ge=0, le=MAX_MS + 1, strict=True)]
    made_at: Moment
    trust: TrustPart
    """Whom the maker of the document trusts. A verifier should substitute its own trust."""
    seals: Annotated[tuple[SealPart, ...], Field(max_length=MAX_SEALS)]
    """In order: the one before the period, those that cover it, and all later ones because of their late receipts."""
    unsealed: tuple[ReceiptLine, ...]
    """Receipts of the period that no seal counts yet; nothing proves that there are no others."""


def parse_document(data: bytes) -> Document:
    """Parse a document strictly; MALFORMED says what is wrong."""
    return parse_part(Document, data, "the document")


def parse_trust(data: bytes) -> TrustPart:
    """Parse a policy file: a JSON object like `trust` in a document; MALFORMED says what is wrong."""
    return parse_part(TrustPart, data, "the policy")


def decoded(text: str) -> bytes:
    """Return the bytes of a statement in a document; MALFORMED if it is not base64."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise CounterfoilError(Code.MALFORMED, "a statement is not base64") from error


def parse_part(kind: type[T], data: bytes, what: str) -> T:
    """Parse one of these documents strictly; MALFORMED says what is wrong."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "it"
        raise CounterfoilError(
            Code.MALFORMED, f"{what} cannot be read: {where}: {first['msg']}"
        ) from None  # the cause would repeat what a stranger wrote
